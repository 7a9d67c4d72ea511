"""From raw dumps to the two tables, out of core: DuckDB in a file on disk, with a memory limit and spilling.

A prepare script fills `events` and `items`; repeated events, k-core, pictures, order, writing and the account of what
was removed are the same for all data sets and live here. Nothing in Python grows with the dump.
"""

import ast
import csv
import gzip
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import pyarrow as pa
from tqdm import tqdm
from transformers import HfArgumentParser

try:
    import duckdb
except ImportError as error:
    raise ImportError('raw dumps are prepared with DuckDB; pip install -e ".[train]" brings it') from error

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
_ROWS_A_BATCH = 10_000


@dataclass(kw_only=True)
class PreparationArguments:
    """What every prepare script asks for."""

    data_dir: str = field(metadata={"help": "Folder of the raw files, in the publisher's own layout."})
    output_dir: str = field(metadata={"help": "Folder for items.parquet, interactions.parquet, preparation.json."})
    k_core: int = field(
        default=5,
        metadata={
            "help": "Users and items with fewer interactions are removed, until none is left; 0 keeps all, also items "
            "that nobody touched."
        },
    )
    memory_limit: str = field(
        default="4GB", metadata={"help": "DuckDB spills to disk beyond this; Python needs about 0.4 GB more."}
    )
    temp_dir: str | None = field(
        default=None,
        metadata={"help": "Where to spill; a few times the size of the unpacked dump. Default: output_dir."},
    )


Arguments = TypeVar("Arguments", bound=PreparationArguments)


def parse_arguments(kind: type[Arguments]) -> Arguments:
    """Reads the command line."""
    (arguments,) = HfArgumentParser(cast(Any, kind)).parse_args_into_dataclasses()
    return cast(Arguments, arguments)


def quoted(text: str | os.PathLike[str]) -> str:
    """Returns text as an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"


def open_text(path: Path, encoding: str = "utf-8") -> IO[str]:
    """Opens a text file, also gzipped."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")


def csv_rows(path: Path, required: Iterable[str]) -> str:
    """Returns the SQL that reads a CSV file with a header, every cell as text (leading zeros stay).

    Lines that are not CSV are left out and counted by DuckDB in `reject_errors`. Select plain columns into a table
    before you convert them: DuckDB 2.0 moves a `TRY_CAST` into the reader, where what fails it drops the whole line.

    Raises:
        ValueError: a required column is missing.
    """
    with open_text(path, "utf-8-sig") as file:
        header = next(csv.reader(file), [])
    if missing := [name for name in required if name not in header]:
        raise ValueError(
            f"{path.name} has no column {', '.join(missing)}; it has {', '.join(header) or 'none'}. "
            "Expected the publisher's own file."
        )
    columns = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in header)
    return (
        f"read_csv({quoted(path)}, header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"', "
        f"columns = {{{columns}}}, store_rejects = true)"
    )


def json_rows(path: Path, columns: dict[str, str]) -> str:
    """Returns the SQL that reads newline-delimited JSON; a line that is not JSON becomes a row of nulls."""
    types = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in columns.items())
    return (
        f"read_json({quoted(path)}, format = 'newline_delimited', ignore_errors = true, "
        f"maximum_object_size = 67108864, columns = {{{types}}})"
    )


def is_strict_json(path: Path) -> bool:
    """Tells from the first line whether a file holds JSON or, as many files of 2014, Python literals."""
    try:
        with open_text(path) as file:
            first = next((line for line in file if line.strip()), "{}")
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path.name} is no whole gzip file: {error}. Download it again.") from error
    try:
        json.loads(first)
    except ValueError:
        return False
    return True


