"""Histories to answer: tables of one row a shopper, or one row an interaction, which DuckDB groups by shopper."""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, count, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from .finished_parts import UNUSABLE, json_line

try:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from processing_unimp.bounds import check_columns, check_value, short_repr
    from processing_unimp.parquet_file import of_many_rows, parquet_batches
    from processing_unimp.table_columns import (
        are_plain_numbers,
        ids_as_text,
        numbers_of,
        seconds_of,
        table_of,
        times_as_text,
        unwrapped,
    )
    from processing_unimp.tables import MAX_ROW_BYTES, TABLE_KINDS, kind_of, parquet_columns, read_rows, say_unused
except ImportError as error:
    raise ImportError("unimp-recommend reads and writes its tables with pyarrow; pip install datasets") from error

logger = logging.getLogger("unimp-recommend")

SHOPPER, INTERACTION = ("user_id", "history"), ("user_id", "item_id", "timestamp")
# What a row can be so wrong with that it is put aside; nothing that is in a row ends a run.
UNUSABLE_ROW = (ValueError, TypeError, OverflowError, RecursionError)
EVENT = pa.struct([("item_id", pa.string()), ("rating", pa.float64())])
HISTORIES = pa.schema([("user_id", pa.string()), ("history", pa.list_(EVENT))])
# Of interactions that become a table together.
_ROWS_AT_ONCE, _CHARACTERS_AT_ONCE = 100_000, 64 * 2**20
# In the folder of an unfinished run.
GROUPED = "histories.parquet"

# Reads one row of the table when called, or raises a `ValueError`: rows of finished parts are passed over unread.
Row = Callable[[], dict[str, Any]]


def digest(chunks: Iterable[bytes]) -> str:
    """16 hex digits that change with the content."""
    hashed = hashlib.sha256()
    for chunk in chunks:
        hashed.update(chunk)
    return hashed.hexdigest()[:16]


def files_of(path: Path) -> list[Path]:
    files = sorted(file for file in path.glob("*") if kind_of(file) in TABLE_KINDS) if path.is_dir() else [path]
    if len({kind_of(file) for file in files}) != 1 or kind_of(files[0]) not in TABLE_KINDS or not files[0].is_file():
        kinds = ", ".join(TABLE_KINDS)
        raise ValueError(f"--histories {path}: expected a file, or a folder of files of one kind: {kinds}.")
    return files


def file_digest(file: Path) -> bytes:
    """A digest of what is in a file: a copy of it is the same input."""
    with file.open("rb") as content:
        return digest(iter(partial(content.read, 2**20), b"")).encode()


def columns_of(file: Path) -> list[str]:
    """Names of the columns; of JSON those that the first thousand rows have."""
    if kind_of(file) == "parquet":
        return parquet_columns(file)
    header, rows = read_rows(file)
    if header is None:
        names: dict[str, None] = {}
        for row in islice(rows, 1000):
            names.update(dict.fromkeys(row.values))
            check_columns(names, file.name)
        return list(names)
    return header


def columns_of_all(files: Sequence[Path]) -> list[str]:
    """Names of the columns of all files together; of JSON of the first, for each row may have others.

    Raises:
        ValueError: a file that has no history, one row a shopper or one row an interaction, as the first one has.
    """
    columns = {file: columns_of(file) for file in (files if kind_of(files[0]) in ("parquet", "csv") else files[:1])}
    wanted = SHOPPER if set(SHOPPER) <= set(columns[files[0]]) else INTERACTION
    for file, own in columns.items():
        if not set(wanted) <= set(own):
            raise ValueError(
                f"{file} has the columns {', '.join(own) or 'none'}. Expected {' and '.join(SHOPPER)}, one row a "
                f"shopper, or {', '.join(INTERACTION)}, one row an interaction, in each file alike."
            )
        known = (*SHOPPER, "query") if wanted is SHOPPER else (*INTERACTION, "rating")
        say_unused([name for name in own if name not in known], known, file.name)
    return list(dict.fromkeys(chain.from_iterable(columns.values())))


def num_rows(files: list[Path]) -> int | None:
    return sum(pq.read_metadata(file).num_rows for file in files) if kind_of(files[0]) == "parquet" else None


def rows_of(file: Path) -> Iterator[Row]:
    if kind_of(file) == "parquet":
        names = [name for name in (*SHOPPER, "query") if name in parquet_columns(file)]
        place = count(1)
        for batch in parquet_batches(file, names)[1]:
            for number in range(len(batch)):
                yield partial(_row_of_batch, batch.slice(number, 1), f"row {next(place)} of {file.name}")
        return
    yield from (partial(_row_of_text, row) for row in read_rows(file)[1])


def _row_of_batch(row: Any, place: str) -> dict[str, Any]:
    """One row; the history stays in Arrow until its length is known: as Python's values it takes many times more."""
    if row.nbytes > MAX_ROW_BYTES:
        raise ValueError(f"{place} cannot be read: longer than {MAX_ROW_BYTES} bytes.")
    values = {name: row.column(name)[0] for name in row.schema.names}
    return {name: value if name == "history" else value.as_py() for name, value in values.items()}


def _row_of_text(row: Any) -> dict[str, Any]:
    if row.problem is not None:
        raise ValueError(f"{row.place} cannot be read: {row.problem}.")
    values: dict[str, Any] = row.values
    return values


