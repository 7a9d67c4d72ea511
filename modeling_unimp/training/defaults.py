"""What a run without a recipe does: sizes, tasks and steps that follow from the shop's data.

The rule was found on shops of 1,000 to 22,000 shoppers; README.md has it as a table.
"""

import dataclasses
import itertools
import logging
from collections.abc import Collection
from typing import Any

import numpy as np

from processing_unimp import Catalogue, Histories, k_core

from ..term_index import query_texts
from .recipe import DICTS, DataArguments, ModelArguments, UniMPTrainingArguments, check_config_fields

logger = logging.getLogger("train")

LONG_HISTORY = 50  # of the median shopper; from here on a second layer helps, and much dropout does not
SHORTEST_READ, LONGEST_READ = 10, 100
MANY_ITEMS = 8_000  # more do not all compete in each step, and wider dropout keeps their rows apart
STEPS_AN_EPOCH = 80
NEXT_ITEM_WEIGHT = 20.0
SMALLEST_BATCH, LARGEST_BATCH = 32, 256
SHARES = {"search": 0.25, "rate": 0.3}
SHARE_OF_RANKED = 0.02  # of select, where the ranking selects: candidates are written in full and take long
LEAST_TRAINED = 0.01  # of interactions and of shoppers, with stars or an explanation: of fewer a task is not learnt
MOST_TEST_CASES = 5_000  # of each task: an interval of about a fortieth of the headline
OFTEN_AGAIN = 0.1  # of what shoppers take; from here on a recommendation may be what they had
QUERY_COVERAGE, FEWEST_QUERIES, ITEMS_A_QUERY = 0.8, 3, 10


def fill_from_data(
    data_args: DataArguments,
    model_args: ModelArguments,
    args: UniMPTrainingArguments,
    given: Collection[str],
    catalogue: Catalogue,
    histories: Histories,
) -> tuple[DataArguments, ModelArguments, UniMPTrainingArguments]:
    """All arguments, with those that nobody gave taken from the data.

    Args:
        data_args, model_args, args: as parsed.
        given (`Collection[str]`): names of the arguments that the command line gave, which stay as they are.
        catalogue, histories: the shop.
    """
    kept = k_core(histories, data_args.k_core) if data_args.k_core else histories
    query_attribute = data_args.query_attribute or query_attribute_of(catalogue)
    of_data = _of_data(catalogue, kept, query_attribute)
    tasks = data_args.tasks if "tasks" in given else of_data["tasks"]
    chosen = [
        of_data,
        _of_model(catalogue, kept, "explain" in tasks, "vision_model" in given and model_args.vision_is_trained),
        _of_training(catalogue, kept, "explain" in tasks, args.world_size),
    ]
    chosen[2] |= _saved_as_evaluated(args, given)
    filled: list[Any] = []
    told: list[str] = []
    groups: list[Any] = [data_args, model_args, args]
    # Of what is a dict, the parts that were given stay, and the others are chosen all the same.
    chosen[1]["unimp"] |= model_args.config_fields
    chosen[2]["task_weights"] |= args.task_weights
    if "dataloader_num_workers" in given and not args.dataloader_num_workers:
        chosen[2]["dataloader_persistent_workers"] = False
    shares = {name: share for name, share in SHARES.items() if name in tasks}
    if {"recommend", "select"} <= {*tasks} and model_args.hybrid == "fitted":
        shares["select"] = SHARE_OF_RANKED
    chosen[0]["task_shares"] = shares | data_args.shares
    for group, values in zip(groups, chosen, strict=True):
        values = {name: value for name, value in values.items() if name not in given or name in DICTS}
        told += [f"{name} {value}" for name, value in values.items()]
        filled.append(dataclasses.replace(group, **values))
    logger.info(f"no recipe was given; from the data: {', '.join(told)}")
    with_pictures = sum(map(catalogue.has_picture, catalogue.item_ids))
    if with_pictures and filled[1].vision_model is None and "vision_model" not in given:
        logger.warning(
            f"{with_pictures} items have pictures, which are not read: name a pretrained tower, for example "
            "--vision_model openai/clip-vit-base-patch32."
        )
    check_config_fields(filled[1])
    return filled[0], filled[1], filled[2]


def _saved_as_evaluated(args: UniMPTrainingArguments, given: Collection[str]) -> dict[str, Any]:
    """Of the best checkpoint, which is what was saved where it was evaluated: what the option of the one says that was
    given, for the other."""
    same: dict[str, Any] = {}
    for one, other in itertools.permutations(("eval", "save")):
        for what, usable in (("strategy", ("steps", "epoch")), ("steps", None)):
            value = getattr(args, f"{one}_{what}")
            if f"{one}_{what}" in given and f"{other}_{what}" not in given and (usable is None or value in usable):
                same[f"{other}_{what}"] = value
    return same