def read_records(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yields one record a line, from JSON or from a Python literal (never `eval`); None for an unreadable line."""
    with path.open("rb") as packed, tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name) as bar:
        lines: Any = gzip.open(packed) if path.suffix == ".gz" else packed
        try:
            for line in lines:
                bar.update(packed.tell() - bar.n)
                if line.strip():
                    yield _record(line.decode("utf-8", errors="replace"))
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path.name} is no whole gzip file: {error}. Download it again.") from error


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        try:
            record = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    return record if isinstance(record, dict) else None


def find_pictures(folder: Path, item_of: Callable[[str], str | None]) -> Iterator[tuple[str, Path, int]]:
    """Yields (item id, path, bytes) of the picture files below a folder.

    Args:
        folder (`Path`): nothing is yielded where it does not exist.
        item_of (`Callable`): a file's name without its ending -> item id, or None to pass over the file.
    """
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            item_id = item_of(stem) if suffix.lower() in IMAGE_SUFFIXES else None
            if item_id is not None:
                path = Path(place, name)
                yield item_id, path, path.stat().st_size


class RawTables:
    """The working database of one preparation, and the account of what it read and removed.

    Use it as a context manager; the database is deleted on the way out. The steps, in this order: fill the table
    `events` (`user_id`, `item_id`, `timestamp` in seconds, and any of `rating`, `review`, `explanation`; the order of
    rows is the order of the file) and the table `items` (`item_id` and attributes), [`~RawTables.drop_incomplete`],
    [`~RawTables.keep_last`] where repeated events are corrections, [`~RawTables.keep_core`],
    [`~RawTables.match_pictures`], [`~RawTables.write`].

    Args:
        arguments (`PreparationArguments`): folders, k, memory limit.
        dataset (`str`): name in the summary.

    Raises:
        ValueError: the raw folder does not exist, the output folder cannot be written, or k is negative.
    """

    def __init__(self, arguments: PreparationArguments, dataset: str):
        if arguments.k_core < 0:
            raise ValueError(f"k_core is {arguments.k_core}. Expected 0 (keep all) or more.")
        self.data_dir = Path(arguments.data_dir).expanduser()
        if not self.data_dir.is_dir():
            raise ValueError(f"there is no folder {str(self.data_dir)!r}. Expected the folder of the raw files.")
        self.output_dir = Path(arguments.output_dir).expanduser()
        self.arguments = arguments
        self.report: dict[str, Any] = {
            "dataset": dataset,
            "prepared_with": _versions(),
            "arguments": {"k_core": arguments.k_core},
            "sources": [],
            "read": {},
            "removed": {},
            "changed": {},
        }
        self._forgotten: dict[str, str] = {}
        self._picture_root: Path | None = None
        self._started = time.monotonic()

    def __enter__(self) -> "RawTables":
        self._make_work_dir()
        self.connection = duckdb.connect(
            str(self._work_dir / "raw.duckdb"),
            config={
                "memory_limit": self.arguments.memory_limit,
                "temp_directory": str(self._work_dir / "spill"),
                "preserve_insertion_order": "true",  # rowid is the order of the file, which breaks ties in time
            },
        )
        self.connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        shutil.rmtree(self._work_dir)

    def _make_work_dir(self) -> None:
        place = Path(self.arguments.temp_dir).expanduser() if self.arguments.temp_dir else self.output_dir
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.output_dir).close()
            place.mkdir(parents=True, exist_ok=True)
            self._work_dir = Path(tempfile.mkdtemp(prefix=".preparing-", dir=place))
        except OSError as error:
            raise ValueError(
                f"cannot write to the output or temporary folder: {error}. Choose another one."
            ) from error

    def source(self, *names: str) -> Path:
        """Returns the first of these raw files that exists (also with `.gz` appended) and notes it as a source.

        Raises:
            ValueError: none of them exists.
        """
        for name in names:
            for path in (self.data_dir / name, self.data_dir / f"{name}.gz"):
                if path.is_file():
                    self.report["sources"].append({"name": path.name, "bytes": path.stat().st_size})
                    return path
        raise ValueError(f"the folder {str(self.data_dir)!r} has no {' or '.join(names)} (.gz is fine too).")

    def has(self, name: str) -> bool:
        """Tells whether a raw file exists, as it is or gzipped."""
        return (self.data_dir / name).is_file() or (self.data_dir / f"{name}.gz").is_file()

    def run(self, sql: str, what: str, leave: bool = True) -> None:
        """Runs a statement with a progress bar named `what`; `leave=False` wipes the bar afterwards."""
        done = threading.Event()
        shape = "{desc}: {percentage:3.0f}% |{bar:20}| {elapsed}"
        with tqdm(total=100, desc=what, bar_format=shape, leave=leave) as bar:

            def follow() -> None:
                while not done.wait(0.1):
                    bar.update(max(0.0, self.connection.query_progress() - bar.n))

            watcher = threading.Thread(target=follow, daemon=True)
            watcher.start()
            try:
                self.connection.execute(sql)
            except duckdb.OutOfMemoryException as error:
                raise ValueError(f"{what}: {error} Raise --memory_limit or free disk space in --temp_dir.") from error
            except duckdb.IOException as error:
                raise ValueError(f"{what}: {error} Expected whole raw files and free space on the disk.") from error
            finally:
                done.set()
                watcher.join()
            bar.update(100 - bar.n)

    def number(self, sql: str) -> int:
        """Returns the single whole number a query answers."""
        # Since 2.0 DuckDB refuses the next statement until a result is read to its end: fetchall, never fetchone.
        ((value,),) = self.connection.execute(sql).fetchall()
        return int(value)

    def fill(self, table: str, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> None:
        """Makes a table of dicts, batch by batch; keys that are not in the schema are left out."""
        # Not one RecordBatchReader: DuckDB would bury a ValueError of `rows` in an error of its own.
        statement = f"CREATE TABLE {table} AS"
        for batch in chain([pa.RecordBatch.from_pylist([], schema=schema)], _batches(rows, schema)):
            self.connection.register("rows_of_python", pa.Table.from_batches([batch]))
            self.connection.execute(f"{statement} SELECT * FROM rows_of_python")
            statement = f"INSERT INTO {table}"
        self.connection.unregister("rows_of_python")

    def count(self, section: str, what: str, number: int) -> None:
        """Adds to the account: section is `read`, `removed` or `changed`; zeros are not noted."""
        if number:
            self.report[section][what] = self.report[section].get(what, 0) + number

    def count_rejects(self, path: Path, what: str) -> None:
        """Counts the lines of a CSV file that DuckDB could not read, as read and as removed."""
        rejected = self.number(
            "SELECT count(DISTINCT e.line) FROM reject_errors e JOIN reject_scans s USING (scan_id, file_id) "
            f"WHERE s.file_path = {quoted(path)}"
        )
        self.count("read", what, rejected)
        self.count("removed", f"{what}: lines that are not CSV", rejected)

    def forget(self, column: str, condition: str, what: str) -> None:
        """Writes null for a column of `events` where an SQL condition holds; the events stay and are counted."""
        self.count("changed", f"{what} set to null", self.number(f"SELECT count(*) FROM events WHERE {condition}"))
        self._forgotten[column] = f"CASE WHEN {condition} THEN NULL ELSE {column} END AS {column}"

    def drop_incomplete(self) -> None:
        """Passes over events without user, item or time; the order of file is from here on `kept.position`."""
        self.run(
            "CREATE TABLE kept AS SELECT rowid AS position, user_id, item_id, timestamp FROM events "
            "WHERE trim(user_id) <> '' AND trim(item_id) <> '' AND isfinite(timestamp)",
            "complete interactions",
        )
        dropped = self.number("SELECT (SELECT count(*) FROM events) - (SELECT count(*) FROM kept)")
        self.count("removed", "interactions without user, item or time", dropped)

    def keep_last(self) -> None:
        """Keeps the latest event of a user with an item: a second review replaces the first."""
        before = self.number("SELECT count(*) FROM kept")
        self.run(
            "CREATE TABLE last_kept AS SELECT * FROM kept QUALIFY row_number() OVER "
            "(PARTITION BY user_id, item_id ORDER BY timestamp DESC, position DESC) = 1",
            "repeated interactions",
        )
        self.connection.execute("DROP TABLE kept; ALTER TABLE last_kept RENAME TO kept")
        repeated = before - self.number("SELECT count(*) FROM kept")
        self.count("removed", "earlier interactions of a user with the same item", repeated)

    def keep_core(self) -> None:
        """Keeps users and items with at least k events each, again and again until nothing more goes.

        Raises:
            ValueError: nothing is left.
        """
        k = self.arguments.k_core
        self.report["before_k_core"] = before = self._sizes()
        # Ids are numbered once, so that the rounds move 24 bytes an event instead of text.
        for name, number in (("user_id", "u"), ("item_id", "i")):
            self.connection.execute(
                f"CREATE TABLE numbers_{number} AS SELECT {name}, row_number() OVER () AS {number} "
                f"FROM (SELECT DISTINCT {name} FROM kept)"
            )
        self.run(
            "CREATE TABLE edges AS SELECT position, u, i FROM kept JOIN numbers_u USING (user_id) "
            "JOIN numbers_i USING (item_id)",
            "numbering users and items",
        )
        rounds, last, left = 0, -1, before["interactions"]
        while k > 1 and left != last:
            rounds, last = rounds + 1, left
            for number in ("u", "i"):
                self.run(
                    f"CREATE TABLE fewer AS SELECT * FROM edges SEMI JOIN "
                    f"(SELECT {number} FROM edges GROUP BY {number} HAVING count(*) >= {k}) USING ({number})",
                    f"{k}-core, round {rounds}, {'users' if number == 'u' else 'items'}",
                    leave=False,
                )
                self.connection.execute("DROP TABLE edges; ALTER TABLE fewer RENAME TO edges")
            left = self.number("SELECT count(*) FROM edges")
        self.run(
            "CREATE TABLE core AS SELECT * FROM kept SEMI JOIN edges ON kept.position = edges.position", "the core"
        )
        self.connection.execute("DROP TABLE kept; DROP TABLE edges; ALTER TABLE core RENAME TO kept")
        after = self._sizes()
        if not after["interactions"]:
            raise ValueError(
                f"no interaction is left of {before['interactions']} of {before['users']} users with "
                f"{before['items']} items in the {k}-core; removed before: {self.report['removed'] or 'nothing'}. "
                "Check that the files are of this data set, or choose a smaller --k_core."
            )
        self.report |= {"after_k_core": after, "k_core_rounds": rounds}
        for what in ("interactions", "users", "items"):
            self.count("removed", f"{what} outside the {k}-core", before[what] - after[what])

    def _sizes(self) -> dict[str, int]:
        return {
            "users": self.number("SELECT count(*) FROM (SELECT DISTINCT user_id FROM kept)"),
            "items": self.number("SELECT count(*) FROM (SELECT DISTINCT item_id FROM kept)"),
            "interactions": self.number("SELECT count(*) FROM kept"),
        }

    def choose_items(self) -> None:
        """Makes the table `catalogue`: one row an item of the core, in the order of `items`.

        Items without a row in `items` follow with nothing but their id. With k = 0 untouched items stay.
        """
        distinct = self.number("SELECT count(*) FROM (SELECT DISTINCT item_id FROM items)")
        repeated = self.number("SELECT count(*) FROM items") - distinct
        self.count("removed", "repeated rows of an item (the first is kept)", repeated)
        touched = "" if self.arguments.k_core == 0 else "SEMI JOIN (SELECT DISTINCT item_id FROM kept) USING (item_id)"
        self.run(
            "CREATE TABLE catalogue AS SELECT items.* FROM items JOIN "
            f"(SELECT item_id, min(rowid) AS first FROM items {touched} GROUP BY item_id) chosen "
            "ON items.rowid = chosen.first ORDER BY chosen.first",
            "items",
        )
        described = self.number("SELECT count(*) FROM catalogue")
        outside = "rows of items outside the tables (not in the core, or never touched)"
        self.count("removed", outside, distinct - described)
        self.connection.execute(
            "INSERT INTO catalogue BY NAME SELECT DISTINCT item_id FROM kept ANTI JOIN catalogue USING (item_id) "
            "ORDER BY item_id"
        )
        items = self.number("SELECT count(*) FROM catalogue")
        self.report["items"] = {"items": items, "without a row of their own (id only)": items - described}

    def match_pictures(self, folder: Path, item_of: Callable[[str], str | None] = lambda stem: stem) -> None:
        """Makes the table `pictures` of the picture files below a folder; empty files count as missing.

        The path is relative to the output folder if the file is inside it, absolute otherwise: photographs stay
        where they are, and who loads the table names their folder (`image_root`).
        """
        output_dir = self.output_dir.resolve()

        def rows() -> Iterator[dict[str, Any]]:
            for item_id, path, size in find_pictures(folder.resolve(), item_of):
                inside = path.is_relative_to(output_dir)
                yield {
                    "item_id": item_id,
                    "image": path.relative_to(output_dir).as_posix() if inside else str(path),
                    "empty": size == 0,
                }

        schema = pa.schema([("item_id", pa.string()), ("image", pa.string()), ("empty", pa.bool_())])
        self.fill("picture_files", schema, tqdm(rows(), desc="picture files", unit=" files"))
        self.count("read", "picture files", self.number("SELECT count(*) FROM picture_files"))
        self.count("removed", "empty picture files", self.number("SELECT count(*) FROM picture_files WHERE empty"))
        self.connection.execute(
            "CREATE TABLE pictures AS SELECT item_id, min(image) AS image FROM picture_files "
            "WHERE NOT empty GROUP BY item_id"
        )
        if not folder.resolve().is_relative_to(output_dir) and self.number("SELECT count(*) FROM pictures"):
            self._picture_root = folder
        unused = self.number("SELECT count(*) FROM pictures ANTI JOIN catalogue USING (item_id)")
        self.count("removed", "pictures of items that are not in the table (the files are left alone)", unused)

    def write(self, without: Iterable[str] = ()) -> dict[str, Any]:
        """Writes items.parquet, interactions.parquet and, last, preparation.json; prints and returns the account.

        Args:
            without (`Iterable[str]`, *optional*): columns of `items` that are not attributes.
        """
        columns = self.connection.execute("DESCRIBE catalogue").fetchall()
        attributes = [(name, kind) for name, kind, *_ in columns if name not in ("item_id", *without)]
        cells = ["c.item_id"]
        for name, kind in attributes:
            cells.append(f"""nullif(trim("{name}"), '') AS "{name}\"""" if kind == "VARCHAR" else f'"{name}"')
        self._write_table(
            "items.parquet",
            f"SELECT {', '.join(cells)}, p.image FROM (SELECT *, rowid AS position FROM catalogue) c "
            "LEFT JOIN pictures p ON c.item_id = p.item_id ORDER BY c.position",
        )
        # At the end rather than by UPDATE, which would rewrite a table that may be far larger than memory.
        replaced = f" REPLACE ({', '.join(self._forgotten.values())})" if self._forgotten else ""
        self._write_table(
            "interactions.parquet",
            f"SELECT e.* EXCLUDE (position){replaced} FROM (SELECT *, rowid AS position FROM events) e "
            "JOIN kept k ON e.position = k.position ORDER BY e.user_id, e.timestamp, e.position",
        )
        with_picture = self.number("SELECT count(*) FROM catalogue SEMI JOIN pictures USING (item_id)")
        self.report["items"] |= {"with picture": with_picture}
        for name, _ in attributes:
            filled = f'SELECT count("{name}") FROM read_parquet({quoted(self.output_dir / "items.parquet")})'
            self.report["items"][f"with {name}"] = self.number(filled)
        for name in ("rating", "review", "explanation"):
            if name in self._event_columns():
                self.report["after_k_core"][f"with {name}"] = self.number(
                    f"SELECT count({name}) FROM read_parquet({quoted(self.output_dir / 'interactions.parquet')})"
                )
        self.report["minutes"] = round((time.monotonic() - self._started) / 60, 2)
        target = self.output_dir / "preparation.json"
        part = target.with_suffix(".json.part")
        part.write_text(json.dumps(self.report, indent=2) + "\n", encoding="utf-8")
        os.replace(part, target)
        print(summary(self.report))
        if self._picture_root is not None:
            print(f"  The pictures are outside the tables' folder: add image_root: {self._picture_root} to a recipe.")
        return self.report

    def _event_columns(self) -> list[str]:
        return [row[0] for row in self.connection.execute("DESCRIBE events").fetchall()]

    def _write_table(self, name: str, sql: str) -> None:
        part = self.output_dir / f"{name}.part"
        self.run(f"COPY ({sql}) TO {quoted(part)} (FORMAT parquet, COMPRESSION zstd)", f"writing {name}")
        os.replace(part, self.output_dir / name)


