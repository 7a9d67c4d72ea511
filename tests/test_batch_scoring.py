"""unimp-recommend on real files: the pipeline's answers, whatever the table, the processes and the interruptions."""

import csv
import gzip
import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from processes import run_module, start
from shop import INTERACTIONS, ITEMS, make_model, make_model_processor, picture
from transformers import pipeline

from modeling_unimp import FeatureStore, PersonalizationPipeline
from modeling_unimp.serving.batch_scoring import main
from processing_unimp import Histories

ROOT = Path(__file__).resolve().parent.parent
SHOPPERS = {
    "ada": [("m1", 5), ("s1", 4), ("h1", 2), ("m2", 3)],
    "bob": [("m2", 5)],
    "cyd": [("h1", 4), ("h2", 4), ("h1", 1), ("h1", 2), ("h2", 3), ("h1", 5), ("m1", 1)],  # longer than what is read
    "dan": [("s2", None), ("h2", 1)],
    "eve": [("s1", 3), ("m1", 2), ("m2", 2)],
    "007": [("h2", 2), ("m2", 1)],
    "fay": [("m1", 1)],
}
ROWS = [
    {"user_id": user, "history": [{"item_id": item, "rating": rating} for item, rating in history]}
    for user, history in SHOPPERS.items()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "unimp"
    processor = make_model_processor()
    make_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def unimp(folder) -> PersonalizationPipeline:
    return pipeline("personalization", model=str(folder), device="cpu")


def write(file: Path, rows: list[dict]) -> Path:
    """A table of any kind."""
    kind = file.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
        return file
    if kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: json.dumps(v) if isinstance(v, list) else v for name, v in row.items()})
        text = stream.getvalue()
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def score(folder: Path, histories: Path, *options: object) -> Path:
    """Runs the command; small parts and batches, so that there are several."""
    output = histories.parent / "recommendations.parquet"
    small = ["--shoppers_per_part", 4, "--batch_size", 3, "--device", "cpu"]
    main([str(o) for o in ["--model", folder, "--histories", histories, "--output", output, *small, *options]])
    assert not output.with_name(output.name + ".parts").exists()
    return output


def answers(output: Path) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    for row in pq.read_table(output).to_pylist():
        found.setdefault(row["user_id"], []).append((row["item_id"], row["score"]))
        assert row["rank"] == len(found[row["user_id"]])
    return found


def rejects(output: Path) -> dict[str | None, str]:
    lines = output.with_suffix(".rejects.jsonl").read_text().splitlines()
    return {row["user_id"]: row["reason"] for row in map(json.loads, lines)}


def same(found: dict, expected: dict) -> bool:
    """Equal items in equal order, equal scores but for the rounding of floats."""
    assert list(found) == list(expected)
    for user in expected:
        assert [item for item, _ in found[user]] == [item for item, _ in expected[user]], user
        assert [s for _, s in found[user]] == pytest.approx([s for _, s in expected[user]], abs=1e-6), user
    return True


def asked(unimp: PersonalizationPipeline, rows: list[dict], task: dict, **options) -> dict:
    requests = [{"task": "recommend", "history": row["history"]} | task for row in rows]
    found = {row["user_id"]: a["items"] for row, a in zip(rows, unimp(requests, **options), strict=True)}
    return {user: [(item["item_id"], item["score"]) for item in items] for user, items in found.items()}


# ----------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("options", "task", "arguments"),
    [
        ([], {}, {}),
        (["--top_k", 2], {}, {"top_k": 2}),
        (["--no-exclude_seen"], {}, {"exclude_seen": False}),
        (["--query", "blue mug"], {"task": "search", "query": "blue mug"}, {}),
        (["--query", "hat", "--exclude_seen"], {"task": "search", "query": "hat"}, {"exclude_seen": True}),
        (["--allowed", "stock.txt", "--batch_size", 64], {}, {"allowed": ["s2", "h2", "m2"]}),
    ],
)
def test_answers_are_those_of_the_pipeline(folder, unimp, tmp_path, monkeypatch, options, task, arguments):
    monkeypatch.chdir(tmp_path)
    Path("stock.txt").write_text("s2\nh2\n\nm2\nsold-out-long-ago\n")
    output = score(folder, write(tmp_path / "histories.parquet", ROWS), *options)
    assert same(answers(output), asked(unimp, ROWS, task, **arguments))
    assert pq.read_schema(output).names == ["user_id", "rank", "item_id", "score", "without_history", "without_match"]
    assert pq.read_metadata(output).num_row_groups == 2  # one a part: merged without holding all of it
    assert rejects(output) == {}


