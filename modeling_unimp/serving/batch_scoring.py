"""The best items for millions of shoppers, table in and table out, in bounded memory; a stopped run resumes.

unimp-recommend --model unimp --histories histories.parquet --output recommendations.parquet
unimp-recommend --model unimp --histories interactions.csv.gz --allowed in_stock.txt --output recommendations.parquet
accelerate launch --num_processes 8 -m modeling_unimp.serving.batch_scoring --histories parts/ --output best.parquet
"""

import argparse
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoProcessor

from ..answering import as_read, finds_nothing, warn_if_untrained
from ..item_embeddings import item_logits
from ..modeling_unimp import UniMPForConditionalGeneration
from ..ranking import rank_items
from ..training.feature_store import FeatureStore, tower_fingerprint
from .finished_parts import ANSWERS, Reject, merge_parts, open_parts, write_part
from .history_tables import (
    GROUPED,
    SHOPPER,
    UNUSABLE_ROW,
    Row,
    columns_of_all,
    digest,
    file_digest,
    files_of,
    group_interactions,
    num_rows,
    rows_of,
)

try:
    import pyarrow as pa

    from processing_unimp import Catalogue, UniMPProcessor
    from processing_unimp.bounds import MAX_HISTORY, check_length, short_repr
    from processing_unimp.cell_values import id_as_text, is_missing
    from processing_unimp.table_columns import is_list
    from processing_unimp.tables import without_double_keys
except ImportError as error:
    raise ImportError("unimp-recommend reads and writes its tables with pyarrow; pip install datasets") from error

logger = logging.getLogger("unimp-recommend")


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO if int(os.environ.get("RANK", 0)) == 0 else logging.ERROR)
    try:
        recommend(args)
    except torch.OutOfMemoryError as error:
        raise SystemExit(f"unimp-recommend: {error} Run again with a smaller --batch_size: it goes on.") from error
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"unimp-recommend: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "unimp-recommend",
        description="The best items for every shopper of a table. Stopped or killed, the same command goes on where "
        "it was. Shoppers that cannot be answered go to the rejects file with the reason; they never stop the run.",
        epilog="Several GPUs: accelerate launch --num_processes 8 -m modeling_unimp.serving.batch_scoring OPTIONS. "
        "Several processes on CPU: torchrun --nproc_per_node 2 -m modeling_unimp.serving.batch_scoring OPTIONS "
        "(accelerate launch --cpu would start one). However many there are, the result is the same file.",
    )
    add = parser.add_argument
    add("--model", default="unimp", help="folder or Hub name of a trained model (default: %(default)s)")
    add("--revision", help="branch, tag or commit of a model on the Hub")
    histories = (
        ".parquet, .jsonl or .csv (.gz too), or a folder of such files. Either one row a shopper: user_id, history "
        "(item ids or {item_id, rating}, latest last; JSON in a CSV cell), perhaps query. Or one row an interaction, "
        "in any order: user_id, item_id, timestamp, perhaps rating; duckdb groups them"
    )
    add("--histories", required=True, type=Path, help=histories)
    columns = (
        "user_id, rank (from 1), item_id, score (probability), without_history (what is usual in the shop), "
        "without_match (no item has a word of the query)"
    )
    add("--output", required=True, type=Path, help=f"parquet of {columns}")
    add("--rejects", type=Path, help="JSON lines of user_id and reason (default: OUTPUT with .rejects.jsonl)")
    add("--top_k", type=int, default=10, help="items a shopper (default: %(default)s)")
    seen = "leave out what the history holds (default: when recommending as the model was trained, when searching no)"
    add("--exclude_seen", action=argparse.BooleanOptionalAction, help=seen)
    add("--allowed", type=Path, help="text file of the item ids that may be recommended, one a line: what is in stock")
    add("--query", help="search for this, for all shoppers; a column `query` says it for each")
    add("--batch_size", type=int, default=64, help="shoppers a forward; fewer if memory runs out (default: 64)")
    add("--device", help="cpu, cuda, cuda:1, mps, ... (default: the accelerator if there is one)")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    add("--dtype", default="auto", choices=dtypes, help="of the weights (default: as they were saved)")
    features = (
        "folder with features of the catalogue's pictures; those that it lacks are made and kept there (default: what "
        "training left in MODEL if no picture has come or changed since, else OUTPUT.vision_features)"
    )
    add("--vision_features", type=Path, help=features)
    add("--shoppers_per_part", type=int, default=4096, help="what a kill loses at most (default: %(default)s)")
    add("--restart", action="store_true", help="throw away what an interrupted run has finished")
    add("--memory_limit", default="4GB", help="of sorting interactions; beyond it they spill to disk beside OUTPUT")
    return parser


