"""A training that begins with the weights of an earlier UniMP, of a shop that has changed since.

Items and terms are met again by their names, whatever their numbers: the tables may list items in another order, have
new ones and lack old ones. What the earlier model does not know begins as in a new model.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from processing_unimp import UniMPProcessor

from ..configuration_unimp import UniMPConfig
from ..modeling_unimp import UniMPForConditionalGeneration

# What items are, which the tables say and no training.
CONTENT = ("content_term_ids", "content_term_weights", "content_pictures", "picture_mean")

logger = logging.getLogger("train")


def check_initial_model(name: str) -> None:
    """Tell before the training that there is no UniMP of this name."""
    try:
        found = AutoConfig.from_pretrained(name).model_type
    except (OSError, ValueError) as error:
        raise SystemExit(f"initial_model={name!r} cannot be read: {error}") from error
    if found != UniMPConfig.model_type:
        raise SystemExit(
            f"initial_model={name!r} is a {found}: expected the folder or Hub name of a UniMP. A language model is "
            "named in text_model."
        )


@torch.no_grad()
def take_weights(model: UniMPForConditionalGeneration, processor: UniMPProcessor, name: str) -> None:
    """Give a new model the weights of an earlier one, in place.

    Args:
        model (`UniMPForConditionalGeneration`): just made, for the catalogue of `processor`.
        processor (`UniMPProcessor`): with the tokenizer of the earlier model, so that words have the same rows.
        name (`str`): folder or Hub name of the earlier model.

    Raises:
        ValueError: the two models differ in anything but their items and terms.
    """
    earlier = UniMPForConditionalGeneration.from_pretrained(name, dtype=torch.float32)
    known = UniMPProcessor.from_pretrained(name)
    theirs, ours = (
        {key: tensor for key, tensor in each.state_dict().items() if not key.endswith(CONTENT)}
        for each in (earlier, model)
    )
    rows_of = {
        "items": _common_rows(processor.catalogue.item_ids, known.catalogue.item_ids),
        "terms": _common_rows(processor.term_texts, known.term_texts),
    }
    by_rows = {key: rows_of[part] for key in ours if (part := key.rpartition(".")[2]) in rows_of}
    _check_same(
        {key: tuple(weight.shape[1:] if key in by_rows else weight.shape) for key, weight in ours.items()},
        {key: tuple(weight.shape[1:] if key in by_rows else weight.shape) for key, weight in theirs.items()},
        name,
    )
    for key, weight in ours.items():
        if key in by_rows:
            own, other = by_rows[key]
            weight[own] = theirs[key][other].to(weight)
        else:
            weight.copy_(theirs[key])
    model.config.trained_tasks = earlier.config.trained_tasks
    items, terms = (len(rows_of[part][0]) for part in ("items", "terms"))
    logger.info(
        f"weights of {name}, which knows {items} of {len(processor.catalogue)} items and {terms} of "
        f"{len(processor.term_texts)} terms; the others begin as in a new model"
    )


def leak_of(name: str) -> str:
    """What the split of a training that begins with this model cannot keep apart, in words."""
    return (
        f"The training begins with the weights of {Path(name).name}, which have learnt from what is held out here if "
        "they were trained on other tables, or with another split or split_seed."
    )


def _common_rows(own: Sequence[str], other: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the names that both have stand in the first and in the second, `(n,)` each."""
    number_of = {text: number for number, text in enumerate(other)}
    pairs = [(number, number_of[text]) for number, text in enumerate(own) if text in number_of]
    first, second = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    return first, second


def _check_same(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> None:
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if differing:
        key = differing[0]
        raise ValueError(
            f"initial_model={name!r} is built otherwise than this recipe asks for: {len(differing)} weights differ, "
            f"such as {key}, which is {theirs.get(key, 'missing')} there and {ours.get(key, 'missing')} here. "
            "Take text_model, vision_model, image_codec and unimp of the recipe that it was trained with; its model "
            "card has it."
        )
