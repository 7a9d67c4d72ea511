"""A recipe, a YAML file and what the command line changes in it: the data, the model, the training."""

import argparse
import difflib
import json
import logging
import math
import sys
from collections.abc import Iterable, Set
from dataclasses import MISSING, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from huggingface_hub.dataclasses import type_validator
from huggingface_hub.errors import StrictDataclassError
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from trl import TrlParser

from processing_unimp import TASK_NAMES

from ..backbones import TEXT_SIZES, VISION_SIZES
from ..configuration_unimp import UniMPConfig

logger = logging.getLogger("train")
# Dicts of which the command line changes what it names.
DICTS = frozenset({"unimp", "task_shares", "task_weights"})


def _option(default: Any, help: str) -> Any:
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class DataArguments:
    """Which shop, which shoppers, which examples."""

    items: str | None = _option(
        None, "The items table: a parquet, JSON lines or CSV file, or a folder. Without it, the made-up shop."
    )
    interactions: str | None = _option(None, "The interactions table, likewise.")
    image_root: str | None = _option(
        None, "Folder of the pictures that items names, which no path may lead out of; by default that of the table."
    )
    attributes: list[str] = _option([], "Attributes to read, in this order. Empty: all columns of the items.")
    query_attribute: str | None = _option(None, "Attribute that search queries are made from, e.g. category.")
    k_core: int = _option(5, "Keep users and items with at least this many interactions; 0 keeps all.")
    split: str = _option("leave_last_out", "leave_last_out, or by_time (see validation_from and test_from).")
    validation_from: float | str | None = _option(
        None, "by_time: when the validation part begins, a date such as 2020-09-15 (UTC) or a number of `timestamp`."
    )
    test_from: float | str | None = _option(None, "by_time: when the test part begins.")
    new_users: float = _option(0.1, "Share of users held out of training altogether and tested apart.")
    split_seed: int = _option(
        42, "Draws the new users and the evaluation cases; runs that differ in `seed` alone have the same."
    )
    held_out_domain: str | None = _option(None, "A value of the items' domain column that is held out altogether.")
    tasks: list[str] = _option(
        ["recommend", "search", "rate", "explain", "select"],
        "Tasks to train and evaluate; imagine too, where there is an image_codec. Empty, or none: only the codec.",
    )
    history_format: str = _option(
        "full", "full: items of a history with their attributes, as in the paper; compact: as their tokens alone."
    )
    history_length: int = _option(
        5,
        "Latest items of a history that the network reads, in training and after; closed-form scores read the latest "
        "200, those of stars all.",
    )
    max_words: int = _option(12, "Words kept of each attribute value.")
    max_length: int = _option(2048, "Tokens of a sequence; older items give way.")
    num_candidates: int = _option(8, "Candidates of a select request.")
    wish_attributes: list[str] = _option([], "Attributes that the wishes of imagine name beside the query: colour.")
    tell_grounds: bool = _option(False, "The prompt of explain says what history and item have in common, counted.")
    num_retrieved: int = _option(2, "Items that are searched and shown before a picture is imagined.")
    windows: str = _option("random", "random: some windows of each history an epoch; all: every position.")
    windows_per_user: int = _option(1, "Random windows of each history an epoch.")
    temperature: float = _option(1.0, "Tasks are drawn in proportion to their cases ** (1 / temperature).")
    task_shares: dict | str = _option(
        {}, "How much oftener than so a task is drawn, JSON; 1 where it is not named, 0: not trained."
    )
    exclude_seen: bool = _option(True, "Leave the history's items out of rankings, here and of the saved model.")
    refit: bool = _option(
        False,
        "After the test train again on all interactions, as many steps and with the weights that validation chose: "
        "what is saved then knows what was held out, and the numbers are of the model before.",
    )
    max_validation_cases: int | None = _option(1000, "Cases of each task in an evaluation during training.")
    max_test_cases: int | None = _option(None, "Cases of each task in the final test; all without it.")

    def __post_init__(self) -> None:
        if isinstance(self.tasks, list) and [str(name).lower() for name in self.tasks] == ["none"]:
            self.tasks = []
        for name in ("validation_from", "test_from"):
            if isinstance(moment := getattr(self, name), date):  # as YAML reads it
                setattr(self, name, moment.isoformat())
        for name in ("max_validation_cases", "max_test_cases"):
            if isinstance(most := getattr(self, name), int) and most < 0:
                raise ValueError(f"{name}={most}: expected 0 or more, or none for all")

    @property
    def shares(self) -> dict[str, float]:
        """`task_shares` as a dict, also when the command line gave it as JSON."""
        return json.loads(self.task_shares) if isinstance(self.task_shares, str) else self.task_shares


