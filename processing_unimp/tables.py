"""Reads every table: parquet, JSON (lines or an array) and CSV, also gzipped.

Errors name the line. Reading is strict: a row needs exactly the cells of the header, and nothing is guessed.
"""

import codecs
import csv
import gzip
import itertools
import json
import logging
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from .bounds import check_columns, most_unpacked, short_repr, too_much_unpacked
from .parquet_file import mapped_parquet
from .table_columns import ID_COLUMNS, ROWS_AT_ONCE, has_name, is_list, misspelt, table_of, with_entries

try:  # comes with datasets; inside `try` so that Hub export does not list it as a requirement of its own
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError("UniMP reads its tables with pyarrow; pip install datasets brings it") from error

logger = logging.getLogger(__name__)

TABLE_KINDS = ("parquet", "jsonl", "json", "csv")
# What databases write into a CSV cell for nothing, beside leaving it empty.
NULL_CELLS = frozenset({"", "NULL", "\\N"})
MAX_ROW_BYTES = 16 * 2**20  # of one line, or of one CSV row of several lines
MAX_ROW_LINES = 1_000  # beyond it a quote was left open

_WHOLE_WITH_POINT = re.compile(r"-?(?:0|[1-9][0-9]*)\.0+")
_BETWEEN_ROWS = re.compile(r"[\s,]*")
_BRACKET_OR_QUOTE = re.compile(r"""\\.|["\[\]{}]""", re.DOTALL)
_AFTER_NUMBER = re.compile(r"[\s,\]]")
_NO_TEXT = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8, as surrogateescape keeps them

TOO_DEEP = "lists or objects too deep inside one another"

Lines = Iterator[tuple[int, bytes]]


class Row(NamedTuple):
    """One row of a text file: what it holds, or why it cannot be read.

    Args:
        place (`str`): where it is, such as `"line 3 of items.csv"`.
        values (`dict[str, Any]`): by column; empty where the row cannot be read.
        problem (`str`, *optional*): why it cannot.
    """

    place: str
    values: dict[str, Any]
    problem: str | None = None


def find_table(path: str | os.PathLike[str], stem: str, also: Sequence[str] = ()) -> Path:
    """Returns the table file at `path`: the file itself, or `<stem>.<kind>` (or one of `also`) in that folder."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"there is no file or folder at {str(path)!r}. Expected the {stem} table or its folder.")
    names = [f"{stem}.{kind}{packed}" for kind in TABLE_KINDS for packed in ("", ".gz")] + list(also)
    found = [name for name in names if (path / name).is_file()]
    if len(found) != 1:
        what = f"holds {' and '.join(found)}" if found else f"holds no {stem} table"
        raise ValueError(
            f"the folder {str(path)!r} {what}. Expected exactly one of {', '.join(names)}; pass the file."
        )
    return path / found[0]


def kind_of(path: Path) -> str:
    """Returns the kind of a file by its name: one of `TABLE_KINDS`, or another ending."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


