"""An experiment by its recipe: the shop, its split, the codec, the model, what it learns from and is evaluated on."""

import contextlib
import ctypes
import itertools
import json
import logging
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import PreTrainedModel, get_scheduler, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from processing_unimp import (
    TASKS,
    Catalogue,
    EvaluationCases,
    ExampleSource,
    Histories,
    Split,
    Targets,
    TaskMixture,
    UniMPProcessor,
    by_time,
    hold_out_domain,
    k_core,
    leave_last_out,
    make_demo_shop,
    new_items_of,
)
from processing_unimp.catalogue import NO_CODE

from ..backbones import load_image_processor, load_vision_tower
from ..configuration_unimp import UniMPConfig, image_tokens_of
from ..hybrid_scores import MAX_HISTORY, HybridScores
from ..image_codec import ImageCodec
from ..imagining import CODEC_FOLDER
from ..modeling_unimp import UniMPForConditionalGeneration
from . import checkpoints
from .closed_form import closed_form_scores
from .codec_training import measure_codec, train_codec
from .defaults import OFTEN_AGAIN
from .evaluation import Fit
from .feature_store import FeatureStore, tower_fingerprint
from .hybrid_fitting import fit_hybrid
from .initial_model import take_weights
from .low_rank_adapters import add_lora
from .recipe import DataArguments, ModelArguments, UniMPTrainingArguments
from .refit import refit_closed_form, steps_again, whole_shop
from .taming_vqgan import load_image_codec
from .trainer import UniMPTrainer

logger = logging.getLogger("train")
FREE_BYTES_NEEDED = 2**30
MOST_CODEC_PICTURES = 50_000  # that a codec is trained on, from all over the catalogue; they are kept in memory
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


@contextlib.contextmanager
def told(what: str, kinds: tuple[type[Exception], ...] = (ValueError, OSError)) -> Iterator[None]:
    """An error of somebody's data or arguments ends the program in words, not in a traceback."""
    try:
        yield
    except kinds as error:
        raise SystemExit(f"{what}: {error}") from error


def check_output_folder(output_dir: str) -> Path:
    """Tell now, not after the training, that nothing can be saved."""
    if not output_dir.strip():
        raise SystemExit("output_dir is empty: expected the folder of the trained model.")
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # each of several processes its own
            pass
    except OSError as error:
        raise SystemExit(f"output_dir={output_dir!r} cannot be written: {error}. Choose another folder.") from error
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES_NEEDED:
        raise SystemExit(
            f"output_dir={output_dir!r} has {free / 2**20:.0f} MiB free; checkpoints and the model need at least "
            f"{FREE_BYTES_NEEDED / 2**20:.0f} MiB. Free some or choose another folder."
        )
    return folder


