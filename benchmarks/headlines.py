"""The tables of a data set's headlines: runs of some seeds beside trivial and tuned baselines, on the same cases.

python -m benchmarks.headlines --runs runs/h-and-m-42 runs/h-and-m-1 runs/h-and-m-2 --baselines runs/h-and-m-baselines

`--runs` are output folders of train.py that differ in the seed alone, `--baselines` is one of benchmarks.baselines.
Ratios are of means over the same cases, which are drawn anew in pairs; of several runs each case counts with its mean.
Of the single baselines there are the two that validation prefers, and EASE + same attribute.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer import TRAINER_STATE_NAME

from hub_cards.run_record import CASES, RESULTS

from .baselines import BASELINE_CASES
from .experiments import NETWORK, TASKS_OF_NUMBERS, cases_of, free_ratio, in_words, ratio_of

CLOSED_FORM, BLEND, USUAL = "closed form alone", "best blend", "EASE + same attribute"
SINGLE = 2  # baselines beside that one
DIGITS = 2
HEADLINES = ("recommend_ndcg@10", "search_ndcg@10", "rate_rmse", "select_f1")
LIST_MEASURES = {"coverage@10": "{:.2f}", "novelty@10": "{:.1f} bits", "diversity@10": "{:.2f}"}
COLUMNS = (
    *("task", "cases (skipped)", "metric", "UniMP", "network alone", "closed form alone: ratio [95 %]", "trivial"),
    *("single baseline: ratio of UniMP to it [95 %]", "coverage, novelty, diversity @10", "ECE (by chance)"),
)


def table(part: str, runs: Sequence[Path], baselines: Path | None) -> str:
    """Markdown: a row for each task of the part."""
    records = [json.loads((run / RESULTS).read_text())["results"].get(part, {}) for run in runs]
    cheap = (
        {} if baselines is None else json.loads((baselines / "baselines.json").read_text())["results"].get(part, {})
    )
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    for task in TASKS_OF_NUMBERS:
        if task in records[0]:
            of_task = [record[task] for record in records]
            others = preferred(cheap.get(task, {}))
            files = [run / CASES for run in runs]
            ratios = [
                f"{who} {value:.4f}: {ratio_of(files, [baselines / BASELINE_CASES], part, task, 'UniMP', who, DIGITS)}"
                for who, value in others.items()
                if baselines is not None
            ]
            lines.append("| " + " | ".join(cells(part, task, of_task, files, ratios)) + " |")
    return "\n".join(lines) + "\n"


def networks(part: str, runs: Sequence[Path]) -> str:
    """Of each task the ratio of the network alone to the closed form alone, the best blend of all baselines."""
    files = [run / CASES for run in runs]
    ratios = {task: ratio_of(files, files, part, task, NETWORK, CLOSED_FORM, DIGITS) for task in TASKS_OF_NUMBERS}
    return "; ".join(f"{task} {ratio}" for task, ratio in ratios.items() if ratio)


def new_to_known(runs: Sequence[Path]) -> str:
    """Of each task the ratio of what new users have to what known ones have; none where a part has no cases."""
    files, found = [run / CASES for run in runs], []
    for task in TASKS_OF_NUMBERS:
        new, known = (cases_of(files, part, task, "UniMP") for part in ("new users", "test"))
        if new is not None and known is not None:
            found.append(f"{task} {in_words(free_ratio(new, known, task == 'rate'), DIGITS)}")
    return "; ".join(found)


def curves(runs: Sequence[Path]) -> str:
    """Markdown: what each evaluation of the training found on validation, of the network alone; a run that kept no
    checkpoint is left out."""
    lines: list[str] = []
    for run in runs:
        kept = sorted(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
        if not kept:
            continue
        history = json.loads((kept[-1] / TRAINER_STATE_NAME).read_text())["log_history"]
        found: dict[str, list[str]] = {}
        for entry in history:
            for name in HEADLINES:
                if f"eval_{name}" in entry:
                    found.setdefault(name, []).append(f"{entry[f'eval_{name}']:.4f}")
        lines += [f"| {run.name} | {name} | {', '.join(values)} |" for name, values in found.items()]
    return "\n".join(
        ["| run | validation, network alone | one evaluation after the other |", "| --- | --- | --- |", *lines]
    )


def cells(
    part: str, task: str, of_runs: Sequence[Mapping[str, Any]], files: Sequence[Path], ratios: Sequence[str]
) -> list[str]:
    """One row."""
    first, headline = of_runs[0], of_runs[0]["headline"]
    values = [each["model"][headline] for each in of_runs]
    ours = f"{np.mean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})"
    if len(values) == 1 and first["interval"] is not None:
        ours = "{:.4f} [{:.4f} - {:.4f}]".format(*values, *first["interval"])
    parts = {
        who: float(np.mean([each["parts"][who][headline] for each in of_runs])) if who in first["parts"] else None
        for who in (NETWORK, CLOSED_FORM)
    }
    closed = ""
    if parts[CLOSED_FORM] is not None:
        closed = f"{parts[CLOSED_FORM]:.4f}: {ratio_of(files, files, part, task, 'UniMP', CLOSED_FORM, DIGITS)}"
    lists = []
    for name, form in LIST_MEASURES.items():
        of_lists = [each["model"].get(name) for each in of_runs]  # items that nothing is known of have no diversity
        lists.append("-" if None in of_lists else form.format(np.mean(of_lists)))
    calibration = [np.mean([each["reliability"][name] for each in of_runs]) for name in ("ece", "ece_by_chance")]
    return [
        task,
        f"{first['cases']} ({first.get('skipped', 0)})",
        headline,
        ours,
        "" if parts[NETWORK] is None else f"{parts[NETWORK]:.4f}",
        closed,
        "; ".join(f"{who} {row[headline]:.4f}" for who, row in first["baselines"].items()),
        "; ".join(ratios),
        ", ".join(lists) if lists[0] != "-" else "",
        "{:.3f} ({:.3f})".format(*calibration),
    ]


def preferred(of_task: Mapping[str, Any]) -> dict[str, float]:
    """Single baselines with their headline: those that validation prefers, and the usual one."""
    if not of_task:
        return {}
    headline, rows = of_task["headline"], of_task["baselines"]
    sign = 1 if headline == "rmse" else -1
    single = sorted((who for who in rows if who != BLEND), key=lambda who: sign * rows[who]["validation"])
    names = dict.fromkeys([*single[:SINGLE], *([USUAL] if USUAL in rows else [])])
    return {who: rows[who]["metrics"][headline] for who in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, required=True)
    parser.add_argument("--baselines", type=Path)
    chosen = parser.parse_args()
    for part in json.loads((chosen.runs[0] / RESULTS).read_text())["results"]:
        print(f"*{part}*\n\n{table(part, chosen.runs, chosen.baselines)}")
        print(f"Network alone / closed form alone: {networks(part, chosen.runs)}.\n")
    print(f"New users / known users: {new_to_known(chosen.runs)}.\n")
    print(f"*learning curves*\n\n{curves(chosen.runs)}")


if __name__ == "__main__":
    main()