def read_table(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """Reads a whole table; columns without a name, such as the index of a data frame, are passed over.

    Cells of a CSV are text, so that codes keep their leading zeros (see `numbers_where_lossless`); what parquet holds
    stays on disk, see `mapped_parquet`.

    Args:
        path (`Path`): the file.
        columns (`Sequence[str]`, *optional*): those that are wanted, as far as there are such; all without it.

    Raises:
        ValueError: a file of another kind, or one that cannot be read; the message names file and line.
    """
    kind = kind_of(path)
    if kind not in TABLE_KINDS:
        raise ValueError(f"{str(path)!r} is of an unknown kind. Expected a file ending in {', '.join(TABLE_KINDS)}.")
    try:
        if kind == "parquet":
            return _with_names_of_labels(mapped_parquet(path, _wanted(parquet_columns(path), columns, path)))
        header, rows = read_rows(path)
        if header is not None:
            return _text_table(_wanted(header, columns, path), map(_values_of, rows))
        return _json_table(map(_values_of, rows), columns, path)
    except Exception as error:  # Arrow raises nearly anything
        cause = error if isinstance(error, ValueError) else error.__cause__ or error
        said = str(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {cause}"
        raise ValueError(
            f"cannot read the table {str(path)!r} as {kind}: {said[:1000]} Expected one row an item or interaction."
        ) from error


def arrow_table(dataset: Any) -> "pa.Table":
    """Returns the rows of a `datasets.Dataset` as an Arrow table (class labels by name, pictures undecoded)."""
    from datasets import Dataset  # here, for datasets takes half a second to import

    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"a table came as {type(dataset).__name__}. Expected a datasets.Dataset; "
            "choose one split of a DatasetDict, and load without streaming."
        )
    table = dataset.with_format("arrow")[:] if dataset._indices is not None else dataset.data.table
    return _with_names_of_labels(table.replace_schema_metadata(dataset.features.arrow_schema.metadata))


def _with_names_of_labels(table: "pa.Table") -> "pa.Table":
    """Labels by name where datasets has written numbers, and the names beside them."""
    if not len(table) or b'"ClassLabel"' not in (table.schema.metadata or {}).get(b"huggingface", b""):
        return table
    from datasets import ClassLabel, Features

    for name, feature in Features.from_arrow_schema(table.schema).items():
        # Of a list its entries: `feature.feature`, whatever kind of list it is.
        label = getattr(feature, "feature", feature)
        if isinstance(label, ClassLabel):
            chunks = [_names_of_labels(chunk, label.names, name) for chunk in table[name].chunks]
            table = table.set_column(table.column_names.index(name), name, pa.chunked_array(chunks))
    return table


def _names_of_labels(labels: "pa.Array", names: list[str], column: str) -> "pa.Array":
    if is_list(labels.type):
        return with_entries(labels, _names_of_labels(labels.flatten(), names, column))
    if (highest := pc.max(labels).as_py() or 0) >= len(names):
        raise ValueError(f"column {short_repr(column)} holds label {highest}, and names of {len(names)} labels only.")
    labels = pc.if_else(pc.greater_equal(labels, 0), labels, pa.scalar(None, labels.type))  # -1 is no label
    return pa.array(names, pa.string()).take(labels)


def parquet_columns(path: Path) -> list[str]:
    """Names of the columns of a parquet file; a name that two columns have is a `ValueError`."""
    with pa.OSFile(str(path)) as file:
        names: list[str] = pq.read_schema(file).names
    check_names(names, path.name)
    return names


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse the columns of a table that has too many, or two of one name."""
    check_columns(names, where)
    if double := [name for name, count in Counter(names).items() if count > 1 and has_name(name)]:
        raise ValueError(
            f"the header of {where} has {', '.join(map(short_repr, double[:5]))} more than once. Expected a "
            "name of its own for every column."
        )


def read_rows(path: Path, encoding: str | None = None) -> tuple[list[str] | None, Iterator[Row]]:
    """Reads a CSV or JSON file row by row; a row that cannot be read does not end it.

    Args:
        path (`Path`): the file.
        encoding (`str`, *optional*): of a CSV, such as `"latin-1"`; bytes that are no text in it become U+FFFD.
            Without it the text is UTF-8, and a line that is not is a row that cannot be read.

    Returns:
        `tuple`: the columns of a CSV (`None` of JSON), and the rows.

    Raises:
        ValueError: a CSV with an unusable header; while reading, a file that is no whole gzip file.
    """
    if kind_of(path) != "csv":
        return None, _json_rows(_pieces(path), path.name)
    records = _csv_records(read_lines(path), encoding)
    _, header, problem, further = next(records, (1, [], None, []))
    if problem is not None:
        raise ValueError(f"the header of {path.name} cannot be read: {problem}.")
    further.clear()
    if len(header) == 1 and (other := next((each for each in (";", "\t", "|") if each in header[0]), None)):
        raise ValueError(
            f"the header of {path.name} is one cell, {short_repr(header[0])}: its columns seem to be divided by "
            f"{other!r}. Expected commas; save the table with these."
        )
    check_names(header, path.name)
    named = list(filter(has_name, header))
    if len(named) < len(header):
        logger.info("%s: %d columns without a name are not used", path.name, len(header) - len(named))
    return named, _csv_rows(records, header, path.name)


def _wanted(names: Sequence[str], columns: Sequence[str] | None, path: Path) -> list[str]:
    """Columns to read, in the order of the table; which are not is logged."""
    chosen = [name for name in names if has_name(name) and (columns is None or name in columns)]
    say_unused([name for name in names if name not in chosen], columns or (), path.name)
    return chosen


def say_unused(names: Sequence[str], known: Sequence[str], where: str) -> None:
    """Log the columns that are not used; one that is called nearly as a known one is worth a warning."""
    if names:
        told = ", ".join(name or "(without a name)" for name in names)
        logger.info("%s: the columns %s are not used", where, told)
    for name in misspelt(names, known):
        logger.warning(
            "%s: column %s is not used. Call it %r if it is that; names are read as they are written.",
            where,
            short_repr(name),
            name.strip().lower(),
        )


def _values_of(row: Row) -> dict[str, Any]:
    if row.problem is not None:
        raise ValueError(f"{row.place}: {row.problem}.")
    return row.values


def _text_table(names: list[str], rows: Iterator[dict[str, Any]]) -> "pa.Table":
    schema = pa.schema([(name, pa.string()) for name in names])
    parts = [schema.empty_table()]
    while some := list(itertools.islice(rows, ROWS_AT_ONCE)):
        parts.append(pa.table({name: pa.array([row[name] for row in some], pa.string()) for name in names}, schema))
    return pa.concat_tables(parts)


# -------------------------------------------------------------------------------------------------------------- lines


def read_lines(path: Path) -> Lines:
    """Numbered lines of a file, also gzipped, with their ends and without a byte order mark.

    Of a line that is longer than `MAX_ROW_BYTES` only that much is returned: more than any
    reader accepts, and bounded in memory.

    Raises:
        ValueError: while reading, a file that is no whole gzip file.
    """
    return _whole_lines(_pieces(path))


def _whole_lines(pieces: Lines) -> Lines:
    last = 0
    for number, line in pieces:
        if number != last:
            yield number, line
        last = number


def _pieces(path: Path) -> Lines:
    """Numbered lines; a longer one than `MAX_ROW_BYTES` comes in pieces of that size, under one number."""
    is_packed = path.name.lower().endswith(".gz")
    left = most_unpacked(path) if is_packed else math.inf
    try:
        opened: Any = gzip.open(path) if is_packed else path.open("rb")
        file: IO[bytes]
        with opened as file:
            number, is_start = 1, True
            while line := file.readline(MAX_ROW_BYTES):
                left -= len(line)
                if left < 0:
                    raise too_much_unpacked(path)
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 and is_start else line
                is_start = line.endswith(b"\n")
                number += is_start
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path.name} is no whole gzip file: {error}. Copy it again.") from error


def _decoded(line: bytes, encoding: str | None = None) -> str:
    if len(line) >= MAX_ROW_BYTES:
        raise ValueError(f"longer than {MAX_ROW_BYTES} bytes")
    if encoding is not None:
        return line.decode(encoding, "replace")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 (byte {error.start + 1}); save the file as UTF-8") from None


# ---------------------------------------------------------------------------------------------------------------- CSV


def _csv_records(
    lines: Lines, encoding: str | None
) -> Iterator[tuple[int, list[str], str | None, list[tuple[int, bytes]]]]:
    """Line number, cells, what is wrong with them, and the further lines of each record: cells may hold line breaks.

    A caller that accepts the record clears the further lines. Otherwise, and where it is wrong, reading goes
    on at the second line: a quote that was left open costs its own line, and not all that follow.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    given_back: list[tuple[int, bytes]] = []  # the next one last
    taken: list[tuple[int, bytes]] = []  # by the record at hand

    def supply() -> Iterator[str]:
        while (line := given_back.pop() if given_back else next(lines, None)) is not None:
            taken.append(line)
            if len(taken) > MAX_ROW_LINES or sum(len(each) for _, each in taken[1:]) > MAX_ROW_BYTES:
                raise csv.Error("a quote that is left open")
            try:
                yield _decoded(line[1], encoding)
            except ValueError as error:
                raise csv.Error(error) from error

    reader = csv.reader(supply(), strict=True)
    while True:
        taken.clear()
        problem = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells, problem = [], str(error)
            reader = csv.reader(supply(), strict=True)
        if cells or problem is not None:  # else an empty line
            number, further = taken[0][0], taken[1:]
            yield number, cells, problem, further
            given_back += reversed(further)


def _csv_rows(records: Iterator[Any], header: list[str], name: str) -> Iterator[Row]:
    named = [(place, column) for place, column in enumerate(header) if has_name(column)]
    for number, cells, problem, further in records:
        place = f"line {number} of {name}"
        if problem is None and len(cells) != len(header):
            problem = f"{len(cells)} cells, and the header has {len(header)}: {short_repr(cells)}"
        if problem is not None:
            yield Row(place, {}, problem)
            continue
        further.clear()
        yield Row(place, {column: _cell(cells[at], column) for at, column in named})


def _cell(cell: str, column: str) -> str | None:
    if cell in NULL_CELLS:
        return None
    if column in ID_COLUMNS and _WHOLE_WITH_POINT.fullmatch(cell):  # as data frames write whole numbers with gaps
        return cell.partition(".")[0]
    return cell


# --------------------------------------------------------------------------------------------------------------- JSON


def _json_table(rows: Iterator[dict[str, Any]], columns: Sequence[str] | None, path: Path) -> "pa.Table":
    if columns is None:
        return table_of(rows)
    left: dict[str, None] = {}

    def chosen(row: dict[str, Any]) -> dict[str, Any]:
        left.update(dict.fromkeys(row.keys() - columns))
        check_columns(left, path.name)
        return {name: row[name] for name in columns if name in row}

    table = table_of(map(chosen, rows))
    say_unused(sorted(left), columns, path.name)
    return table


def _json_rows(lines: Lines, name: str) -> Iterator[Row]:
    is_first = True
    for number, line in _whole_lines(lines):
        if is_first and line.lstrip().startswith(b"["):
            yield from _json_array(line, lines, name)
        elif line.strip():
            yield _json_line(line, f"line {number} of {name}")
        is_first = is_first and not line.strip()


def without_double_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` of rows of others: of a key that comes twice nobody knows which value is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {short_repr(name)} more than once in one object")
    return found


def _json_line(line: bytes, place: str) -> Row:
    try:
        return _json_row(json.loads(_decoded(line), object_pairs_hook=without_double_keys), place)
    except RecursionError:
        return Row(place, {}, TOO_DEEP)
    except ValueError as error:
        return Row(place, {}, f"no JSON: {error}")


def _json_row(values: Any, place: str) -> Row:
    if not isinstance(values, dict):
        return Row(place, {}, f"{type(values).__name__}, and no object with the columns as keys")
    return Row(place, values)


def _json_array(first: bytes, lines: Lines, name: str) -> Iterator[Row]:
    """Rows of an array, read as far as the next row needs; what comes after it on its last line is refused."""
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    parse = json.JSONDecoder(object_pairs_hook=without_double_keys).raw_decode
    text = decode(first)
    position = text.index("[") + 1

    def read_on() -> bool:
        """Twice as much text, so that the work stays in proportion to it; False where there is no more."""
        nonlocal text, position
        pieces, length = [text[position:]], len(text) - position
        wanted = min(2 * length + 1, MAX_ROW_BYTES)
        while length < wanted and (line := next(lines, None)) is not None:
            pieces.append(decode(line[1]))
            length += len(pieces[-1])
        if len(pieces) == 1 and length < wanted:
            pieces += filter(None, [decode(b"", True)])  # half a character
        text, position = "".join(pieces), 0
        return len(pieces) > 1

    for number in itertools.count(1):
        place = f"row {number} of {name}"
        position = _BETWEEN_ROWS.match(text, position).end()  # type: ignore[union-attr]
        while position == len(text) and read_on():
            position = _BETWEEN_ROWS.match(text, position).end()  # type: ignore[union-attr]
        if text[position : position + 1] == "]":
            if text[position + 1 :].strip():
                yield Row(place, {}, "text after the end of the array")
            return
        row, end = None, None
        while row is None or end is None:
            try:
                values, end = parse(text, position)
                row = _json_row(values, place)
            except json.JSONDecodeError as error:
                if not read_on():
                    yield Row(place, {}, f"no JSON from here on: {error}")
                    return
            except (RecursionError, ValueError) as error:  # of what is JSON all the same
                row = Row(place, {}, TOO_DEEP if isinstance(error, RecursionError) else f"no JSON: {error}")
                end = _end_of_value(text, position)
                if end is None and not read_on():
                    yield Row(place, {}, f"{row.problem}, and without an end: nothing from here on is read")
                    return
        yield Row(place, {}, "no UTF-8; save the file as UTF-8") if _NO_TEXT.search(text, position, end) else row
        position = end


def _end_of_value(text: str, position: int) -> int | None:
    """Where the value that begins here ends, by its brackets alone; `None` if it goes on."""
    if text[position] not in "[{":
        found = _AFTER_NUMBER.search(text, position)
        return None if found is None else found.start()
    depth, is_quoted = 0, False
    for found in _BRACKET_OR_QUOTE.finditer(text, position):
        mark = found[0]
        if mark == '"':
            is_quoted = not is_quoted
        elif not is_quoted and mark in "[]{}":
            depth += 1 if mark in "[{" else -1
            if depth == 0:
                return found.end()
    return None
