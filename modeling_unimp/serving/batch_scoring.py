"""The best items for millions of shoppers, table in and table out, in bounded memory; it goes on where it was stopped.

unimp-recommend --model unimp --histories histories.parquet --output recommendations.parquet
unimp-recommend --model unimp --histories interactions.csv.gz --allowed in_stock.txt --output recommendations.parquet
accelerate launch --num_processes 8 -m modeling_unimp.serving.batch_scoring --histories parts/ --output best.parquet
"""

import argparse
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoProcessor

from ..modeling_unimp import UniMPForConditionalGeneration
from ..pipeline_unimp import TASKS_WITH_SEEN_ITEMS_LEFT_OUT
from ..ranking import rank_items
from ..training.feature_store import METADATA, FeatureStore, tower_fingerprint

try:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The readers of every table; this command needs both packages and is never exported.
    from processing_unimp.bounds import short_repr
    from processing_unimp.cell_values import id_as_text, is_missing
    from processing_unimp.table_columns import ids_as_text, numbers_of, seconds_of, table_of
    from processing_unimp.tables import TABLE_KINDS, kind_of, read_rows
except ImportError as error:
    raise ImportError("unimp-recommend reads and writes its tables with pyarrow; pip install datasets") from error

logger = logging.getLogger("unimp-recommend")

