"""Files of anybody's making: read strictly, alike in every kind, and with the line of what cannot be read."""

import gzip
import json
import logging

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from processing_unimp import Catalogue
from processing_unimp.tables import MAX_ROW_LINES, find_table, read_rows, read_table

ROWS = [
    {"item_id": "0012", "title": 'a "b", c\n\nd', "price": 1.5, "tags": ["x", "y"]},
    {"item_id": "0013", "title": "NA", "price": None, "tags": None},
    {"item_id": "7", "title": None, "price": 2.0, "tags": []},
]


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(path, text):
    return read_table(write(path, text)).to_pylist()


def rows_of(path, text):
    """What is read and what is put aside."""
    header, rows = read_rows(write(path, text))
    found = list(rows)
    return [row.values for row in found if row.problem is None], {
        row.place: row.problem for row in found if row.problem is not None
    }


# ------------------------------------------------------------------------------------------------------------- alike


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json", "json pretty", "json lines"])
def test_every_kind_of_file_holds_the_same(tmp_path, kind, packed):
    path = tmp_path / f"items.{kind.split()[0]}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind in ("json", "json pretty"):
        path.write_text(json.dumps(ROWS, indent=3 if "pretty" in kind else None))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    if packed and kind != "parquet":
        path = write(tmp_path / (path.name + ".gz"), gzip.compress(path.read_bytes()))
    assert read_table(path).to_pylist() == ROWS
    assert read_table(path, ["title", "item_id", "gone"]).select(["item_id"]).to_pylist() == [
        {"item_id": row["item_id"]} for row in ROWS
    ]


def test_the_cells_of_a_csv_are_text_and_may_hold_anything(tmp_path):
    frame = pd.DataFrame([{name: row[name] for name in ("item_id", "title", "price")} for row in ROWS])
    frame.to_csv(tmp_path / "items.csv", index=False)
    expected = [
        {"item_id": "0012", "title": 'a "b", c\n\nd', "price": "1.5"},
        {"item_id": "0013", "title": "NA", "price": None},
        {"item_id": "7", "title": None, "price": "2.0"},
    ]
    assert read_table(tmp_path / "items.csv").to_pylist() == expected
    packed = write(tmp_path / "items.csv.gz", gzip.compress((tmp_path / "items.csv").read_bytes()))
    assert read_table(packed).to_pylist() == expected
    assert rows_of(tmp_path / "again.csv", (tmp_path / "items.csv").read_text()) == (expected, {})


def test_what_databases_write_for_nothing(tmp_path):
    found = read(tmp_path / "a.csv", "user_id,title\nNULL,\\N\n,x\n")
    assert found == [{"user_id": None, "title": None}, {"user_id": None, "title": "x"}]


def test_whole_numbers_with_gaps_are_the_same_ids_in_csv(tmp_path):
    found = read(tmp_path / "a.csv", "user_id,item_id,size\n12.0,-3.00,12.0\n1.10,007.0,x\n")
    assert [(row["user_id"], row["item_id"]) for row in found] == [("12", "-3"), ("1.10", "007.0")]
    assert found[0]["size"] == "12.0", "not an id"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_index_of_a_data_frame_is_passed_over(tmp_path, kind, caplog):
    frame = pd.DataFrame({"item_id": ["a", "b"], "title": ["x", "y"]}, index=[5, 6])
    path = tmp_path / f"items.{kind}"
    with caplog.at_level(logging.INFO):
        if kind == "csv":
            frame.to_csv(path)
            pd.read_csv(path).to_csv(path)  # once more: "Unnamed: 0" and one without a name
        else:
            frame.to_parquet(path)
        assert read_table(path).to_pylist() == [{"item_id": "a", "title": "x"}, {"item_id": "b", "title": "y"}]
    assert "not used" in caplog.text


def test_a_byte_order_mark_and_other_ends_of_lines(tmp_path):
    assert read(tmp_path / "a.csv", "\ufeffitem_id,title\r\na,x\r\n\r\nb,y") == [
        {"item_id": "a", "title": "x"},
        {"item_id": "b", "title": "y"},
    ]
    assert read(tmp_path / "a.jsonl", '\ufeff{"item_id": "a"}\r\n\n') == [{"item_id": "a"}]


