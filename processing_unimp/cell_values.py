"""One value of a table or a request, as Python, numpy, pandas or a database driver has it, to the kinds we use."""

import contextlib
import io
import math
import os
import uuid
from collections.abc import Collection, Mapping
from datetime import date, datetime, time, timezone
from decimal import Decimal
from typing import Any

import numpy as np
from PIL import Image

from .bounds import short_repr
from .picture import UnreadablePicture, open_picture

LARGEST_WHOLE_FLOAT = 2**53  # beyond it a float cannot tell a whole number from its neighbours
MAX_ENTRIES = 100_000  # of a list in a table
MAX_DIGITS = 3_000  # of a number that is written as text; Python itself stops at some 4,300
WHOLE_NUMBERS = range(-(2**63), 2**63)  # of a column; others become floats or text, whichever is exact


def is_missing(value: Any) -> bool:
    """Tells whether a value stands for nothing: None, NaN, and pandas' NaT and NA."""
    if value is None or type(value).__name__ in ("NaTType", "NAType"):
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    return isinstance(value, float | np.floating) and math.isnan(value)


def readable(text: str) -> str:
    """Text without halves of characters, such as an emoji that was cut: they have no UTF-8, and become U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _of_python(value: Any) -> Any:
    """A value without its wrapping by numpy; times of numpy as datetimes."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[us]").item()
    return value.item() if isinstance(value, np.generic) else value


def plain_value(value: Any, what: str) -> Any:
    """Brings one attribute to None, bool, int, float, str or list of str; numbers too large for these become text.

    Args:
        value: None, NaN and the like are missing values, also inside a list.
        what (`str`): what to call it in an error.

    Raises:
        ValueError: a value of another kind, or lists in a list.
    """
    value = _of_python(value)
    if is_missing(value):
        return None
    if isinstance(value, str):
        return readable(str.__str__(value))  # of an enumeration its value
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if value in WHOLE_NUMBERS else _float_or_text(_of_few_digits(value, what))
    if isinstance(value, Decimal):
        return float(value) if value.is_infinite() or math.isfinite(float(value)) else str(value)
    if isinstance(value, datetime):
        return datetime.isoformat(value)  # of a pandas Timestamp without its nanoseconds
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        if len(value) > MAX_ENTRIES:
            raise ValueError(f"{what} is a list of {len(value)} entries: at most {MAX_ENTRIES} are read.")
        parts = [
            plain_value(part, what) for part in (_ordered(value) if isinstance(value, set | frozenset) else value)
        ]
        if not any(isinstance(part, list) for part in parts):
            return [str(part) for part in parts if part is not None]
    raise ValueError(
        f"{what} is {type(value).__name__}: {short_repr(value)}. "
        "Expected text, a number, a truth value or a list of those; split it into several attributes."
    )


def _ordered(values: Collection[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:  # of several kinds
        return sorted(values, key=str)


def _float_or_text(number: int) -> float | str:
    with contextlib.suppress(OverflowError):
        if float(number) == number:
            return float(number)
    return str(number)


def _of_few_digits(number: int, name: str) -> int:
    if number.bit_length() > MAX_DIGITS * math.log2(10):
        raise ValueError(f"{name} is a number of more than {MAX_DIGITS} digits. Expected fewer, or text.")
    return number


def id_as_text(value: Any, name: str) -> str | None:
    """Returns one id as text, None where there is none (None, NaN, blank text).

    Args:
        value: text, a whole number (also as a float or Decimal, as tables with gaps have them) or a UUID.
        name (`str`): what to call it in an error.

    Raises:
        ValueError: a value of another kind, or a float so large that it has lost digits.
    """
    if type(value) is str and value.isascii():  # nearly all, and a batch has thousands of them
        return value if value.strip() else None
    value = _of_python(value)
    if is_missing(value):
        return None
    if isinstance(value, str):
        text = str.__str__(value)
        # Halves of characters are spelt out and not replaced: different ids stay different.
        return text.encode("utf-8", "backslashreplace").decode() if text.strip() else None
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() > MAX_DIGITS:
        raise ValueError(f"{name} is a number of more than {MAX_DIGITS} digits. Expected fewer, or text.")
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        if isinstance(value, float) and abs(value) > LARGEST_WHOLE_FLOAT:
            raise ValueError(f"{name} {value!r} is a float that has lost digits. Expected text or a whole number.")
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(_of_few_digits(value, name))
    raise ValueError(f"{name} {short_repr(value)} is {type(value).__name__}. Expected text or a whole number.")


def number_of(text: str) -> float:
    """Reads a number as tables have it; Python itself also reads `1_000` and the digits of other scripts."""
    if "_" in text or not text.isascii():
        raise ValueError(f"{short_repr(text)} is no number. Expected one such as 4.5.")
    return float(text)


def as_seconds(value: Any) -> float:
    """Turns a number, ISO text ("2020-09-22", "2020-09-22T10:00:00+02:00"), date or datetime into seconds (UTC).

    Numbers are taken as they are; text without a time zone is UTC. Raises `ValueError` for anything else.
    """
    value = _of_python(value)
    if isinstance(value, str):
        try:
            return number_of(value)
        except ValueError:
            try:
                value = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
            except ValueError:
                raise ValueError(
                    f"timestamp {short_repr(value)} cannot be read. Expected a number or an ISO date such as "
                    "2020-09-22 or 2020-09-22T10:00:00+00:00."
                ) from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    raise ValueError(
        f"timestamp {short_repr(value)} is {type(value).__name__}. Expected a number, an ISO text or a datetime."
    )


def picture_source(value: Any, what: str) -> dict[str, Any] | None:
    """Brings the picture of an item to a dict of `"bytes"` and `"path"`, of which one is None; `None` for no picture.

    Args:
        value: a path, bytes, a dict with bytes or path, or a PIL picture. No file is opened; a PIL picture becomes
            the bytes of what the model is shown of it.
        what (`str`): whose picture it is, in an error.

    Raises:
        ValueError: anything else, or a PIL picture that cannot be decoded.
    """
    value = _of_python(value)
    if is_missing(value) or (isinstance(value, str) and not value):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, str | os.PathLike):
        return {"bytes": None, "path": readable(os.fspath(value))}
    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        try:
            open_picture(value).save(buffer, "PNG")
        except UnreadablePicture as error:
            raise ValueError(f"the image of {what}: {error}") from error
        return {"bytes": buffer.getvalue(), "path": None}
    if isinstance(value, Mapping) and set(value) <= {"bytes", "path"}:
        data = _of_python(value.get("bytes"))
        if is_missing(data):
            return picture_source(value.get("path"), what)
        if isinstance(data, bytes | bytearray | memoryview):
            return {"bytes": bytes(data), "path": None}
        raise ValueError(
            f"the bytes of the image of {what} came as {type(data).__name__}: {short_repr(data)}. Expected bytes, or "
            "a path in their place."
        )
    raise ValueError(
        f"the image of {what} came as {type(value).__name__}. "
        "Expected a path, bytes, a dict with bytes or path, or a PIL picture."
    )