def recommend(args: argparse.Namespace) -> None:
    """Answer a table of histories; `args` as the command line gives them.

    Raises:
        ValueError: options or tables that cannot be used, finished parts of another run, or not one shopper answered.
    """
    for name in ("top_k", "batch_size", "shoppers_per_part"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: expected at least 1.")
    files = files_of(args.histories)
    rejects = args.rejects or args.output.with_suffix(".rejects.jsonl")
    read = {file.resolve(): "a file of --histories" for file in files}
    if args.allowed is not None:
        read[args.allowed.resolve()] = "the file of --allowed"
    for name, file, example in (("output", args.output, "best.parquet"), ("rejects", rejects, "best.rejects.jsonl")):
        if file.is_dir():
            raise ValueError(f"--{name} {file} is a folder: expected a file to write, such as {example}.")
        if file.resolve() in read:
            raise ValueError(f"--{name} {file} is {read[file.resolve()]}: it would be overwritten.")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"--{name} {file}: its folder cannot be made: {error}.") from error
    if args.output.suffix not in ("", ".parquet"):
        raise ValueError(f"--output {args.output}: what is written is parquet. Expected a name such as best.parquet.")
    if rejects.resolve() == args.output.resolve():
        raise ValueError(f"--rejects {rejects} is --output too: expected two files.")
    columns = columns_of_all(files)
    is_grouped = set(SHOPPER) <= set(columns)
    has_queries = is_grouped and "query" in columns
    if has_queries and args.query is not None:
        raise ValueError("--query came, and the table has a column `query` too: leave one of them out.")

    state = _processes(args.device)
    index, count = (0, 1) if state is None else (state.process_index, state.num_processes)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device = state.device if state is not None else args.device or accelerator or "cpu"
    try:
        processor = AutoProcessor.from_pretrained(args.model, revision=args.revision)
        model = UniMPForConditionalGeneration.from_pretrained(args.model, revision=args.revision, dtype=args.dtype)
    except OSError as error:
        raise ValueError(f"--model {args.model}: expected the folder or Hub name of a UniMP model. {error}") from error
    try:
        model.eval().to(device).check_processor(processor)
    except (RuntimeError, AssertionError) as error:  # torch has no such device, or was built without it
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(f"--device {device}: {error}") from error

    parts, size = args.output.with_name(args.output.name + ".parts"), args.shoppers_per_part
    allowed = _allowed(processor.catalogue, args.allowed)
    with nullcontext() if state is None else state.main_process_first():
        features = _vision_features(model, processor, args)
        scorer = Scorer(model, processor, args, allowed, features, has_queries)
        if index == 0:
            run = scorer.identity | {"histories": digest(map(file_digest, files)), "shoppers_per_part": size}
            open_parts(parts, run, args.restart)
            if not is_grouped and not (parts / GROUPED).is_file():
                group_interactions(files, columns, parts, args.memory_limit)
    if not is_grouped:
        files = [parts / GROUPED]

    total, num_parts = num_rows(files), 0
    if total is not None:
        total = sum(min(size, total - first) for first in range(index * size, total, count * size))
    rows = chain.from_iterable(rows_of(file) for file in files)
    name = "shoppers" if count == 1 else f"shoppers of process 1 of {count}"
    pause = 1 if sys.stderr.isatty() else 60
    with tqdm(total=total, desc=name, unit=" shoppers", smoothing=0, mininterval=pause, disable=index != 0) as bar:
        # A row is read and let go before the next one: its text may hold far more than what is asked of it.
        while (row := next(rows, None)) is not None:
            part = chain([row], islice(rows, size - 1))
            file = parts / f"part-{num_parts:05d}.parquet"
            if num_parts % count == index and not file.is_file():
                answers, reasons, counts = scorer.answer(part, num_parts * size)
                write_part(file, answers, reasons, counts)
                bar.update(counts["shoppers"])
            else:
                passed = sum(1 for _ in part)
                if num_parts % count == index and not bar.disable:
                    bar.initial += passed  # or they would count as speed
                    bar.update(passed)
            num_parts += 1
    if state is not None:
        state.wait_for_everyone()
    if index == 0:
        merge_parts(parts, num_parts, args.output, rejects)
    if state is not None:
        state.destroy_process_group()


