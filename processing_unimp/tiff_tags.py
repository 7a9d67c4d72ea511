"""The tags of a TIFF, and of Exif data, which is one: what they say of themselves, before a parser believes it.

A tag names any part of the file as its values. A parser that keeps those of every tag may come to many times the file,
and makes a Python number of each value of a list.
"""

import struct
from typing import NamedTuple

MAX_TAGS = 4_096  # of a picture, which has some dozens
MAX_NUMBERS = 100_000  # of one tag, such as where each strip begins
SHORT, LONG = 3, 4
# Bytes of a value, by its kind; others are passed over.
_SIZES = {1: 1, 2: 1, SHORT: 2, LONG: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_PLAIN_BYTES = (1, 2, 7)
_PREFIXES = (b"II", b"MM")


class Tag(NamedTuple):
    """One tag: its number, the kind and number of its values, and the value itself where it is one whole number."""

    number: int
    kind: int
    num_values: int
    value: int | None


def tags_of(data: bytes, start: int | None = None) -> list[Tag]:
    """The tags of a directory, those twice that are there twice.

    Args:
        data (`bytes`): a TIFF; of anything else there are none.
        start (`int`, *optional*): where the directory begins; that of the first without it.

    Raises:
        ValueError: more than `MAX_TAGS`, more than `MAX_NUMBERS` values of one, or more in all than the file holds.
    """
    if data[:2] not in _PREFIXES or 42 not in data[2:4] and 43 not in data[2:4]:
        return []
    order, is_big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    head, entry, place = (order + "Q", order + "HHQ8s", 8) if is_big else (order + "H", order + "HHI4s", 4)
    try:
        if start is None:
            (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, place)
        (number,) = struct.unpack_from(head, data, start)
    except (struct.error, OverflowError):
        return []
    if number > MAX_TAGS:
        raise ValueError(f"it has {number} tags; at most {MAX_TAGS} are read")
    start += struct.calcsize(head)
    size = struct.calcsize(entry)
    whole = data[start : start + number * size]
    tags = []
    for tag, kind, count, value in struct.iter_unpack(entry, whole[: len(whole) // size * size]):
        format_of = {SHORT: "H", LONG: "I"}.get(kind) if count == 1 else None
        tags.append(Tag(tag, kind, count, struct.unpack_from(order + format_of, value)[0] if format_of else None))
    if long := next((tag for tag in tags if tag.num_values > MAX_NUMBERS and tag.kind not in _PLAIN_BYTES), None):
        raise ValueError(f"its tag {long.number} has {long.num_values} values; at most {MAX_NUMBERS} are read")
    if (told := sum(_SIZES.get(tag.kind, 0) * tag.num_values for tag in tags)) > len(data):
        raise ValueError(f"its tags come to {told} bytes, and it has {len(data)}")
    return tags