def summary(report: dict[str, Any]) -> str:
    """Returns the account of a preparation as text."""
    before, after = report["before_k_core"], report["after_k_core"]
    k = report["arguments"]["k_core"]
    lines = [f"\n{report['dataset']}: prepared in {report['minutes']} minutes"]
    for section in ("read", "removed", "changed"):
        if report[section]:
            lines += [f"  {section}:"] + [f"    {number:>12,}  {what}" for what, number in report[section].items()]
    lines += [f"  missing: {name}; its items have nothing but their id" for name in report.get("missing", [])]
    lines += [f"  {'':16}{'before':>14}{f'{k}-core':>14}"]
    lines += [f"  {what:16}{before[what]:>14,}{after[what]:>14,}" for what in ("users", "items", "interactions")]
    lines += [
        f"  {what:40}{number:>8,}" for what, number in {**report["items"], **after}.items() if what not in before
    ]
    return "\n".join(lines)


def _batches(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    rows = iter(rows)
    while batch := list(islice(rows, _ROWS_A_BATCH)):
        yield pa.RecordBatch.from_pylist(batch, schema=schema)


def _versions() -> dict[str, str]:
    try:
        unimp = metadata.version("unimp")
    except metadata.PackageNotFoundError:
        unimp = "not installed"
    return {"unimp": unimp, "duckdb": duckdb.__version__, "python": platform.python_version()}
