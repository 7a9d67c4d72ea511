"""Output in parts, so that a run that was stopped or killed resumes; merged to one file at the end."""

import json
import logging
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError("unimp-recommend reads and writes its tables with pyarrow; pip install datasets") from error

from ..manifest import write_whole

logger = logging.getLogger("unimp-recommend")

ANSWERS = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float32()),
        ("without_history", pa.bool_()),
        ("without_match", pa.bool_()),
    ]
)
# In the folder of an unfinished run.
RUN, UNUSABLE = "run.json", "interactions.rejects.jsonl"

Reject = dict[str, str | None]


def open_parts(parts: Path, run: dict[str, Any], restart: bool) -> None:
    """The folder of the finished parts of this very run; what else it holds is thrown away, if that loses no work."""
    finished = sorted(parts.glob("part-*.parquet"))
    before = None
    if (parts / RUN).is_file():
        try:
            before = json.loads((parts / RUN).read_text(encoding="utf-8"))
        except ValueError as error:
            if not restart:
                raise ValueError(f"{parts / RUN} is damaged: {error}. Start again with --restart.") from error
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
    write_whole(parts / RUN, json.dumps(run, indent=2).encode())


def write_part(file: Path, answers: Any, rejects: list[Reject], counts: Counter) -> None:
    write_whole(file.with_suffix(".jsonl"), "".join(map(json_line, rejects)).encode())
    new = file.with_suffix(".new")
    pq.write_table(answers.replace_schema_metadata({"counts": json.dumps(counts)}), new, compression="zstd")
    os.replace(new, file)  # last: a part that is there is finished


def merge_parts(parts: Path, num_parts: int, output: Path, rejects: Path) -> None:
    """All parts to one file, a row group at a time; what was there before is replaced at the end."""
    counts: Counter = Counter()
    new, new_rejects = parts / "answers.new", parts / "rejects.new"
    files = [parts / f"part-{number:05d}.parquet" for number in range(num_parts)]
    with pq.ParquetWriter(new, ANSWERS, compression="zstd") as writer, new_rejects.open("wb") as lines:
        if (parts / UNUSABLE).is_file():
            with (parts / UNUSABLE).open("rb") as unusable:
                shutil.copyfileobj(unusable, lines)
        for file in files:
            try:
                part = pq.ParquetFile(file)
                counts.update(json.loads(part.schema_arrow.metadata[b"counts"]))
            except (pa.ArrowInvalid, KeyError, TypeError) as error:
                raise ValueError(
                    f"{file} is damaged: {error}. Delete it and run again: it is answered anew."
                ) from error
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
    summary = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    if not counts["answered"]:
        raise ValueError(
            f"no shopper could be answered ({summary or 'no rows'}); {rejects} says why. No {output} written."
        )
    logger.info(f"{summary}\n{output}   rejects {rejects}")


def json_line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"
