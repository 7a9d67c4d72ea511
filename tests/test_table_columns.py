"""Columns: Python's values to Arrow, and Arrow's many types to our few kinds."""

import decimal
import tracemalloc
import uuid
from datetime import date, datetime, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from processing_unimp.table_columns import (
    attribute_column,
    checked_rows,
    has_text,
    ids_as_text,
    image_column,
    numbers_of,
    numbers_where_lossless,
    seconds_of,
    table_of,
    text_column,
)


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def made(*values):
    """A column of these values, and its kind."""
    found = table_of({"x": value} for value in values)["x"]
    return found.to_pylist(), str(found.type)


# ------------------------------------------------------------------------------------------------------- from Python


def test_the_narrowest_kind_that_holds_every_value_as_it_is():
    assert made(1, None, 3) == ([1, None, 3], "int64")
    assert made(29, 21.5) == ([29.0, 21.5], "double")
    assert made(True, False) == ([True, False], "bool")
    assert made(True, 1) == (["True", "1"], "string")
    assert made("a", 1, 1.5) == (["a", "1", "1.5"], "string")
    assert made("a", ["b", "c"]) == ([["a"], ["b", "c"]], "list<item: string>")
    assert made(None, float("nan")) == ([None, None], "string")
    assert made(2**70) == ([2.0**70], "double")


def test_whole_numbers_that_a_float_cannot_hold_become_text_beside_fractions():
    """2**53 + 1 as a float is 2**53."""
    assert made(2**53 + 1, 0.5) == (["9007199254740993", "0.5"], "string")
    assert made(2**53, 0.5) == ([2.0**53, 0.5], "double")


def test_chunks_of_different_kinds_are_one_column(monkeypatch):
    monkeypatch.setattr("processing_unimp.table_columns.ROWS_AT_ONCE", 2)
    assert made(1, 2, None, None, 0.5, 3) == ([1.0, 2.0, None, None, 0.5, 3.0], "double")
    assert made(1, 2, 2.0, "a", ["b"]) == ([["1"], ["2"], ["2.0"], ["a"], ["b"]], "list<item: string>")
    assert made(None, None, True) == ([None, None, True], "bool")
    late = table_of([{"a": 1}, {"a": 2}, {"a": 3, "b": "x"}]).to_pylist()
    assert late == [{"a": 1, "b": None}, {"a": 2, "b": None}, {"a": 3, "b": "x"}]


def test_given_kinds_are_kept_but_for_fractions_among_whole_numbers():
    def joined(given, *values):
        found = table_of(({"x": value} for value in values), {"x": given})["x"]
        return found.to_pylist(), str(found.type)

    assert joined(pa.int64(), 21.5, 3) == ([21.5, 3.0], "double")
    assert joined(pa.int64(), 21.0) == ([21], "int64")
    assert joined(pa.float64(), 3) == ([3.0], "double")
    assert joined(pa.string(), 3, ["a", "b"]) == (["3", "a, b"], "string")
    assert joined(pa.list_(pa.string()), "a") == ([["a"]], "list<item: string>")
    assert joined(pa.bool_(), None) == ([None], "bool")
    for given, value in ((pa.int64(), "x"), (pa.float64(), "x"), (pa.bool_(), 1), (pa.float64(), 2**53 + 1)):
        with pytest.raises(ValueError, match=f"'x' holds .*brings {value!r}. Give it in the same type"):
            joined(given, value)


@pytest.mark.parametrize("rows", [pd.DataFrame({"a": [1]}), {"a": 1}, "abc", 3])
def test_what_is_no_list_of_dicts_is_named(rows):
    with pytest.raises(ValueError, match=f"items came as {type(rows).__name__}. Expected a list of dicts"):
        checked_rows(rows, "items")
    with pytest.raises(ValueError, match="row 1 is str: 'b'. Expected a dict"):
        checked_rows([{}, "b"], "items")


# -------------------------------------------------------------------------------------------------------- from Arrow