def test_what_is_left_out_is_as_the_model_was_trained(tmp_path):
    processor = make_model_processor(exclude_seen=False)
    PersonalizationPipeline(model=make_model(processor), processor=processor).save_pretrained(tmp_path / "again")
    unimp = PersonalizationPipeline(model=make_model(processor).eval(), processor=processor)
    output = score(tmp_path / "again", write(tmp_path / "histories.parquet", ROWS))
    assert same(answers(output), asked(unimp, ROWS, {}, exclude_seen=False))


def test_a_column_of_queries_asks_each_shopper_something_else(folder, unimp, tmp_path):
    rows = [row | {"query": query} for row, query in zip(ROWS, ["mug", "hat", "shoe", None, "hat", " ", "mug"])]  # noqa: B905
    output = score(folder, write(tmp_path / "histories.jsonl", rows))
    expected = {}
    for row in rows:
        if row["query"] and row["query"].strip():
            expected |= asked(unimp, [row], {"task": "search", "query": row["query"]})
    assert same(answers(output), expected)
    assert rejects(output).keys() == {"dan", "007"} and "expected a text" in rejects(output)["dan"]


def test_other_weights_and_a_retired_item(folder, tmp_path):
    processor = make_model_processor()
    processor.catalogue.retire(["m2"])
    make_model(processor).save_pretrained(tmp_path / "unimp")
    processor.save_pretrained(tmp_path / "unimp")
    found = answers(score(tmp_path / "unimp", write(tmp_path / "h.parquet", ROWS), "--dtype", "bfloat16"))
    assert found.keys() == SHOPPERS.keys()
    assert "m2" not in {item for items in found.values() for item, _ in items}


# ------------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("name", ["h.jsonl", "h.csv", "h.csv.gz", "h.jsonl.gz", "parquets", "csvs"])
def test_every_kind_of_table_gives_the_same_file(folder, tmp_path, name):
    expected = score(folder, write(tmp_path / "histories.parquet", ROWS)).read_bytes()
    if name in ("parquets", "csvs"):
        histories = tmp_path / "many"
        histories.mkdir()
        for number, start in enumerate(range(0, len(ROWS), 3)):
            rows = [dict(sorted(row.items(), reverse=number > 1)) for row in ROWS[start : start + 3]]
            write(histories / f"part-{number}.{name[:-1]}", rows)
        (histories / "_SUCCESS").touch()
    else:
        histories = write(tmp_path / name, ROWS)
    assert score(folder, histories).read_bytes() == expected


def test_ids_alone_and_ids_that_are_numbers(folder, unimp, tmp_path):
    rows = [{"user_id": n, "history": [item for item, _ in h]} for n, h in enumerate(SHOPPERS.values())]
    found = answers(score(folder, write(tmp_path / "histories.parquet", rows)))
    assert same(found, asked(unimp, [row | {"user_id": str(row["user_id"])} for row in rows], {}))


@pytest.mark.parametrize(
    ("name", "times"),
    [
        *[(f"interactions.{kind}", times) for kind in ("parquet", "csv", "jsonl.gz") for times in ("number", "text")],
        ("interactions.parquet", "date"),
    ],
)
def test_interactions_in_any_order_become_histories(folder, unimp, tmp_path, name, times):
    days = {"number": lambda t: float(t), "text": lambda t: f"2025-03-0{t + 1}", "date": lambda t: t * 10**15}
    rows = [row | {"timestamp": days[times](row["timestamp"]), "comment": "not read"} for row in INTERACTIONS]
    rows += [row | {"user_id": "zoe"} for row in rows[:2]] + [{**rows[0], "user_id": "zoe", "item_id": "h2"}]  # a tie
    order = random.Random(0).sample(range(len(rows)), len(rows))
    rows = [rows[number] for number in order]
    if times == "date":
        table = pa.Table.from_pylist(rows)
        table = table.set_column(2, "timestamp", table["timestamp"].cast(pa.timestamp("ns")))
        pq.write_table(table, tmp_path / name)
    else:
        write(tmp_path / name, rows)
    output = score(folder, tmp_path / name)
    histories = Histories.load(tmp_path / name, unimp.processor.catalogue)
    grouped = [
        {"user_id": u, "history": [{"item_id": e.item_id, "rating": e.rating} for e in histories[u]]}
        for u in sorted(histories)
    ]
    assert same(answers(output), asked(unimp, grouped, {}))


