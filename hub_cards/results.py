"""What a run found out: metrics with intervals beside trivial baselines, as a table."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 500
Results = dict[str, dict[str, Any]]


def examine_model(trainer: Any, cases_by_task: Sequence[Any], train: Any) -> Results:
    """Metrics of the model and of each task's trivial baselines on the same cases.

    Args:
        trainer (`UniMPTrainer`)
        cases_by_task (`Sequence[EvaluationCases]`)
        train (`Histories`): what the baselines are fitted on.

    Returns:
        By task: `cases`, `skipped`, `headline`, `interval` (95 %, bootstrap over cases, of the headline), `model`
        and `baselines` with their metrics.
    """
    judged = trainer.judgements(cases_by_task)
    results: Results = {}
    for cases in cases_by_task:
        task = cases.task
        if task.name not in judged:
            continue
        judgements = judged[task.name]
        results[task.name] = {
            "cases": len(cases),
            "skipped": cases.skipped,
            "headline": task.headline,
            "interval": bootstrap(cases, judgements),
            "model": cases.summarise(judgements),
            "baselines": cases.baselines(train)
            | {who: cases.summarise(judged_of_it) for who, judged_of_it in task.shown(judgements).items()},
        }
    return results


def bootstrap(cases: Any, judgements: Sequence[dict], seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of the headline when cases are drawn anew with replacement; `None` for metrics of texts, which
    are dear to compute."""
    if cases.task.answer_group == "words":
        return None
    rng = np.random.default_rng(seed)
    values = [
        cases.task.headline_of([judgements[i] for i in rng.integers(len(judgements), size=len(judgements))])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def format_table(results: dict[str, Results]) -> str:
    """One row a task and answerer: the metrics of the model, then of the baselines, for each part of the split."""
    lines: list[str] = []
    for part, by_task in results.items():
        lines.append(f"\n{part}")
        for task, found in by_task.items():
            rows = {"UniMP": found["model"], **found["baselines"]}
            names = list(found["model"])
            widths = {name: max(len(name) + 2, 11) for name in names}
            head = "".join(name.rjust(widths[name]) for name in names)
            lines.append(f"  {task} ({found['cases']} cases)".ljust(36) + head)
            for who, metrics in rows.items():
                line = f"    {who}".ljust(36) + "".join(_cell(metrics[name]).rjust(widths[name]) for name in names)
                if who == "UniMP" and found["interval"] is not None:
                    low, high = found["interval"]
                    line += f"   {found['headline']} 95 % interval {low:.4f} .. {high:.4f}"
                lines.append(line)
    return "\n".join(lines)


def _cell(value: float) -> str:
    """A metric that an answerer does not have, such as the likelihood of a picture it only copied, is a dash."""
    return f"{value:.4f}" if math.isfinite(value) else "-"