def query_attribute_of(catalogue: Catalogue) -> str | None:
    """The attribute that names kinds of items: most items have it, and about ten or more share a value.

    `category` where it is one; else the one whose values tell items apart best.
    """
    found: dict[str, float] = {}
    for name in catalogue.attributes:
        values = [text for value in catalogue.column(name) for text in query_texts(value)]
        counts = np.unique(values, return_counts=True)[1] if values else np.zeros(0)
        is_common = len(values) >= QUERY_COVERAGE * len(catalogue)
        if is_common and FEWEST_QUERIES <= len(counts) <= len(catalogue) / ITEMS_A_QUERY:
            shares = counts / counts.sum()
            found[name] = float(-(shares * np.log(shares)).sum())
    if "category" in found:
        return "category"
    return max(found, key=lambda name: found[name], default=None)


def _of_data(catalogue: Catalogue, histories: Histories, query_attribute: str | None) -> dict[str, Any]:
    tasks = ["recommend"]
    tasks += ["search"] if query_attribute is not None else []
    # The last two interactions of each shopper are not trained on.
    trained = histories.truncate(np.maximum(histories.lengths - 2, 0))
    tasks += ["rate"] if _are_many(np.isfinite(trained.ratings), trained) else []
    tasks += ["explain"] if _are_many(trained.are_explained, trained) else []
    tasks += ["select"] if catalogue.available.sum() > 50 else []
    return {
        "query_attribute": query_attribute,
        "tasks": tasks,
        "exclude_seen": trained.share_again() < OFTEN_AGAIN,
        "history_format": "compact",
        "history_length": int(np.clip(np.quantile(histories.lengths, 0.98), SHORTEST_READ, LONGEST_READ)),
        "windows": "whole",
        "max_words": 6,
        "tell_grounds": True,
        "max_test_cases": MOST_TEST_CASES,
    }


def _are_many(found: np.ndarray, trained: Histories) -> bool:
    """Whether enough interactions, of enough shoppers, are among those found `(num_interactions,)`."""
    shoppers = np.unique(trained.user_numbers[found])
    return bool(found.sum() > LEAST_TRAINED * found.size and len(shoppers) > LEAST_TRAINED * len(trained))


def _of_model(
    catalogue: Catalogue, histories: Histories, writes_texts: bool, vision_is_trained: bool
) -> dict[str, Any]:
    # Pictures are in the rows, where each is read once and not at every place; a tower that learns reads them there.
    fusion = {"cross_attention_every": 1} if vision_is_trained else {"fusion": "none"}
    is_long = np.median(histories.lengths) >= LONG_HISTORY
    return {
        # Of texts, one layer of width 64 learns no more than "great for the the the".
        "text_model": "micro" if writes_texts else "mini" if is_long else "nano",
        "vision_model": None,
        "unimp": {
            **fusion,
            "item_rows": "both",
            "tie_item_rows": True,
            "item_at_eoc": True,
            "label_softmax": "group",
            "dropout": 0.2 if is_long else 0.3 if len(catalogue) < MANY_ITEMS else 0.4,
            "content_length": 48,
        },
    }


def _of_training(catalogue: Catalogue, histories: Histories, writes_texts: bool, world_size: int) -> dict[str, Any]:
    batch = 2 ** round(np.log2(max(len(histories) / STEPS_AN_EPOCH, 1)))
    batch = int(np.clip(batch, SMALLEST_BATCH, LARGEST_BATCH))
    return {
        "num_train_epochs": 20,
        "per_device_train_batch_size": max(1, batch // world_size),
        "per_device_eval_batch_size": 128,
        "learning_rate": 3e-3,
        "adam_beta2": 0.98,
        "weight_decay": 0.1,
        "warmup_steps": 0.1,
        "max_grad_norm": 5.0,
        "focal_gamma": 0.0,
        "context_loss": "none",
        "next_item_weight": NEXT_ITEM_WEIGHT,
        "task_weights": {"explain": NEXT_ITEM_WEIGHT} if writes_texts else {},
        "dataloader_num_workers": 1,  # rows are made while the network computes
        "dataloader_persistent_workers": True,
        "sampled_items": 1024 if len(catalogue) > MANY_ITEMS else 0,
        "eval_strategy": "steps",
        "eval_steps": 0.2,
        "save_strategy": "steps",
        "save_steps": 0.2,
    }
