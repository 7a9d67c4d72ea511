"""Raw files row by row: two encodings, every layout, and what cannot be read costs itself alone."""

import ast
import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from processing_unimp.tables import MAX_ROW_BYTES, Row
from recipes.raw_files import csv_rows, encoding_of, read_fields, read_records, read_whole_json


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def select(path: Path, required: list[str], rejected: list[Row] | None = None) -> list[dict[str, Any]]:
    reject = None if rejected is None else rejected.append
    found = duckdb.sql(f"SELECT * FROM {csv_rows(path, required, path.parent, reject)}")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


# --- CSV


def test_cells_are_text_and_may_hold_anything(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,title\r\n007,"a, ""b""\nc"\r\n8,\n\n9,NULL\n')
    expected = [{"id": "007", "title": 'a, "b"\nc'}, {"id": "8", "title": None}, {"id": "9", "title": None}]
    assert select(path, ["id"]) == expected, "also with two kinds of line ends in one file"
    packed = write(tmp_path / "b.csv.gz", gzip.compress(path.read_bytes()))
    assert select(packed, ["title"]) == expected


def test_the_index_of_a_data_frame_is_passed_over(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a", "b"], "title": ["x", "y"]}).to_csv(tmp_path / "a.csv")
    pd.read_csv(tmp_path / "a.csv").to_csv(tmp_path / "b.csv")  # once more
    for name in ("a.csv", "b.csv"):
        assert select(tmp_path / name, ["title"]) == [{"id": "a", "title": "x"}, {"id": "b", "title": "y"}]


@pytest.mark.parametrize("start", ["\ufeff", "\n\r\n", "\ufeff\n"])
def test_a_mark_or_blank_lines_before_the_header(tmp_path: Path, start: str) -> None:
    assert select(write(tmp_path / "a.csv", f"{start}id,title\n1,x\n"), ["id"]) == [{"id": "1", "title": "x"}]


def test_a_name_that_is_there_twice_never_stands_for_another(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the header of a.csv has 'title' more than once"):
        csv_rows(write(tmp_path / "a.csv", "id,title,title\n1,x,y\n"), ["title"])
    # SQL takes the first of two names that differ in their letter case.
    assert select(write(tmp_path / "a.csv", "Title,title\nx,y\n"), ["title"]) == [{"title": "y"}]


@pytest.mark.parametrize(
    ("header", "said"),
    [("id,name", "id, name"), (",,", "none"), ("", "1, 2"), ("Title", "Title")],
)
def test_a_missing_column_is_named(tmp_path: Path, header: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"a.csv has no column title; it has {said}"):
        csv_rows(write(tmp_path / "a.csv", f"{header}\n1,2\n"), ["title"])
    with pytest.raises(ValueError, match="a.csv is one cell, 'id;title': its columns seem to be divided by ';'"):
        csv_rows(write(tmp_path / "a.csv", "id;title\n1;2\n"), ["title"])


def test_a_row_that_cannot_be_read_costs_itself_alone(tmp_path: Path) -> None:
    lines = [
        "id,title",
        "1",
        "2,x,y",
        "3,x",
        "4,x,",
        '5,"left open',
        "6,x",
        '7,"a"b',
        f"8,{'x' * MAX_ROW_BYTES},",
        "9,x",
    ]
    rejected: list[Row] = []
    assert [row["id"] for row in select(write(tmp_path / "a.csv", "\n".join(lines)), ["id"], rejected)] == [
        "3",
        "6",
        "9",
    ]
    assert [row.place for row in rejected] == [f"line {number} of a.csv" for number in (2, 3, 5, 6, 8, 9)]
    assert "1 cells, and the header has 2" in str(rejected[0].problem)


def test_a_file_without_one_row_that_can_be_read_is_refused(tmp_path: Path) -> None:
    assert select(write(tmp_path / "a.csv", "id,title\n"), ["id"]) == []
    with pytest.raises(ValueError, match="line 2 of a.csv: 3 cells, and the header has 2.*No row can be read"):
        csv_rows(write(tmp_path / "a.csv", "id,price\n1,0,05\n2,0,06\n"), ["id"])


def test_all_lines_after_a_quote_left_open_are_there(tmp_path: Path) -> None:
    # A reader that looks for the end of the quote loses them.
    path = write(tmp_path / "a.csv", 'id,title\n0,"x\n' + "".join(f"{number},x\n" for number in range(1, 200_001)))
    rejected: list[Row] = []
    assert len(select(path, ["id"], rejected)) == 200_000 and len(rejected) == 1


# --- encodings


def test_a_file_is_utf8_or_latin1(tmp_path: Path) -> None:
    ascii_lines = ["0,plain"] * 20_000  # what is not ASCII comes late
    for encoding in ("utf-8", "latin-1", "utf-8-sig"):
        text = "\n".join(["id,title", *ascii_lines, "1,Caf\u00e9 Z\u00fcrich", "2,\u00c0 bient\u00f4t"])
        path = write(tmp_path / "a.csv", text.encode(encoding))
        assert [row["title"] for row in select(path, ["id"])][-2:] == ["Caf\u00e9 Z\u00fcrich", "\u00c0 bient\u00f4t"]
        path = write(tmp_path / "movies.dat", text.replace(",", "::").encode(encoding))
        rows = list(read_fields(path, ("id", "title"), "::"))
        assert rows[0].values == {"id": "id", "title": "title"}, "no byte order mark"
        assert rows[-2].values["title"] == "Caf\u00e9 Z\u00fcrich"


def test_a_damaged_byte_does_not_make_utf8_another_encoding(tmp_path: Path) -> None:
    text = "id,title\n1,Caf\u00e9\n2,Z\u00fcrich\n3,cut \u00e9".encode()[:-1]
    assert [row["title"] for row in select(write(tmp_path / "a.csv", text), ["id"])] == [
        "Caf\u00e9", "Z\u00fcrich", "cut \ufffd",
    ]  # fmt: skip
    assert encoding_of([b"caf\xe9"]) == "latin-1" and encoding_of([b"cafe"]) == "utf-8" == encoding_of([])


def test_utf16_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a.csv is UTF-16. Save it as UTF-8"):
        csv_rows(write(tmp_path / "a.csv", "id,title\n1,x\n".encode("utf-16")), ["id"])


# --- fields and records


def test_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dat", '1::"A": b::x\r\n\n2::A\n3::A::x::y\n')
    assert [row.values for row in read_fields(path, ("id", "title", "tags"), "::")] == [
        {"id": "1", "title": '"A": b', "tags": "x"}, {}, {},
    ]  # fmt: skip
    (row, *_) = read_fields(write(tmp_path / "b.csv", "1,1999,One, two, three\n"), ("id", "year", "title"), ",", True)
    assert row.values == {"id": "1", "year": "1999", "title": "One, two, three"}


def test_a_long_line_is_not_read_as_a_literal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of 100 kB take seconds, and ten times as much takes minutes."""
    lines = [b"{'a': '" + b"x" * 1000 + b"'}", b"{'a': f'" + b"{1}" * 60_000 + b"'}"]
    (tmp_path / "a.json").write_bytes(b"\n".join(lines))
    read = ast.literal_eval
    monkeypatch.setattr("ast.literal_eval", lambda text: read(text) if len(text) < 2_000 else pytest.fail("parsed"))
    first, second = read_records(tmp_path / "a.json")
    assert first.values["a"] and second.problem is not None and "neither JSON nor a Python literal" in second.problem


def test_records_are_json_or_literals(tmp_path: Path) -> None:
    deep = '{"a": ' * 50_000
    lines = [
        '{"a": 1, "b": NaN}', "{'a': 'it\\'s', 'b': None}", "", "{'a': __import__('os')}", "[1]", deep, "[" * 300_000,
        "-" * 300_000 + "1", "{'a': 0x" + "f" * 9_000 + "}", '{"a": ' + "1" * 9_000 + "}", '{"a": "\\ud83d\\u0000"}',
    ]  # fmt: skip
    path = write(tmp_path / "a.json", b"\xef\xbb\xbf" + "\n".join(lines).encode() + b'\n{"a": "caf\xe9"}\n{"a": 2')
    rows = list(read_records(path))
    assert [row.values.get("a") for row in rows if row.problem is None] == [1, "it's", "\ud83d\0", "caf\u00e9"]
    assert [row.place for row in rows if row.problem is not None] == [
        f"line {number} of a.json" for number in (4, 5, 6, 7, 8, 9, 10, 13)
    ]


def test_a_line_of_any_length_is_one_bad_record(tmp_path: Path) -> None:
    # 300 MB in a file of 300 kB; the line is never whole in memory.
    packed = write(tmp_path / "a.json.gz", gzip.compress(b'{"a": "' + b"0" * 300_000_000 + b'"}\n{"a": 1}\n'))
    first, second = read_records(packed)
    assert first.problem is not None and first.place == "line 1 of a.json.gz" and second.values == {"a": 1}


@pytest.mark.parametrize("reader", ["csv", "fields", "records", "whole"])
@pytest.mark.parametrize("damage", ["cut", "spoilt", "not packed"])
def test_a_gzip_file_that_is_none_is_named(tmp_path: Path, reader: str, damage: str) -> None:
    rows = "".join(f"{number},{number * 7919 % 10007}\n" for number in range(20_000))
    packed = gzip.compress(b"id,title\n" + rows.encode())
    data = {"cut": packed[:20_000], "spoilt": packed[:20_000] + b"\xff" * 9_000, "not packed": rows.encode()}[damage]
    path = write(tmp_path / "a.csv.gz", data)
    with pytest.raises(ValueError, match="a.csv.gz is no whole gzip file"):
        if reader == "csv":
            csv_rows(path, ["id"])
        elif reader == "fields":
            list(read_fields(path, ("id", "title"), ","))
        elif reader == "records":
            list(read_records(path))
        else:
            read_whole_json(path)


def test_json_that_is_read_whole_is_bounded(tmp_path: Path) -> None:
    assert read_whole_json(write(tmp_path / "a.json", json.dumps({"u": [1, 2]}, indent=1))) == {"u": [1, 2]}
    with pytest.raises(ValueError, match="b.json.gz is too large"):
        read_whole_json(write(tmp_path / "b.json.gz", gzip.compress(b"[" + (b"1," * 4_000 + b"\n") * 20_000, 1)))
    with pytest.raises(ValueError, match="c.json cannot be read: lists or objects too deep"):
        read_whole_json(write(tmp_path / "c.json", "[" * 200_000))
    with pytest.raises(ValueError, match="d.json is no JSON"):
        read_whole_json(write(tmp_path / "d.json", b'{"caf\xe9'))