@dataclass
class ModelArguments:
    """Which backbones, and what of them learns."""

    text_model: str = _option("tiny", "A causal LM by Hub name or folder; micro, tiny, small, base: from scratch.")
    vision_model: str | None = _option(
        "tiny",
        "A vision backbone by Hub name or folder, open_clip:MODEL/WEIGHTS; tiny, small: from scratch; none: none.",
    )
    initial_model: str | None = _option(
        None,
        "A UniMP by Hub name or folder whose weights, tokenizer and image codec the training begins with; the other "
        "options are those of its recipe, the tables may have changed.",
    )
    unimp: dict[str, Any] | str = _option({}, "Fields of UniMPConfig, e.g. {num_latents: 8, fusion: exclusive}; JSON.")
    hybrid: str = _option(
        "fitted",
        "fitted: closed-form scores (neighbours, text, pictures, biases) beside the network's, weighted on "
        "validation; none: the network alone.",
    )
    train_only: str | None = _option(
        None,
        "new: resampler, cross-attention and added rows; last_layer: these and the LM's last layer; all. "
        "Without it: all for a language model from scratch, new for a pretrained one.",
    )
    train_vision: bool | None = _option(None, "Train the vision tower. Without it: only one from scratch.")
    use_peft: bool = _option(False, "Low-rank adapters (LoRA) on the language model.")
    lora_r: int = _option(16, "Rank of the adapters.")
    lora_alpha: int = _option(32, "Scale of the adapters.")
    lora_target_modules: list[str] = _option([], "Modules of the language model with adapters; empty: all linear.")
    feature_store: str | None = _option(
        None, "Folder for a frozen tower's features of the catalogue; without it a folder in output_dir."
    )
    image_codec: str | None = _option(
        None,
        "Pictures to codes and back, for imagine: a diffusers VQModel by Hub name or folder, a VQGAN checkpoint of "
        "taming-transformers (.ckpt); train: trained first, on the catalogue's pictures; none: none.",
    )
    codec_side: int = _option(64, "image_codec: train. Pixels a side of a picture.")
    codec_grid: int = _option(8, "Codes a side; codec_side is this times a power of two.")
    codec_codes: int = _option(512, "Size of the codebook.")
    codec_width: int = _option(16, "Channels of the two largest levels; each below has twice as many.")
    codec_steps: int = _option(2000, "Steps of training.")
    codec_batch_size: int = _option(16, "Pictures a step.")
    codec_learning_rate: float = _option(1e-3, "Of AdamW.")

    def __post_init__(self) -> None:
        # A recipe can say null; the command line cannot.
        for name in ("vision_model", "image_codec", "initial_model"):
            if str(getattr(self, name)).lower() == "none":
                setattr(self, name, None)
        self.hybrid = str(self.hybrid).lower()
        if self.hybrid not in ("fitted", "none"):
            raise ValueError(f"hybrid={self.hybrid!r}: expected fitted or none.")

    @property
    def config_fields(self) -> dict[str, Any]:
        """`unimp` as a dict, also when the command line gave it as JSON."""
        return json.loads(self.unimp) if isinstance(self.unimp, str) else self.unimp

    @property
    def trained_part(self) -> Any:
        """`train_only`, or what is usual for the language model."""
        return self.train_only or ("all" if self.text_model in TEXT_SIZES else "new")

    @property
    def vision_is_trained(self) -> bool:
        """`train_vision`, or whether the tower starts from scratch."""
        return self.vision_model in VISION_SIZES if self.train_vision is None else self.train_vision