def test_ids_of_every_type():
    for values, kind in (
        (["7", None, " "], pa.string_view()),
        (["7", None, ""], pa.large_string()),
        ([7, None, None], pa.int8()),
        ([7.0, float("nan"), None], pa.float32()),
        ([decimal.Decimal("7.00"), None, None], pa.decimal128(10, 2)),
    ):
        assert ids_as_text(column(values, kind), "user_id").to_pylist() == ["7", None, None]
    assert ids_as_text(column(["b", "a"]).dictionary_encode(), "x").to_pylist() == ["b", "a"]
    runs = pa.chunked_array([pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"])])
    assert ids_as_text(runs, "x").to_pylist() == ["a", "a", "b"]
    keys = pa.chunked_array(
        [pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(int=7).bytes], pa.binary(16)))]
    )
    assert ids_as_text(keys, "x").to_pylist() == [str(uuid.UUID(int=7))]
    # 2 ** 24 + 1 is 2 ** 24 as a float of 32 bits: two users would be one.
    for value, kind in ((2**24 + 1, pa.float32()), (2**11 + 1, pa.float16())):
        narrow = pa.chunked_array([pa.array(np.array([value], kind.to_pandas_dtype()))])
        with pytest.raises(ValueError, match="lost digits"):
            ids_as_text(narrow, "x")
    assert ids_as_text(column([2.0**24 - 1], pa.float32()), "x").to_pylist() == [str(2**24 - 1)]
    for values, message in (([1.5], "fractions"), ([2.0**60], "lost digits"), ([b"a"], "holds binary")):
        with pytest.raises(ValueError, match=message):
            ids_as_text(column(values), "x")


def test_attributes_of_every_type():
    def read(values, kind=None):
        return attribute_column(column(values, kind), "x").to_pylist()

    assert read(["a", None], pa.string_view()) == ["a", None]
    assert read([1, None], pa.uint8()) == [1, None]
    assert read([1, 2**64 - 1], pa.uint64()) == ["1", "18446744073709551615"]
    assert read([0.5, float("nan")], pa.float16()) == [0.5, None]
    assert read([decimal.Decimal("19.90")]) == [19.9]
    assert read([date(2024, 5, 1), None]) == ["2024-05-01", None]
    assert read([datetime(2024, 5, 1, 10, tzinfo=timezone.utc)], pa.timestamp("ns", "UTC")) == [
        "2024-05-01T10:00:00+00:00"
    ]
    assert read([datetime(2024, 5, 1)]) == ["2024-05-01T00:00:00"], "as from a dict"
    assert read([[1.5, float("nan"), None], None]) == [["1.5"], None]
    assert read([["a", None]]) == [["a"]]
    assert read([["a"]], pa.list_(pa.string_view())) == [["a"]]
    assert read([["a", "b"]], pa.list_view(pa.string())) == [["a", "b"]]
    assert read([["a", "b"]], pa.list_(pa.string(), 2)) == [["a", "b"]]
    assert read([None, None]) == [None, None]
    for values in ([{"a": 1}], [[["a"]]], [b"a"]):
        with pytest.raises(ValueError, match="column 'x' holds"):
            read(values)


def test_times_that_python_has_no_value_for_are_text():
    far = pa.array([1_600_000_000_000], pa.timestamp("s"))  # the year 52670
    for values in (far, far.cast(pa.timestamp("s", tz="Moon/Crater")), pa.array([9**8], pa.date32())):
        (text,) = attribute_column(pa.chunked_array([values]), "made").to_pylist()
        assert isinstance(text, str) and text


def no_utf8(*values, kind=None):
    """Text as parquet of other writers may hold it: they say that bytes are text which are none."""
    array = pa.array(values, pa.binary())
    return pa.Array.from_buffers(kind or pa.string(), len(array), array.buffers())


def test_text_that_is_no_utf8_is_repaired():
    text = no_utf8(b"caf\xe9", b"a")
    ends = pa.array([0, 1, 2], pa.int32())
    for values in (text, text.dictionary_encode(), pa.chunked_array([text]).cast(pa.string_view()).chunk(0)):
        assert attribute_column(pa.chunked_array([values]), "x").to_pylist() == ["caf\ufffd", "a"]
    for values in (
        pa.ListArray.from_arrays(ends, text),
        pa.ListArray.from_arrays(ends, text.dictionary_encode()),
        pa.ListViewArray.from_arrays(ends[:2], pa.array([1, 1], pa.int32()), text),
        pa.FixedSizeListArray.from_arrays(text, 1),
    ):
        assert attribute_column(pa.chunked_array([values]), "x").to_pylist() == [["caf\ufffd"], ["a"]]
    pictures = pa.StructArray.from_arrays([pa.array([None, b"\xff"], pa.binary()), text], ["bytes", "path"])
    assert image_column(pa.chunked_array([pictures])).to_pylist() == [
        {"bytes": None, "path": "caf\ufffd"},
        {"bytes": b"\xff", "path": "a"},
    ]


def test_ids_that_are_no_utf8_stay_different():
    assert ids_as_text(pa.chunked_array([no_utf8(b"M\xfcller", b"M\xf6ller", b" ")]), "user_id").to_pylist() == [
        "M\\xfcller",
        "M\\xf6ller",
        None,
    ]


