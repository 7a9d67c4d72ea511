import gzip
import json
import logging
import pickle
import sys
from datetime import date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from processing_unimp.catalogue import Catalogue
from processing_unimp.cell_values import as_seconds
from processing_unimp.history import Histories, Interaction

CATALOGUE = Catalogue.from_items([{"item_id": item_id} for item_id in ("01", "02", "03", "04")])


def row(user, item, time, **more):
    return {"user_id": user, "item_id": item, "timestamp": time, **more}


ROWS = [
    row("bea", "02", 5, rating=4, explanation="nice", comment="not used"),
    row("al", "01", 9, rating=0),
    row("bea", "01", 5, rating=None, explanation="soft"),
    row("bea", "03", 1, rating=5.0, explanation=" "),
    row("al", "9", 1),
    row("al", "04", 3, rating=float("nan")),
    row(None, "01", 3),
    row("al", "01", None),
]


def test_users_by_first_row_then_time_then_file_order():
    histories = Histories.from_interactions(ROWS, CATALOGUE)
    assert histories.users == ["bea", "al"] and len(histories) == 2 and list(histories) == ["bea", "al"]
    assert histories["bea"] == [
        Interaction("03", 1.0, 5.0),
        Interaction("02", 5.0, 4.0, explanation="nice"),
        Interaction("01", 5.0, explanation="soft"),
    ]
    assert histories.of(1) == [Interaction("04", 3.0), Interaction("01", 9.0)]
    assert histories.num_interactions == 5 and [histories.length_of(u) for u in range(2)] == [3, 2]
    assert histories.items_of(0).tolist() == [2, 1, 0]
    assert histories.item_counts().tolist() == [2, 1, 1, 1]
    assert histories.of(0, stop=2)[-1].explanation == "nice" and histories.of(0, start=2)[0].explanation == "soft"
    assert "al" in histories and "zed" not in histories
    assert histories.has_ratings
    assert histories.explanations() == ["nice", "soft"] and histories.truncate(np.array([1, 2])).explanations() == []


@pytest.mark.parametrize("door", ["parquet", "jsonl", "csv", "rows", "dataset"])
def test_a_column_called_nearly_as_one_of_ours_is_told(door, tmp_path, caplog):
    rows = [{"user_id": "u", "item_id": "01", "timestamp": 1, "Rating": 5, "note": "x"}]
    if door == "rows":
        Histories.from_interactions(rows, CATALOGUE)
    elif door == "dataset":
        Histories.from_dataset(Dataset.from_list(rows), CATALOGUE)
    else:
        write = {"parquet": "to_parquet", "jsonl": "to_json", "csv": "to_csv"}[door]
        getattr(Dataset.from_list(rows), write)(str(tmp_path / f"interactions.{door}"))
        Histories.load(tmp_path, CATALOGUE)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and "column 'Rating' is not used. Call it 'rating'" in warned[0]


