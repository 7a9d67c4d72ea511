"""Checkpoints of a training: which of them are whole, what they learnt from, and which to go on from.

A checkpoint is many files, and a training may be killed between any two of them. Last of all the sizes of all its
files are written down; without these it is not whole, and passed over.
"""

import hashlib
import json
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers.trainer_callback import DefaultFlowCallback, TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import logging

from processing_unimp import Histories, UniMPProcessor

from ..manifest import check_weights

logger = logging.get_logger(__name__)

SIZES = "checkpoint_sizes.json"
STATE = "trainer_state.json"
LEARNT_FROM = "learnt_from.json"
# What must be the same where a training goes on: rows of the weights are of items and words by number, and of other
# interactions some may be tested that the checkpoint has seen.
PARTS = {
    "catalogue": "another catalogue, or one in another order",
    "words": "another tokenizer",
    "interactions": "other interactions, or another split of them",
}
# What a training goes on without, if it has to: names as the Trainer, DeepSpeed and FSDP have them.
DISPENSABLE = {
    "optimizer.pt": ("optimizer.*", "optimizer_*", "global_step*"),
    "scheduler.pt": ("scheduler.pt",),
    "rng_state.pth": ("rng_state*.pth",),
}


def note_whole(folder: str | os.PathLike) -> None:
    """Say that all files of a checkpoint are written."""
    folder = Path(folder)
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != SIZES]
    unfinished = folder / f"{SIZES}.unfinished"
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in sorted(files)}
    unfinished.write_text(json.dumps(sizes, indent=2), encoding="utf-8")
    os.replace(unfinished, folder / SIZES)


def missing_state(folder: str | os.PathLike) -> list[str]:
    """What a checkpoint lacks of the state of a training: begun anew, a training goes on in another way."""
    return [name for name, each in DISPENSABLE.items() if not any(any(Path(folder).glob(form)) for form in each)]


def check_whole(folder: str | os.PathLike) -> None:
    """
    Raises:
        ValueError: a checkpoint that was not written to its end, or is damaged; the message says where.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no checkpoint {str(folder)!r}.")
    if (folder / SIZES).is_file():
        for name, size in _sizes(folder).items():
            found = (folder / name).stat().st_size if (folder / name).is_file() else None
            if found is None and any(fnmatch(name, f"{form}*") for forms in DISPENSABLE.values() for form in forms):
                continue
            if found != size:
                came = "is missing" if found is None else f"has {found} bytes where {size} were written"
                raise ValueError(f"the checkpoint {str(folder)!r} is damaged: {name} {came}.")
    else:
        # One of an older version, or of another Trainer, ends with its state.
        try:
            TrainerState.load_from_json(str(folder / STATE))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"the checkpoint {str(folder)!r} was not written to its end: {type(error).__name__}: {error}."
            ) from error
    check_weights(folder)


def _sizes(folder: Path) -> dict[str, int]:
    try:
        return dict(json.loads((folder / SIZES).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the checkpoint {str(folder)!r} is damaged: {SIZES} cannot be read: {error}.") from error


def learnt_from(processor: UniMPProcessor, train_dataset: Any) -> dict[str, str]:
    """Digests of what a training learns from: catalogue, tokenizer and, of a `TaskMixture`, its interactions."""
    words = json.dumps(sorted(processor.tokenizer.get_vocab().items()))
    found = {"catalogue": processor.catalogue.fingerprint, "words": hashlib.sha256(words.encode()).hexdigest()}
    train = getattr(train_dataset, "train", None)
    if isinstance(train, Histories):
        digest = hashlib.sha256("\0".join(train.users).encode("utf-8", "surrogatepass"))
        for column in (train.starts, train.item_numbers, train.timestamps, train.ratings):
            digest.update(column.tobytes())
        found["interactions"] = digest.hexdigest()
    return found


def note_learnt_from(folder: str | os.PathLike, found: dict[str, str]) -> None:
    """Write down [`learnt_from`] of a checkpoint."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LEARNT_FROM).write_text(json.dumps(found, indent=2), encoding="utf-8")


def check_learnt_from(folder: str | os.PathLike, expected: dict[str, str]) -> None:
    """
    Raises:
        ValueError: a checkpoint that learnt from something else. Of those of an earlier version nothing is known.
    """
    file = Path(folder) / LEARNT_FROM
    if not file.is_file():
        return
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the checkpoint {str(folder)!r} is damaged: {file.name} cannot be read: {error}.") from error
    for name, in_words in PARTS.items():
        if name in found and name in expected and found[name] != expected[name]:
            raise ValueError(
                f"the checkpoint {str(folder)!r} is of {in_words}: expected one of this training. Leave out "
                "resume_from_checkpoint, and begin with its weights as initial_model if that is what you want."
            )


def is_evaluation_due(folder: str | os.PathLike, args: Any) -> bool:
    """Whether the step of a checkpoint is one to be evaluated and was not, for SIGTERM came in it."""
    state = TrainerState.load_from_json(str(Path(folder) / STATE))
    if any(
        line.get("step") == state.global_step and any(name.startswith("eval_") for name in line)
        for line in state.log_history
    ):
        return False
    control, flow = TrainerControl(), DefaultFlowCallback()
    if state.eval_steps:
        flow.on_step_end(args, state, control)
    if state.epoch and float(state.epoch).is_integer():
        flow.on_epoch_end(args, state, control)
    return control.should_evaluate


def last_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The latest whole checkpoint; those that are not whole are named in a warning."""
    for folder in reversed(sort_checkpoints(str(output_dir), PREFIX_CHECKPOINT_DIR)):
        try:
            check_whole(folder)
            return folder
        except ValueError as error:
            logger.warning(f"passed over: {error}")
    return None
