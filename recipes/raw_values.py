"""Values of raw records as our columns hold them: whatever a publisher's JSON has there, one kind a column."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa

from processing_unimp.bounds import short_repr
from processing_unimp.cell_values import id_as_text, is_missing, readable
from processing_unimp.table_columns import NULL_WORDS


class Kind(NamedTuple):
    """What a column holds.

    Args:
        name (`str`): what to call it in the account.
        arrow (`pa.DataType`): how it is stored.
        read (`Callable[[Any], Any]`): makes it of any value; None where there is none. Raises `ValueError` for a value
            of another kind.
    """

    name: str
    arrow: pa.DataType
    read: Callable[[Any], Any]


def _id(value: Any) -> str | None:
    return id_as_text(value, "id")


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return readable(value)
    if value is None or is_missing(value):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{short_repr(value)} is no text.")


def _texts(value: Any) -> list[str] | None:
    values = value if isinstance(value, list | tuple) else [value]
    return [text for each in values if (text := _text(each)) is not None] or None


def _number(value: Any) -> float | None:
    if is_missing(value) or (isinstance(value, str) and value.strip().lower() in NULL_WORDS):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{short_repr(value)} is no number.")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{short_repr(value)} is too large for a number.") from None
    if not math.isfinite(number):
        raise ValueError(f"{short_repr(value)} is no finite number.")
    return number


def _year(value: Any) -> int | None:
    number = _number(value)
    if number is None:
        return None
    if not number.is_integer() or abs(number) >= 2**31:
        raise ValueError(f"{short_repr(value)} is no year.")
    return int(number)


ID = Kind("an id", pa.string(), _id)
TEXT = Kind("text", pa.string(), _text)
TEXTS = Kind("a list of texts", pa.list_(pa.string()), _texts)
NUMBER = Kind("a number", pa.float64(), _number)
YEAR = Kind("a year", pa.int32(), _year)
