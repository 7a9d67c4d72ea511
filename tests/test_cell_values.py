"""One value, as Python, numpy, pandas and database drivers have it."""

import enum
import json
import math
import uuid
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from processing_unimp.cell_values import as_seconds, id_as_text, picture_source, plain_value

HALF = json.loads('"cosy \\ud83d"')


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (float("nan"), None),
        (np.float32("nan"), None),
        (Decimal("NaN"), None),
        (pd.NaT, None),
        (pd.NA, None),
        (np.datetime64("NaT"), None),
        (Decimal("19.90"), 19.9),
        (Decimal("sNaN"), None),
        (Decimal("1e400"), "1E+400"),
        (2**63 - 1, 2**63 - 1),
        (2**63, 2.0**63),
        (2**63 + 1, "9223372036854775809"),
        (-(2**63) - 1, "-9223372036854775809"),
        (10**400, "1" + 400 * "0"),
        (np.int64(3), 3),
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Colour.RED, "red"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (date(2024, 5, 1), "2024-05-01"),
        (datetime(2024, 5, 1, 10), "2024-05-01T10:00:00"),
        (pd.Timestamp("2024-05-01 10:00:00.123456789"), "2024-05-01T10:00:00.123456"),
        (np.datetime64("2024-05-01T10:00:00.000000001"), "2024-05-01T10:00:00"),
        ([1.5, float("nan"), None, pd.NaT], ["1.5"]),
        (np.array(["a", None], dtype=object), ["a"]),
        (np.array(4.0), 4.0),
        (np.array("a"), "a"),
        ({"b", "a"}, ["a", "b"]),
        (HALF, "cosy \ufffd"),
        ("\ud83d\ude00", "\U0001f600"),  # two halves that belong together
    ],
)
def test_attributes(value, plain):
    found = plain_value(value, "it")
    assert found == plain and type(found) is type(plain)


def test_sets_of_several_kinds():
    assert plain_value({2, "a", 1.5}, "it") == ["1.5", "2", "a"] and plain_value({10, 9}, "it") == ["9", "10"]
    assert plain_value({"b", None, "a"}, "it") == ["a", "b"]


@pytest.mark.parametrize("value", [b"bytes", {"a": 1}, [["a"]], object(), pd.Timedelta(3), 1j])
def test_attributes_of_no_usable_kind(value):
    with pytest.raises(ValueError, match="price is .*Expected text, a number"):
        plain_value(value, "price")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"),
        ("12.0", "12.0"),
        (12.0, "12"),
        (Decimal("12"), "12"),
        (Decimal("12.00"), "12"),
        (np.int32(12), "12"),
        (2**70, str(2**70)),
        (uuid.UUID(int=7), str(uuid.UUID(int=7))),
        ("", None),
        ("  ", None),
        (None, None),
        (float("nan"), None),
        (pd.NA, None),
        (HALF, "cosy \\ud83d"),
    ],
)
def test_ids(value, text):
    assert id_as_text(value, "item_id") == text


@pytest.mark.parametrize("value", [True, 1.5, Decimal("1.5"), [1], b"a", float("inf"), {"a": 1}])
def test_ids_of_no_usable_kind(value):
    with pytest.raises(ValueError, match="item_id .*Expected text or a whole number"):
        id_as_text(value, "item_id")


def test_an_id_that_lost_digits_on_its_way_is_refused():
    """2**53 and 2**53 + 1 are the same float: two people would become one."""
    assert id_as_text(float(2**53), "user_id") == str(2**53)
    with pytest.raises(ValueError, match="has lost digits"):
        id_as_text(float(2**53 + 2), "user_id")


def test_seconds():
    assert as_seconds(np.datetime64("2024-05-01", "ns")) == as_seconds("2024-05-01") == 1714521600
    assert as_seconds(pd.Timestamp("2024-05-01", tz="UTC")) == as_seconds(Decimal(1714521600)) == 1714521600
    assert as_seconds(datetime(2024, 5, 1, tzinfo=timezone.utc)) == 1714521600
    assert math.isnan(as_seconds("nan"))
    with pytest.raises(ValueError) as told:
        as_seconds("yesterday " * 100_000)
    assert len(str(told.value)) < 300


def test_pictures_are_not_opened():
    assert picture_source("/etc/shadow", "a") == {"bytes": None, "path": "/etc/shadow"}
    assert picture_source(Path("a.png"), "a") == picture_source({"path": "a.png"}, "a")
    assert picture_source({"bytes": b"x", "path": "a.png"}, "a") == {"bytes": b"x", "path": None}
    assert picture_source(Image.new("CMYK", (9, 9)), "a")["bytes"].startswith(b"\x89PNG")
    for nothing in (None, "", float("nan"), {"bytes": None, "path": None}):
        assert picture_source(nothing, "a") is None
    assert picture_source({"bytes": memoryview(b"x")}, "a") == picture_source(memoryview(b"x"), "a")
    with pytest.raises(ValueError, match="image of a came as int"):
        picture_source(3, "a")
    # bytes(n) would be n zeros: one line of JSON could fill the memory.
    for data in (1_500_000_000_000, "iVBORw0KGgo=", [1, 2]):
        with pytest.raises(ValueError, match="bytes of the image of a came as .*Expected bytes"):
            picture_source({"bytes": data}, "a")