def test_times_of_far_years_stay_far():
    far = pa.chunked_array([pa.array([2**62, -(2**62), 1_600_000_000, None], pa.timestamp("s"))])
    np.testing.assert_array_equal(seconds_of(far, "timestamp")[0], [2.0**62, -(2.0**62), 1.6e9, np.nan])
    thousandths = pa.chunked_array([pa.array([2**62, 1500], pa.timestamp("ms"))])
    np.testing.assert_array_equal(seconds_of(thousandths, "timestamp")[0], [2**62 / 1000, 1.5])
    billionths = pa.chunked_array([pa.array([2**62, 1_600_000_000_123_456_789], pa.timestamp("ns"))])
    np.testing.assert_array_equal(seconds_of(billionths, "timestamp")[0], [2**62 // 1000 / 1e6, 1_600_000_000.123456])


def test_rows_that_hold_much_do_not_wait_for_others(monkeypatch):
    """What a row says becomes columns before many more are read: in Python it takes ten times its memory."""
    monkeypatch.setattr("processing_unimp.table_columns.BYTES_AT_ONCE", 1_000_000)

    def rows():
        for n in range(100):
            yield {"item_id": str(n), "tags": ["x" * 10] * 10_000}

    tracemalloc.start()
    table = table_of(rows())
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table) == 100 and most < 3_000_000
    with pytest.raises(ValueError, match="attribute 'tags' of item '7' is a list of 100001 entries"):
        table_of([{"item_id": "7", "tags": [0] * 100_001}])


def test_pictures_of_more_than_a_chunk_of_arrow_come_in_several():
    table = table_of({"item_id": str(n), "image": bytes(20_000_000)} for n in range(5))
    assert table["image"].num_chunks == 2 and table["image"].null_count == 0


def test_numbers_of_a_csv_column():
    def read(*cells):
        return numbers_where_lossless(column(list(cells), pa.string())).to_pylist()

    assert read("1", None, "-2") == [1, None, -2]
    assert read("1.50", "n/a", "NaN", "3") == [1.5, None, None, 3.0]
    for text in (["007"], ["1e5"], ["1", "x"], ["12,99"], [None], ["nan"], ["9" * 20]):
        assert read(*text) == text


def test_numbers_and_times_that_cannot_be_read_are_told_apart_from_none():
    values, strange = numbers_of(column(["1.5", "NULL", "\\N", "N/A", "", "five", None]), "rating")
    np.testing.assert_array_equal(values, [1.5, *[np.nan] * 6])
    assert strange.tolist() == [False, False, False, False, False, True, False]
    assert numbers_of(column(["4", "1_0"]), "rating")[1].tolist() == [False, True]
    values, strange = seconds_of(column(["1970-01-02", "NULL", "yesterday", "86400"]), "timestamp")
    np.testing.assert_array_equal(values, [86400, np.nan, np.nan, 86400])
    assert strange.tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match="timestamp 'yesterday' cannot be read"):
        seconds_of(column(["yesterday", None]), "timestamp")
    assert seconds_of(column(["yesterday"]), "timestamp", is_whole=False)[1].tolist() == [True]
    with pytest.raises(ValueError, match="'rating' holds text that is no number: 'good'"):
        numbers_of(column(["good"]), "rating")


def test_times_of_every_type():
    for kind in (pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ns", "Europe/Berlin")):
        day = date(2024, 5, 1) if pa.types.is_date(kind) else datetime(2024, 5, 1, tzinfo=timezone.utc)
        values, strange = seconds_of(column([day, None], kind), "timestamp")
        np.testing.assert_array_equal(values, [1714521600, np.nan])
        assert not strange.any()


def test_pictures_of_every_type():
    data, path = {"bytes": b"x", "path": None}, {"bytes": None, "path": "a.png"}
    assert image_column(column([b"x", None], pa.binary_view())).to_pylist()[0] == data
    assert image_column(column(["a.png", "", None], pa.string_view())).to_pylist()[0] == path
    assert image_column(column([{"path": "a.png"}])).to_pylist() == [path]
    assert image_column(column([{"bytes": b"x", "path": None, "more": 1}])).to_pylist() == [data]
    assert image_column(column([None, None])).to_pylist() == [None, None]
    with pytest.raises(ValueError, match="column 'image' holds int64"):
        image_column(column([1]))


def test_words():
    words = text_column(column(["a", " ", None], pa.string_view()), "explanation")
    assert words.to_pylist() == ["a", " ", None] and has_text(words).tolist() == [True, False, False]
    assert not has_text(text_column(column([None]), "explanation")).any()
    with pytest.raises(ValueError, match="'explanation' holds int64"):
        text_column(column([3]), "explanation")