def test_unusable_interactions_are_told_and_passed_over(folder, tmp_path, caplog):
    good = write(tmp_path / "good.csv", INTERACTIONS)
    expected = answers(score(folder, good))
    header, *lines = good.read_text().splitlines()
    bad = [
        ",m1,3,5,x", "kim,,3,5,x", "lea,m1,soon,5,x", "mia,m1,,5,x", "too,few", '"open quote,m1,3,5,x',
        "ada,gone,9,5,x", "non,gone,9,5,x", "ned,m1,7,9,x",
    ]  # fmt: skip
    (tmp_path / "bad.csv").write_text("\n".join([header, *bad[:4], *lines, *bad[4:]]) + "\n")
    with caplog.at_level(logging.INFO, "unimp-recommend"):
        output = score(folder, tmp_path / "bad.csv")
    found = answers(output)
    assert found.pop("ned") and same(found, expected)
    lines = [json.loads(line) for line in output.with_suffix(".rejects.jsonl").read_text().splitlines()]
    assert [line["user_id"] for line in lines] == [None, None, None, "kim", "lea", "mia", "non"]
    for reason, words in zip(
        [line["reason"] for line in lines],
        ["2 cells", "cannot be read", "no user_id", "no item_id", '"soon"', '"": expected', "none of the history's 1"],
        strict=True,
    ):
        assert words in reason
    assert "2 unknown items left out" in caplog.text and "1 ratings left out" in caplog.text


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_ratings_that_cannot_be_read_are_counted_and_told(folder, tmp_path, caplog, kind):
    rows = [
        {"user_id": "ada", "item_id": item, "timestamp": second, "rating": rating}
        for second, (item, rating) in enumerate([("m1", "5 stars"), ("h1", "4,5"), ("s1", "4"), ("m2", None)])
    ]
    expected = answers(
        score(
            folder,
            write(tmp_path / "good.csv", [row | {"rating": [None, None, 4, None][n]} for n, row in enumerate(rows)]),
        )
    )
    with caplog.at_level(logging.INFO, "unimp-recommend"):
        assert same(answers(score(folder, write(tmp_path / f"bad.{kind}", rows))), expected)
    assert "2 ratings left out that are no number, such as '5 stars'" in caplog.text


def test_ratings_of_databases_are_numbers(folder, tmp_path, caplog):
    """Databases write stars as decimals."""
    kind = pa.list_(pa.struct([("item_id", pa.string()), ("rating", pa.decimal128(3, 1))]))
    histories = [
        [e | {"rating": None if e["rating"] is None else Decimal(e["rating"])} for e in row["history"]] for row in ROWS
    ]
    table = pa.table({"user_id": [row["user_id"] for row in ROWS], "history": pa.array(histories, kind)})
    pq.write_table(table, tmp_path / "decimals.parquet")
    expected = answers(score(folder, write(tmp_path / "h.parquet", ROWS)))
    assert same(answers(score(folder, tmp_path / "decimals.parquet")), expected)
    strange = [{"item_id": "m1", "rating": rating} for rating in (True, "5", 5.5)]
    with caplog.at_level(logging.INFO, "unimp-recommend"):
        output = score(folder, write(tmp_path / "h.jsonl", [{"user_id": "ada", "history": strange}]))
    assert "'ada' gave 'm1' the rating True: expected a number from 1 to 5" in caplog.text
    assert "3 ratings left out, not 1 to 5" in caplog.text and set(answers(output)) == {"ada"}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_numbers_among_dates_are_put_aside(folder, tmp_path, kind):
    """Of the whole table, wherever they are in it."""
    (tmp_path / "parts").mkdir()
    for number, times in enumerate((["20200101"], ["2019-05-01", "2018-01-01"])):
        rows = [{"user_id": f"u{number}{n}", "item_id": "m1", "timestamp": time} for n, time in enumerate(times)]
        write(tmp_path / "parts" / f"{number}.{kind}", rows)
    output = score(folder, tmp_path / "parts")
    assert rejects(output) == {"u00": 'an interaction has the timestamp "20200101": expected a date, as most are'}
    assert set(answers(output)) == {"u10", "u11"}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_table_without_a_usable_interaction(folder, tmp_path, kind):
    row = {"user_id": "ada", "item_id": "m1", "timestamp": "yesterday"}
    with pytest.raises(SystemExit, match="no shopper could be answered"):
        score(folder, write(tmp_path / f"interactions.{kind}", [row]))
    empty = pa.schema([(name, pa.string()) for name in row]).empty_table()
    pq.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(SystemExit, match="no shopper could be answered"):
        score(folder, tmp_path / "empty.parquet")