# Fields of UniMPConfig that are no choice.
FOLLOW_FROM_DATA = frozenset(
    {
        "text_config", "vision_config", "vision_feature_size", "num_items", "num_codes", "codes_per_picture",
        "num_terms", "content_picture_size", "catalogue_fingerprint", "text_model", "vision_model", "picture_features",
    }
)  # fmt: skip
_ANSWERS = "an evaluation answers requests and gathers no logits"
_OUR_LOSS = "the loss is the focal loss of the paper, see focal_gamma, averaged over the global batch"
_AS_TRAINED = "an evaluation computes as the training does, see bf16"
# Options of TrainingArguments that nothing would come of, and why.
_WITHOUT_EFFECT = {
    "label_smoothing_factor": _OUR_LOSS,
    "average_tokens_across_devices": _OUR_LOSS,
    "use_liger_kernel": "there are no such kernels for UniMP",
    "remove_unused_columns": "requests are dicts, and the collator needs all of them",
    "length_column_name": "a TaskMixture knows how long its rows are",
    "enable_jit_checkpoint": "SIGTERM saves a checkpoint and ends the training in any case",
    "label_names": _ANSWERS,
    "prediction_loss_only": _ANSWERS,
    "eval_do_concat_batches": _ANSWERS,
    "eval_use_gather_object": _ANSWERS,
    "eval_accumulation_steps": _ANSWERS,
    "include_for_metrics": _ANSWERS,
    "batch_eval_metrics": _ANSWERS,
    "bf16_full_eval": _AS_TRAINED,
    "fp16_full_eval": _AS_TRAINED,
}