def use_all_cores(args: UniMPTrainingArguments) -> None:
    """`accelerate launch` leaves a process one thread unless told otherwise; alone on a CPU it may have every core."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and args.device.type == "cpu" and args.world_size == 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(os.cpu_count() or 1)


def keep_freed_memory(args: UniMPTrainingArguments) -> None:
    """Let glibc keep what a step on a CPU frees: the next asks for blocks of the same size, and the system would clear
    each of them anew."""
    if args.device.type == "cpu" and sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # a C library of another kind
            set_option = ctypes.CDLL(None).mallopt
            set_option(M_MMAP_THRESHOLD, 2**30)
            set_option(M_TRIM_THRESHOLD, 2**31 - 1)


def check_names(catalogue: Catalogue, data_args: DataArguments) -> None:
    """Tell names that do not exist before a codec is trained, not after."""
    given: dict[str, tuple[Iterable[str], Iterable[str]]] = {
        "tasks": (data_args.tasks, TASKS),
        "attributes": (data_args.attributes, catalogue.attributes),
        "wish_attributes": (data_args.wish_attributes, catalogue.attributes),
        "task_shares": (data_args.shares if data_args.tasks else (), data_args.tasks),
    }
    for name, (names, expected) in given.items():
        if unknown := [each for each in names if each not in expected]:
            raise SystemExit(f"{name}: {', '.join(unknown)}: expected some of {', '.join(expected)}.")
    if data_args.query_attribute is not None and data_args.query_attribute not in catalogue.attributes:
        raise SystemExit(
            f"query_attribute: {data_args.query_attribute}: expected one of {', '.join(catalogue.attributes)}."
        )


@told("the tables cannot be used")
def load_shop(data_args: DataArguments) -> tuple[Catalogue, Histories]:
    """The two tables, or the made-up shop when none are given.

    Raises:
        SystemExit: they cannot be used.
    """
    if (data_args.items is None) != (data_args.interactions is None):
        raise SystemExit("items and interactions belong together: give both tables, or none for the made-up shop.")
    if data_args.items is None or data_args.interactions is None:
        items, interactions = make_demo_shop()
        catalogue = Catalogue.from_items(items)
        histories = Histories.from_interactions(interactions, catalogue)
    else:
        catalogue = Catalogue.load(data_args.items, image_root=data_args.image_root)
        histories = Histories.load(data_args.interactions, catalogue)
        check_pictures(catalogue)
    return catalogue, histories


def check_pictures(catalogue: Catalogue) -> None:
    """Tell before the training that the table names pictures and none of them is there."""
    if not any(map(catalogue.has_picture, catalogue.item_ids)) and catalogue.unreadable_pictures:
        reason = next(iter(catalogue.unreadable_pictures.values()))
        raise SystemExit(f"none of {len(catalogue.unreadable_pictures)} pictures can be read. The first: {reason}")


@told("the shop cannot be split")
def split_histories(histories: Histories, catalogue: Catalogue, data_args: DataArguments) -> Split:
    """Core, held-out domain, then the split; what was removed and what leaks is logged.

    Raises:
        SystemExit: too little is left, or an argument of the split is none.
    """
    counts = histories.item_counts()
    if data_args.k_core:
        histories = k_core(histories, data_args.k_core)
    core = histories.item_counts()
    new_domain: Targets | None = None
    held_out: np.ndarray | None = None
    if data_args.held_out_domain is not None:
        held_out = np.array([name == data_args.held_out_domain for name in catalogue.column("domain")], dtype=bool)
        histories, new_domain = hold_out_domain(histories, catalogue, data_args.held_out_domain)
    if data_args.split == "leave_last_out":
        split = leave_last_out(histories, new_users=data_args.new_users, seed=data_args.split_seed)
    elif data_args.split == "by_time":
        if data_args.validation_from is None or data_args.test_from is None:
            raise SystemExit("split: by_time needs validation_from and test_from, dates or numbers of `timestamp`.")
        split = by_time(histories, data_args.validation_from, data_args.test_from)
    else:
        raise SystemExit(f"split: {data_args.split!r}: expected leave_last_out or by_time.")
    split.new_domain = new_domain
    split.new_items = new_items_of(split.train, core, counts, held_out)
    logger.info(
        f"{len(catalogue)} items; {split.name}: {split.train.num_interactions} interactions to train on, "
        f"{len(split.validation)} validation and {len(split.test)} test targets; removed: {split.removed}"
    )
    logger.info(f"what this split leaks: {split.leaks}")
    if not catalogue.available.any():
        raise ValueError(
            "every item of the table is retired: nothing can be recommended. Correct the column 'retired'."
        )
    if data_args.exclude_seen and (again := split.train.share_again()) >= OFTEN_AGAIN:
        logger.warning(
            f"{100 * again:.0f} % of what these shoppers take they had before, and exclude_seen: true recommends none "
            "of that, here and in the saved model. For a shop where things are bought again say exclude_seen: false."
        )
    if split.new_items is not None:
        logger.info(f"{split.new_items.sum()} items that nobody took are taken to be new: they go by what they are")
    return split


@told("the codec cannot be used")
def image_codec_of(
    catalogue: Catalogue, data_args: DataArguments, model_args: ModelArguments, args: UniMPTrainingArguments
) -> tuple[ImageCodec | None, dict[str, Any] | None]:
    """The recipe's codec, trained first if it says so, and how good it is; the codes of all pictures are kept in the
    catalogue."""
    if model_args.image_codec is None:
        if "imagine" in data_args.tasks or not data_args.tasks:
            raise SystemExit(
                "imagine writes pictures in the codes of a codec: set image_codec, to `train` or to one that exists. "
                "Without a codec leave imagine out of `tasks`."
            )
        return None, None
    folder = Path(str(args.output_dir)) / CODEC_FOLDER
    if model_args.initial_model is not None:
        # Its rows of codes are of no other codec.
        codec, metrics = ImageCodec.from_pretrained(model_args.initial_model, subfolder=CODEC_FOLDER), None
        logger.info(f"image codec: that of {model_args.initial_model}")
    elif model_args.image_codec != "train":
        codec, metrics = load_image_codec(model_args.image_codec), None
    elif (folder / "codec.json").is_file() and checkpoint_to_resume(args) is not None:
        # A resumed training goes on with the codes it began with.
        codec, metrics = load_image_codec(str(folder)), json.loads((folder / "codec.json").read_text())
    else:
        pictured = [number for number, item_id in enumerate(catalogue.item_ids) if catalogue.has_picture(item_id)]
        spread = pictured[:: max(math.ceil(len(pictured) / MOST_CODEC_PICTURES), 1)]
        small = [picture for _, picture in pictures_of(catalogue, spread, 2 * model_args.codec_side)]
        codec, metrics = train_codec(small, model_args, folder, seed=args.seed, use_cpu=args.use_cpu)
    codes = np.full((len(catalogue), codec.codes_per_picture), NO_CODE, dtype=np.int32)
    shown: list[Image.Image] = []
    pictures = pictures_of(catalogue, range(len(catalogue)))
    codec.to(args.device)
    while part := list(itertools.islice(pictures, 256)):
        codes[[number for number, _ in part]] = codec.encode([picture for _, picture in part]).numpy()
        shown += [picture for _, picture in part[:12]]
    catalogue.set_picture_codes(codes)
    metrics = metrics or measure_codec(codec, shown)
    missing = int((codes[:, 0] == NO_CODE).sum())
    logger.info(
        f"image codec: {codec.codes_per_picture} codes a picture, PSNR {metrics['psnr']:.1f} dB, SSIM "
        f"{metrics['ssim']:.3f}, {metrics['codes_used']} of {codec.num_codes} codes in use; {missing} of "
        f"{len(catalogue)} items have no picture, imagine leaves them out"
    )
    shown = shown[:: max(len(shown) // 12, 1)][:12]
    return codec, {"metrics": metrics, "pictures": list(zip(shown, codec.decode(codec.encode(shown)), strict=True))}


def pictures_of(
    catalogue: Catalogue, numbers: Iterable[int], side: int | None = None
) -> Iterator[tuple[int, Image.Image]]:
    """Row and picture of those of the items whose picture can be read; made small on request."""
    for number in numbers:
        item_id = catalogue.item_id(number)
        picture = catalogue.picture(item_id) if catalogue.has_picture(item_id) else None
        if picture is not None:
            if side is not None:
                picture.thumbnail((side, side))
            yield number, picture


def feature_folder(model_args: ModelArguments, args: UniMPTrainingArguments) -> Path:
    """Where the features of a frozen tower are kept."""
    return Path(model_args.feature_store or Path(str(args.output_dir)) / "vision_features")


def frozen_features(
    tower: PreTrainedModel, processor: UniMPProcessor, model_args: ModelArguments, args: UniMPTrainingArguments
) -> FeatureStore:
    """Features of a frozen tower, computed once for each picture."""
    catalogue = processor.catalogue
    with args.main_process_first(desc="vision features"):
        return FeatureStore.build(
            tower,
            processor.image_processor,
            lambda number: catalogue.picture(catalogue.item_id(number)),
            catalogue.picture_digests(),
            feature_folder(model_args, args),
        )


@told("the model cannot be made")
def processor_of(
    catalogue: Catalogue, split: Split, codec: ImageCodec | None, data_args: DataArguments, model_args: ModelArguments
) -> UniMPProcessor:
    """The processor of the recipe's backbones and catalogue."""
    fusion = model_args.config_fields.get("fusion", UniMPConfig.fusion)
    return UniMPProcessor.from_backbones(
        # A tokenizer made anew would number words otherwise than the initial model.
        text_model=model_args.initial_model or model_args.text_model,
        image_processor=load_image_processor(model_args.vision_model),
        catalogue=catalogue,
        extra_texts=split.train.explanations(),
        attributes=data_args.attributes,
        history_format=data_args.history_format,
        history_length=data_args.history_length,
        max_words=data_args.max_words,
        max_length=data_args.max_length,
        query_attribute=data_args.query_attribute,
        num_codes=0 if codec is None else codec.num_codes,
        num_image_tokens=image_tokens_of(fusion, model_args.config_fields.get("num_latents", UniMPConfig.num_latents)),
        num_retrieved=data_args.num_retrieved,
        wish_attributes=data_args.wish_attributes,
        tell_grounds=data_args.tell_grounds,
        exclude_seen=data_args.exclude_seen,
    )