def test_grouping_says_what_it_needs(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(SystemExit, match="pip install duckdb"):
        score(folder, write(tmp_path / "interactions.parquet", INTERACTIONS))


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_columns_that_only_later_files_or_rows_have_are_read(folder, tmp_path, kind):
    events = [{name: row[name] for name in ("user_id", "item_id", "timestamp", "rating")} for row in INTERACTIONS]
    expected = answers(score(folder, write(tmp_path / f"whole.{kind}", events)))
    first = [row for row in events if row["user_id"] == "ada"]
    later = [row for row in events if row["user_id"] != "ada"]
    unrated = [{name: row[name] for name in ("user_id", "item_id", "timestamp")} for row in first]
    if kind == "jsonl":  # a thousand rows without stars come first
        unrated += [{"user_id": "zoe", "item_id": "h1", "timestamp": second} for second in range(1000)]
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / f"1.{kind}", unrated)
    write(tmp_path / "parts" / f"2.{kind}", later)
    found = answers(score(folder, tmp_path / "parts"))
    assert same({user: found[user] for user in ("bob", "cyd")}, {user: expected[user] for user in ("bob", "cyd")})
    assert [score for _, score in found["ada"]] != [score for _, score in expected["ada"]]  # whose stars are not known


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_column_called_nearly_as_one_of_ours_is_told(folder, tmp_path, caplog, kind):
    rows = [{"user_id": "u", "item_id": "s1", "timestamp": 1, "Rating": 5}]
    score(folder, write(tmp_path / f"h.{kind}", rows))
    assert f"h.{kind}: column 'Rating' is not used. Call it 'rating' if it is that" in caplog.text


def test_a_query_that_the_first_rows_do_not_have_is_told(folder, tmp_path):
    rows = [{"user_id": str(number), "history": ["m1"]} for number in range(1000)]
    output = score(folder, write(tmp_path / "h.jsonl", [*rows, {"user_id": "kim", "history": ["m1"], "query": "hat"}]))
    assert list(rejects(output)) == ["kim"] and "the query is 'hat'" in rejects(output)["kim"]
    assert len(answers(output)) == 1000


def test_each_file_of_a_folder_needs_its_columns(folder, tmp_path):
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "1.csv", [{"user_id": "ada", "item_id": "m1", "timestamp": 1}])
    write(tmp_path / "parts" / "2.csv", [{"user_id": "ada", "sku": "m1", "timestamp": 1}])
    with pytest.raises(SystemExit, match=r"2.csv has the columns user_id, sku, timestamp. Expected"):
        score(folder, tmp_path / "parts")


def test_times_that_python_has_no_value_for_are_read(folder, tmp_path):
    far = pa.array([1_600_000_000_000, 5, 7], pa.timestamp("s"))  # milliseconds that were taken for seconds
    zone, days = far.cast(pa.timestamp("s", tz="Moon/Crater")), pa.array([9**8, 5, 7], pa.date32())
    for name, column in {"far": far, "zone": zone, "days": days}.items():
        table = pa.table({"user_id": ["ada", "ada", "bob"], "item_id": ["m1", "s1", "m2"], "timestamp": column})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        assert set(answers(score(folder, tmp_path / f"{name}.parquet"))) == {"ada", "bob"}