@dataclass
class UniMPTrainingArguments(TrainingArguments):
    """
    `TrainingArguments` and the objective of the paper (eq. 5-8).

    > Parameters that control the objective

        focal_gamma (`float`, *optional*, defaults to `2.0`):
            Each token's loss is weighted by `(1 - p) ** gamma`; 0 is plain cross-entropy.
        context_loss (`str`, *optional*, defaults to `"attributes"`):
            History tokens to be reconstructed: `"attributes"` (the paper), `"id"` (the released code) or `"none"`.
        context_weight (`float`, *optional*, defaults to `1.0`):
            lambda of the context loss.
        next_item_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the loss of the next item, and of its stars, at every item of a history; not in the paper.
        task_weights (`dict[str, float]`, *optional*):
            Weight of each task's loss; tasks that are not named weigh 1.
        loss_reduction (`str`, *optional*, defaults to `"token"`):
            `"token"`: every labelled token of the global batch weighs alike; `"sample"`: every request does.

        sampled_items (`int`, *optional*, defaults to `0`):
            How many items, drawn anew in each step, stand for all others in the loss of items; 0 for all of them.
            For catalogues of some ten thousand items, with `label_softmax: group`.

    > Parameters that control the optimizer

        embedding_lr_scale (`float`, *optional*, defaults to `1.0`):
            Learning rate of the rows of words (where they learn), control tokens, stars, codes and places, in
            multiples of `learning_rate`. Each row meets few labels, and from scratch wants to go far.

    > Parameters that control what is saved

        save_only_trained (`bool`, *optional*, defaults to `False`):
            Save what was trained and name the frozen backbones, instead of copying them.

    Changed defaults: `output_dir` "unimp", `learning_rate` 2e-4, `lr_scheduler_type` cosine, `warmup_steps` 0.01 (a
    share of all steps), `remove_unused_columns` `False`, `eval_strategy` and `save_strategy` epoch,
    `load_best_model_at_end` `True`, `save_total_limit` 2, `logging_steps` 50, `report_to` TensorBoard where it is
    installed, `ddp_find_unused_parameters` `True` (a batch without pictures or ratings leaves parameters unused).

    Raises:
        ValueError: a value out of range, or an option of `TrainingArguments` that would have no effect.
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "task_weights"]

    output_dir: str | None = _option("unimp", "Where the trained model goes, beside its checkpoints.")
    learning_rate: float = _option(2e-4, "Of AdamW.")
    lr_scheduler_type: str = _option("cosine", "Shape of the learning rate after the warm-up.")
    warmup_steps: float = _option(0.01, "Steps of warm-up; below 1 a share of all steps.")
    remove_unused_columns: bool = _option(False, "Requests are dicts; the collator needs all of them.")
    eval_strategy: str = _option("epoch", "When to evaluate.")
    save_strategy: str = _option("epoch", "When to save a checkpoint.")
    save_total_limit: int | None = _option(2, "Checkpoints kept: the best and the latest.")
    load_best_model_at_end: bool = _option(True, "Validation chooses.")
    metric_for_best_model: str | None = _option(
        None, "TASK_METRIC, e.g. recommend_ndcg@10. Without it the headline of the first task."
    )
    logging_steps: float = _option(50, "Steps between lines of the log.")
    report_to: None | str | list[str] = _option(None, "tensorboard, trackio, wandb, none. Without it TensorBoard.")
    ddp_find_unused_parameters: bool | None = _option(True, "Some batches leave parameters unused.")

    focal_gamma: float = _option(2.0, "Each token's loss is weighted by (1 - p) ** gamma; 0 is cross-entropy.")
    context_loss: str = _option("attributes", "History tokens to reconstruct: attributes, id or none.")
    context_weight: float = _option(1.0, "Weight of the context loss (lambda of the paper).")
    next_item_weight: float = _option(0.0, "Weight of the next item and its stars at every step of a history.")
    task_weights: dict | str = _option({}, "Weight of each task's loss, JSON; 1 where a task is not named.")
    loss_reduction: str = _option("token", "token or sample: what weighs alike in the global batch.")
    sampled_items: int = _option(0, "Items drawn to compete in the loss; 0: all compete.")
    embedding_lr_scale: float = _option(1.0, "Learning rate of embedding rows, in multiples of learning_rate.")
    save_only_trained: bool = _option(False, "Save what was trained, and name the frozen backbones.")

    def __post_init__(self) -> None:
        if self.report_to is None:
            self.report_to = ["tensorboard"] if _tensorboard_is_installed() else "none"
        if self.gradient_accumulation_steps < 1:
            raise ValueError(f"gradient_accumulation_steps={self.gradient_accumulation_steps}: expected at least 1.")
        if self.per_device_train_batch_size < 1 or self.per_device_eval_batch_size < 1:
            raise ValueError("per_device_train_batch_size, per_device_eval_batch_size: expected at least 1.")
        for name in ("learning_rate", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more.")
        if self.dataloader_persistent_workers and not self.dataloader_num_workers:
            raise ValueError("dataloader_persistent_workers: there are no workers (dataloader_num_workers=0).")
        for name in ("eval_strategy", "save_strategy"):
            if getattr(self, name) in (False, "no", IntervalStrategy.NO):  # YAML reads `no` as false
                setattr(self, name, "no")
                if self.load_best_model_at_end:
                    logger.warning(f"{name}: no: no checkpoint can be chosen, and the last step is the model.")
                    self.load_best_model_at_end = False
        super().__post_init__()
        self._refuse_what_has_no_effect()
        if self.context_loss not in ("attributes", "id", "none"):
            raise ValueError(f"context_loss={self.context_loss!r}: expected 'attributes', 'id' or 'none'.")
        if self.loss_reduction not in ("token", "sample"):
            raise ValueError(f"loss_reduction={self.loss_reduction!r}: expected 'token' or 'sample'.")
        if self.sampled_items < 0:
            raise ValueError(f"sampled_items={self.sampled_items}: expected 0 (all) or more.")
        if self.embedding_lr_scale <= 0:
            raise ValueError(f"embedding_lr_scale={self.embedding_lr_scale}: expected more than 0.")
        if self.focal_gamma < 0:
            raise ValueError(f"focal_gamma={self.focal_gamma}: expected 0 (cross-entropy) or more.")

    def _refuse_what_has_no_effect(self) -> None:
        for each in fields(self):
            usual = each.default if each.default_factory is MISSING else each.default_factory()
            value = getattr(self, each.name)
            if each.name in _WITHOUT_EFFECT and value != usual:
                raise ValueError(f"{each.name}={value!r} has no effect: {_WITHOUT_EFFECT[each.name]}. Leave it out.")
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy={self.train_sampling_strategy!r}: expected 'random' or 'sequential'; rows "
                "of any lengths are packed, so that nothing is won by putting like ones together."
            )
        accelerator_config: Any = self.accelerator_config  # made an AcceleratorConfig by now
        if accelerator_config is not None and accelerator_config.dispatch_batches:
            raise ValueError(
                "dispatch_batches: a batch holds each distinct picture once and cannot be cut by rows. Leave it out; "
                "each process reads its own rows."
            )
        parallel = self.parallelism_config
        if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            raise ValueError(
                f"parallelism_config with cp_size={parallel.cp_size}, sp_size={parallel.sp_size}: expected 1, since a "
                "sequence and its pictures cannot be shared among processes. Shard the model instead (fsdp)."
            )


def _tensorboard_is_installed() -> bool:
    from transformers.integrations import is_tensorboard_available

    return bool(is_tensorboard_available())


def parse_recipe() -> tuple[DataArguments, ModelArguments, UniMPTrainingArguments]:
    """Recipe and command line; a key that does not exist is an error that names the nearest one that does."""
    groups: Any = (DataArguments, ModelArguments, UniMPTrainingArguments)
    parser = TrlParser(groups)
    for action in parser._actions:
        if (get_origin(action.type) or action.type) is dict:
            # Its own reading of a dict on the command line is `dict(text)`, which no text passes.
            action.type = json_object
        elif action.dest == "report_to":
            action.nargs = "+"  # one tracker or several, which it takes for one
    argv = [part for word in sys.argv[1:] for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    given = given_on_command_line()
    try:
        data_args, model_args, args, unread = parser.parse_args_and_config(argv, return_remaining_strings=True)
        recipe = yaml.safe_load(Path(argv[argv.index("--config") + 1]).read_text()) if "--config" in argv else None
    except (OSError, ValueError, TypeError, ImportError, yaml.YAMLError) as error:
        raise SystemExit(f"The recipe cannot be read: {error}") from error
    if unread_steps := sorted({"do_train", "do_eval", "do_predict"} & {*given, *(recipe or {})}):
        raise SystemExit(f"{', '.join(unread_steps)}: no effect, for a run trains, evaluates and tests. Leave it out.")
    for group in (data_args, model_args, args):
        for name in DICTS & vars(group).keys():
            left_out = {*TASK_NAMES} - {*data_args.tasks} if name == "task_shares" and "tasks" in given else set()
            named = getattr(group, name) if name in given else None
            setattr(group, name, changed((recipe or {}).get(name, getattr(group, name)), named, left_out))
    check_names(
        [word.lstrip("-").split("=")[0] for word in unread if word.startswith("--")] or unread,
        {action.dest for action in parser._actions},
    )
    for group in (data_args, model_args):
        for action in parser._actions:
            if action.nargs == "+" and isinstance(getattr(group, action.dest, None), str):
                # YAML: `tasks: rate` for `tasks: [rate]`.
                setattr(group, action.dest, [getattr(group, action.dest)])
    for group in (data_args, model_args, args):
        _check_types(group)
    check_names(model_args.config_fields, UniMPConfig.__annotations__, "unimp.")
    if follow := sorted(set(model_args.config_fields) & FOLLOW_FROM_DATA):
        raise SystemExit(
            f"The recipe cannot be read: unimp.{', unimp.'.join(follow)} cannot be set: catalogue, backbones and "
            "codec say what it is. Leave it out."
        )
    for name, value in model_args.config_fields.items():
        _check_type(f"unimp.{name}", value, UniMPConfig.__annotations__[name])
    if "config" in given:  # else the data say what was not given
        check_config_fields(model_args)
    return data_args, model_args, args


def changed(of_recipe: Any, named: dict[str, Any] | None, left_out: Set[str]) -> Any:
    """A dict of a recipe, as it is or as JSON, with what the command line names, of which an empty one leaves none of
    the recipe's; without the shares of tasks that the command line leaves out, of which nothing is drawn."""
    if named == {}:
        return named
    if isinstance(of_recipe, str):
        try:
            of_recipe = json_object(of_recipe)
        except argparse.ArgumentTypeError as error:
            raise SystemExit(f"The recipe cannot be read: {error}") from error
    if not isinstance(of_recipe, dict):
        return of_recipe  # which the check of types tells
    return {name: value for name, value in of_recipe.items() if name not in left_out} | (named or {})