@told("the model cannot be made")
def model_of(
    processor: UniMPProcessor, codec: ImageCodec | None, model_args: ModelArguments, args: UniMPTrainingArguments
) -> tuple[UniMPForConditionalGeneration, FeatureStore | None]:
    """A new model, with what of it learns, and the features of its tower if that is frozen."""
    tower = features = None
    is_seen = processor.num_image_tokens or model_args.config_fields.get("item_rows", "free") != "free"
    if is_seen and model_args.vision_model is not None and not model_args.vision_is_trained:
        tower = load_vision_tower(model_args.vision_model)[0]
        assert tower is not None
        features = frozen_features(tower, processor, model_args, args)
    try:
        model = UniMPForConditionalGeneration.from_backbones(
            text_model=model_args.text_model,
            vision_model=model_args.vision_model,
            catalogue=processor.catalogue,
            processor=processor,
            tower=tower,
            content_pictures=None if features is None else features.pooled(),
            num_codes=processor.num_codes,
            codes_per_picture=0 if codec is None else codec.codes_per_picture,
            **model_args.config_fields,
        )
    except StrictDataclassError as error:
        raise SystemExit(f"unimp: {error.__cause__}") from error
    model.image_codec = codec
    if codec is not None:
        model.fit_codes_to_codec()
    if model_args.initial_model is not None:
        take_weights(model, processor, model_args.initial_model)
        if features is not None and features.metadata["tower"] != tower_fingerprint(model.model.vision_tower):
            raise SystemExit(
                f"initial_model: {model_args.initial_model} has trained its vision tower, and here "
                f"{model_args.vision_model} is frozen with other weights. Set train_vision: true."
            )
    model.freeze_backbones(train=model_args.trained_part, train_vision=model_args.vision_is_trained)
    if model_args.use_peft:
        model = add_lora(
            model, r=model_args.lora_r, alpha=model_args.lora_alpha, target_modules=model_args.lora_target_modules
        )
    return model, features


