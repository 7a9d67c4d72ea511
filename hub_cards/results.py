"""What a run found out: results.json."""

import dataclasses
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modeling_unimp.training.evaluation import Results


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
