"""From raw dumps to the two tables, out of core: DuckDB in a file on disk, with a memory limit and spilling.

A prepare script fills `events` and `items`; repeated events, k-core, pictures, order, writing and the account of what
was removed are the same for all data sets and live here. Nothing in Python grows with the dump.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import pyarrow as pa
from tqdm import tqdm
from transformers import HfArgumentParser

from processing_unimp.bounds import short_repr
from processing_unimp.tables import Row
from recipes.picture_files import find_pictures
from recipes.raw_files import csv_rows, in_batches, quoted, whole_rows
from recipes.raw_values import TEXT, Kind
from recipes.work_folder import clear_left_over, work_folder

try:
    import duckdb
except ImportError as error:
    raise ImportError('raw dumps are prepared with DuckDB; pip install -e ".[train]" brings it') from error

# What a full disk or memory is to DuckDB: when it writes, commits, spills, and at whatever comes after that.
_NO_SPACE = (duckdb.IOException, duckdb.TransactionException, duckdb.OutOfMemoryException, duckdb.FatalException)
# Ids of a CSV that data frames wrote as fractions, and what is left of an id that a spreadsheet and the like change.
MACROS = r"""
CREATE MACRO id_of_cell(cell) AS regexp_replace(cell, '^(-?(?:0|[1-9][0-9]*))\.0+$', '\1');
CREATE MACRO bare_id(id) AS regexp_replace(ltrim(lower(trim(id)), '0'), '\.0+$', '');
"""


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


class RawTables:
    """The working database of one preparation, and the account of what it read and removed.

    Use it as a context manager; the database is deleted on the way out. The steps, in this order: fill the table
    `events` (`user_id`, `item_id`, `timestamp` in seconds, and any of `rating`, `explanation`; the order of
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
            "examples": {},
        }
        self._forgotten: dict[str, str] = {}
        self._picture_root: Path | None = None
        self._started = time.monotonic()

    def __enter__(self) -> "RawTables":
        with ExitStack() as stack:
            self._made_dir = stack.enter_context(work_folder(self.output_dir))
            self._work_dir = self._made_dir
            if self.arguments.temp_dir:
                place = Path(self.arguments.temp_dir).expanduser()
                self._work_dir = stack.enter_context(work_folder(place, is_shared=True))
            try:
                self.connection = duckdb.connect(
                    str(self._work_dir / "raw.duckdb"),
                    config={
                        "memory_limit": self.arguments.memory_limit,
                        "temp_directory": str(self._work_dir / "spill"),
                        # rowid is the order of the file, which breaks ties in time.
                        "preserve_insertion_order": "true",
                    },
                )
            except duckdb.Error as error:
                raise ValueError(
                    f"DuckDB cannot work in {str(self._work_dir)!r} with the memory_limit "
                    f"{self.arguments.memory_limit!r}: {error} Expected free space on the disk and a size such as 4GB."
                ) from error
            stack.callback(self.connection.close)
            self.connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
            self.connection.execute(MACROS)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
        if isinstance(error, _NO_SPACE):
            raise ValueError(
                f"{error} Raise --memory_limit, or free space on the disk of --output_dir and --temp_dir."
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
        shape = "{desc}: {percentage:3.0f}% |{bar:20}| {elapsed}"
        with tqdm(total=100, desc=what, bar_format=shape, leave=leave) as bar:
            self.answers(sql, lambda: bar.update(max(0.0, self.connection.query_progress() - bar.n)))
            bar.update(100 - bar.n)

    def answers(self, sql: str, meanwhile: Callable[[], object] = lambda: None) -> list[tuple[Any, ...]]:
        """Runs a statement and returns the rows it answers with; `meanwhile` is called ten times a second."""
        found: list[tuple[Any, ...]] = []
        errors: list[BaseException] = []
        done = threading.Event()  # a thread whose join a signal ends passes for ended in Python 3.11

        def execute() -> None:
            try:
                # Since 2.0 DuckDB refuses the next statement until a result is read to its end.
                found.extend(self.connection.execute(sql).fetchall())
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()

        # In a thread of its own, for DuckDB loses a signal now and then that comes while it is at work.
        threading.Thread(target=execute, daemon=True).start()
        try:
            while not done.wait(0.1):
                meanwhile()
        except BaseException:
            while not done.wait(0.1):
                self.connection.interrupt()
            raise
        if errors:
            raise errors[0]
        return found

    def number(self, sql: str) -> int:
        """Returns the single whole number a query answers."""
        ((value,),) = self.answers(sql)
        return int(value)

    def fill(self, table: str, columns: Mapping[str, Kind], rows: Iterable[Mapping[str, Any]]) -> None:
        """Makes a table of dicts, batch by batch.

        Args:
            table (`str`): its name.
            columns (`Mapping[str, Kind]`): what it holds. A value of another kind becomes null and is counted.
            rows (`Iterable[Mapping[str, Any]]`): other keys are left out; read as they are needed.
        """
        schema = pa.schema([(name, kind.arrow) for name, kind in columns.items()])

        readers = [(name, kind.read) for name, kind in columns.items()]

        def cells_of(row: Mapping[str, Any]) -> list[Any]:
            try:
                return [read(row.get(name)) for name, read in readers]
            except ValueError:
                return [self._cell(row.get(name), name, kind) for name, kind in columns.items()]

        # Not one RecordBatchReader: DuckDB would bury a ValueError of `rows` in an error of its own.
        self.connection.register("rows_of_python", schema.empty_table())
        self.answers(f"CREATE TABLE {table} AS SELECT * FROM rows_of_python")
        for batch in in_batches(map(cells_of, rows)):
            arrays = [pa.array(cells, kind.arrow) for cells, kind in zip(batch, columns.values(), strict=True)]
            self.connection.register("rows_of_python", pa.table(arrays, schema))
            self.answers(f"INSERT INTO {table} SELECT * FROM rows_of_python")
        self.connection.unregister("rows_of_python")

    def _cell(self, value: Any, name: str, kind: Kind) -> Any:
        try:
            return kind.read(value)
        except ValueError as error:
            self.count("changed", f"{name} that is not {kind.name} set to null", 1, str(error))
            return None

    def whole(self, rows: Iterable[Row], what: str, form: str) -> Iterator[Mapping[str, Any]]:
        """Yields what rows hold; those that cannot be read are counted, as read and as removed.

        Args:
            rows (`Iterable[Row]`): read as they are needed.
            what (`str`): what they are, in the account.
            form (`str`): what they cannot be read as, such as `"JSON"`.

        Raises:
            ValueError: there are rows, but none that can be read.
        """
        return whole_rows(rows, lambda row: self._reject(row, what, form))

    def csv_rows(self, path: Path, required: Iterable[str], what: str) -> str:
        """Returns the SQL that reads a CSV file (see `csv_rows`), and counts the rows that cannot be read."""
        return csv_rows(path, required, self._work_dir, lambda row: self._reject(row, what, "CSV"))

    def _reject(self, row: Row, what: str, form: str) -> None:
        self.count("read", what, 1)
        self.count("removed", f"{what}: lines that are not {form}", 1, f"{row.place}: {row.problem}")

    def count(self, section: str, what: str, number: int, example: str | None = None) -> None:
        """Adds to a section of the account, such as `removed`; zeros are not noted, nor second examples."""
        if number:
            self.report[section][what] = self.report[section].get(what, 0) + number
            if example is not None:
                self.report["examples"].setdefault(what, example)

    def count_where(self, section: str, what: str, table: str, condition: str, column: str) -> None:
        """Counts the rows of a table where an SQL condition holds, with a value of `column` as the example."""
        for (value,) in self.answers(f"SELECT {column} FROM {table} WHERE {condition} LIMIT 1"):
            self.count(
                section, what, self.number(f"SELECT count(*) FROM {table} WHERE {condition}"), short_repr(value)
            )

    def forget(self, column: str, condition: str, what: str) -> None:
        """Writes null for a column of `events` where an SQL condition holds; the events stay and are counted."""
        self.count_where("changed", f"{what} set to null", "events", condition, column)
        self._forgotten[column] = f"CASE WHEN {condition} THEN NULL ELSE {column} END AS {column}"

    def drop_incomplete(self) -> None:
        """Passes over events without user, item or time; the order of file is from here on `kept.position`."""
        self.run(
            "CREATE TABLE kept AS SELECT rowid AS position, user_id, item_id, timestamp FROM events "
            r"WHERE regexp_matches(user_id, '\S') AND regexp_matches(item_id, '\S') AND isfinite(timestamp)",
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
        self.answers("DROP TABLE kept; ALTER TABLE last_kept RENAME TO kept")
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
            self.answers(
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
                self.answers("DROP TABLE edges; ALTER TABLE fewer RENAME TO edges")
            left = self.number("SELECT count(*) FROM edges")
        self.run(
            "CREATE TABLE core AS SELECT * FROM kept SEMI JOIN edges ON kept.position = edges.position", "the core"
        )
        self.answers("DROP TABLE kept; DROP TABLE edges; ALTER TABLE core RENAME TO kept")
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

        Raises:
            ValueError: no item of the events has a row in `items`: the ids of the two files are not the same.
        """
        self.answers(r"CREATE VIEW named AS SELECT *, rowid FROM items WHERE regexp_matches(item_id, '\S')")
        self._check_ids_meet()
        rows = self.number("SELECT count(*) FROM named")
        distinct = self.number("SELECT count(DISTINCT item_id) FROM named")
        self.count("removed", "rows of items without an id", self.number("SELECT count(*) FROM items") - rows)
        self.count("removed", "repeated rows of an item (the first is kept)", rows - distinct)
        touched = "" if self.arguments.k_core == 0 else "SEMI JOIN (SELECT DISTINCT item_id FROM kept) USING (item_id)"
        self.run(
            "CREATE TABLE catalogue AS SELECT items.* FROM items JOIN "
            f"(SELECT item_id, min(rowid) AS first FROM named {touched} GROUP BY item_id) chosen "
            "ON items.rowid = chosen.first ORDER BY chosen.first",
            "items",
        )
        described = self.number("SELECT count(*) FROM catalogue")
        outside = "rows of items outside the tables (not in the core, or never touched)"
        self.count("removed", outside, distinct - described)
        self.answers(
            "INSERT INTO catalogue BY NAME SELECT DISTINCT item_id FROM kept ANTI JOIN named USING (item_id) "
            "ORDER BY item_id"
        )
        items = self.number("SELECT count(*) FROM catalogue")
        self.report["items"] = {"items": items, "without a row of their own (id only)": items - described}
        self._count_ids_that_do_not_meet()

    def _check_ids_meet(self) -> None:
        """Refuses events and items of which not one id is in both: each would be read, and none would be of use."""
        if not self.number("SELECT count(*) FROM named"):
            return
        if self.number("SELECT count(*) FROM (FROM named SEMI JOIN numbers_i USING (item_id) LIMIT 1)"):
            return
        all_pairs = "SELECT e.item_id, i.item_id FROM numbers_i e, named i"
        alike = self._pairs(f"{all_pairs} WHERE bare_id(e.item_id) = bare_id(i.item_id)")
        ((event, item),) = alike or self._pairs(all_pairs)
        raise ValueError(
            f"no interaction is with an item that is described: the interactions have item ids such as "
            f"{short_repr(event)}, the descriptions such as {short_repr(item)} (read: {', '.join(self._sources())}). "
            + (
                "The two are the same but for zeros, blanks or letter case: a spreadsheet or a data frame has "
                "probably rewritten one of the files. Get it anew, or save it with its ids as text."
                if alike
                else "Expected files of one data set; ids are compared as text, letter by letter."
            )
        )

    def _pairs(self, sql: str) -> list[tuple[str, str]]:
        return self.answers(f"{sql} LIMIT 1")

    def _sources(self) -> list[str]:
        return [source["name"] for source in self.report["sources"]]

    def _count_ids_that_do_not_meet(self) -> None:
        lost = "FROM kept e ANTI JOIN named i USING (item_id)"
        alike = f"(SELECT DISTINCT e.item_id {lost}) e JOIN named i ON bare_id(e.item_id) = bare_id(i.item_id)"
        self.count("items", "interactions of items without a row", self.number(f"SELECT count(*) {lost}"))
        for event, item in self._pairs(f"SELECT e.item_id, i.item_id FROM {alike}"):
            self.count(
                "items",
                "without a row, but with an id like one",
                self.number(f"SELECT count(DISTINCT e.item_id) FROM {alike}"),
                f"{short_repr(event)} and {short_repr(item)}",
            )

    def match_pictures(self, folder: Path, item_of: Callable[[str], str | None] = lambda stem: stem) -> None:
        """Makes the table `pictures` of the picture files below a folder.

        A file is of the item whose id its name is, or the SHA-256 of whose id (see `hashed_name`). The path is
        relative to the output folder if the file is inside it, absolute otherwise: photographs stay where they are,
        and who loads the table names their folder (`image_root`).

        Args:
            folder (`Path`): where to look; it need not exist.
            item_of (`Callable[[str], str | None]`, *optional*): a file's name without its ending -> what to take for
                its name, or None to pass over the file.
        """
        output_dir, pictures_dir = self.output_dir.resolve(), folder.resolve()
        is_inside = pictures_dir.is_relative_to(output_dir)
        if is_inside:
            clear_left_over(pictures_dir)

        def rows() -> Iterator[dict[str, Any]]:
            for file in find_pictures(pictures_dir, output_dir if is_inside else pictures_dir):
                if file.problem is None and (name := item_of(file.stem)) is None:
                    continue
                self.count("read", "picture files", 1)
                if file.problem is not None:
                    self.count("removed", file.problem, 1, short_repr(file.path.name))
                    continue
                path = file.path.relative_to(output_dir).as_posix() if is_inside else str(file.path)
                yield {"name": name, "image": path}

        self.fill("picture_files", {"name": TEXT, "image": TEXT}, tqdm(rows(), desc="picture files", unit=" files"))
        self.answers(
            "CREATE TABLE named_pictures AS SELECT item_id, name, image FROM picture_files JOIN ("
            "SELECT item_id, item_id AS name FROM catalogue UNION ALL "
            "SELECT item_id, sha256(item_id) AS name FROM catalogue) USING (name)"
        )
        self.answers(
            "CREATE TABLE pictures AS SELECT item_id, min(image) AS image FROM named_pictures GROUP BY item_id"
        )
        if not is_inside and self.number("SELECT count(*) FROM pictures"):
            self._picture_root = folder
        unused = "FROM picture_files ANTI JOIN named_pictures USING (name)"
        what = "pictures of items that are not in the table (the files are left alone)"
        self.count("removed", what, self.number(f"SELECT count(DISTINCT name) {unused}"))
        for (name,) in self.answers(f"SELECT min(name) {unused}"):
            if name is not None:
                self.report["examples"][what] = short_repr(name)

    def write(self, without: Iterable[str] = ()) -> dict[str, Any]:
        """Writes items.parquet, interactions.parquet and, last, preparation.json; prints and returns the account.

        Args:
            without (`Iterable[str]`, *optional*): columns of `items` that are not attributes.
        """
        columns = self.answers("DESCRIBE catalogue")
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
            filled = f'SELECT count("{name}") FROM read_parquet({quoted(self._made_dir / "items.parquet")})'
            self.report["items"][f"with {name}"] = self.number(filled)
        for name in ("rating", "explanation"):
            if name in self._event_columns():
                self.report["after_k_core"][f"with {name}"] = self.number(
                    f"SELECT count({name}) FROM read_parquet({quoted(self._made_dir / 'interactions.parquet')})"
                )
        self.report["minutes"] = round((time.monotonic() - self._started) / 60, 2)
        account = "preparation.json"
        (self._made_dir / account).write_text(json.dumps(self.report, indent=2) + "\n", encoding="utf-8")
        try:
            # While it is there, the tables beside it are those it is about.
            (self.output_dir / account).unlink(missing_ok=True)
            for name in ("items.parquet", "interactions.parquet", account):
                os.replace(self._made_dir / name, self.output_dir / name)
        except OSError as error:
            raise ValueError(
                f"the tables are made, but cannot be put into place: {error}. Move away what is there."
            ) from error
        print(summary(self.report))
        if self._picture_root is not None:
            print(f"  The pictures are outside the tables' folder: add image_root: {self._picture_root} to a recipe.")
        return self.report

    def _event_columns(self) -> list[str]:
        return [row[0] for row in self.answers("DESCRIBE events")]

    def _write_table(self, name: str, sql: str) -> None:
        target = quoted(self._made_dir / name)
        self.run(f"COPY ({sql}) TO {target} (FORMAT parquet, COMPRESSION zstd)", f"writing {name}")


def summary(report: dict[str, Any]) -> str:
    """Returns the account of a preparation as text."""
    before, after = report["before_k_core"], report["after_k_core"]
    k = report["arguments"]["k_core"]
    lines = [f"\n{report['dataset']}: prepared in {report['minutes']} minutes"]
    for section in ("read", "removed", "changed"):
        if report[section]:
            lines += [f"  {section}:"]
            lines += [f"    {number:>12,}  {what}{_such_as(what, report)}" for what, number in report[section].items()]
    lines += [f"  missing: {name}; its items have nothing but their id" for name in report.get("missing", [])]
    if "download" in report:
        download = report["download"]
        lines += ["  download:"]
        lines += [
            f"    {download[what]:>12,}  pictures {what}" for what in ("asked", "present", "downloaded", "failed")
        ]
        lines += [
            f"    {number:>12,}  {kind}; such as {download['examples'][kind]}"
            for kind, number in download["failures"].items()
        ]
    lines += [f"  {'':16}{'before':>14}{f'{k}-core':>14}"]
    lines += [f"  {what:16}{before[what]:>14,}{after[what]:>14,}" for what in ("users", "items", "interactions")]
    lines += [
        f"  {what:40}{number:>8,}{_such_as(what, report)}"
        for what, number in {**report["items"], **after}.items()
        if what not in before
    ]
    return "\n".join(lines)


def _such_as(what: str, report: dict[str, Any]) -> str:
    return f"; such as {report['examples'][what]}" if what in report["examples"] else ""


def _versions() -> dict[str, str]:
    try:
        unimp = metadata.version("unimp")
    except metadata.PackageNotFoundError:
        unimp = "not installed"
    return {"unimp": unimp, "duckdb": duckdb.__version__, "python": platform.python_version()}