def group_interactions(files: list[Path], columns: Sequence[str], parts: Path, memory_limit: str) -> None:
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
    try:
        database: Any = duckdb.connect(str(work / "interactions.duckdb"), config=settings)
    except duckdb.Error as error:
        raise ValueError(f"--memory_limit {memory_limit}: {error} Expected a size such as 4GB.") from error
    is_time = "coalesce(isfinite(seconds), false)"
    try:
        with (work / UNUSABLE).open("w", encoding="utf-8") as rejects:
            database.execute(
                "CREATE TABLE events (user_id VARCHAR, item_id VARCHAR, seconds DOUBLE, is_number BOOLEAN, "
                "rating DOUBLE, time VARCHAR)"
            )
            for events in _event_tables(files, columns, rejects):
                database.register("arrow", events)
                database.execute("INSERT INTO events BY NAME SELECT * FROM arrow")
            # Plain numbers among dates stand anywhere in time, and so do dates among plain numbers.
            query = f"SELECT is_number, count(*) AS count FROM events WHERE {is_time} GROUP BY is_number"
            found = {row["is_number"]: row["count"] for row in _dicts(database, query)}
            numbers, dates = found.get(True, 0), found.get(False, 0)
            stray = "false" if not numbers or not dates else "is_number" if numbers <= dates else "NOT is_number"
            usable = f"user_id IS NOT NULL AND item_id IS NOT NULL AND {is_time} AND NOT ({stray})"
            expected = {"false": "a number, a date or ISO text", "is_number": "a date, as most are"}.get(
                stray, "a plain number, as most are"
            )
            query = (
                "SELECT user_id, CASE WHEN user_id IS NULL THEN 'an interaction has no user_id' WHEN item_id IS NULL "
                "THEN 'an interaction has no item_id' ELSE 'an interaction has the timestamp \"' || coalesce(time, '')"
                f" || '\": expected {expected}' END AS reason "
                f"FROM events WHERE NOT ({usable}) ORDER BY rowid"
            )
            rejects.writelines(map(json_line, _dicts(database, query)))
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
    logger.info(f"{num_rows([parts / GROUPED])} shoppers grouped in {time.monotonic() - started:.0f} seconds")


def _event_tables(files: list[Path], columns: Sequence[str], rejects: Any) -> Iterator[Any]:
    """Interactions as Arrow tables: ids as text, seconds, rating, and the time as it was written.

    Ratings that cannot be read are left out, and told of at the end.

    Args:
        rejects: the open file of what is put aside.
    """
    unreadable: list[tuple[int, str]] = []  # how many of a table, and one of them
    names = [name for name in (*INTERACTION, "rating") if name in columns]
    for file in files:
        if kind_of(file) == "parquet":
            own = [name for name in names if name in parquet_columns(file)]
            for table in of_many_rows(parquet_batches(file, own)[1]):
                yield _events(table, unreadable)
            continue
        read: list[dict[str, Any]] = []
        size = 0
        for row in rows_of(file):
            try:
                values = row()
                event = {name: values.get(name) for name in (*INTERACTION, "rating")}
                for name, value in event.items():
                    check_value(value, f"an interaction cannot be read: its {name}")
            except ValueError as error:
                rejects.write(json_line({"user_id": None, "reason": str(error)}))
                continue
            read.append(event)
            size += sum(len(value) for value in event.values() if isinstance(value, str))
            if len(read) == _ROWS_AT_ONCE or size > _CHARACTERS_AT_ONCE:
                yield from _events_of_rows(read, rejects, unreadable)
                read, size = [], 0
        yield from _events_of_rows(read, rejects, unreadable)
    if unreadable:
        total = sum(number for number, _ in unreadable)
        logger.warning(f"{total} ratings left out that are no number, such as {unreadable[0][1]}")


def _events_of_rows(rows: list[dict[str, Any]], rejects: Any, unreadable: list[tuple[int, str]]) -> Iterator[Any]:
    """One table of all rows, or where a row is unusable one of each of the others."""
    if not rows:
        return
    try:
        yield _events(table_of(rows), unreadable)
    except UNUSABLE_ROW as error:
        if len(rows) == 1:
            rejects.write(json_line({"user_id": None, "reason": f"an interaction cannot be read: {error}"}))
            return
        half = len(rows) // 2
        yield from _events_of_rows(rows[:half], rejects, unreadable)
        yield from _events_of_rows(rows[half:], rejects, unreadable)


def _events(table: Any, unreadable: list[tuple[int, str]]) -> Any:
    columns = {
        "user_id": ids_as_text(table["user_id"], "user_id"),
        "item_id": ids_as_text(table["item_id"], "item_id"),
        "seconds": seconds_of(table["timestamp"], "timestamp", is_whole=False)[0],
        "is_number": pa.array(are_plain_numbers(table["timestamp"])),
        "rating": pa.nulls(len(table), pa.float64()),
        "time": times_as_text(table["timestamp"]),
    }
    if "rating" in table.column_names:
        ratings, strange = numbers_of(table["rating"], "rating", is_whole=False)
        columns["rating"] = pa.array(ratings, from_pandas=True)
        if strange.any():
            unreadable.append(
                (int(strange.sum()), short_repr(unwrapped(table["rating"])[int(strange.argmax())].as_py()))
            )
    return pa.table(columns)


def _dicts(database: Any, query: str) -> Iterator[dict[str, Any]]:
    for batch in database.sql(query).to_arrow_reader(10_000):
        yield from batch.to_pylist()