# ------------------------------------------------------------------------------------------------------------ strict


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "item_id,title,category\ns1,Shirt, blue,top\ns2,Hat,head\n",
            "line 2 of items.csv: 4 cells, and the header has 3",
        ),
        ("item_id,title\ns1,Shirt,\ns2,Hat,\n", "line 2 of items.csv: 3 cells, and the header has 2"),
        ('item_id,title\ns1,"a\nb"\ns2\n', "line 4 of items.csv: 1 cells, and the header has 2"),
        ('item_id,title\ns1,"a\ns2,b\n', "line 2 of items.csv: unexpected end of data"),
        ('item_id,title\ns1,"a"b\n', "line 2 of items.csv: ',' expected after"),
        ("item_id,title,title\ns1,a,b\n", "the header of items.csv has 'title' more than once"),
        ("item_id;title\ns1;a, b\n", "the header of items.csv is one cell, 'item_id;title': .* divided by ';'"),
        (
            "item_id\ttitle\ns1\ta\n",
            "the header of items.csv is one cell, .* its columns seem to be divided by .*Expected commas",
        ),
        (b"item_id,title\ns1,caf\xe9\n", "line 2 of items.csv: no UTF-8 .byte 7.; save the file as UTF-8"),
        ("item_id,title\ns1,x\n".encode("utf-16"), "the header of items.csv cannot be read: no UTF-8"),
    ],
)
def test_a_csv_that_is_none_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"cannot read the table .*items.csv.* as csv: {message}"):
        read(tmp_path / "items.csv", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"item_id": "1"}\n oh\n', "line 2 of items.json: no JSON: Expecting value"),
        ('{"item_id": "1"}\n[1, 2]\n', "line 2 of items.json: list, and no object"),
        ('[{"item_id": "1"}, 3]', "row 2 of items.json: int, and no object"),
        ('[{"item_id": "1"}, {"item_id": ]', "row 2 of items.json: no JSON from here on"),
        ('[{"item_id": "1"}', "row 2 of items.json: no JSON from here on"),
        ('[{"item_id": "1"}] {"item_id": "2"}', "row 2 of items.json: text after the end"),
        ("[" * 100_000, "row 1 of items.json: lists or objects too deep"),
        ('{"a": ' * 100_000, "line 1 of items.json: lists or objects too deep"),
        (b'{"item_id": "caf\xe9"}', "line 1 of items.json: no JSON: no UTF-8"),
        (b'[{"item_id": "1"}, {"item_id": "caf\xe9"}]', "row 2 of items.json: no UTF-8; save the file as UTF-8"),
        (b'[{"item_id": "1"}, {"item_id": "caf\xc3', "row 2 of items.json: no JSON from here on"),
        ('{"item_id": "1", "item_id": "2"}', "line 1 of items.json: no JSON: the key 'item_id' more than once"),
        ('[{"tags": {"a": 1, "a": 1}}]', "row 1 of items.json: no JSON: the key 'a' more than once"),
    ],
)
def test_json_that_is_none_is_refused_with_its_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"cannot read the table .*items.json.* as json: {message}"):
        read(tmp_path / "items.json", text)


def test_other_files_are_told(tmp_path):
    with pytest.raises(ValueError, match="unknown kind"):
        read(tmp_path / "items.xlsx", "x")
    with pytest.raises(ValueError, match="as parquet"):
        read(tmp_path / "items.parquet", "no parquet")
    whole = gzip.compress(b"item_id\n" + b"a\n" * 1000)
    for broken in (whole[:40], whole[:10] + b"\xff" * 40, b"no gzip"):
        with pytest.raises(ValueError, match="items.csv.gz is no whole gzip file"):
            read(tmp_path / "items.csv.gz", broken)
    with pytest.raises(ValueError, match="holds no items table"):
        find_table(tmp_path / "..", "items", also=["x"])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