def test_what_is_there_is_not_overwritten(folder, tmp_path):
    table = write(tmp_path / "recommendations.parquet", ROWS)
    before = table.read_bytes()
    with pytest.raises(SystemExit, match="is a file of --histories"):
        score(folder, table)
    assert table.read_bytes() == before
    (tmp_path / "best").mkdir()
    for option in ("--output", "--rejects"):
        with pytest.raises(SystemExit, match="best is a folder"):
            score(folder, table, "--output", tmp_path / "other.parquet", option, tmp_path / "best")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rejects", "h.jsonl"], "--rejects h.jsonl is a file of --histories"),
        (["--output", "h.parquet", "--rejects", "link.jsonl"], "--rejects link.jsonl is a file of --histories"),
        (["--output", "h.parquet", "--histories", "h.rejects.jsonl"], "h.rejects.jsonl is a file of --histories"),
        (["--output", "stock.txt", "--allowed", "stock.txt"], "--output stock.txt is the file of --allowed"),
        (["--rejects", "stock.txt", "--allowed", "stock.txt"], "--rejects stock.txt is the file of --allowed"),
        (["--output", "best.csv"], "--output best.csv: what is written is parquet"),
        (["--output", "best.parquet", "--rejects", "h.jsonl/no.jsonl"], "its folder cannot be made"),
        (["--output", "best.parquet", "--rejects", "./best.parquet"], "--rejects best.parquet is --output too"),
    ],
)
def test_rejects_overwrite_nothing(folder, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    for name in ("h.jsonl", "h.rejects.jsonl"):
        write(Path(name), ROWS)
    Path("link.jsonl").symlink_to("h.jsonl")
    Path("stock.txt").write_text("m1\n")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(SystemExit, match=message):
        score(folder, tmp_path / "h.jsonl", *options)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_damaged_parts_are_named(folder, tmp_path):
    histories = write(tmp_path / "h.parquet", ROWS)
    parts = tmp_path / "recommendations.parquet.parts"
    parts.mkdir()
    (parts / "run.json").write_text("{")
    with pytest.raises(SystemExit, match=r"run.json is damaged.*--restart"):
        score(folder, histories)
    assert answers(score(folder, histories, "--restart"))


# ----------------------------------------------------------------------------------------------------------- rejects


def test_one_bad_row_takes_nobody_along(folder, unimp, tmp_path):
    everything = [item["item_id"] for item in ITEMS]
    bad = {
        "nil": (None, "expected a list"),
        "odd": ("m1", "not JSON"),
        "dim": (7, "expected a list"),
        "all": (everything, "no item is left"),
        "old": (["gone", {"item_id": None}], "none of the history's 2 items"),
    }
    good = [{"user_id": row["user_id"], "history": [*row["history"], "gone"]} for row in ROWS]
    good.append({"user_id": "new", "history": []})
    good[3]["history"] = [event | {"rating": 6} if isinstance(event, dict) else event for event in good[3]["history"]]
    lines = [json.dumps({"user_id": user, "history": history}) for user, (history, _) in bad.items()]
    lines += ["{not json", "[1, 2]", '{"history": ["m1"]}', "\udcff", ""]
    lines += [json.dumps(row) for row in good]
    random.Random(1).shuffle(lines)
    file = tmp_path / "histories.jsonl"
    file.write_text("\n".join(lines) + "\n", errors="surrogateescape")
    output = score(folder, file)
    found = answers(output)
    plain = [row | {"history": [e if "rating" in e else e["item_id"] for e in row["history"]]} for row in ROWS]
    plain[3] = {"user_id": "dan", "history": ["s2", "h2"]}
    expected = asked(unimp, [*plain, {"user_id": "new", "history": []}], {})
    assert same({user: found[user] for user in expected}, expected) and len(found) == len(expected)
    marked = {(row["user_id"], row["without_history"]) for row in pq.read_table(output).to_pylist()}
    assert marked == {(user, user == "new") for user in found}
    told = [json.loads(line) for line in output.with_suffix(".rejects.jsonl").read_text().splitlines()]
    assert {line["user_id"] for line in told} == {*bad, None} and len(told) == len(bad) + 4
    for line in told:
        if line["user_id"] is not None:
            assert bad[line["user_id"]][1] in line["reason"]
    assert sum("cannot be read" in line["reason"] for line in told) == 3
    assert sum("user_id None" in line["reason"] for line in told) == 1


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_history_that_is_too_long_is_put_aside(folder, tmp_path, kind):
    """A parquet of some hundred bytes may hold a history of millions."""
    rows = [{"user_id": "big", "history": ["m1"] * 300_000}, {"user_id": "ada", "history": ["m1"]}]
    output = score(folder, write(tmp_path / f"h.{kind}", rows))
    assert rejects(output) == {"big": "the history has 300000 entries: at most 10000 are taken. Leave some out."}
    assert set(answers(output)) == {"ada"}


@pytest.mark.parametrize("kind", ["histories", "interactions"])
def test_a_row_is_let_go_before_the_next_one_is_read(folder, tmp_path, kind):
    """Each line holds a list that takes many times its text."""
    junk = "[" + ",".join(["[]"] * 20_000) + "]"
    lines = []
    for n in range(40):
        row = {"user_id": f"u{n}"}
        row |= (
            {"history": ROWS[1]["history"]}
            if kind == "histories"
            else {"item_id": ITEMS[0]["item_id"], "timestamp": n}
        )
        lines.append(json.dumps(row)[:-1] + (f', "rating": {junk}}}' if n else "}"))
    (tmp_path / "h.jsonl").write_text("\n".join(lines))
    tracemalloc.start()
    output = score(folder, tmp_path / "h.jsonl", "--shoppers_per_part", 100)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(answers(output)) == (40 if kind == "histories" else 1)
    assert most < 30_000_000, "one row takes 1.6 MB"


def test_a_row_of_parquet_has_as_many_bytes_as_a_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_unimp.serving.history_tables.MAX_ROW_BYTES", 10_000)
    rows = [{"user_id": "ada", "history": ["m1"]}, {"user_id": "big", "history": ["m" * 100] * 1_000}]
    output = score(folder, write(tmp_path / "h.parquet", rows))
    assert rejects(output) == {None: "row 2 of h.parquet cannot be read: longer than 10000 bytes."}
    assert set(answers(output)) == {"ada"}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_an_item_that_names_a_key_twice_is_put_aside(folder, tmp_path, kind):
    rows = [{"user_id": "ada", "history": [{"item_id": "m1", "other": "h1"}]}, {"user_id": "bob", "history": ["m1"]}]
    file = write(tmp_path / f"h.{kind}", rows)
    file.write_text(file.read_text().replace("other", "item_id"))
    output = score(folder, file)
    (reason,) = rejects(output).values()
    assert set(answers(output)) == {"bob"} and "'item_id' more than once" in reason


def test_columns_of_one_name_are_told(folder, tmp_path):
    history = pa.array([["m1"]])
    table = pa.Table.from_arrays([pa.array(["ada"]), history, history], ["user_id", "history", "history"])
    pq.write_table(table, tmp_path / "h.parquet")
    with pytest.raises(SystemExit, match="the header of h.parquet has 'history' more than once"):
        score(folder, tmp_path / "h.parquet")


def test_a_night_without_any_answer_keeps_the_last_one(folder, tmp_path):
    output = score(folder, write(tmp_path / "good.parquet", ROWS))
    before = output.read_bytes()
    with pytest.raises(SystemExit, match="no shopper could be answered"):
        score(folder, write(tmp_path / "bad.parquet", [{"user_id": "ada", "history": ["gone"]}]))
    assert output.read_bytes() == before and "gone" in rejects(output)["ada"]
    assert score(folder, tmp_path / "good.parquet").read_bytes() == before


def test_scores_that_are_no_numbers_are_told(tmp_path):
    processor = make_model_processor()
    model = make_model(processor)
    torch.nn.init.constant_(model.model.item_embeddings.read.items, float("nan"))
    model.save_pretrained(tmp_path / "unimp")
    processor.save_pretrained(tmp_path / "unimp")
    with pytest.raises(SystemExit, match="no shopper could be answered"):
        score(tmp_path / "unimp", write(tmp_path / "h.parquet", ROWS))
    assert "no numbers" in rejects(tmp_path / "recommendations.parquet")["ada"]


# ----------------------------------------------------------------------------------------------------- interruptions


def test_finished_parts_belong_to_one_run(folder, tmp_path):
    expected = score(folder, write(tmp_path / "same.parquet", ROWS), "--shoppers_per_part", 10).read_bytes()
    histories = tmp_path / "histories"
    histories.mkdir()
    write(histories / "1.jsonl.gz", [row | {"user_id": n} for n, row in enumerate(ROWS * 5)])
    broken = write(histories / "2.jsonl.gz", ROWS)
    broken.write_bytes(broken.read_bytes()[:-20])  # an upload that broke off
    with pytest.raises(SystemExit, match="2.jsonl.gz is no whole gzip file"):
        score(folder, histories, "--shoppers_per_part", 10)
    parts = tmp_path / "recommendations.parquet.parts"
    assert len(list(parts.glob("part-*.parquet"))) > 2
    for options, name in ((["--shoppers_per_part", 10], "histories"), (["--top_k", 3], "top_k, hist")):
        with pytest.raises(SystemExit, match=f"finished parts of a run that differed in: .*{name}"):
            score(folder, tmp_path / "same.parquet", *options)
    output = score(folder, tmp_path / "same.parquet", "--shoppers_per_part", 10, "--restart")
    assert output.read_bytes() == expected


@pytest.mark.slow
def test_killed_and_gone_on_with_by_two_processes(folder, tmp_path):
    """Real processes: kill -9 in the middle of one, then two finish its work; the file is that of a quiet night."""
    rows = [{"user_id": f"{n:05d}", "history": ROWS[n % 7]["history"][: 1 + n % 5]} for n in range(400)]
    histories = write(tmp_path / "histories.parquet", rows)
    small = ["--shoppers_per_part", "20", "--batch_size", "8", "--device", "cpu"]
    quiet = score(folder, histories, *small).rename(tmp_path / "quiet.parquet")
    output = tmp_path / "recommendations.parquet"
    options = ["--model", folder, "--histories", histories, "--output", output, *small]
    module = ["modeling_unimp.serving.batch_scoring", list(map(str, options))]
    first = start(run_module, *module, output=tmp_path / "said")
    parts, deadline = output.with_name(output.name + ".parts"), time.monotonic() + 120
    while len(list(parts.glob("part-*.parquet"))) < 3 and first.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    first.kill()
    first.join()
    assert first.exitcode == -signal.SIGKILL and not output.exists()
    finished = {file: file.stat().st_mtime_ns for file in parts.glob("part-*.parquet")}
    assert 3 <= len(finished) < 20
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    launcher += ["--rdzv_endpoint", "localhost:0", "-m", module[0], *module[1]]
    second = subprocess.run(
        [sys.executable, *launcher], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert second.returncode == 0, second.stderr[-3000:]
    assert f"{len(finished)} finished parts, going on" in second.stderr and "process 1 of 2" in second.stderr
    assert output.read_bytes() == quiet.read_bytes() and not parts.exists()


# ---------------------------------------------------------------------------------------------------------- pictures


def test_pictures_are_read_once_and_not_every_night(folder, unimp, tmp_path):
    histories = write(tmp_path / "h.parquet", ROWS)
    expected = score(folder, histories).read_bytes()
    store = tmp_path / "recommendations.parquet.vision_features"
    made = (store / "features.bin").stat().st_mtime_ns
    assert score(folder, histories).read_bytes() == expected
    assert (store / "features.bin").stat().st_mtime_ns == made

    processor = make_model_processor()
    make_model(processor, seed=1).save_pretrained(tmp_path / "unimp")  # trained again: another tower
    processor.save_pretrained(tmp_path / "unimp")
    assert score(tmp_path / "unimp", histories).read_bytes() != expected
    assert (store / "features.bin").stat().st_mtime_ns != made

    with pytest.raises(SystemExit, match="not of this tower"):
        score(folder, histories, "--vision_features", store)
    given = tmp_path / "given"
    assert score(folder, histories, "--vision_features", given).read_bytes() == expected
    shutil.rmtree(store)
    shutil.copytree(folder, tmp_path / "as_trained")
    shutil.copytree(given, tmp_path / "as_trained" / "vision_features")
    assert score(tmp_path / "as_trained", histories).read_bytes() == expected
    assert not store.exists()
    features = FeatureStore.open(given, unimp.processor.catalogue.picture_digests())
    assert same(
        answers(histories.parent / "recommendations.parquet"), asked(unimp, ROWS, {}, vision_features=features)
    )


def live(folder: Path, at: Path) -> PersonalizationPipeline:
    """A copy of a model as a server has it, with the features that its training left."""
    shutil.copytree(folder, at)
    unimp = pipeline("personalization", model=str(at), device="cpu")
    catalogue, processor = unimp.processor.catalogue, unimp.processor
    FeatureStore.build(
        unimp.model.model.vision_tower,
        processor.image_processor,
        lambda number: catalogue.picture(catalogue.item_id(number)),
        catalogue.picture_digests(),
        at / "vision_features",
        dtype=torch.float32,
    )
    return unimp


def test_pictures_that_changed_and_items_that_came_since_the_training(folder, tmp_path):
    unimp = live(folder, tmp_path / "unimp")
    left_by_training = (tmp_path / "unimp" / "vision_features" / "pictures.bin").read_bytes()
    histories, store = write(tmp_path / "h.parquet", ROWS), tmp_path / "recommendations.parquet.vision_features"
    before = asked(unimp, ROWS, {})
    assert same(answers(score(tmp_path / "unimp", histories)), before) and not store.exists()

    changed = [{"item_id": "m1", "image": picture("green", 50)}, {"item_id": "h2", "image": picture("red")}]
    unimp.update_items([*changed, {"item_id": "s1", "image": None}])
    unimp.save_pretrained(tmp_path / "unimp")
    for options in ([], [], ["--vision_features", tmp_path / "given"]):
        found = answers(score(tmp_path / "unimp", histories, *options))
        assert same(found, asked(unimp, ROWS, {})) and found != before
    seen = (store / "pictures.bin").stat().st_size
    assert seen == 4 * 24  # s1 has none any longer, s2 had none; h2 is now as m1 was

    unimp.add_items(
        [{"item_id": "x1", "title": "New hat", "category": "hat", "price": 1.0, "image": picture("blue", 9)}]
    )
    unimp.save_pretrained(tmp_path / "unimp")
    assert same(answers(score(tmp_path / "unimp", histories)), asked(unimp, ROWS, {}))
    assert (store / "pictures.bin").stat().st_size == seen + 24
    assert (tmp_path / "unimp" / "vision_features" / "pictures.bin").read_bytes() == left_by_training


def test_a_run_is_not_gone_on_with_after_pictures_changed(folder, tmp_path):
    unimp = live(folder, tmp_path / "unimp")
    histories = tmp_path / "histories"
    histories.mkdir()
    write(histories / "1.jsonl.gz", ROWS)
    broken = write(histories / "2.jsonl.gz", ROWS)
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-20])
    with pytest.raises(SystemExit, match="no whole gzip file"):
        score(tmp_path / "unimp", histories)
    broken.write_bytes(whole)
    unimp.update_items([{"item_id": "m1", "image": picture("green")}])
    unimp.save_pretrained(tmp_path / "unimp")
    with pytest.raises(SystemExit, match="finished parts of a run that differed in: .*pictures"):
        score(tmp_path / "unimp", histories)