def _check_types(group: Any) -> None:
    """Refuse values of another kind than an option's, as YAML can hold them; of our options, for transformers looks at
    its own."""
    hints = get_type_hints(type(group))
    for name, value in vars(group).items():
        if name in type(group).__annotations__ and not name.startswith("_"):
            _check_type(name, value, hints[name])
        elif isinstance(value, float) and math.isnan(value):
            raise SystemExit(f"The recipe cannot be read: {name} is NaN, expected a number.")
    for name in ("task_shares", "task_weights"):
        values = getattr(group, name, {})
        check_names(values, TASK_NAMES, f"{name}.")
        for task, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise SystemExit(f"The recipe cannot be read: {name}: {task}: {value!r}: expected a number from 0.")


def _check_type(name: str, value: Any, hint: Any) -> None:
    kinds = (hint, *get_args(hint))
    if isinstance(value, float) and math.isnan(value):  # which no comparison would find
        raise SystemExit(f"The recipe cannot be read: {name} is NaN, expected a number.")
    if type(value) is int and float in kinds:
        return
    try:
        if isinstance(value, bool) and bool not in kinds:
            raise TypeError("it is a truth value")
        type_validator(name, value, hint)
    except (TypeError, ValueError) as error:
        expected = hint.__name__ if kinds == (hint,) else str(hint)
        if get_origin(hint) is Literal:
            expected = f"one of {', '.join(get_args(hint))}"
        raise SystemExit(f"The recipe cannot be read: {name}: {value!r}: expected {expected}.") from error


