"""What a run found out: metrics with intervals beside trivial baselines, as a table and as results.json."""

import dataclasses
import json
import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
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


def write_results(
    folder: Path,
    results: dict[str, Results],
    split: Any,
    mixture: Any,
    data_args: Any,
    model_args: Any,
    args: Any,
    minutes: float,
    codec_metrics: dict[str, Any] | None = None,
) -> None:
    """Write results.json: numbers with the protocol that produced them."""
    record = {
        "results": results,
        "image_codec": codec_metrics,
        "split": {"name": split.name, "leaks": split.leaks, "removed": split.removed},
        "training_cases": mixture.num_cases,
        "training_minutes": round(minutes, 2),
        "recipe": {
            "data": dataclasses.asdict(data_args),
            "model": dataclasses.asdict(model_args),
            "training": {name: value for name, value in args.to_dict().items() if _was_chosen(args, name, value)},
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "datasets", "accelerate", "trl")}
        | {"python": platform.python_version()},
        "machine": {"processor": platform.machine(), "device": str(args.device), "processes": args.world_size},
    }
    (folder / "results.json").write_text(json.dumps(_without_nan(record), indent=2, default=str) + "\n")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: most readers refuse a file with one."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _was_chosen(args: Any, name: str, value: Any) -> bool:
    """Whether a training argument differs from its default; defaults are documented elsewhere."""
    for field in dataclasses.fields(args):
        if field.name == name:
            default = (
                field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default  # type: ignore[misc]
            )
            return bool(value != default)
    return False