def test_a_table_of_too_many_columns_is_refused(tmp_path, kind):
    path, names = tmp_path / f"items.{kind}", [f"c{number}" for number in range(1_001)]
    if kind == "csv":
        write(path, ",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
    elif kind == "parquet":
        pq.write_table(pa.table({name: [1] for name in names}), path)
    else:
        rows = [json.dumps({name: 1}) for name in names]  # each row brings another
        write(path, "[" + ",".join(rows) + "]" if kind == "json" else "\n".join(rows))
    with pytest.raises(ValueError, match="has 1001 columns: at most 1000 are read. Leave some out"):
        read_table(path)
    if "json" in kind:
        with pytest.raises(ValueError, match="items.json.* has 1001 columns"):
            read_table(path, ["item_id"])


def test_a_csv_of_as_many_columns_as_may_be(tmp_path):
    header = ["item_id", *[f"c{number}" for number in range(999)]]
    catalogue = Catalogue.load(write(tmp_path / "items.csv", ",".join(header) + "\n" + ",".join("1" for _ in header)))
    assert catalogue.attributes == header[1:] and set(catalogue.item("1").values()) == {1, "1"}


# -------------------------------------------------------------------------------------------------------- row by row


def test_a_row_that_is_none_costs_itself_alone(tmp_path):
    text = 'user_id,comment\nann,"warm\n\nand soft"\nbob,one,two\n\ncyd,fine\n'
    text += 'dan,"open\neve,fine\nfay,"shut"\ngus,"a"b\nhal,x\n'
    read_, problems = rows_of(tmp_path / "a.csv", text)
    assert [row["user_id"] for row in read_] == ["ann", "cyd", "eve", "fay", "hal"]
    assert read_[0]["comment"] == "warm\n\nand soft"
    assert list(problems) == ["line 5 of a.csv", "line 8 of a.csv", "line 11 of a.csv"]


def test_a_quote_that_stays_open_costs_its_own_line(tmp_path):
    lines = ["user_id,comment", 'ann,"open', *[f"u{n},fine" for n in range(3 * MAX_ROW_LINES)]]
    read_, problems = rows_of(tmp_path / "a.csv", "\n".join(lines))
    assert len(read_) == 3 * MAX_ROW_LINES and list(problems) == ["line 2 of a.csv"]


def test_lines_without_end_are_put_aside(tmp_path, monkeypatch):
    monkeypatch.setattr("processing_unimp.tables.MAX_ROW_BYTES", 100)
    long = json.dumps({"user_id": "x" * 150})
    read_, problems = rows_of(tmp_path / "a.jsonl", f'{{"user_id": "a"}}\n{long}\n{{"user_id": "b"}}\n')
    assert read_ == [{"user_id": "a"}, {"user_id": "b"}] and list(problems) == ["line 2 of a.jsonl"]
    # The end of the long line has as many cells as the header, and is no row all the same.
    read_, problems = rows_of(tmp_path / "a.csv", "user_id,x\na,1\nb," + "y" * 250 + ",z\nc,2\nd\n")
    assert [row["user_id"] for row in read_] == ["a", "c"]
    assert list(problems) == ["line 3 of a.csv", "line 5 of a.csv"]


def test_a_csv_in_another_encoding_is_read_if_it_is_named(tmp_path):
    path = write(tmp_path / "a.csv", "title,caf\u00e9\nZ\u00fcrich,1\n".encode("latin-1"))
    header, rows = read_rows(path, "latin-1")
    assert header == ["title", "caf\u00e9"] and [row.values for row in rows] == [
        {"title": "Z\u00fcrich", "caf\u00e9": "1"}
    ]
    header, rows = read_rows(write(path, b"title\nZ\xfcrich\n"), "utf-8")
    assert [row.values for row in rows] == [{"title": "Z\N{REPLACEMENT CHARACTER}rich"}]


def test_a_gzip_file_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("processing_unimp.bounds.MAX_UNPACKED_BYTES", 300_000)
    for kind in ("csv", "jsonl", "json"):
        path = write(tmp_path / f"items.{kind}.gz", gzip.compress(b"\n" * 600_000))
        with pytest.raises(ValueError, match=f"items.{kind}.gz grows to more than 200 times its size"):
            list(read_rows(path)[1])
    path = write(tmp_path / "items.csv.gz", gzip.compress(b"title\n" + b"x\n" * 140_000))
    assert len(list(read_rows(path)[1])) == 140_000


def test_an_array_is_read_as_far_as_the_next_row_needs(tmp_path):
    rows = [{"user_id": str(n), "text": "x" * n} for n in range(300)]
    for indent in (None, 1):
        assert rows_of(tmp_path / "a.json", json.dumps(rows, indent=indent)) == (rows, {})
    read_, problems = rows_of(tmp_path / "a.json", json.dumps(rows)[:-20])
    assert read_ == rows[:-1] and list(problems) == ["row 300 of a.json"]


def test_a_row_of_an_array_costs_itself_alone(tmp_path):
    """What is JSON all the same is passed over by its brackets, wherever lines and pieces end."""
    deep = "[" * 100_000 + "]" * 100_000
    bad = [
        f'{{"user_id": "b", "x": ["]}}\\"", {deep}]}}',
        '{"user_id": "b", "x": {"[\\\\": 1, "[\\\\": 2}}',
        '{"user_id": "b", "x": ' + "9" * 5_000 + "}",
        "9" * 5_000,
        '{"user_id": "b\udce9", "x": "]"}',
        "3",
    ]
    good = [{"user_id": str(number)} for number in range(len(bad))]
    for between in (",", "\n,\n", ",\n" * 3):
        text = between.join(f"{one}{between}{json.dumps(other)}" for one, other in zip(bad, good, strict=True))
        read_, problems = rows_of(tmp_path / "a.json", f"[{text}]".encode("utf-8", "surrogateescape"))
        assert read_ == good and list(problems) == [f"row {number} of a.json" for number in range(1, 12, 2)]
        words = ["too deep", "more than once", "4300 digits", "4300 digits", "no UTF-8", "int, and no object"]
        assert all(word in problem for word, problem in zip(words, problems.values(), strict=True))


def test_people_of_another_encoding_do_not_become_one(tmp_path):
    rows = '[{"user_id": "caf\xe9"}, {"user_id": "caf\xe8"}, {"user_id": "\\ud83d"}]'
    read_, problems = rows_of(tmp_path / "a.json", rows.encode("latin-1"))
    assert read_ == [{"user_id": "\ud83d"}] and list(problems) == ["row 1 of a.json", "row 2 of a.json"]
    assert len(rows_of(tmp_path / "a.json", rows)[0]) == 3


def test_rows_after_an_array_are_read_too(tmp_path):
    read_, problems = rows_of(tmp_path / "a.jsonl", '[1, {"user_id": "a"}]\n{"user_id": "b"}\n')
    assert read_ == [{"user_id": "a"}, {"user_id": "b"}] and list(problems) == ["row 1 of a.jsonl"]