def test_a_model_without_pictures(tmp_path):
    processor = make_model_processor()
    model = make_model(processor, fusion="none")
    processor.num_image_tokens = model.config.num_image_tokens
    model.save_pretrained(tmp_path / "unimp")
    processor.save_pretrained(tmp_path / "unimp")
    assert answers(score(tmp_path / "unimp", write(tmp_path / "h.parquet", ROWS))).keys() == SHOPPERS.keys()
    assert not (tmp_path / "recommendations.parquet.vision_features").exists()


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"user": "ada", "history": ["m1"]}], [], "has the columns user, history. Expected user_id and history"),
        ([{"user_id": "ada", "history": ["m1"], "query": "hat"}], ["--query", "mug"], "leave one of them out"),
        (ROWS, ["--top_k", 0], "--top_k 0: expected at least 1"),
        (ROWS, ["--allowed", "stock.txt"], "stock.txt names no item"),
        (ROWS, ["--allowed", "nowhere.txt"], "nowhere.txt"),
        (ROWS, ["--model", "no/such-folder"], "no/such-folder"),
        (ROWS, ["--device", "tpu9"], "--device tpu9"),
        (ROWS, ["--allowed", "binary.txt"], "binary.txt is no text"),
        (INTERACTIONS, ["--memory_limit", "abc"], "--memory_limit abc"),
    ],
)
def test_mistakes_are_told(folder, tmp_path, monkeypatch, rows, options, message):
    monkeypatch.chdir(tmp_path)
    Path("stock.txt").write_text("gone\n")
    Path("binary.txt").write_bytes(bytes(range(256)))
    with pytest.raises(SystemExit) as error:
        score(folder, write(tmp_path / "h.jsonl", rows), *options)
    assert message in str(error.value)


def test_files_that_are_no_tables_are_told(folder, tmp_path):
    (tmp_path / "mixed").mkdir()
    write(tmp_path / "mixed" / "a.csv", ROWS)
    write(tmp_path / "mixed" / "b.jsonl", ROWS)
    for path in ("nowhere.parquet", "mixed", "h.xlsx"):
        with pytest.raises(SystemExit, match="expected a file, or a folder of files of one kind"):
            score(folder, tmp_path / path)


def test_several_processes_say_what_they_need(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    histories = write(tmp_path / "h.parquet", ROWS)
    with pytest.raises(SystemExit, match="each takes a device of its own"):
        score(folder, histories, "--device", "cuda:1")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(SystemExit, match="pip install accelerate"):
        score(folder, histories)