def _processes(device: str | None) -> Any:
    """accelerate's `PartialState`, or `None` for a process that is alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError("several processes need accelerate: pip install accelerate, or start one process") from error
    if device not in (None, "cpu"):
        raise ValueError(f"--device {device} with several processes: leave it out, each takes a device of its own.")
    # The others wait while the first one sorts or looks at all pictures, which may take hours.
    return PartialState(cpu=device == "cpu", timeout=timedelta(days=7))


def _vision_features(
    model: UniMPForConditionalGeneration, processor: UniMPProcessor, args: argparse.Namespace
) -> FeatureStore | None:
    """Features of the catalogue's pictures: made by the first process that asks, opened by the others."""
    catalogue, tower = processor.catalogue, model.model.vision_tower
    digests = catalogue.picture_digests() if processor.num_image_tokens else np.zeros(0)
    if not digests.any():
        return None
    if tower is None:
        if args.vision_features is None:
            raise ValueError("this model has no vision tower to look at pictures with: pass --vision_features FOLDER.")
        return FeatureStore.open(args.vision_features, digests)
    makers = (tower, processor.image_processor)
    folder, is_stale = args.vision_features, False
    if folder is None:
        with suppress(ValueError):  # none there, of another tower, or without what came or changed since the training
            return FeatureStore.open(Path(args.model) / "vision_features", digests, *makers)
        folder = args.output.with_name(args.output.name + ".vision_features")
        try:
            FeatureStore.open(folder, digests[:0], *makers)
        except ValueError:
            is_stale = True  # of an earlier model; or there is none
    return FeatureStore.build(
        *makers,
        lambda number: catalogue.picture(catalogue.item_id(number)),
        digests,
        folder,
        dtype=model.dtype,
        rebuild=is_stale,
    )


def _allowed(catalogue: Catalogue, path: Path | None) -> np.ndarray:
    """Which items may be recommended `(N,)`: those that are sold and, if there is a file, named in it."""
    mask: np.ndarray = catalogue.available
    if path is not None:
        try:
            wanted = {line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()} - {""}
        except UnicodeDecodeError as error:
            raise ValueError(f"--allowed {path} is no text: {error}. Expected one item id a line.") from error
        mask &= np.array([item_id in wanted for item_id in catalogue.item_ids])
        if unknown := sorted(item_id for item_id in wanted if item_id not in catalogue):
            logger.warning(f"{path}: the model does not know {len(unknown)} of {len(wanted)} items, as {unknown[:3]}")
    if not mask.any():
        raise ValueError(f"{path or 'the catalogue'} names no item that is known and sold: nothing to recommend.")
    return mask


# ----------------------------------------------------------------------------------------------------------- scoring


class Shopper(NamedTuple):
    """A row that can be answered: its place in its part, and the catalogue rows of its whole history."""

    place: int
    user_id: str
    request: dict[str, Any]
    seen: list[int]


class Answered(NamedTuple):
    """A shopper, the catalogue rows of the best items and their scores."""

    shopper: Shopper
    numbers: np.ndarray
    scores: np.ndarray