def check_config_fields(model_args: ModelArguments) -> None:
    """Refuse values of `unimp` that no model has, or none with a language model of that named size. What depends on
    the catalogue or on a pretrained language model shows when these are there."""
    without_pictures = {"fusion": "none"} if model_args.vision_model is None else {}
    config_fields = model_args.config_fields | without_pictures
    layers = config_fields.get("cross_attention_every", UniMPConfig.cross_attention_every)
    if model_args.text_model in TEXT_SIZES:
        layers = TEXT_SIZES[model_args.text_model][0]
    try:
        UniMPConfig(**config_fields, text_config={"model_type": "llama", "num_hidden_layers": max(layers, 1)})
    except StrictDataclassError as error:
        raise SystemExit(f"The recipe cannot be read: unimp.{error.__cause__}") from error


def given_on_command_line() -> set[str]:
    """Names of the arguments that the command line gives; `config` among them where there is a recipe."""
    groups: Any = (DataArguments, ModelArguments, UniMPTrainingArguments)
    known = {"config", *(each.name for group in groups for each in fields(group))}
    words = {word.lstrip("-").split("=")[0].replace("-", "_") for word in sys.argv[1:] if word.startswith("--")}
    words |= {word.removeprefix("no_") for word in words}  # `--no_exclude_seen`; no option begins so
    # argparse takes the beginning of a name for the name.
    return {name for word in words for name in known if name == word or word not in known and name.startswith(word)}


def json_object(text: str) -> dict[str, Any]:
    """A dict option of the command line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error}): expected e.g. '{{\"rate\": 2}}'") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is a {type(value).__name__}: expected e.g. '{{\"rate\": 2}}'")
    return value


def check_names(names: Iterable[str], known: Iterable[str], prefix: str = "") -> None:
    """Refuse keys that a recipe cannot have."""
    unknown = []
    for name in set(names) - set(known):
        near = difflib.get_close_matches(name, known, n=1)
        unknown.append(f"{prefix}{name}" + (f" (did you mean {prefix}{near[0]}?)" if near else ""))
    if unknown:
        raise SystemExit(f"The recipe cannot be read: there is no {', no '.join(sorted(unknown))}.")
