"""Parquet of anybody's making: the file that is named and no other, mapped from disk, and bounded."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from processing_unimp import Catalogue
from processing_unimp.parquet_file import parquet_batches
from processing_unimp.parquet_pages import DICTIONARY_PAGE, Page, pages_of
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


@pytest.mark.parametrize(
    "kind", ["text", "large text", "list", "list view", "list of fixed width", "numbers", "picture", "delta"]
)
def test_a_file_that_grows_without_end_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("processing_unimp.bounds.MAX_UNPACKED_BYTES", 3_000_000)
    rows, options = 10_000, {"compression": "zstd"}
    if kind in ("text", "large text"):
        column = repeated("z" * (1_000 if kind == "text" else 100_000), rows)
    elif kind == "list of fixed width":
        column = pa.array([[bytes(1_000)] * rows], pa.list_(pa.binary(1_000)))
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


def test_values_of_a_fixed_width_are_counted_before_one_is_read(tmp_path):
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"x": pa.array([[bytes(20_000)] * 1_000], pa.list_(pa.binary(20_000)))}), path)
    parquet_batches(path, ["x"])
    values = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(20_000), 60_000, [None, pa.py_buffer(bytes(1_200_000_000))]
    )
    pq.write_table(pa.table({"x": pa.ListArray.from_arrays([0, 60_000], values)}), path)
    assert path.stat().st_size < 2_000
    with pytest.raises(ValueError, match="items.parquet grows to more than 200 times its size"):
        parquet_batches(path, ["x"])


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


def varint(number: int) -> bytes:
    """A whole number as Thrift writes it, zigzag."""
    number, written = number << 1, b""
    while number > 127:
        written, number = written + bytes([number & 127 | 128]), number >> 7
    return written + bytes([number])


def rewritten(path, change):
    """Writes a file anew with another beginning and end: `change` gets both."""
    raw = path.read_bytes()
    end = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    body, foot = change(raw[:end], raw[end:-8])
    path.write_bytes(body + foot + len(foot).to_bytes(4, "little") + raw[-4:])


@pytest.mark.parametrize("kind", ["dictionary", "delta"])
def test_no_header_and_no_end_of_a_file_hides_how_large_its_values_are(tmp_path, monkeypatch, kind):
    """The kind of a dictionary's page in another spelling; an encoding that the end of the file does not name."""
    monkeypatch.setattr("processing_unimp.parquet_file.BYTES_AT_ONCE", 1_000_000)
    monkeypatch.setattr("processing_unimp.bounds.MAX_UNPACKED_BYTES", 300_000_000)
    path = tmp_path / "items.parquet"
    options = {"compression": "zstd", "store_schema": False, "write_statistics": False}
    if kind == "dictionary":
        pq.write_table(pa.table({"x": repeated("z" * 50_000, 4_000)}), path, **options)
        chunk = pq.read_metadata(path).row_group(0).column(0)

        def change(body, foot):
            for field, number in ((b"\x16", chunk.total_compressed_size), (b"\x26", chunk.data_page_offset)):
                assert field + varint(number) in foot
                foot = foot.replace(field + varint(number), field + varint(number + 1))
            assert body[4:7] == b"\x15\x04\x15"
            return body[:4] + b"\x05\x02\x04" + body[6:], foot
    else:
        options |= {"use_dictionary": False, "column_encoding": {"x": "DELTA_BYTE_ARRAY"}}
        pq.write_table(pa.table({"x": ["z" * 50_000] * 4_000}), path, **options)

        def change(body, foot):
            assert foot.count(b"\x06\x0e") == 1  # RLE and DELTA_BYTE_ARRAY
            return body, foot.replace(b"\x06\x0e", b"\x06\0")

    rewritten(path, change)
    assert pq.read_metadata(path).row_group(0).column(0).encodings != ("RLE", "DELTA_BYTE_ARRAY")
    _, batches = parquet_batches(path, ["x"])
    sizes = [batch.nbytes for batch, _ in zip(batches, range(100), strict=False)]
    assert max(sizes) < 1_200_000 and sum(sizes) > 30_000_000


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("kind", ["dictionary", "plain"])
def test_pages_are_told_by_their_headers(tmp_path, version, kind):
    rows = 50_000
    values = np.random.default_rng(0).integers(0, 100 if kind == "dictionary" else 2**60, rows).astype(str)
    pq.write_table(
        pa.table({"x": values}),
        tmp_path / "a.parquet",
        use_dictionary=kind == "dictionary",
        data_page_version=version,
        data_page_size=20_000,
        write_page_index=True,
    )
    source = pa.OSFile(str(tmp_path / "a.parquet"))
    chunk = pq.read_metadata(source).row_group(0).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    pages = list(pages_of(source, start, start + chunk.total_compressed_size, chunk.num_values))
    dictionaries = [page for page in pages if page.kind == DICTIONARY_PAGE]
    assert [page.num_values for page in dictionaries] == ([100] if kind == "dictionary" else [])
    assert [page.unpacked_bytes for page in dictionaries] == ([100 * 4 + 190] if kind == "dictionary" else [])
    assert sum(page.num_values for page in pages if page.kind != DICTIONARY_PAGE) == rows
    assert sum(page.unpacked_bytes for page in pages) < chunk.total_uncompressed_size
    assert len(pages) > 1 + len(dictionaries)


def test_a_page_is_what_its_kind_says():
    """A header with both fields of pages of values; Arrow goes by the kind."""
    sizes = b"\x15\x02\x15\x02"  # 1 byte unpacked, 1 packed
    first = b"\x2c\x15\x04\x15\x00\x00"  # field 5: 2 values, PLAIN
    second = b"\x3c\x15\xd0\x0f\x35\x0e\x00"  # field 8: 1,000 values, DELTA_BYTE_ARRAY
    pages = b"".join(b"\x15" + kind + sizes + first + second + b"\0" + b"x" for kind in (b"\0", b"\6"))
    assert list(pages_of(pa.BufferReader(pages), 0, len(pages), 5_000)) == [Page(0, 1, 2, 0), Page(3, 1, 1_000, 7)]
    for header in (
        b"\x15\0" + sizes + b"\0",
        b"\x11" + sizes + first + b"\0",
        b"\x1c\0" + sizes + first + b"\0",
        b"\x15\0\x15\x01\x15\x02" + first + b"\0",
    ):
        with pytest.raises(ValueError, match="a page of the file cannot be read"):
            list(pages_of(pa.BufferReader(header), 0, len(header), 5_000))


def test_a_file_of_other_bytes_in_place_of_pages_is_refused(tmp_path):
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"x": ["z"] * 100}), path)
    for junk in (b"\xff", b"\0", b"\x1c", b"\x15\x03\x15\x03"):
        rewritten(path, lambda body, foot, junk=junk: ((junk * len(body))[: len(body)], foot))
        with pytest.raises(ValueError, match="cannot read the table"):
            read_table(path)