class Scorer:
    """Rows of a table in, table of answers out: those of `PersonalizationPipeline`, without its prose.

    Which shoppers share a batch depends on their part alone: not on who answers it, nor on when.

    Attributes:
        identity (`dict[str, Any]`): changes with anything that changes an answer; `batch_size` and the device, which
            move the last bits of a score, are not in it, so that a run may go on with smaller batches.
    """

    def __init__(
        self,
        model: UniMPForConditionalGeneration,
        processor: UniMPProcessor,
        args: argparse.Namespace,
        allowed: np.ndarray,
        vision_features: FeatureStore | None,
        has_queries: bool,
    ) -> None:
        self.model, self.processor, self.vision_features = model, processor, vision_features
        self.has_queries, self.query = has_queries, args.query
        self.task = "search" if has_queries or args.query is not None else "recommend"
        warn_if_untrained(model, self.task)
        self.exclude_seen = args.exclude_seen
        if self.exclude_seen is None:
            self.exclude_seen = processor.leaves_out_seen(self.task)
        self.top_k, self.batch_size = args.top_k, args.batch_size
        self.is_rating_told = False
        self.allowed = torch.from_numpy(allowed).to(model.device)
        catalogue = processor.catalogue
        self.item_ids = pa.array(catalogue.item_ids, pa.string())
        with torch.inference_mode():
            self.item_rows = model.item_rows().float()  # made once, not once a batch
        attributes = [catalogue.item_ids, *map(catalogue.column, catalogue.attributes)]
        self.identity = {
            "model": tower_fingerprint(model),
            "catalogue": digest(repr(column).encode() for column in attributes),
            "processor": digest([json.dumps(processor.to_dict(), sort_keys=True, default=str).encode()]),
            "vision_features": None if vision_features is None else vision_features.metadata["dtype"],
            "pictures": None if vision_features is None else digest([vision_features.digests.tobytes()]),
            "hybrid": None if model.hybrid_scores is None else model.hybrid_scores.digest(),
            "allowed": digest([allowed.tobytes()]),
            "task": self.task,
            "query": self.query,
            "top_k": self.top_k,
            "exclude_seen": self.exclude_seen,
        }

    @torch.inference_mode()
    def answer(self, part: Iterable[Row], first: int) -> tuple[Any, list[Reject], Counter]:
        """Answer a part whose rows are counted from `first`: answers, rejects, and counts for the summary."""
        shoppers: list[Shopper] = []
        rejects: list[tuple[int, str | None, str]] = []
        counts: Counter[str] = Counter()
        for place, read in enumerate(part):
            user_id = None
            counts["shoppers"] += 1
            try:
                row = read()
                user_id = id_as_text(row.get("user_id"), "user_id")
                if user_id is None:
                    came = short_repr(row.get("user_id"))
                    raise ValueError(f"row {first + place + 1} has the user_id {came}: expected text.")
                shoppers.append(self._shopper(place, user_id, row, counts))
            except UNUSABLE_ROW as error:
                rejects.append((place, user_id, str(error)))
        shoppers.sort(key=lambda shopper: len(shopper.request["history"]))  # less padding
        found: list[Answered] = []
        waiting = None
        for start in range(0, len(shoppers) + self.batch_size, self.batch_size):
            # The next batch is read while an accelerator still works on the one before.
            batch, inputs = self._inputs(shoppers[start : start + self.batch_size], rejects)
            if waiting is not None:
                found += self._best(*waiting, rejects)
            waiting = (batch, self._logits(inputs)) if batch else None
        counts.update(answered=len(found), rejected=len(rejects))
        reasons: list[Reject] = [
            {"user_id": user_id, "reason": reason} for _, user_id, reason in sorted(rejects, key=_place)
        ]
        return self._table(sorted(found, key=lambda each: each.shopper.place)), reasons, counts

    def _shopper(self, place: int, user_id: str, row: Mapping[str, Any], counts: Counter) -> Shopper:
        catalogue = self.processor.catalogue
        history: Any = row.get("history")
        if isinstance(history, pa.Scalar):
            if is_list(history.type) and history.is_valid:
                check_length(history, MAX_HISTORY, "the history")
            history = history.as_py()
        if isinstance(history, str):
            try:
                history = json.loads(history, object_pairs_hook=without_double_keys)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"the history {short_repr(history)} is not JSON: {error}.") from None
        if not isinstance(history, list):
            raise ValueError(
                f"the history is {short_repr(history)}: expected a list of items, empty for somebody new."
            )
        check_length(history, MAX_HISTORY, "the history")
        known: list[dict[str, Any]] = []
        for entry in history:
            event: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {"item_id": entry}
            item_id, rating = _known_id(event.get("item_id"), catalogue), event.get("rating")
            if item_id is None:
                counts["unknown items left out"] += 1
                continue
            if is_missing(rating):
                rating = None
            elif isinstance(rating, (int, float, Decimal)) and not isinstance(rating, bool) and 1 <= rating <= 5:
                rating = float(rating)
            else:
                counts["ratings left out, not 1 to 5"] += 1
                if not self.is_rating_told:
                    what = f"{short_repr(user_id)} gave {short_repr(item_id)} the rating {short_repr(rating)}"
                    logger.warning(f"{what}: expected a number from 1 to 5; such ratings are left out and counted")
                self.is_rating_told, rating = True, None
            known.append({"item_id": item_id, "rating": rating})
        if history and not known:
            first = short_repr(history[0])
            raise ValueError(f"none of the history's {len(history)} items is in the catalogue, such as {first}.")
        if not self.has_queries and row.get("query") is not None:
            raise ValueError(
                f"the query is {short_repr(row['query'])}, which the first rows do not have, and --query is for all: "
                "expected a query in each row or in none."
            )
        request: dict[str, Any] = {"task": self.task, "history": known[-self.processor.history_length :]}
        if self.task == "search":
            request["query"] = row.get("query") if self.has_queries else self.query
        return Shopper(place, user_id, request, [catalogue.number(entry["item_id"]) for entry in known])

    def _inputs(self, batch: list[Shopper], rejects: list[Any]) -> tuple[list[Shopper], Any]:
        """Tensors of those that the processor can read; a bad one does not take its batch along."""

        def encode(requests: list[Any]) -> Any:
            read = as_read(self.model, self.processor, "items", requests)
            return self.processor(requests=read, vision_features=self.vision_features)

        if not batch:
            return [], None
        try:
            return batch, encode(requests=[shopper.request for shopper in batch])
        except ValueError:
            good = []
            for shopper in batch:
                try:
                    encode(requests=[shopper.request])
                    good.append(shopper)
                except ValueError as error:
                    rejects.append((shopper.place, shopper.user_id, str(error).removeprefix("request 0: ")))
            return good, encode(requests=[shopper.request for shopper in good]) if good else None

    def _logits(self, inputs: Any) -> torch.Tensor:
        outputs = self.model.model(**self.model.own_inputs(inputs), use_cache=False, return_dict=True)
        hidden = outputs.last_hidden_state[:, -1]
        return item_logits(hidden, self.item_rows)

    def _best(self, batch: list[Shopper], logits: torch.Tensor, rejects: list[Any]) -> Iterator[Answered]:
        allowed = self.allowed.repeat(len(batch), 1)
        if self.exclude_seen:
            rows = [row for row, shopper in enumerate(batch) for _ in shopper.seen]
            allowed[rows, [number for shopper in batch for number in shopper.seen]] = False
        if self.model.hybrid_scores is not None:
            queries = [shopper.request.get("query") for shopper in batch]
            histories = [shopper.seen for shopper in batch]
            logits = self.model.hybrid_scores.add(self.task, logits, histories, queries).to(allowed.device)
        scores, numbers = (tensor.cpu().numpy() for tensor in rank_items(logits, self.top_k, allowed))
        for shopper, own_numbers, own_scores in zip(batch, numbers, scores, strict=True):
            kept = own_numbers >= 0
            reason = "the scores are no numbers: choose --dtype bfloat16 or float32, or train the model again."
            if not kept.any():
                reason = "no item is left to recommend: the history holds all that may be recommended."
            elif np.isfinite(own_scores).all():
                yield Answered(shopper, own_numbers[kept], own_scores[kept])
                continue
            rejects.append((shopper.place, shopper.user_id, reason))

    def _table(self, answers: list[Answered]) -> Any:
        if not answers:
            return ANSWERS.empty_table()
        shoppers, numbers, scores = zip(*answers, strict=True)
        lengths = [len(own) for own in numbers]
        of_answer = pa.array(np.repeat(np.arange(len(shoppers)), lengths))
        columns = [
            pa.array([shopper.user_id for shopper in shoppers], pa.string()).take(of_answer),
            pa.array(np.concatenate([np.arange(1, length + 1) for length in lengths]), pa.int32()),
            self.item_ids.take(pa.array(np.concatenate(numbers))),
            pa.array(np.concatenate(scores), pa.float32()),
            pa.array([not shopper.request["history"] for shopper in shoppers], pa.bool_()).take(of_answer),
            pa.array([finds_nothing(self.model, shopper.request) for shopper in shoppers], pa.bool_()).take(of_answer),
        ]
        return pa.table(columns, schema=ANSWERS)


def _known_id(value: Any, catalogue: Catalogue) -> str | None:
    try:
        item_id = id_as_text(value, "item_id")
    except ValueError:
        return None
    return item_id if item_id in catalogue else None


def _place(entry: tuple[Any, ...]) -> int:
    return int(entry[0])


if __name__ == "__main__":
    main()