INTERACTION = ("user_id", "item_id", "timestamp")
# What a row can be so wrong with that it is put aside; nothing that is in a row ends a run.
UNUSABLE_ROW = (ValueError, TypeError, OverflowError, RecursionError)
EVENT = pa.struct([("item_id", pa.string()), ("rating", pa.float64())])
HISTORIES = pa.schema([("user_id", pa.string()), ("history", pa.list_(EVENT))])
ANSWERS = pa.schema(
    [("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float32())]
)
# In the folder of an unfinished run.
RUN, GROUPED, UNUSABLE = "run.json", "histories.parquet", "interactions.rejects.jsonl"

# Reads one row of the table when called, or raises a `ValueError`: rows of finished parts are passed over unread.
Row = Callable[[], dict[str, Any]]
Reject = dict[str, str | None]


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
    add("--output", required=True, type=Path, help="parquet of user_id, rank (from 1), item_id, score (probability)")
    add("--rejects", type=Path, help="JSON lines of user_id and reason (default: OUTPUT with .rejects.jsonl)")
    add("--top_k", type=int, default=10, help="items a shopper (default: %(default)s)")
    seen = "leave out what the history holds (default: when recommending yes, when searching no)"
    add("--exclude_seen", action=argparse.BooleanOptionalAction, help=seen)
    add("--allowed", type=Path, help="text file of the item ids that may be recommended, one a line: what is in stock")
    add("--query", help="search for this, for all shoppers; a column `query` says it for each")
    add("--batch_size", type=int, default=64, help="shoppers a forward; fewer if memory runs out (default: 64)")
    add("--device", help="cpu, cuda, cuda:1, mps, ... (default: the accelerator if there is one)")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    add("--dtype", default="auto", choices=dtypes, help="of the weights (default: as they were saved)")
    features = (
        "folder with features of the catalogue's pictures, made there if there are none (default: those that training "
        "left in MODEL, else OUTPUT.vision_features, kept for the next night)"
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
    files = _files(args.histories)
    columns = _columns(files[0])
    is_grouped = {"user_id", "history"} <= set(columns)
    if not is_grouped and not set(INTERACTION) <= set(columns):
        raise ValueError(
            f"{files[0]} has the columns {', '.join(columns) or 'none'}. Expected user_id and history, one row a "
            f"shopper, or {', '.join(INTERACTION)}, one row an interaction."
        )
    has_queries = is_grouped and "query" in columns
    if has_queries and args.query is not None:
        raise ValueError("--query came, and the table has a column `query` too: leave one of them out.")

    state = _processes(args.device)
    index, count = (0, 1) if state is None else (state.process_index, state.num_processes)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device = state.device if state is not None else args.device or accelerator or "cpu"
    try:
        processor = AutoProcessor.from_pretrained(args.model, revision=args.revision)
        model: Any = UniMPForConditionalGeneration.from_pretrained(
            args.model, revision=args.revision, dtype=args.dtype
        )
    except OSError as error:
        raise ValueError(f"--model {args.model}: expected the folder or Hub name of a UniMP model. {error}") from error
    model.eval().to(device).check_processor(processor)

    parts, size = args.output.with_name(args.output.name + ".parts"), args.shoppers_per_part
    allowed = _allowed(processor.catalogue, args.allowed)
    with nullcontext() if state is None else state.main_process_first():
        features = _vision_features(model, processor, args)
        scorer = Scorer(model, processor, args, allowed, features, has_queries)
        if index == 0:
            run = scorer.identity | {"histories": _digest(map(_content, files)), "shoppers_per_part": size}
            _open_parts(parts, run, args.restart)
            if not is_grouped and not (parts / GROUPED).is_file():
                _group_interactions(files, columns, parts, args.memory_limit)
    if not is_grouped:
        files, columns = [parts / GROUPED], HISTORIES.names

    total, num_parts = _num_rows(files), 0
    if total is not None:
        total = sum(min(size, total - first) for first in range(index * size, total, count * size))
    rows = chain.from_iterable(_rows(file, columns) for file in files)
    name = "shoppers" if count == 1 else f"shoppers of process 1 of {count}"
    pause = 1 if sys.stderr.isatty() else 60
    with tqdm(total=total, desc=name, unit=" shoppers", smoothing=0, mininterval=pause, disable=index != 0) as bar:
        while part := list(islice(rows, size)):
            file = parts / f"part-{num_parts:05d}.parquet"
            if num_parts % count == index:
                if not file.is_file():
                    _write_part(file, *scorer.answer(part, num_parts * size))
                elif not bar.disable:
                    bar.initial += len(part)  # or they would count as speed
                bar.update(len(part))
            num_parts += 1
    if state is not None:
        state.wait_for_everyone()
    if index == 0:
        _merge(parts, num_parts, args.output, args.rejects or args.output.with_suffix(".rejects.jsonl"))
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


def _vision_features(model: Any, processor: Any, args: argparse.Namespace) -> FeatureStore | None:
    """Features of the catalogue's pictures: made by the first process that asks, opened by the others."""
    catalogue, tower = processor.catalogue, model.model.vision_tower
    num_pictures = sum(map(catalogue.has_picture, catalogue.item_ids)) if processor.num_image_tokens else 0
    if not num_pictures:
        return None
    if tower is None:
        if args.vision_features is None:
            raise ValueError("this model has no vision tower to look at pictures with: pass --vision_features FOLDER.")
        return FeatureStore.open(args.vision_features, catalogue.fingerprint)
    folder, is_stale = args.vision_features or Path(args.model) / "vision_features", False
    if args.vision_features is None and not (folder / METADATA).is_file():
        folder = args.output.with_name(args.output.name + ".vision_features")
        if (folder / METADATA).is_file():
            try:
                return FeatureStore.open(folder, catalogue.fingerprint, tower, processor.image_processor)
            except ValueError:
                is_stale = True  # of an earlier model
    return FeatureStore.build(
        tower,
        processor.image_processor,
        lambda number: catalogue.picture(catalogue.item_id(number)),
        len(catalogue),
        folder,
        fingerprint=catalogue.fingerprint,
        dtype=model.dtype,
        num_pictures=num_pictures,
        rebuild=is_stale,
    )


def _allowed(catalogue: Any, path: Path | None) -> np.ndarray:
    """Which items may be recommended `(N,)`: those that are sold and, if there is a file, named in it."""
    mask: np.ndarray = catalogue.available
    if path is not None:
        wanted = {line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()} - {""}
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


class Scorer:
    """Rows of a table in, table of answers out: those of `PersonalizationPipeline`, without its prose.

    Which shoppers share a batch depends on their part alone: not on who answers it, nor on when.

    Attributes:
        identity (`dict[str, Any]`): changes with anything that changes an answer; `batch_size` and the device, which
            move the last bits of a score, are not in it, so that a run may go on with smaller batches.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        args: argparse.Namespace,
        allowed: np.ndarray,
        vision_features: FeatureStore | None,
        has_queries: bool,
    ) -> None:
        self.model, self.processor, self.vision_features = model, processor, vision_features
        self.has_queries, self.query = has_queries, args.query
        self.task = "search" if has_queries or args.query is not None else "recommend"
        self.exclude_seen = args.exclude_seen
        if self.exclude_seen is None:
            self.exclude_seen = self.task in TASKS_WITH_SEEN_ITEMS_LEFT_OUT
        self.top_k, self.batch_size = args.top_k, args.batch_size
        self.allowed = torch.from_numpy(allowed).to(model.device)
        catalogue = processor.catalogue
        self.item_ids = pa.array(catalogue.item_ids, pa.string())
        with torch.inference_mode():
            self.item_rows = model.item_rows()  # made once, not once a batch
        attributes = [catalogue.item_ids, *map(catalogue.column, catalogue.attributes)]
        self.identity = {
            "model": tower_fingerprint(model),
            "catalogue": _digest(repr(column).encode() for column in attributes),
            "processor": _digest([json.dumps(processor.to_dict(), sort_keys=True, default=str).encode()]),
            "vision_features": None if vision_features is None else vision_features.metadata["dtype"],
            "allowed": _digest([allowed.tobytes()]),
            "task": self.task,
            "query": self.query,
            "top_k": self.top_k,
            "exclude_seen": self.exclude_seen,
        }

    @torch.inference_mode()
    def answer(self, part: Sequence[Row], first: int) -> tuple[Any, list[Reject], Counter]:
        """Answer a part whose rows are counted from `first`: answers, rejects, and what is to be told in the end."""
        shoppers: list[Shopper] = []
        rejects: list[tuple[int, str | None, str]] = []
        counts = Counter(shoppers=len(part))
        for place, read in enumerate(part):
            user_id = None
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
        found: list[tuple[int, str, np.ndarray, np.ndarray]] = []
        waiting = None
        for start in range(0, len(shoppers) + self.batch_size, self.batch_size):
            # The next batch is read while an accelerator still works on the one before.
            batch, inputs = self._inputs(shoppers[start : start + self.batch_size], rejects)
            if waiting is not None:
                found += self._best(*waiting, rejects)
            waiting = (batch, self._logits(inputs)) if batch else None
        counts.update(answered=len(found), rejected=len(rejects))
        told: list[Reject] = [
            {"user_id": user_id, "reason": reason} for _, user_id, reason in sorted(rejects, key=_place)
        ]
        return self._table(sorted(found, key=_place)), told, counts

    def _shopper(self, place: int, user_id: str, row: Mapping[str, Any], counts: Counter) -> Shopper:
        catalogue = self.processor.catalogue
        history: Any = row.get("history")
        if isinstance(history, str):
            try:
                history = json.loads(history)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"the history {short_repr(history)} is not JSON: {error}.") from None
        if not isinstance(history, list) or not history:
            raise ValueError(f"the history is {short_repr(history)}: expected a list of at least one item.")
        known = []
        for entry in history:
            event: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {"item_id": entry}
            item_id, rating = _known_id(event.get("item_id"), catalogue), event.get("rating")
            if item_id is None:
                counts["unknown items left out"] += 1
                continue
            if is_missing(rating):
                rating = None
            elif not (isinstance(rating, (int, float)) and 1 <= rating <= 5):
                counts["ratings left out, not 1 to 5"] += 1
                rating = None
            known.append({"item_id": item_id, "rating": rating})
        if not known:
            first = short_repr(history[0])
            raise ValueError(f"none of the history's {len(history)} items is in the catalogue, such as {first}.")
        request: dict[str, Any] = {"task": self.task, "history": known[-self.processor.history_length :]}
        if self.task == "search":
            request["query"] = row.get("query") if self.has_queries else self.query
        return Shopper(place, user_id, request, [catalogue.number(entry["item_id"]) for entry in known])

    def _inputs(self, batch: list[Shopper], rejects: list[Any]) -> tuple[list[Shopper], Any]:
        """Tensors of those that the processor can read; a bad one does not take its batch along."""
        encode = partial(self.processor, vision_features=self.vision_features)
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
        return torch.nn.functional.linear(hidden, self.item_rows.to(hidden.dtype))

    def _best(
        self, batch: list[Shopper], logits: torch.Tensor, rejects: list[Any]
    ) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
        """Place, user, catalogue rows of the best items and their scores."""
        allowed = self.allowed.repeat(len(batch), 1)
        if self.exclude_seen:
            rows = [row for row, shopper in enumerate(batch) for _ in shopper.seen]
            allowed[rows, [number for shopper in batch for number in shopper.seen]] = False
        scores, numbers = (tensor.cpu().numpy() for tensor in rank_items(logits, self.top_k, allowed))
        for shopper, own_numbers, own_scores in zip(batch, numbers, scores, strict=True):
            kept = own_numbers >= 0
            reason = "the scores are no numbers: choose --dtype bfloat16 or float32, or train the model again."
            if not kept.any():
                reason = "no item is left to recommend: the history holds all that may be recommended."
            elif np.isfinite(own_scores).all():
                yield shopper.place, shopper.user_id, own_numbers[kept], own_scores[kept]
                continue
            rejects.append((shopper.place, shopper.user_id, reason))

    def _table(self, answers: list[tuple[int, str, np.ndarray, np.ndarray]]) -> Any:
        if not answers:
            return ANSWERS.empty_table()
        _, users, numbers, scores = zip(*answers, strict=True)
        lengths = [len(own) for own in numbers]
        columns = [
            pa.array(users, pa.string()).take(pa.array(np.repeat(np.arange(len(users)), lengths))),
            pa.array(np.concatenate([np.arange(1, length + 1) for length in lengths]), pa.int32()),
            self.item_ids.take(pa.array(np.concatenate(numbers))),
            pa.array(np.concatenate(scores), pa.float32()),
        ]
        return pa.table(columns, schema=ANSWERS)


def _known_id(value: Any, catalogue: Any) -> str | None:
    try:
        item_id = id_as_text(value, "item_id")
    except ValueError:
        return None
    return item_id if item_id in catalogue else None


def _place(entry: tuple[Any, ...]) -> int:
    return int(entry[0])


# ------------------------------------------------------------------------------------------------------------- parts


def _open_parts(parts: Path, run: dict[str, Any], restart: bool) -> None:
    """The folder of the finished parts of this very run; what else it holds is thrown away, if that loses no work."""
    finished = sorted(parts.glob("part-*.parquet"))
    before = json.loads((parts / RUN).read_text(encoding="utf-8")) if (parts / RUN).is_file() else None
    if before == run and not restart:
        if finished:
            logger.info(f"{parts}: {len(finished)} finished parts, going on")
        return
    if before is not None and finished and not restart:
        other = ", ".join(name for name in run if run[name] != before.get(name))
        raise ValueError(
            f"{parts} holds {len(finished)} finished parts of a run that differed in: {other}. Give that run's "
            "tables, model and options to go on with it, or --restart to throw them away."
        )
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    _write(parts / RUN, json.dumps(run, indent=2).encode())


def _write_part(file: Path, answers: Any, rejects: list[Reject], counts: Counter) -> None:
    _write(file.with_suffix(".jsonl"), "".join(map(_json_line, rejects)).encode())
    new = file.with_suffix(".new")
    pq.write_table(answers.replace_schema_metadata({"counts": json.dumps(counts)}), new, compression="zstd")
    os.replace(new, file)  # last: a part that is there is finished


def _merge(parts: Path, num_parts: int, output: Path, rejects: Path) -> None:
    """All parts to one file, a row group at a time; what was there before is replaced at the end."""
    counts: Counter = Counter()
    new, new_rejects = parts / "answers.new", parts / "rejects.new"
    files = [parts / f"part-{number:05d}.parquet" for number in range(num_parts)]
    with pq.ParquetWriter(new, ANSWERS, compression="zstd") as writer, new_rejects.open("wb") as lines:
        if (parts / UNUSABLE).is_file():
            with (parts / UNUSABLE).open("rb") as unusable:
                shutil.copyfileobj(unusable, lines)
        for file in files:
            part = pq.ParquetFile(file)
            counts.update(json.loads(part.schema_arrow.metadata[b"counts"]))
            for group in range(part.num_row_groups):
                table = part.read_row_group(group)
                if len(table):
                    writer.write_table(table.replace_schema_metadata())
            lines.write(file.with_suffix(".jsonl").read_bytes())
    shutil.move(new_rejects, rejects)
    if counts["answered"]:
        os.replace(new, output)
    (parts / RUN).unlink()  # first: without it nothing in the folder counts
    shutil.rmtree(parts)
    told = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    if not counts["answered"]:
        raise ValueError(
            f"no shopper could be answered ({told or 'no rows'}); {rejects} says why. No {output} written."
        )
    logger.info(f"{told}\n{output}   rejects {rejects}")


def _write(file: Path, content: bytes) -> None:
    new = file.with_name(file.name + ".new")
    new.write_bytes(content)
    os.replace(new, file)


def _json_line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def _digest(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()[:16]


# ----------------------------------------------------------------------------------------------------------- reading


def _files(path: Path) -> list[Path]:
    files = sorted(file for file in path.glob("*") if kind_of(file) in TABLE_KINDS) if path.is_dir() else [path]
    if len({kind_of(file) for file in files}) != 1 or kind_of(files[0]) not in TABLE_KINDS or not files[0].is_file():
        kinds = ", ".join(TABLE_KINDS)
        raise ValueError(f"--histories {path}: expected a file, or a folder of files of one kind: {kinds}.")
    return files


def _content(file: Path) -> bytes:
    """A digest of what is in a file: a copy of it is the same input."""
    with file.open("rb") as content:
        return _digest(iter(partial(content.read, 2**20), b"")).encode()


def _columns(file: Path) -> list[str]:
    """Names of the columns; of JSON those that the first thousand rows have."""
    if kind_of(file) == "parquet":
        return list(pq.read_schema(file).names)
    header, rows = read_rows(file)
    return (
        header
        if header is not None
        else list(dict.fromkeys(name for row in islice(rows, 1000) for name in row.values))
    )


def _num_rows(files: list[Path]) -> int | None:
    return sum(pq.read_metadata(file).num_rows for file in files) if kind_of(files[0]) == "parquet" else None


def _rows(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    if kind_of(file) == "parquet":
        names = [name for name in ("user_id", "history", "query") if name in columns]
        # Buffered: row groups written elsewhere may be larger than memory.
        for batch in pq.ParquetFile(file, buffer_size=2**20).iter_batches(1024, columns=names):
            yield from (partial(_row_of_batch, batch, number) for number in range(len(batch)))
        return
    yield from (partial(_row_of_text, row) for row in read_rows(file)[1])


def _row_of_batch(batch: Any, number: int) -> dict[str, Any]:
    return {name: batch.column(name)[number].as_py() for name in batch.schema.names}


def _row_of_text(row: Any) -> dict[str, Any]:
    if row.problem is not None:
        raise ValueError(f"{row.place} cannot be read: {row.problem}.")
    values: dict[str, Any] = row.values
    return values


def _group_interactions(files: list[Path], columns: Sequence[str], parts: Path, memory_limit: str) -> None:
    """Write one row a shopper, by user_id, each history in time order; DuckDB sorts, on disk where memory ends."""
    try:
        import duckdb
    except ImportError as error:
        raise ImportError(
            "interactions are grouped with duckdb: pip install duckdb. Or give one row a shopper: user_id, history."
        ) from error
    started, work = time.monotonic(), parts / "grouping"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    settings: dict[str, Any] = {"memory_limit": memory_limit, "temp_directory": str(work / "spill")}
    database: Any = duckdb.connect(str(work / "interactions.duckdb"), config=settings)
    usable = "user_id IS NOT NULL AND item_id IS NOT NULL AND coalesce(isfinite(seconds), false)"
    try:
        with (work / UNUSABLE).open("w", encoding="utf-8") as rejects:
            database.execute(
                "CREATE TABLE events (user_id VARCHAR, item_id VARCHAR, seconds DOUBLE, rating DOUBLE, time VARCHAR)"
            )
            for events in _event_tables(files, columns, rejects):
                database.register("arrow", events)
                database.execute("INSERT INTO events BY NAME SELECT * FROM arrow")
            query = (
                "SELECT user_id, CASE WHEN user_id IS NULL THEN 'an interaction has no user_id' WHEN item_id IS NULL "
                "THEN 'an interaction has no item_id' ELSE 'an interaction has the timestamp \"' || coalesce(time, '')"
                " || '\": expected a number, a date or ISO text' END AS reason "
                f"FROM events WHERE NOT ({usable}) ORDER BY rowid"
            )
            rejects.writelines(map(_json_line, _dicts(database, query)))
        query = f"SELECT user_id, item_id, rating FROM events WHERE {usable} ORDER BY user_id, seconds, rowid"
        users = groupby(_dicts(database, query), key=itemgetter("user_id"))
        shoppers = ({"user_id": user_id, "history": list(events)} for user_id, events in users)
        with pq.ParquetWriter(work / GROUPED, HISTORIES, compression="zstd") as writer:
            while some := list(islice(shoppers, 1000)):
                writer.write_table(pa.Table.from_pylist(some, schema=HISTORIES))
    except duckdb.Error as error:
        raise ValueError(
            f"the interactions cannot be grouped: {error} If memory or disk ran out, raise --memory_limit (now "
            f"{memory_limit}) or make room beside --output."
        ) from error
    finally:
        database.close()
    os.replace(work / UNUSABLE, parts / UNUSABLE)
    os.replace(work / GROUPED, parts / GROUPED)
    shutil.rmtree(work)
    logger.info(f"{_num_rows([parts / GROUPED])} shoppers grouped in {time.monotonic() - started:.0f} seconds")


def _event_tables(files: list[Path], columns: Sequence[str], rejects: Any) -> Iterator[Any]:
    """Interactions as Arrow tables: ids as text, seconds, rating, and the time as it was written."""
    names = [name for name in (*INTERACTION, "rating") if name in columns]
    for file in files:
        if kind_of(file) == "parquet":
            for batch in pq.ParquetFile(file, buffer_size=2**20).iter_batches(100_000, columns=names):
                yield _events(pa.Table.from_batches([batch]))
            continue
        rows = _rows(file, columns)
        while some := list(islice(rows, 100_000)):
            read = []
            for row in some:
                try:
                    values = row()
                    read.append(dict.fromkeys(names) | {name: values[name] for name in names if name in values})
                except ValueError as error:
                    rejects.write(_json_line({"user_id": None, "reason": str(error)}))
            yield from _events_of_rows(read, rejects)


def _events_of_rows(rows: list[dict[str, Any]], rejects: Any) -> Iterator[Any]:
    """One table of all rows, or where a row is unusable one of each of the others."""
    if not rows:
        return
    try:
        yield _events(table_of(rows))
    except UNUSABLE_ROW as error:
        if len(rows) == 1:
            rejects.write(_json_line({"user_id": None, "reason": f"an interaction cannot be read: {error}"}))
            return
        half = len(rows) // 2
        yield from _events_of_rows(rows[:half], rejects)
        yield from _events_of_rows(rows[half:], rejects)


def _events(table: Any) -> Any:
    rating = pa.nulls(len(table), pa.float64())
    if "rating" in table.column_names:
        rating = pa.array(numbers_of(table["rating"], "rating", is_whole=False)[0], from_pandas=True)
    times = [None if time is None else str(time) for time in table["timestamp"].to_pylist()]
    return pa.table(
        {
            "user_id": ids_as_text(table["user_id"], "user_id"),
            "item_id": ids_as_text(table["item_id"], "item_id"),
            "seconds": seconds_of(table["timestamp"], "timestamp", is_whole=False)[0],
            "rating": rating,
            "time": pa.array(times, pa.string()),
        }
    )


def _dicts(database: Any, query: str) -> Iterator[dict[str, Any]]:
    for batch in database.sql(query).to_arrow_reader(10_000):
        yield from batch.to_pylist()


if __name__ == "__main__":
    main()
