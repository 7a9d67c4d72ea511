"""What all preparations share: the core, order, memory, ids that meet, pictures, and runs that end early."""

import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from raw_shop import arguments, read, write_picture

from processing_unimp.catalogue import Catalogue
from processing_unimp.history import Histories
from processing_unimp.splits import k_core
from recipes.h_and_m import prepare as h_and_m
from recipes.picture_files import hashed_name
from recipes.raw_tables import PreparationArguments, RawTables
from recipes.raw_values import ID, NUMBER, TEXT, TEXTS, YEAR


def make_events(tables: RawTables, users: np.ndarray, items: np.ndarray, times: np.ndarray) -> None:
    rows = pa.table({"user_id": users.astype(str), "item_id": items.astype(str), "timestamp": times.astype(float)})
    tables.connection.register("made", rows)
    tables.connection.execute("CREATE TABLE events AS SELECT * FROM made")
    tables.connection.execute("CREATE TABLE items AS SELECT DISTINCT item_id FROM events ORDER BY item_id")


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_core_is_the_one_of_the_splits(tmp_path: Path, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    users = random.zipf(1.6, 3000) % 400
    items = random.zipf(1.5, 3000) % 300
    times = random.integers(0, 500, 3000)
    with RawTables(arguments(tmp_path, tmp_path / "out", k), "made") as tables:
        make_events(tables, users, items, times)
        tables.drop_incomplete()
        tables.keep_core()
        tables.choose_items()
        tables.match_pictures(tmp_path / "no pictures")
        report = tables.write()
    rows = read(tmp_path / "out", "interactions")
    known = Catalogue.from_items([{"item_id": str(item)} for item in np.unique(items)])
    events = [
        {"user_id": str(u), "item_id": str(i), "timestamp": float(t)}
        for u, i, t in zip(users, items, times, strict=True)
    ]
    expected = k_core(Histories.from_interactions(events, known), k)
    assert report["after_k_core"]["interactions"] == expected.num_interactions == len(rows)
    ours: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        ours.setdefault(row["user_id"], []).append((row["timestamp"], row["item_id"]))
    theirs = {user: [(event.timestamp, event.item_id) for event in expected[user]] for user in expected}
    assert ours == theirs, "the same events in the same order, ties in time in the order of the file"
    assert report["before_k_core"]["interactions"] - len(rows) == report["removed"].get(
        f"interactions outside the {k}-core", 0
    )


def test_the_core_needs_more_than_one_round(tmp_path: Path) -> None:
    # A chain: i1 falls, so u1 falls, so i2 falls, ... until the block of a, b with x, y is left.
    pairs = [("u1", "i1"), ("u1", "i2"), ("u2", "i2"), ("u2", "i3"), ("u3", "i3")]
    pairs += [(user, item) for user in "ab" for item in "xy"]
    users, items = (np.array(column) for column in zip(*pairs, strict=True))
    with RawTables(arguments(tmp_path, tmp_path / "out", 2), "made") as tables:
        make_events(tables, users, items, np.arange(len(pairs)))
        tables.drop_incomplete()
        tables.keep_core()
        assert tables.report["after_k_core"] == {"users": 2, "items": 2, "interactions": 4}
        assert tables.report["k_core_rounds"] > 2


def test_nothing_left_is_an_error_with_the_counts(tmp_path: Path) -> None:
    with RawTables(arguments(tmp_path, tmp_path / "out", 3), "made") as tables:
        make_events(tables, np.array(["a", ""]), np.array(["x", "y"]), np.array([1, 2]))
        tables.drop_incomplete()
        with pytest.raises(ValueError, match="no interaction is left of 1 of 1 users .* 3-core.*smaller --k_core"):
            tables.keep_core()
    assert list((tmp_path / "out").iterdir()) == [], "the working database is gone, and no table is half written"


def test_the_order_of_a_large_file_is_kept(tmp_path: Path) -> None:
    # Larger than DuckDB's row groups (122,880 rows), so that several threads read it.
    path = tmp_path / "big.csv"
    path.write_text("id,position\n" + "".join(f"{'x' * 20}{n},{n}\n" for n in range(250_000)))
    with RawTables(arguments(tmp_path, tmp_path / "out"), "made") as tables:
        tables.run(f"CREATE TABLE big AS SELECT * FROM {tables.csv_rows(path, ['id'], 'lines')}", "big")
        assert tables.number("SELECT count(*) FROM big WHERE rowid <> position::BIGINT") == 0
        assert tables.number("SELECT count(*) FROM big") == 250_000


def test_memory_is_limited_and_the_rest_spills(tmp_path: Path) -> None:
    limited = PreparationArguments(
        data_dir=str(tmp_path),
        output_dir=str(tmp_path / "out"),
        temp_dir=str(tmp_path / "spill"),
        memory_limit="100MB",
    )
    with RawTables(limited, "made") as tables:
        ((limit, spill),) = tables.connection.execute(
            "SELECT current_setting('memory_limit'), current_setting('temp_directory')"
        ).fetchall()
        assert limit.startswith("95") and Path(spill).is_relative_to(tmp_path / "spill")
        # 1.5 million rows of 100 characters are more than 100 MB; sorting them works all the same.
        tables.run(
            "CREATE TABLE wide AS SELECT repeat(md5(n::VARCHAR), 3) AS text FROM range(1500000) t(n) ORDER BY text",
            "wide",
        )
        assert tables.number("SELECT count(*) FROM wide") == 1_500_000
    assert list((tmp_path / "spill").iterdir()) == []


def test_folders_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder .*missing"):
        h_and_m.prepare(arguments(tmp_path / "missing", tmp_path / "out"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to the output"):
        h_and_m.prepare(arguments(tmp_path, tmp_path / "file"))
    with pytest.raises(ValueError, match="has no transactions_train.csv"):
        h_and_m.prepare(arguments(tmp_path, tmp_path / "out"))
    with pytest.raises(ValueError, match="k_core is -1"):
        h_and_m.prepare(arguments(tmp_path, tmp_path / "out", -1))


# --- ids that meet


def described(tables: RawTables, events: list[str], items: list[str]) -> None:
    tables.fill("events", {"user_id": ID, "item_id": ID, "timestamp": NUMBER}, _events(events))
    tables.fill("items", {"item_id": ID, "title": TEXT}, ({"item_id": item, "title": f"T {item}"} for item in items))
    tables.drop_incomplete()
    tables.keep_core()


def _events(items: list[str]) -> list[dict[str, Any]]:
    return [{"user_id": "u", "item_id": item, "timestamp": time} for time, item in enumerate(items)]


@pytest.mark.parametrize(
    ("event", "item"),
    [
        ("108775015", "0108775015"),
        ("0108775015", "108775015"),
        ("108775015", "108775015.0"),
        ("b00x", "B00X "),
        ("7", "07"),
    ],
)
def test_ids_that_were_rewritten_on_one_side_are_an_error(tmp_path: Path, event: str, item: str) -> None:
    with RawTables(arguments(tmp_path, tmp_path / "out"), "made") as tables:
        described(tables, ["x", event], ["y", item])
        with pytest.raises(ValueError, match="a spreadsheet or a data frame has probably rewritten") as caught:
            tables.choose_items()
        assert f"such as '{event}', the descriptions such as '{item}'" in str(caught.value)


def test_ids_of_two_data_sets_are_an_error(tmp_path: Path) -> None:
    with RawTables(arguments(tmp_path, tmp_path / "out"), "made") as tables:
        described(tables, ["B1"], ["tt99"])
        with pytest.raises(ValueError, match="such as 'B1', the descriptions such as 'tt99'.*files of one data set"):
            tables.choose_items()


def test_ids_of_which_a_part_meets_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RawTables(arguments(tmp_path, tmp_path / "out"), "made") as tables:
        described(tables, ["1", "02", "02", "3", "zz"], ["1", "2", "3.0", "4"])
        tables.choose_items()
        tables.match_pictures(tmp_path / "no pictures")
        report = tables.write()
    assert report["items"] | {"items": 5} == report["items"] | {
        "items": 5,
        "without a row of their own (id only)": 3,
        "interactions of items without a row": 4,
        "without a row, but with an id like one": 2,
    }
    said = capsys.readouterr().out
    assert "without a row, but with an id like one         2; such as '" in said
    assert [row["title"] for row in read(tmp_path / "out", "items")] == [
        "T 1",
        "T 2",
        "T 3.0",
        "T 4",
        None,
        None,
        None,
    ]


def test_items_without_an_id_are_counted(tmp_path: Path) -> None:
    with RawTables(arguments(tmp_path, tmp_path / "out"), "made") as tables:
        described(tables, ["a"], ["a", "", " \t", None])  # type: ignore[list-item]
        tables.choose_items()
        assert tables.report["removed"] == {"rows of items without an id": 3}
        assert tables.report["items"]["items"] == 1


# --- values of any kind


def test_values_of_another_kind_become_null_and_are_counted(tmp_path: Path) -> None:
    columns = {"id": ID, "text": TEXT, "texts": TEXTS, "number": NUMBER, "year": YEAR}
    rows: list[dict[str, Any]] = [
        {"id": 7, "text": 1984, "texts": "one", "number": "2.5", "year": "1999.0"},
        {"id": 7.0, "text": "half \ud83d\0", "texts": ["a", None, 3], "number": 10**400, "year": 1999.5},
        {"id": "half \ud83d", "text": {"a": 1}, "texts": [["a"]], "number": "4,5", "year": 10**20},
        {"id": ["a"], "text": ["a"], "texts": {"a": 1}, "number": True, "year": "long ago"},
        {"id": float("nan"), "text": float("nan"), "texts": [], "number": float("nan"), "year": "N/A"},
        {"id": 1e300, "text": True, "number": float("inf"), "year": None, "more": object()},
        {},
    ]
    with RawTables(arguments(tmp_path, tmp_path / "out"), "made") as tables:
        tables.fill("made", columns, rows)
        found = tables.connection.execute("SELECT * FROM made").fetchall()
        assert found == [
            ("7", "1984", ["one"], 2.5, 1999),
            ("7", "half \ufffd\0", ["a", "3"], None, None),
            ("half \\ud83d", None, None, None, None),
            (None, None, None, None, None),
            (None, None, None, None, None),
            (None, None, None, None, None),
            (None, None, None, None, None),
        ]
        assert tables.report["changed"] == {
            "id that is not an id set to null": 2,
            "text that is not text set to null": 3,
            "texts that is not a list of texts set to null": 2,
            "number that is not a number set to null": 4,
            "year that is not a year set to null": 3,
        }
        assert tables.report["examples"]["number that is not a number set to null"].startswith("1000")


# --- pictures


def test_pictures_are_matched_by_id_or_by_the_hash_of_it(tmp_path: Path) -> None:
    ids = ["plain", "a/b", "half \ud83d", "Case", "case", "nul\0", "none"]
    folder = tmp_path / "out" / "images"
    for name in ["plain", *map(hashed_name, ids[1:-1]), "stranger"]:
        write_picture(folder / name[:2] / f"{name}.png")
    with RawTables(arguments(tmp_path, tmp_path / "out"), "made") as tables:
        described(tables, ids, ids)
        tables.choose_items()
        tables.match_pictures(folder)
        report = tables.write()
    pictures = {row["item_id"]: row["image"] for row in read(tmp_path / "out", "items")}
    assert pictures.pop("none") is None and pictures.pop("plain") == "images/pl/plain.png"
    assert pictures == {
        item_id.replace("\ud83d", "\\ud83d"): f"images/{hashed_name(item_id)[:2]}/{hashed_name(item_id)}.png"
        for item_id in ids[1:-1]
    }
    unused = "pictures of items that are not in the table (the files are left alone)"
    assert report["removed"] == {unused: 1} and report["examples"] == {unused: "'stranger'"}
    catalogue = Catalogue.load(tmp_path / "out")
    assert all(catalogue.picture(item_id) is not None for item_id in pictures)


def test_only_regular_files_inside_are_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    write_picture(folder / "good.png")
    write_picture(tmp_path / "outside" / "secret.png")
    (folder / "alias.jpg").symlink_to(folder / "good.png")
    (folder / "out.jpg").symlink_to(tmp_path / "outside" / "secret.png")
    (folder / "up.jpg").symlink_to("../outside/secret.png")
    (folder / "nothing.jpg").symlink_to(folder / "gone.jpg")
    (folder / "circle.jpg").symlink_to(folder / "circle.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "more").symlink_to(tmp_path / "outside")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "empty.png").touch()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).touch()
    ids = ["good", "alias", "out", "up", "nothing", "circle", "device", "secret", "pipe", "folder", "empty"]
    with RawTables(arguments(tmp_path, tmp_path / "out"), "made") as tables:
        described(tables, ids, ids)
        tables.choose_items()
        tables.match_pictures(folder)
        report = tables.write()
    pictures = {row["item_id"]: row["image"] for row in read(tmp_path / "out", "items") if row["image"]}
    assert pictures == {"good": str(folder / "good.png"), "alias": str(folder / "alias.jpg")}
    assert report["read"] == {"picture files": 10}
    assert report["removed"] == {
        "picture files that are links to nothing, or out of the folder": 5,
        "picture files that are no regular files": 1,
        "empty picture files": 1,
        "picture files with a name that is no UTF-8": 1,
    }
    catalogue = Catalogue.load(tmp_path / "out", image_root=folder)
    assert all(catalogue.picture(item_id) is not None for item_id in pictures)


def test_a_folder_of_pictures_that_cannot_be_listed_is_counted(tmp_path: Path) -> None:
    places = [os.open(tmp_path, os.O_RDONLY)]
    for _ in range(20):  # until the path is too long for the system
        os.mkdir("x" * 250, dir_fd=places[-1])
        places.append(os.open("x" * 250, os.O_RDONLY, dir_fd=places[-1]))
    for place in places:
        os.close(place)
    with RawTables(arguments(tmp_path, tmp_path / "out"), "made") as tables:
        described(tables, ["a"], ["a"])
        tables.choose_items()
        tables.match_pictures(tmp_path)
        assert tables.write()["removed"] == {"picture folders that cannot be listed": 1}


def test_what_a_killed_download_left_is_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "images"
    write_picture(folder / "a.png")
    write_picture(folder / ".preparing-killed" / "b.png")
    with RawTables(arguments(tmp_path, tmp_path / "out"), "made") as tables:
        described(tables, ["a", "b"], ["a", "b"])
        tables.choose_items()
        tables.match_pictures(folder)
        assert tables.write()["read"] == {"picture files": 1}
    assert [path.name for path in folder.iterdir()] == ["a.png"]


# --- runs that end early


def _make(raw: Path, output: Path, begun: Path | None = None) -> None:
    with RawTables(arguments(raw, output), "made") as tables:
        described(tables, ["a", "b"], ["a", "b"])
        tables.choose_items()
        tables.match_pictures(raw / "no pictures")
        if begun is not None:
            begun.touch()
            tables.run("CREATE TABLE slow AS SELECT count(*) FROM range(1000000) a, range(1000000) b", "slow")
        tables.write()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_leaves_nothing_in_the_way_of_the_next(tmp_path: Path, how: int) -> None:
    output = tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(target=_make, args=(tmp_path, output, tmp_path / "begun"))
    process.start()
    while not (tmp_path / "begun").exists():
        assert process.is_alive()
        time.sleep(0.01)
    with pytest.raises(ValueError, match="another run is at work in .*out"):
        _make(tmp_path, output)
    assert process.pid is not None
    os.kill(process.pid, how)
    process.join()
    assert not list(output.glob("*.parquet")) and not list(output.glob("*.json"))
    assert len(list(output.iterdir())) == (1 if how == signal.SIGKILL else 0)
    _make(tmp_path, output)
    assert {path.name for path in output.iterdir()} == {"items.parquet", "interactions.parquet", "preparation.json"}


@pytest.mark.parametrize(("limit", "step"), [(100, "begin"), (300_000, "copy"), (300_000, "join")])
def test_a_full_disk_is_told_and_leaves_the_last_tables_whole(tmp_path: Path, limit: int, step: str) -> None:
    _make(tmp_path, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    big = tmp_path / "big.csv"
    big.write_text("id\n" + "".join(f"{number * 7919 % 1_000_003}\n" for number in range(200_000)))
    # No file of this process may grow beyond the limit: what writes it fails as on a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(ValueError, match="[Ff]ree (some )?space"):
            with RawTables(arguments(tmp_path, tmp_path / "out"), "made") as tables:
                assert step != "begin"
                if step == "copy":
                    tables.csv_rows(big, ["id"], "lines")
                else:
                    tables.run("CREATE TABLE wide AS SELECT md5(n::VARCHAR) AS text FROM range(300000) t(n)", "wide")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_what_is_in_the_way_of_the_tables_is_told(tmp_path: Path) -> None:
    (tmp_path / "out" / "items.parquet" / "mine").mkdir(parents=True)
    with pytest.raises(ValueError, match="cannot be put into place: .*items.parquet.*Move away what is there"):
        _make(tmp_path, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["items.parquet"]


def test_a_memory_limit_that_is_none_is_told(tmp_path: Path) -> None:
    made = arguments(tmp_path, tmp_path / "out")
    made.memory_limit = "plenty"
    with pytest.raises(ValueError, match="memory_limit 'plenty'"), RawTables(made, "made"):
        raise AssertionError
    assert list((tmp_path / "out").iterdir()) == []
