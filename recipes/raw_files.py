"""Raw files of any publisher, row by row: what a row holds, or why it cannot be read.

All of them are read in Python, by the rules of `processing_unimp/tables.py`: a row costs itself alone, whatever is in
it, and there is never more than one in memory. DuckDB 2.0 would be five times as fast at CSV, but loses all that
follows a quote left open, and overlong lines without a word.
"""

import ast
import codecs
import itertools
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from processing_unimp.bounds import short_repr
from processing_unimp.tables import MAX_ROW_BYTES, TOO_DEEP, Lines, Row, read_lines, read_rows, without_double_keys

# Of a line of Python literals: they take some 500 times their size to parse, and of some kinds (of Python 3.11) time
# with the square of it, two seconds for so many.
MAX_LITERAL_BYTES = 2**17
MAX_WHOLE_BYTES = 100 * 2**20  # of a file that is read whole, unpacked
MAX_BATCH = 10_000  # rows
MAX_BATCH_CHARACTERS = 50_000_000


def quoted(text: str | os.PathLike[str]) -> str:
    """Returns text as an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"


def encoding_of(lines: Iterable[bytes]) -> str:
    """Returns the encoding of text: UTF-8, or Latin-1 where more of what is beyond ASCII is no UTF-8 than is.

    What is all UTF-8 is recognised for certain, and so is Latin-1, whose words hardly ever are UTF-8 by chance. Some
    damaged bytes do not make UTF-8 Latin-1.
    """
    right = wrong = 0
    for line in lines:
        if not line.isascii():
            text = line.decode("utf-8", "surrogateescape")
            wrong += len(re.findall("[\udc80-\udcff]+", text))
            right += len(re.findall("[^\x00-\x7f\udc80-\udcff]", text))
    return "latin-1" if wrong > right else "utf-8"


def _encoding_of_file(path: Path) -> str:
    lines = (line for _, line in _with_bar(path, f"encoding of {path.name}", leave=False))
    first = next(lines, b"")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path.name} is UTF-16. Save it as UTF-8.")
    return encoding_of(itertools.chain([first], lines))


def _with_bar(path: Path, what: str, leave: bool = True) -> Lines:
    """Lines of a file behind a progress bar; how many bytes a packed file will be is not known before."""
    total = None if path.suffix == ".gz" else path.stat().st_size
    with tqdm(total=total, unit="B", unit_scale=True, desc=what, leave=leave) as bar:
        for number, line in read_lines(path):
            bar.update(len(line))
            yield number, line


def whole_rows(rows: Iterable[Row], reject: Callable[[Row], None] | None = None) -> Iterator[dict[str, Any]]:
    """Yields what rows hold.

    Args:
        rows (`Iterable[Row]`): read as they are needed.
        reject (`Callable[[Row], None]`, *optional*): is given each row that cannot be read.

    Raises:
        ValueError: there are rows, but none that can be read.
    """
    is_any_read, first = False, None
    for row in rows:
        if row.problem is None:
            is_any_read = True
            yield row.values
        else:
            first = first or row
            if reject is not None:
                reject(row)
    if first is not None and not is_any_read:
        raise ValueError(f"{first.place}: {first.problem}. No row can be read; expected the publisher's own file.")


def in_batches(rows: Iterable[Sequence[Any]]) -> Iterator[list[tuple[Any, ...]]]:
    """Yields the columns of some rows at a time; of fewer rows where they hold much text."""
    batch: list[Sequence[Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        for cell in row:
            if cell.__class__ is str:
                size += len(cell)
        if len(batch) == MAX_BATCH or size > MAX_BATCH_CHARACTERS:
            yield list(zip(*batch, strict=True))
            batch, size = [], 0
    if batch:
        yield list(zip(*batch, strict=True))


# ---------------------------------------------------------------------------------------------------------------- CSV


def csv_rows(
    path: Path, required: Iterable[str], folder: Path | None = None, reject: Callable[[Row], None] | None = None
) -> str:
    """Returns the SQL that reads a CSV file with a header, every cell as text (leading zeros stay).

    Columns without a name, such as the index of a data frame, are passed over. UTF-8 or Latin-1.

    Args:
        path (`Path`): a file ending in `.csv` or `.csv.gz`.
        required (`Iterable[str]`): columns that have to be there.
        folder (`Path`, *optional*): where to put the copy that the SQL reads; without it a temporary folder that goes
            with the program.
        reject (`Callable[[Row], None]`, *optional*): is given each row that cannot be read; it is not in the copy.

    Raises:
        ValueError: a required column is missing, the header has a name twice, no row can be read, or the file is no
            whole gzip file.
    """
    header, rows = read_rows(path, _encoding_of_file(path))
    header, required = header or [], list(required)
    if missing := [name for name in required if name not in header]:
        raise ValueError(
            f"{path.name} has no column {', '.join(missing)}; it has {', '.join(header)[:300] or 'none'}. "
            "Expected the publisher's own file."
        )
    # SQL does not tell "title" from "Title".
    lower = {name.lower() for name in required}
    header = [name for name in header if name in required or name.lower() not in lower]
    descriptor, copy = tempfile.mkstemp(".parquet", dir=folder or _until_the_end())
    os.close(descriptor)
    schema = pa.schema([(name, pa.string()) for name in header])
    with pq.ParquetWriter(copy, schema) as writer:
        whole = whole_rows(tqdm(rows, desc=path.name, unit=" rows", unit_scale=True), reject)
        for batch in in_batches([row[name] for name in header] for row in whole):
            writer.write_batch(pa.record_batch([pa.array(cells, pa.string()) for cells in batch], schema))
    return f"read_parquet({quoted(copy)})"


_folders: list[tempfile.TemporaryDirectory[str]] = []


def _until_the_end() -> str:
    if not _folders:
        _folders.append(tempfile.TemporaryDirectory(prefix="csv-rows-"))
    return _folders[0].name


# ------------------------------------------------------------------------------------------------------- other layouts


def read_fields(path: Path, names: Sequence[str], separator: str, is_last_the_rest: bool = False) -> Iterator[Row]:
    """Reads lines of fields without quotes and without a header; UTF-8 or Latin-1.

    Args:
        path (`Path`): the file, also gzipped.
        names (`Sequence[str]`): of the fields of a line.
        separator (`str`): between them.
        is_last_the_rest (`bool`, *optional*, defaults to `False`): whether the last field may hold the separator.
    """
    encoding = _encoding_of_file(path)
    for number, line in _with_bar(path, path.name):
        text = line.decode(encoding, "replace").rstrip("\r\n")
        if not text.strip():
            continue
        fields = text.split(separator, len(names) - 1 if is_last_the_rest else -1)
        place = f"line {number} of {path.name}"
        if len(line) >= MAX_ROW_BYTES:
            yield Row(place, {}, f"longer than {MAX_ROW_BYTES} bytes")
        elif len(fields) != len(names):
            problem = f"{len(fields)} fields between {separator!r}, and {len(names)} expected: {short_repr(text)}"
            yield Row(place, {}, problem)
        else:
            yield Row(place, dict(zip(names, fields, strict=True)))


def read_records(path: Path) -> Iterator[Row]:
    """Reads one record a line, from JSON or, as many files of 2014 have them, Python literals (never `eval`)."""
    for number, line in _with_bar(path, path.name):
        if line.strip():
            yield _record(line, f"line {number} of {path.name}")


def _record(line: bytes, place: str) -> Row:
    if len(line) >= MAX_ROW_BYTES:
        return Row(place, {}, f"longer than {MAX_ROW_BYTES} bytes")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = line.decode(encoding_of([line]), "replace")
    try:
        record = json.loads(text, object_pairs_hook=without_double_keys)
    except RecursionError:
        return Row(place, {}, TOO_DEEP)
    except json.JSONDecodeError as error:
        problem = f"neither JSON nor a Python literal: {error}"
        if len(line) > MAX_LITERAL_BYTES:
            return Row(place, {}, problem)
        try:
            record = ast.literal_eval(text.strip())
            repr(record)  # "0xfff..." may have more digits than Python will write
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return Row(place, {}, problem)
    except ValueError as error:
        return Row(place, {}, f"no JSON: {error}")
    if not isinstance(record, dict):
        return Row(place, {}, f"{type(record).__name__}, and no object with names")
    return Row(place, record)


def read_whole_json(path: Path) -> Any:
    """Reads a file of JSON that is small enough to be read whole.

    Raises:
        ValueError: it has more than 100 MiB, or 16 MiB in one line, when unpacked; it is no JSON, or no whole gzip
            file.
    """
    data = bytearray()
    for _, line in read_lines(path):
        data += line
        if len(data) > MAX_WHOLE_BYTES or len(line) >= MAX_ROW_BYTES:
            raise ValueError(
                f"{path.name} is too large: it is read whole, and at most {MAX_WHOLE_BYTES} bytes, {MAX_ROW_BYTES} of "
                "one line, are taken."
            )
    try:
        return json.loads(data, object_pairs_hook=without_double_keys)
    except RecursionError:
        raise ValueError(f"{path.name} cannot be read: {TOO_DEEP}.") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}. Download it again.") from error
