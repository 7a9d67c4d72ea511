"""What a run was: results.json, where the model stands against trivial baselines, and the recipe that made it.

Cards, report and export all read it from here. Of the recipe, what is published leaves out what belongs to the
machine and the account of the training, and cuts paths to their last part.
"""

import dataclasses
import json
import math
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml

from modeling_unimp import DataArguments, ModelArguments
from modeling_unimp.training.evaluation import LEAST_CASES, Fit
from processing_unimp import TASKS

RESULTS = "results.json"
CASES = "case_headlines.npz"
TaskResult = Mapping[str, Any]  # what `evaluate_model` returns for a task
Results = Mapping[str, Mapping[str, TaskResult]]  # by part of the split and task

PARTS = {
    "test": "interactions that were kept from training",
    "new users": "shoppers who were kept from training altogether",
    "new domain": "items of a domain that was kept from training",
}
# Options that begin like this say where a run was and how it was watched, not what came out of it.
NOT_OF_A_RECIPE = re.compile(
    "accelerator_config|dataloader_pin|ddp_|debug|disable_tqdm|do_|feature_store|hub_|local_rank|log_|logging_dir|"
    "output_dir|parallelism|project|push_to_hub|report_to|resume_from|run_name|trackio_"
)
# A path of one machine, perhaps after a prefix such as `open_clip:local-dir:`.
MACHINE_PATH = re.compile(r"((?:[\w-]+:)*?)((?:/|~|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\).*)", re.DOTALL)


# --- results.json ---


def write_results(
    folder: Path,
    results: Results,
    split: Any,
    mixture: Any,
    data_args: Any,
    model_args: Any,
    args: Any,
    minutes: float,
    codec_metrics: dict[str, Any] | None = None,
    fit: Fit | None = None,
) -> None:
    """Write results.json: numbers with the protocol that produced them, and what the `fit` of the closed-form scores
    found; and the headline of each case beside it."""
    written = {part: {task: dict(result) for task, result in by_task.items()} for part, by_task in results.items()}
    save_by_case(
        folder / CASES,
        {
            (part, task, who): values
            for part, by_task in written.items()
            for task, result in by_task.items()
            for who, values in result.pop("by_case", {}).items()
        },
    )
    record = {
        "results": written,
        "fit": fit or {},
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
    (folder / RESULTS).write_text(json.dumps(_without_nan(record), indent=2, default=str) + "\n")


def save_by_case(file: Path, values: Mapping[tuple[str, str, str], np.ndarray]) -> None:
    """Write the headline of each case, by part of the split, task and who answers, for comparisons in pairs."""
    columns: dict[str, Any] = {"/".join(names): each for names, each in values.items()}
    np.savez_compressed(file, **columns)


def read_json(file: Path, expected: str) -> dict[str, Any]:
    """The object in a file of a model folder.

    Raises:
        ValueError: the file is missing or holds something else; the message names what was `expected`.
    """
    if not file.is_file():
        raise ValueError(f"{str(file.parent)!r} holds no {file.name}. Expected {expected}.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is not JSON ({error}). Expected {expected}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(file)!r} holds a {type(content).__name__}. Expected {expected}.")
    return content


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: most readers refuse a file with one."""
    if isinstance(value, Mapping):
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


# --- the results ---


def each_task(results: Results) -> Iterable[tuple[str, str, TaskResult]]:
    """Part of the split, task, and its result."""
    return [(part, task, of_task) for part, by_task in results.items() for task, of_task in by_task.items()]


def number(value: Any) -> float | None:
    """A metric, or `None` where there is none: NaN in memory, null in results.json."""
    return None if value is None or not math.isfinite(value) else float(value)


class Standing(NamedTuple):
    """Where the model stands against the best trivial baseline, by the headline metric.

    Args:
        verdict (`str`): `"ahead"` or `"behind"`, by the whole interval where there is one; `"unclear"`: the trivial
            answer lies inside the interval; `"few"`: fewer than 30 cases, too few to tell; `"unknown"`: there is
            nothing to compare.
        has_interval (`bool`): whether the model's value has one; without it the verdict compares two numbers.
        rival (`str`, *optional*): who gives the best trivial baseline.
        rival_value, value (`float`, *optional*): the headline of that answer and of the model.
        is_matched (`bool`): whether the rival's number is as good as the model's or better, interval or not, of enough
            cases to tell.
    """

    verdict: Literal["ahead", "unclear", "behind", "few", "unknown"]
    has_interval: bool
    rival: str | None = None
    rival_value: float | None = None
    value: float | None = None
    is_matched: bool = False


def standing(task: str, of_task: TaskResult) -> Standing:
    """Compare a model with the best trivial baseline on the same cases.

    Args:
        task (`str`): name of the task, which knows whether more is better.
        of_task (`Mapping`): its result.
    """
    headline, interval = of_task["headline"], of_task.get("interval")
    sign = 1 if TASKS[task].higher_is_better else -1
    trivial = {
        who: value
        for who, metrics in of_task["baselines"].items()
        if (value := number(metrics.get(headline))) is not None
    }
    value = number(of_task["model"][headline])
    if not trivial or value is None:
        return Standing("unknown", interval is not None)
    rival = max(trivial, key=lambda who: sign * trivial[who])
    best = trivial[rival]
    if of_task["cases"] < LEAST_CASES:
        return Standing("few", interval is not None, rival, best, value)
    is_matched = sign * best >= sign * value
    if interval is None:
        verdict: Any = "behind" if is_matched else "ahead"
    else:
        lowest, highest = sorted(sign * end for end in interval)
        verdict = "ahead" if lowest > sign * best else "behind" if highest < sign * best else "unclear"
    return Standing(verdict, interval is not None, rival, best, value, is_matched)


# --- the recipe ---


def public_recipe(recipe: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The options of a run by group (data, model, training), as they may be published."""
    return {
        group: {
            name: without_machine_paths(value) for name, value in options.items() if not NOT_OF_A_RECIPE.match(name)
        }
        for group, options in recipe.items()
    }


def recipe_yaml(recipe: Mapping[str, Mapping[str, Any]]) -> str:
    """What `train.py --config` reads to train it again: what was chosen, as it may be published."""
    defaults = vars(DataArguments()) | vars(ModelArguments())
    chosen = {
        name: value
        for options in public_recipe(recipe).values()
        for name, value in options.items()
        if not (name in defaults and value == defaults[name])
        and not (name.endswith("_checkpointing") and not value)  # False instead of the default None
    }
    plain = json.loads(json.dumps(chosen, default=str))  # YAML can hold Python objects, and nobody should load them
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)
    return text.strip()


def without_machine_paths(value: Any) -> Any:
    """Paths of the machine where a run was say who ran it: only their last part is kept."""
    if isinstance(value, Mapping):
        return {name: without_machine_paths(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_machine_paths(inner) for inner in value]
    if isinstance(value, str) and "://" not in value and (match := MACHINE_PATH.fullmatch(value)):
        parts = path_parts(match[2])
        return match[1] + (parts[-1] if parts else "")
    return value


def path_parts(path: str) -> list[str]:
    """Names of the folders and the file of a path, of Unix or Windows."""
    return [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..", "~")]