@told("this cannot be trained")
def mixture_of(split: Split, catalogue: Catalogue, data_args: DataArguments, seed: int) -> TaskMixture:
    """What the model learns from."""
    return TaskMixture(
        split.train,
        catalogue,
        data_args.tasks,
        windows=data_args.windows,
        repeats=data_args.windows_per_user,
        temperature=data_args.temperature,
        history_length=data_args.history_length,
        query_attribute=data_args.query_attribute,
        num_candidates=data_args.num_candidates,
        num_retrieved=data_args.num_retrieved,
        wish_attributes=data_args.wish_attributes,
        shares=data_args.shares,
        seed=seed,
    )


def evaluation_cases_of(
    targets: Targets, data_args: DataArguments, catalogue: Catalogue, max_cases: int | None
) -> list[EvaluationCases]:
    """Evaluation cases of every task of the recipe; the same at every call."""
    return [
        EvaluationCases.of(
            name,
            targets,
            ExampleSource(
                catalogue,
                np.random.default_rng((data_args.split_seed, position)),
                # The network reads the latest `history_length` of them, closed-form scores all.
                history_length=max(data_args.history_length, MAX_HISTORY),
                query_attribute=data_args.query_attribute,
                num_candidates=data_args.num_candidates,
            ),
            exclude_seen=data_args.exclude_seen,
            max_cases=max_cases,
        )
        for position, name in enumerate(data_args.tasks)
    ]


@told("this cannot be trained", (ValueError, OSError, ImportError, RuntimeError))  # a tracker is not installed
def trainer_of(
    model: UniMPForConditionalGeneration,
    processor: UniMPProcessor,
    features: FeatureStore | None,
    split: Split,
    mixture: TaskMixture,
    args: UniMPTrainingArguments,
    validation: Sequence[EvaluationCases] = (),
) -> UniMPTrainer:
    """What trains the model on a mixture of the training part of a split."""
    trainer = UniMPTrainer(
        model=model,
        args=args,
        train_dataset=mixture,
        evaluation_cases=validation,
        processing_class=processor,
        vision_features=features,
        competing_items=None if split.new_items is None else torch.from_numpy(~split.new_items),
    )
    check_optimization(trainer)
    return trainer


