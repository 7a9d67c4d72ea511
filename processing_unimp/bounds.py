"""Limits on the size of requests and tables of others, and a `ValueError` for what exceeds one."""

import reprlib
from collections.abc import Mapping, Sequence, Set, Sized
from pathlib import Path
from typing import Any

MAX_HISTORY = 10_000  # items of one history
MAX_CANDIDATES = 1_000  # of one selection
MAX_ATTRIBUTES = 100  # of one item
MAX_VALUES = 1_000  # of one list
MAX_DEPTH = 4  # lists and objects inside one another, within one attribute
MAX_CHARACTERS = 100_000  # of one text
MAX_PICTURES = 256  # of one request, each counted once
MAX_PIXELS_OF_REQUEST = 400_000_000  # of all these together: eight of the largest that are read, which take seconds
MAX_DATA_URI = 12_000_000  # characters; 9 MB of picture file
MAX_COLUMNS = 1_000  # of one table
# Of a packed table: times its size that it may grow. Text grows 5 to 20 times, a bomb 1,000 times.
MAX_UNPACKED = 200
MAX_UNPACKED_BYTES = 2**30  # that any packed table may have


class _ShortRepr(reprlib.Repr):
    def repr_int(self, number: int, level: int) -> str:
        # Python writes no number of more than some 4,300 digits.
        return super().repr_int(number, level) if number.bit_length() < 10_000 else "a number of very many digits"


_short = _ShortRepr()
_short.maxstring = _short.maxother = _short.maxlong = 80
_short.maxdict = _short.maxlist = _short.maxtuple = _short.maxset = _short.maxfrozenset = _short.maxdeque = 4
_short.maxlevel = 3


def short_repr(value: Any) -> str:
    """`repr`, cut to at most 400 characters for error messages: cheap, however large the value is."""
    return _short.repr(value)[:400]


def check_value(value: Any, what: str) -> None:
    """Refuse an attribute that is too deep, too long or too large, whatever it is made of.

    Args:
        value: text, number, or lists and objects of these; objects that contain themselves are too deep.
        what (`str`): how to call it in an error.

    Raises:
        ValueError: it goes over `MAX_DEPTH`, `MAX_VALUES` or `MAX_CHARACTERS`.
    """
    waiting = [(value, 0)]
    seen = 0
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, str | bytes | bytearray):
            if len(part) > MAX_CHARACTERS:
                raise ValueError(f"{what} has {len(part)} characters: at most {MAX_CHARACTERS} are read. Shorten it.")
            continue
        if not isinstance(part, Mapping | Sequence | Set):
            continue
        if depth == MAX_DEPTH:
            raise ValueError(
                f"{what} has lists or objects more than {MAX_DEPTH} deep inside one another. Make it flat."
            )
        seen += len(part)
        if seen > MAX_VALUES:
            raise ValueError(f"{what} has more than {MAX_VALUES} values: leave some out.")
        if isinstance(part, Mapping):
            waiting += [(key, depth + 1) for key in part]
        waiting += [(inner, depth + 1) for inner in (part.values() if isinstance(part, Mapping) else part)]


def check_length(values: Sized, most: int, what: str) -> None:
    """Refuse a list that is too long."""
    if len(values) > most:
        raise ValueError(f"{what} has {len(values)} entries: at most {most} are taken. Leave some out.")


def check_columns(names: Sized, what: str) -> None:
    """Refuse a table that is too wide: each column costs time and memory of its own, however few the rows."""
    if len(names) > MAX_COLUMNS:
        raise ValueError(
            f"{what} has {len(names)} columns: at most {MAX_COLUMNS} are read. Leave some out, or put what they hold "
            "into one column of lists."
        )


def most_unpacked(path: Path) -> int:
    """Bytes that a packed table may come to."""
    return max(MAX_UNPACKED_BYTES, MAX_UNPACKED * path.stat().st_size)


def too_much_unpacked(path: Path) -> ValueError:
    """What to raise for a packed table that comes to more."""
    return ValueError(
        f"{path.name} grows to more than {MAX_UNPACKED} times its size, as no table does. Unpack it yourself, to CSV "
        "or JSON lines, if it is in order."
    )
