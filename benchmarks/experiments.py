"""The paper's experiments at small sizes: every run of recipes/experiments.yaml, and tables of what is there.

python -m benchmarks.experiments --h_and_m data/h-and-m --movielens data/ml-100k --vision_model MOBILENET_FOLDER
python -m benchmarks.experiments --only "h_and_m with reweighting" --seeds 1 2 ...
python -m benchmarks.experiments --table_only

A run whose folder has results is not run again. The folders of the data sets hold the tables items and interactions,
in any format that train.py reads; those of H&M are parquet, as `prepare` writes them. Ratios are of means over the
same cases, which are drawn anew in pairs for the 95 % interval; of several seeds each case counts with its mean. The
test part is touched once by each run.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from hub_cards.run_record import CASES, RESULTS

from .baselines import BASELINE_CASES

EXPERIMENTS = Path("recipes/experiments.yaml")
RESAMPLES = 2_000
# Whose tables are given; the made-up shop makes its own.
SHOPS = {
    "h_and_m": "data/h-and-m",
    "movielens": "data/ml-100k",
    "beauty": "data/amazon-beauty-2014",
    "musical_instruments": "data/instruments",
}
NETWORK = "network alone"
UNTESTED = {"hybrid": "none", "max_test_cases": 1}  # what a stage that others follow is spared
TASKS_OF_NUMBERS = ("recommend", "search", "rate", "select")


def arguments_of(experiment: Mapping[str, Any], given: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """The recipe of one run: that of the experiment, if it has one, with its changes, and where data and results
    are."""
    recipe = yaml.safe_load(Path(experiment["of"]).read_text()) if "of" in experiment else {}
    recipe |= {"output_dir": str(folder), "seed": seed, "report_to": "none"}
    shop = experiment["shop"] if "shop" in experiment else Path(experiment["of"]).parent.name
    if shop in SHOPS:
        data, pictures = Path(getattr(given, shop)), getattr(given, f"{shop}_images")
        recipe |= {"items": str(data), "interactions": str(data)}
        if pictures:
            recipe["image_root"] = pictures
        if recipe.get("vision_model"):
            recipe["vision_model"] = given.vision_model
            if "pictures" not in experiment.get("corrupt", {}):
                # The same pictures through the same frozen tower for all runs.
                recipe["feature_store"] = given.feature_store
    for name, value in experiment.get("changes", {}).items():
        recipe[name] = recipe.get(name, {}) | value if isinstance(value, dict) else value
    for name in ("task_shares", "task_weights"):
        if name in recipe:
            recipe[name] = {task: value for task, value in recipe[name].items() if task in recipe["tasks"]}
    if corrupt := experiment.get("corrupt"):
        folder.mkdir(parents=True, exist_ok=True)
        recipe["items"] = str(folder / "spoilt_items.parquet")
        recipe.setdefault("image_root", str(data))
        pq.write_table(spoilt(pq.read_table(data / "items.parquet"), corrupt, seed), recipe["items"])
    return recipe


def spoilt(items: pa.Table, corrupt: Mapping[str, float], seed: int) -> pa.Table:
    """The items with a share of their `attributes` left out, each cell alone, of their `pictures` exchanged, or of the
    items themselves in a domain "cold", to be held out."""
    rng = np.random.default_rng(seed)
    columns = {name: items[name].to_pylist() for name in items.schema.names}
    for name, values in columns.items():
        if name not in ("item_id", "image", "domain") and "attributes" in corrupt:
            lost = rng.random(len(values)) < corrupt["attributes"]
            columns[name] = [None if missing else value for missing, value in zip(lost, values, strict=True)]
    if "pictures" in corrupt:
        pictures = columns["image"]
        chosen = np.flatnonzero(rng.random(len(pictures)) < corrupt["pictures"])
        # Each gets that of the next chosen one, so that none keeps its own.
        for place, other in zip(chosen, np.roll([pictures[number] for number in chosen], 1), strict=True):
            pictures[place] = other
    fields = {field.name: field.with_nullable(True) for field in items.schema}
    if "items" in corrupt:
        columns["domain"] = ["cold" if is_cold else "warm" for is_cold in rng.random(len(items)) < corrupt["items"]]
        fields["domain"] = pa.field("domain", pa.string())
    return pa.table(columns, schema=pa.schema(list(fields.values()), items.schema.metadata))


def run(name: str, experiment: Mapping[str, Any], given: argparse.Namespace, seed: int) -> None:
    """One run, or one after the other where an experiment has stages: each begins with the weights of the one before,
    and the last alone is tested."""
    folder = folder_of(given.output_dir, name, seed)
    if (folder / RESULTS).is_file():
        return
    print(f"{name}, seed {seed}: {folder}", flush=True)
    stages = experiment.get("stages", [{}])
    earlier = folder_of(given.output_dir, experiment["after"], seed) if "after" in experiment else None
    for number, stage in enumerate(stages, 1):
        is_last = number == len(stages)
        output = folder if is_last else folder / f"stage_{number}"
        output.mkdir(parents=True, exist_ok=True)
        changes = experiment.get("changes", {}) | stage | ({} if is_last else UNTESTED)
        recipe = arguments_of(dict(experiment) | {"changes": changes}, given, output, seed)
        if earlier is not None:
            recipe["initial_model"] = str(earlier)
        config = output / "experiment.yaml"
        config.write_text(yaml.safe_dump(recipe))
        with open(output / "log.txt", "w") as log:
            ended = subprocess.run([sys.executable, "train.py", "--config", str(config)], stdout=log, stderr=log)
        if ended.returncode:
            print(f"  failed with {ended.returncode}: see {output / 'log.txt'}", flush=True)
            return
        earlier = output


def folder_of(output_dir: str, name: str, seed: int) -> Path:
    words = "".join(letter if letter.isalnum() else " " for letter in name).split()
    return Path(output_dir) / "-".join([*words, str(seed)])


def paired_ratio(ours: np.ndarray, theirs: np.ndarray, is_rmse: bool, seed: int = 0) -> tuple[float, float, float]:
    """The ratio of two headlines over the same cases `(C,)`, and its 95 % interval when cases are drawn anew."""
    if is_rmse:
        ours, theirs = np.square(ours), np.square(theirs)
    rng, num_cases = np.random.default_rng(seed), len(ours)
    drawn = [np.arange(num_cases), *rng.integers(num_cases, size=(RESAMPLES, num_cases))]
    ratios = np.array([ours[rows].mean() / theirs[rows].mean() for rows in drawn])
    if is_rmse:
        ratios = np.sqrt(ratios)
    low, high = np.quantile(ratios[1:], [0.025, 0.975])
    return float(ratios[0]), float(low), float(high)


def free_ratio(ours: np.ndarray, theirs: np.ndarray, is_rmse: bool, seed: int = 0) -> tuple[float, float, float]:
    """As [`paired_ratio`], of two headlines over cases of their own `(C,)` and `(D,)`."""
    if is_rmse:
        ours, theirs = np.square(ours), np.square(theirs)
    rng = np.random.default_rng(seed)
    means = [
        np.array([cases[rng.integers(len(cases), size=len(cases))].mean() for _ in range(RESAMPLES)])
        for cases in (ours, theirs)
    ]
    ratios = np.array([ours.mean() / theirs.mean(), *(means[0] / means[1])])
    if is_rmse:
        ratios = np.sqrt(ratios)
    low, high = np.quantile(ratios[1:], [0.025, 0.975])
    return float(ratios[0]), float(low), float(high)


def cases_of(files: Sequence[Path], part: str, task: str, who: str) -> np.ndarray | None:
    """Headlines of the cases `(C,)`, of several runs their mean; of runs with cases of their own all of them."""
    found = []
    for file in files:
        with np.load(file) as opened:
            if (key := f"{part}/{task}/{who}") in opened.files:
                found.append(opened[key].astype(np.float64))
    if len({len(each) for each in found}) > 1:
        return np.concatenate(found)
    return np.mean(found, axis=0) if found else None


def ratio_of(
    files: Sequence[Path], others: Sequence[Path], part: str, task: str, who: str, other: str, digits: int = 3
) -> str:
    """In words, that of `who` in some files to `other` in others."""
    ours, theirs = cases_of(files, part, task, who), cases_of(others, part, task, other)
    if ours is None or theirs is None:
        return ""
    if len(ours) != len(theirs):
        return "other cases"
    return in_words(paired_ratio(ours, theirs, task == "rate"), digits)


class Row(NamedTuple):
    """What one experiment has for one task on one part, and with each of what it is compared with the ratio of UniMP
    and, of two experiments, that of their networks alone."""

    experiment: str
    table: str
    seeds: int
    part: str
    task: str
    headline: str
    of_seeds: list[float]
    network: float | None
    closed_form: float | None
    ratios: list[tuple[str, str, str]]


def rows_of(
    experiments: Mapping[str, Mapping[str, Any]], output_dir: str, baselines: Mapping[str, Path]
) -> Iterator[Row]:
    """All that has results."""
    for name, experiment in experiments.items():
        folders = folders_of(name, experiment, output_dir)
        records = [json.loads((folder / RESULTS).read_text())["results"] for folder in folders]
        for part, by_task in records[0].items() if records else ():
            for task, result in by_task.items():
                if task not in TASKS_OF_NUMBERS:
                    continue
                headline = result["headline"]
                of_seeds = [record[part][task]["model"][headline] for record in records]
                network, closed_form = (
                    float(np.mean([record[part][task]["parts"][who][headline] for record in records]))
                    if who in result["parts"]
                    else None
                    for who in (NETWORK, "closed form alone")
                )
                files, ratios = [each / CASES for each in folders], []
                for other, of_other in others_of(name, experiment, experiments, output_dir, baselines, part, task):
                    is_run = other in experiments
                    whole = ratio_of(files, of_other, part, task, "UniMP", "UniMP" if is_run else other)
                    networks = ratio_of(files, of_other, part, task, NETWORK, NETWORK) if is_run else ""
                    ratios.append((other, whole, networks))
                yield Row(
                    name,
                    experiment["table"],
                    len(folders),
                    part,
                    task,
                    headline,
                    of_seeds,
                    network,
                    closed_form,
                    ratios,
                )


def table(rows: Sequence[Row]) -> str:
    """Markdown: a row for each experiment, part, task and what it is compared with."""
    lines = [
        "| experiment | paper's table | seeds | part | task | metric | UniMP (each seed) | network alone "
        "| closed form alone | against | ratio [95 %] | of the networks alone |",
        "| --- | --- | ---: | --- | --- | --- | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    for row in rows:
        of_seeds = ", ".join(f"{value:.4f}" for value in row.of_seeds)
        cells = [row.experiment, str(row.table), str(row.seeds), row.part, row.task, row.headline]
        cells += [f"{np.mean(row.of_seeds):.4f} ({of_seeds})", _number(row.network), _number(row.closed_form)]
        lines += ["| " + " | ".join(map(str, [*cells, *ratio])) + " |" for ratio in row.ratios or [("", "", "")]]
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """Markdown: a row for each experiment, of the test part or of the domain that was held out. A cell has UniMP and
    the network alone, each with the ratio to the first that it is compared with."""
    lines = [
        f"| experiment | paper's table | seeds | {' | '.join(TASKS_OF_NUMBERS)} |",
        f"| --- | --- | ---: |{' --- |' * len(TASKS_OF_NUMBERS)}",
    ]
    for name in dict.fromkeys(row.experiment for row in rows):
        own = [row for row in rows if row.experiment == name]
        part = "new domain" if any(row.part == "new domain" for row in own) else "test"
        by_task = {row.task: row for row in own if row.part == part}
        cells = [name, str(own[0].table), str(own[0].seeds)]
        for task in TASKS_OF_NUMBERS:
            row = by_task.get(task)
            if row is None:
                cells.append("")
                continue
            whole, networks = row.ratios[0][1:] if row.ratios else ("", "")
            words = [_number(float(np.mean(row.of_seeds))), whole, "; network", _number(row.network), networks]
            cells.append(" ".join(filter(None, words)).replace(" ;", ";"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def newcomers(experiments: Mapping[str, Mapping[str, Any]], output_dir: str) -> str:
    """Markdown: for each experiment with several seeds, UniMP for new users as a ratio to UniMP for known ones."""
    lines = [f"| new users / known | {' | '.join(TASKS_OF_NUMBERS)} |", f"| --- |{' ---: |' * len(TASKS_OF_NUMBERS)}"]
    for name, experiment in experiments.items():
        files = [folder / CASES for folder in folders_of(name, experiment, output_dir)]
        if len(files) < 2:
            continue
        cells = [name]
        for task in TASKS_OF_NUMBERS:
            new, known = cases_of(files, "new users", task, "UniMP"), cases_of(files, "test", task, "UniMP")
            cells.append("" if new is None or known is None else in_words(free_ratio(new, known, task == "rate")))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def in_words(found: tuple[float, float, float], digits: int = 3) -> str:
    ratio, low, high = (f"{value:.{digits}f}" for value in found)
    return f"{ratio} [{low} - {high}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def folders_of(name: str, experiment: Mapping[str, Any], output_dir: str) -> list[Path]:
    """Folders of the seeds that have results."""
    folders = [folder_of(output_dir, name, seed) for seed in experiment.get("seeds", [42])]
    return [folder for folder in folders if (folder / RESULTS).is_file()]


def others_of(
    name: str,
    experiment: Mapping[str, Any],
    experiments: Mapping[str, Mapping[str, Any]],
    output_dir: str,
    baselines: Mapping[str, Path],
    part: str,
    task: str,
) -> list[tuple[str, list[Path]]]:
    """What a row is compared with, and the files of its cases: the experiment `against`, or the baselines whose
    cases are beside them: each single one that is the best on validation, and the best blend."""
    if against := experiment.get("against"):
        # The same seed where there are several, so that one thing differs.
        folders = folders_of(
            against, dict(experiments[against]) | {"seeds": experiment.get("seeds", [42])}, output_dir
        )
        return [(against, [each / CASES for each in folders])] if folders else []
    folder = baselines.get(name)
    if folder is not None and (folder / BASELINE_CASES).is_file():
        rows = json.loads((folder / "baselines.json").read_text())["results"].get(part, {}).get(task)
        if rows is not None:
            sign = -1 if rows["headline"] in ("rmse", "mae") else 1
            single = {who: row for who, row in rows["baselines"].items() if who != "best blend"}
            best = max(single, key=lambda who: sign * single[who]["validation"])
            compared = dict.fromkeys([best, "EASE + same attribute", "best blend"])
            return [(who, [folder / BASELINE_CASES]) for who in compared if who in rows["baselines"]]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for shop, folder in SHOPS.items():
        parser.add_argument(f"--{shop}", default=folder, help="folder of its tables (default: %(default)s)")
        parser.add_argument(f"--{shop}_images", help="folder of the pictures; by default that of the table")
    parser.add_argument("--vision_model", default="mobilenet-v1-block12", help="folder or name of the frozen tower")
    parser.add_argument("--feature_store", default="runs/experiments/vision_features")
    parser.add_argument("--output_dir", default="runs/experiments")
    parser.add_argument("--baselines", nargs="*", default=[], metavar="NAME=FOLDER", help="of benchmarks.baselines")
    parser.add_argument("--only", nargs="*", help="names of experiments; all without it")
    parser.add_argument("--seeds", nargs="*", type=int, help="instead of those of the file")
    parser.add_argument("--table_only", action="store_true")
    given = parser.parse_args()
    experiments = yaml.safe_load(EXPERIMENTS.read_text())
    if unknown := [name for name in given.only or [] if name not in experiments]:
        parser.error(f"--only {', '.join(unknown)}: expected some of {', '.join(experiments)}.")
    if not given.table_only:
        for name in given.only or experiments:
            for seed in given.seeds or experiments[name].get("seeds", [42]):
                run(name, experiments[name], given, seed)
    folders = {name: Path(folder) for name, _, folder in (each.partition("=") for each in given.baselines)}
    rows = list(rows_of(experiments, given.output_dir, folders))
    missing = [name for name in experiments if not folders_of(name, experiments[name], given.output_dir)]
    Path(given.output_dir).mkdir(parents=True, exist_ok=True)
    (Path(given.output_dir) / "experiments.md").write_text(table(rows))
    print(summary(rows), newcomers(experiments, given.output_dir), sep="\n")
    if missing:
        print(f"Not run yet: {'; '.join(missing)}.")


if __name__ == "__main__":
    main()
