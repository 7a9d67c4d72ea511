"""Parquet of anybody's making: the file that is named and no other, mapped from disk, and bounded."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from processing_unimp import Catalogue
from processing_unimp.parquet_file import parquet_batches
from processing_unimp.tables import read_table


def items(path, *ids, **columns):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"item_id": list(ids), **columns}), path)
    return path


def repeated(value, count):
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


@pytest.mark.parametrize("name", ["shop[1]", "a*b", "a?b", "{a,b}", "x::y", "zip:a", "a%20b", "key=value"])
def test_names_are_no_patterns(tmp_path, monkeypatch, name):
    for other in ("shop1", "aXb", "a", "b", "a b"):
        items(tmp_path / other / "items.parquet", "another")
    monkeypatch.chdir(tmp_path)
    items(tmp_path / name / "items.parquet", "this")
    assert Catalogue.load(name).item_ids == Catalogue.load(tmp_path / name).item_ids == ["this"]
    assert Catalogue.load(name).attributes == []


def test_what_is_there_is_read_and_nothing_is_left(tmp_path, monkeypatch):
    left = tmp_path / "tmp"
    left.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(left))
    for item_id in ("before", "after"):
        os.utime(items(tmp_path / "items.parquet", item_id), (0, 0))
        assert Catalogue.load(tmp_path).item_ids == [item_id]
        assert list(left.iterdir()) == []


def test_pictures_stay_on_disk(tmp_path):
    data = [{"bytes": bytes([number]) * 500_000, "path": None} for number in range(40)]
    path = items(tmp_path / "items.parquet", *map(str, range(40)), image=data)
    before = pa.total_allocated_bytes()
    catalogue = Catalogue.load(path)
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert catalogue._pictures.source(7) == data[7]


def test_values_and_their_order_stay(tmp_path):
    rows = 150_000
    table = pa.table(
        {
            "item_id": [str(number) for number in range(rows)],
            "tags": [["a", str(number % 7)] if number % 3 else None for number in range(rows)],
            "many": [[str(number), str(-number)] for number in range(rows)],
            "kind": pa.array([None, "x"] * (rows // 2)).dictionary_encode(),
            "price": [number / 2 for number in range(rows)],
        }
    )
    for options in ({}, {"row_group_size": 9_999}, {"use_dictionary": False}, {"column_encoding": "DELTA_BYTE_ARRAY"}):
        own = table.select(["item_id"]) if "column_encoding" in options else table
        options |= {"use_dictionary": False} if "column_encoding" in options else {}
        pq.write_table(own, tmp_path / "items.parquet", **options)
        assert read_table(tmp_path / "items.parquet").to_pydict() == own.to_pydict()
    pq.write_table(table, tmp_path / "items.parquet")
    assert read_table(tmp_path / "items.parquet", ["price", "tags"]).column_names == ["tags", "price"]
    pq.write_table(table.slice(0, 0), tmp_path / "items.parquet")
    assert read_table(tmp_path / "items.parquet").num_rows == 0


def test_labels_of_datasets_are_their_names(tmp_path):
    features = Features({"item_id": Value("string"), "kind": ClassLabel(names=["mug", "hat"])})
    Dataset.from_dict({"item_id": ["a", "b"], "kind": [1, 0]}, features).to_parquet(str(tmp_path / "items.parquet"))
    assert Catalogue.load(tmp_path).column("kind") == ["hat", "mug"]


@pytest.mark.parametrize("kind", ["text", "large text", "list", "list view", "numbers", "picture", "delta"])
def test_a_file_that_grows_without_end_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("processing_unimp.bounds.MAX_UNPACKED_BYTES", 3_000_000)
    rows, options = 10_000, {"compression": "zstd"}
    if kind in ("text", "large text"):
        column = repeated("z" * (1_000 if kind == "text" else 100_000), rows)
    elif kind.startswith("list"):
        column = pa.ListArray.from_arrays(pa.array([0, rows], pa.int32()), repeated("z" * 1_000, rows))
        if kind == "list view":
            column = pa.array([["z" * 1_000] * rows], pa.list_view(pa.string()))
    elif kind == "numbers":
        column = pa.array([np.zeros(1_000_000, np.int64)])
    elif kind == "picture":
        column = pa.StructArray.from_arrays(
            [repeated(b"z" * 1_000, rows), pa.nulls(rows, pa.string())], ["bytes", "path"]
        )
    else:
        column, options = (
            pa.array(["z" * 1_000] * rows),
            {"use_dictionary": False, "column_encoding": {"x": "DELTA_BYTE_ARRAY"}},
        )
    pq.write_table(pa.table({"x": column}), tmp_path / "items.parquet", **options)
    assert (tmp_path / "items.parquet").stat().st_size < 15_000
    with pytest.raises(ValueError, match="items.parquet grows to more than 200 times its size"):
        read_table(tmp_path / "items.parquet")


def test_rows_are_few_where_a_value_is_large(tmp_path, monkeypatch):
    """A page of a few bytes: 4,000 times one value of 50,000."""
    monkeypatch.setattr("processing_unimp.parquet_file.BYTES_AT_ONCE", 1_000_000)
    monkeypatch.setattr("processing_unimp.bounds.MAX_UNPACKED_BYTES", 300_000_000)
    lists = pa.ListArray.from_arrays(pa.array(range(0, 4_001, 4), pa.int32()), repeated("z" * 100_000, 4_000))
    for column in (repeated("z" * 50_000, 4_000), lists):
        pq.write_table(pa.table({"x": column}), tmp_path / "items.parquet")
        _, batches = parquet_batches(tmp_path / "items.parquet", ["x"])
        sizes = [batch.nbytes for batch, _ in zip(batches, range(100), strict=False)]
        assert max(sizes) < 1_200_000 and sum(sizes) > 30_000_000