def check_optimization(trainer: UniMPTrainer) -> None:
    """Tell now what the Trainer would stumble over when it begins: packages that are not installed, and options that
    optimizer, schedule and compiler do not have."""
    args, kinds = trainer.args, (ValueError, TypeError, ImportError, RuntimeError)
    optim: Any = args.optim
    schedule: Any = args.lr_scheduler_type
    options: Any = args.lr_scheduler_kwargs
    with told(f"optim: {optim.value}, optim_args: {args.optim_args}", kinds):
        trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
    some = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    with told(f"lr_scheduler_type: {schedule.value}, lr_scheduler_kwargs: {options}", kinds):
        get_scheduler(schedule, some, 1, 2, scheduler_specific_kwargs=options)
    if args.torch_compile:
        backend, mode = args.torch_compile_backend, args.torch_compile_mode
        with told(f"torch_compile_backend: {backend}, torch_compile_mode: {mode}", kinds):
            torch.compile(torch.nn.Identity(), backend=backend or "inductor", mode=mode)  # compiles nothing yet


def closed_forms_of(
    split: Split, features: FeatureStore | None, data_args: DataArguments, fitted: HybridScores | None = None
) -> HybridScores:
    """The closed-form scores of the training part of a split, not weighted yet; those that `fitted` has, if given."""
    return closed_form_scores(
        split.train,
        None if features is None else features.pooled().numpy(),
        data_args.query_attribute,
        data_args.exclude_seen,
        data_args.attributes,
        split.new_items,
        None if fitted is None else fitted.neighbours,
    )


def add_closed_forms(
    trainer: UniMPTrainer,
    validation: Sequence[EvaluationCases],
    split: Split,
    data_args: DataArguments,
    model_args: ModelArguments,
) -> tuple[HybridScores | None, Fit]:
    """Give a trained model its closed-form scores, fitted on validation.

    Returns:
        `tuple[HybridScores, dict]`: their best blend without the network, and what the fit found, see [`fit_hybrid`];
        `None` and an empty dict where the recipe wants none.
    """
    if model_args.hybrid == "none" or not {"recommend", "search", "rate"} & {*data_args.tasks}:
        return None, {}
    model, features = trainer.bare_model, trainer.vision_features
    model.hybrid_scores, alone, fit = fit_hybrid(
        closed_forms_of(split, features, data_args),
        model,
        trainer.processing_class,
        validation,
        split.train,
        vision_features=features,
        batch_size=trainer.args.per_device_eval_batch_size,
    )
    return alone, fit


def refit(
    trainer: UniMPTrainer,
    histories: Histories,
    codec: ImageCodec | None,
    data_args: DataArguments,
    model_args: ModelArguments,
) -> UniMPTrainer:
    """Train what validation chose again on all interactions, see `refit.py`.

    Args:
        trainer (`UniMPTrainer`): with the tested model.
        histories (`Histories`): all that there is.

    Returns:
        `UniMPTrainer`: with the model to save.
    """
    processor, tested = trainer.processing_class, trainer.bare_model.hybrid_scores
    args, whole = steps_again(trainer.args, trainer.state), whole_shop(histories, data_args)
    logger.info(f"refit: {args.max_steps} steps on all {whole.train.num_interactions} interactions")
    set_seed(args.seed)
    model, features = model_of(processor, codec, model_args, trainer.args)
    mixture = mixture_of(whole, processor.catalogue, data_args, args.seed)
    again = trainer_of(model, processor, features, whole, mixture, args)
    again.train()
    if tested is not None:
        closed_forms = closed_forms_of(whole, features, data_args, tested)
        again.bare_model.hybrid_scores = refit_closed_form(tested, closed_forms, whole.train)
    return again


def checkpoint_to_resume(args: UniMPTrainingArguments) -> str | None:
    """The checkpoint to go on from: a folder, or with `--resume_from_checkpoint true` the latest of output_dir."""
    asked = args.resume_from_checkpoint
    if asked is None or asked.lower() == "false":
        return None
    if asked.lower() != "true":
        return asked
    latest = checkpoints.last_checkpoint(str(args.output_dir))
    if latest is None:
        logger.warning(f"{args.output_dir} holds no whole checkpoint to resume from: training starts anew.")
    return latest


@told("resume_from_checkpoint")
def checkpoint_of(trainer: UniMPTrainer) -> str | None:
    """As [`checkpoint_to_resume`].

    Raises:
        SystemExit: one that is not whole, or learnt from something else.
    """
    args = trainer.args
    found = checkpoint_to_resume(args)
    if found is not None:
        trainer.check_checkpoint(found)
    elif older := sort_checkpoints(str(args.output_dir), PREFIX_CHECKPOINT_DIR):
        names = ", ".join(Path(folder).name for folder in older)
        logger.warning(
            f"{args.output_dir} holds {names} of an earlier run: until this one has saved its first, "
            "--resume_from_checkpoint true would go on from there."
        )
    return found