def test_texts_that_are_no_utf8_cost_their_own_value(tmp_path):
    bad = pa.array([b"caf\xe9", b"2", b"3"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 3, bad.buffers())
    rows = {"user_id": ["u"] * 3, "item_id": ["01", "02", "01"], "timestamp": [1, 2, 3], "rating": [1, 2, 3]}
    for name, left in (("timestamp", [2.0, 3.0]), ("rating", [None, 2.0, 3.0])):
        pq.write_table(pa.table(rows | {name: bad}), tmp_path / "interactions.parquet")
        histories = Histories.load(tmp_path, CATALOGUE)
        assert [getattr(each, name) for each in histories["u"]] == left
        assert "such as 'caf\ufffd'" in next(iter(histories.removed))


def test_everything_removed_is_counted_once(caplog):
    with caplog.at_level(logging.INFO):
        histories = Histories.from_interactions([*ROWS, row(None, "9", None)], CATALOGUE)
    assert histories.removed == {
        "interactions without user_id": 2,
        "interactions without timestamp": 1,
        "interactions with an item that is not in the catalogue": 1,
        "ratings outside 1-5 (the interaction is kept without it)": 1,
    }
    assert "removed 2 interactions without user_id" in caplog.text
    assert histories.of(1)[1] == Interaction("01", 9.0, rating=None)


def test_nothing_usable_shows_both_kinds_of_id():
    with pytest.raises(
        ValueError, match=r"2 interactions with an item.*\['1', '2'\].*'01', '02', '03'.*leading zeros"
    ):
        Histories.from_interactions([row("a", "1", 1), row("a", 2, 2)], CATALOGUE)
    with pytest.raises(ValueError, match="empty"):
        Histories.from_dataset(Dataset.from_dict({"user_id": [], "item_id": [], "timestamp": []}), CATALOGUE)
    with pytest.raises(ValueError, match="no column 'user_id', 'timestamp'; it has item_id"):
        Histories.from_interactions([{"item_id": "01"}], CATALOGUE)
    with pytest.raises(ValueError, match="'item_id'"):
        Histories.from_interactions([{"customer": "1"}], CATALOGUE)


def test_unknown_users_and_indices():
    histories = Histories.from_interactions(ROWS, CATALOGUE)
    with pytest.raises(ValueError, match="user 'zed' is not among the 2 users"):
        histories["zed"]
    for u in (2, -1):
        with pytest.raises(ValueError, match="out of range"):
            histories.of(u)


@pytest.mark.parametrize(
    "name", ["interactions.parquet", "interactions.jsonl", "interactions.csv", "interactions.csv.gz"]
)
def test_every_file_kind(tmp_path, name):
    plain = tmp_path / name.removesuffix(".gz")
    columns = {
        "user_id": ["007", "007", "08"],
        "item_id": ["02", "01", "01"],
        "timestamp": ["2020-09-22", "2020-09-21T12:00:00", "2020-09-22"],
        "rating": [4.5, None, 2.0],
        "explanation": ['so "nice", really', None, ""],
        "helpful": [1, 2, 3],
    }
    dataset = Dataset.from_dict(columns)
    {"parquet": dataset.to_parquet, "jsonl": dataset.to_json, "csv": dataset.to_csv}[plain.suffix[1:]](str(plain))
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    day = 1600732800.0  # 2020-09-22 00:00 UTC
    for histories in (Histories.load(tmp_path, CATALOGUE), Histories.load(tmp_path / name, CATALOGUE)):
        assert histories.users == ["007", "08"]
        assert histories["007"] == [Interaction("01", day - 43200), Interaction("02", day, 4.5, 'so "nice", really')]
        assert histories["08"] == [Interaction("01", day, 2.0)]
        assert histories.removed == {}


def test_timestamps_of_every_kind():
    second = 1600732800.0
    zone = timezone(timedelta(hours=2))
    for value in (
        1600732800,
        "1600732800",
        "2020-09-22",
        "2020-09-22 00:00:00",
        "2020-09-22T00:00:00Z",
        "2020-09-22T02:00:00+02:00",
        date(2020, 9, 22),
        datetime(2020, 9, 22),
        datetime(2020, 9, 22, 2, tzinfo=zone),
        np.datetime64("2020-09-22"),
        np.int64(1600732800),
    ):
        assert as_seconds(value) == second
        assert Histories.from_interactions([row("a", "01", value)], CATALOGUE)["a"][0].timestamp == second
    for column in (
        [date(2020, 9, 22)],
        [datetime(2020, 9, 22)],
        [datetime(2020, 9, 22, 2, tzinfo=zone)],
        ["2020-09-22T02:00+02:00"],
        [1600732800.0],
    ):
        dataset = Dataset.from_dict({"user_id": ["a"], "item_id": ["01"], "timestamp": column})
        assert Histories.from_dataset(dataset, CATALOGUE)["a"][0].timestamp == second
    assert as_seconds("2020-09-22T00:00:00.250") == second + 0.25
    with pytest.raises(ValueError, match="'last week' cannot be read"):
        Histories.from_interactions([row("a", "01", "last week")], CATALOGUE)
    with pytest.raises(ValueError, match="is bool"):
        as_seconds(True)
    with pytest.raises(ValueError, match="column 'timestamp' holds bool"):
        Histories.from_dataset(
            Dataset.from_dict({"user_id": ["a"], "item_id": ["01"], "timestamp": [True]}), CATALOGUE
        )


@pytest.mark.parametrize(
    ("times", "kept", "what"),
    [
        (["2019-05-01", "20200101", "2018-01-01"], [2, 0], "is a plain number among dates, such as '20200101'"),
        (["2019-05-01", "20200101"], [0], "is a plain number among dates, such as '20200101'"),
        (["1577836800", "1.5e9", "2020-01-01"], [1, 0], "is a date among plain numbers, such as '2020-01-01'"),
        (["2019-05-01", "1_000", "2018-01-01"], [2, 0], "cannot be read, such as '1_000'"),
        (["2019-05-01", "\u0661\u0662", "2018-01-01"], [2, 0], "cannot be read, such as '\u0661\u0662'"),
    ],
)
def test_numbers_among_dates_are_removed_and_told(times, kept, what):
    """Read as a number, the compact date 20200101 lies in 1970."""
    rows = [row("a", ["01", "02", "01"][place], time, rating=place + 1) for place, time in enumerate(times)]
    histories = Histories.from_interactions(rows, CATALOGUE)
    assert [event.rating - 1 for event in histories["a"]] == kept
    assert histories.removed == {f"interactions with a timestamp that {what}": 1}


@pytest.mark.parametrize("times", [["20200101", "20190501"], ["2020-01-01", "20190501T000000"], ["5", "-3.5"]])
def test_times_of_one_kind_are_in_order(times):
    if times[1].endswith("T000000") and sys.version_info < (3, 11):
        pytest.skip("Python reads compact ISO text from 3.11 on")
    rows = [row("a", "01", time, rating=place + 1) for place, time in enumerate(times)]
    histories = Histories.from_interactions(rows, CATALOGUE)
    assert [event.rating for event in histories["a"]] == [2, 1] and not histories.removed


def test_missing_timestamps_in_text_and_date_columns():
    for column in (["2020-09-22", None, ""], [date(2020, 9, 22), None, None], [1.0, float("nan"), float("inf")]):
        dataset = Dataset.from_dict({"user_id": ["a"] * 3, "item_id": ["01"] * 3, "timestamp": column})
        histories = Histories.from_dataset(dataset, CATALOGUE)
        assert histories.num_interactions == 1 and histories.removed == {"interactions without timestamp": 2}


def test_unusable_columns_are_named():
    table = {"user_id": ["a"], "item_id": ["01"], "timestamp": [1]}
    with pytest.raises(ValueError, match="'rating' holds text that is no number"):
        Histories.from_dataset(Dataset.from_dict({**table, "rating": ["good"]}), CATALOGUE)
    with pytest.raises(ValueError, match="'explanation' holds int64"):
        Histories.from_dataset(Dataset.from_dict({**table, "explanation": [3]}), CATALOGUE)
    with pytest.raises(ValueError, match="'rating' of an interaction"):
        Histories.from_interactions([row("a", "01", 1, rating="good")], CATALOGUE)
    with pytest.raises(ValueError, match="user_id .* is list"):
        Histories.from_interactions([row(["a"], "01", 1)], CATALOGUE)


def test_whole_number_ids_join_text_ids():
    catalogue = Catalogue.from_items([{"item_id": 17}, {"item_id": 18}])
    table = {"user_id": [3.0, 3.0, None], "item_id": [18, 17, 17], "timestamp": [2, 1, 0]}
    histories = Histories.from_dataset(Dataset.from_dict(table), catalogue)
    assert histories.users == ["3"] and [event.item_id for event in histories["3"]] == ["17", "18"]


def test_truncate_where_and_select_users():
    histories = Histories.from_interactions(ROWS, CATALOGUE)
    cut = histories.truncate(np.array([2, 0]))
    assert cut.users == ["bea", "al"] and [cut.length_of(u) for u in range(2)] == [2, 0]
    assert cut.of(0) == histories.of(0)[:2] and cut.of(1) == []
    assert cut.item_counts().tolist() == [0, 1, 1, 0]
    assert cut.explanations() == ["nice"]
    assert histories.truncate(np.array([99, 99]))["al"] == histories["al"]

    turned = histories.select_users([1, 0])
    assert turned.users == ["al", "bea"] and turned["bea"] == histories["bea"] and turned["al"] == histories["al"]
    assert not turned.select_users([0]).has_ratings
    assert len(histories.select_users([])) == 0
    assert histories.where(histories.item_numbers == 0)["bea"] == [histories["bea"][2]]
    with pytest.raises(ValueError, match="Expected 2 counts"):
        histories.truncate(np.array([1]))
    with pytest.raises(ValueError, match="Expected 0 to 1"):
        histories.select_users([2])
    with pytest.raises(ValueError, match="twice"):
        histories.select_users([0, 0])


def test_ties_keep_file_order_in_a_large_shuffled_table():
    rng = np.random.default_rng(0)
    catalogue = Catalogue.from_items([{"item_id": str(n)} for n in range(5000)])
    users, times = rng.integers(0, 40, 5000), rng.integers(0, 4, 5000)
    table = {
        "user_id": [f"u{u}" for u in users],
        "item_id": [str(n) for n in range(5000)],
        "timestamp": times.tolist(),
    }
    histories = Histories.from_dataset(Dataset.from_dict(table).select(range(5000)), catalogue)
    for u, user_id in enumerate(histories.users):
        rows = [n for n in range(5000) if f"u{users[n]}" == user_id]
        assert histories.items_of(u).tolist() == sorted(rows, key=lambda n: times[n])
    assert histories.users == list(dict.fromkeys(table["user_id"]))


def test_a_selected_dataset_reads_its_own_rows():
    table = {"user_id": ["a", "b"], "item_id": ["01", "02"], "timestamp": [1, 2], "explanation": ["of a", "of b"]}
    histories = Histories.from_dataset(Dataset.from_dict(table).select([1]), CATALOGUE)
    assert histories.users == ["b"] and histories["b"][0].explanation == "of b"


def test_histories_survive_pickling_and_growth_of_the_catalogue():
    catalogue = Catalogue.from_items([{"item_id": "01"}])
    histories = Histories.from_interactions([row("a", "01", 1, explanation="x")], catalogue)
    catalogue.add([{"item_id": "02"}])
    assert histories.item_counts().tolist() == [1, 0]
    assert pickle.loads(pickle.dumps(histories))["a"] == histories["a"]


@pytest.mark.real_data
def test_real_histories_load(data_dir):
    films = Histories.load(data_dir / "ml-100k-posters", Catalogue.load(data_dir / "ml-100k-posters"))
    assert (len(films), films.num_interactions, films.removed) == (943, 97430, {})
    assert films.has_ratings and films.explanations() == []
    assert all(np.all(np.diff(films.timestamps[films.starts[u] : films.starts[u + 1]]) >= 0) for u in range(943))

    folder = data_dir / "amazon-beauty-2014"
    beauty = Histories.load(folder / "interactions.jsonl", Catalogue.load(folder))
    assert (len(beauty), beauty.num_interactions, beauty.removed) == (22363, 198502, {})
    assert [event.item_id for event in beauty["A1YJEY40YUW4SE"]][:2] == ["B004756YJA", "B004ZT0SSG"]
    assert beauty.item_counts().min() >= 5 and not beauty.has_ratings


def test_nothing_and_what_cannot_be_read_are_counted_apart(tmp_path, caplog):
    """One of them among millions does not stop the load."""
    rows = "a,01,100,5 a,02,NULL,4 a,03,yesterday,4 a,04,200,five a,01,300,\\N"
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,rating\n" + rows.replace(" ", "\n"))
    histories = Histories.load(tmp_path, CATALOGUE)
    assert histories.removed == {
        "interactions without timestamp": 1,
        "interactions with a timestamp that cannot be read, such as 'yesterday'": 1,
        "ratings that are no number, such as 'five' (the interaction is kept without it)": 1,
    }
    assert [(event.item_id, event.rating) for event in histories["a"]] == [("01", 5.0), ("04", None), ("01", None)]


def test_half_a_character_ends_no_load():
    rows = [row("u\ud83d", "01", 1, explanation="warm \ud83d"), row("u\ud83e", "02", 2)]
    histories = Histories.from_interactions(rows, CATALOGUE)
    assert histories.users == ["u\\ud83d", "u\\ud83e"], "two people stay two"
    assert histories.of(0)[0].explanation == "warm \ufffd"


def test_columns_that_are_not_used_may_hold_anything(tmp_path):
    lines = [row("a", "01", 1, helpful=[0, {"x": [[1]]}], images=[None]), row("a", "02", 2, helpful="no")]
    (tmp_path / "interactions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert Histories.load(tmp_path, CATALOGUE).num_interactions == 2
    assert Histories.from_interactions(lines, CATALOGUE).num_interactions == 2
