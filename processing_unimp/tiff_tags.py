"""The tags of a TIFF, and of Exif data, which is one: what they say of themselves, before a parser believes it.

A tag names any part of the file as its values. A parser that keeps those of every tag may come to many times the file,
and makes a Python number of each value of a list.
"""

import contextlib
import struct
from typing import NamedTuple

MAX_TAGS = 4_096  # of a picture, which has some dozens
MAX_NUMBERS = 100_000  # of one tag, such as where each strip begins
SHORT, LONG, DIRECTORY, LONG8 = 3, 4, 13, 16
# Bytes of a value, by its kind; others are passed over.
_SIZES = {1: 1, 2: 1, SHORT: 2, LONG: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, DIRECTORY: 4, LONG8: 8}
_PLAIN_BYTES = (1, 2, 7)
# As Pillow reads them.
_PREFIXES = (b"II*\0", b"II\0*", b"II+\0", b"MM\0*", b"MM*\0")
_FURTHER = (34665, 34853, 40965)  # where the directories begin of Exif, of the place on earth, and of interoperability


class Tag(NamedTuple):
    """One tag: its number, the kind and number of its values, and the value itself where it is one whole number."""

    number: int
    kind: int
    num_values: int
    value: int | None


def tags_of(data: bytes, start: int | None = None) -> list[Tag]:
    """The tags of a directory, those twice that are there twice; the directories that it names are looked at too.

    Args:
        data (`bytes`): a TIFF; of anything else there are none.
        start (`int`, *optional*): where the directory begins; that of the first without it.

    Raises:
        ValueError: more than `MAX_TAGS`, more than `MAX_NUMBERS` values of one, or more in all than the file holds; a
            BigTIFF in the order of bytes in which Pillow and the decoder see different files.
    """
    if data[:4] == b"MM\0+":
        raise ValueError("it is a BigTIFF that begins with the high bytes; save it with the low ones first")
    if not data.startswith(_PREFIXES):
        return []
    order, is_big = "<" if data[:2] == b"II" else ">", data[2] == 43
    try:
        if start is None:
            (start,) = struct.unpack_from(order + "Q" if is_big else order + "I", data, 8 if is_big else 4)
        tags = _directory(data, start, order, is_big)
    except (struct.error, OverflowError):  # it begins nowhere, and is refused where it is read
        return []
    waiting, number, told = list(tags), len(tags), 0
    while waiting:
        tag = waiting.pop()
        if tag.num_values > MAX_NUMBERS and tag.kind not in _PLAIN_BYTES:
            raise ValueError(f"its tag {tag.number} has {tag.num_values} values; at most {MAX_NUMBERS} are read")
        told += _SIZES.get(tag.kind, 0) * tag.num_values
        if told > len(data):
            raise ValueError(f"its tags come to {told} bytes and more, and it has {len(data)}")
        if tag.number in _FURTHER and tag.kind in _SIZES:
            if tag.value is None:
                raise ValueError(f"its tag {tag.number} names no place in the file")
            with contextlib.suppress(struct.error, OverflowError):
                waiting += (further := _directory(data, tag.value, order, is_big))
                number += len(further)
        if number > MAX_TAGS:  # also of directories that name one another
            raise ValueError(f"it has {number} tags and more; at most {MAX_TAGS} are read")
    return tags


def _directory(data: bytes, start: int, order: str, is_big: bool) -> list[Tag]:
    head, entry = (order + "Q", order + "HHQ8s") if is_big else (order + "H", order + "HHI4s")
    (number,) = struct.unpack_from(head, data, start)
    if number > MAX_TAGS:
        raise ValueError(f"it has {number} tags; at most {MAX_TAGS} are read")
    start += struct.calcsize(head)
    size = struct.calcsize(entry)
    whole = data[start : start + number * size]
    formats = {SHORT: "H", LONG: "I", DIRECTORY: "I"} | ({LONG8: "Q"} if is_big else {})
    tags = []
    for tag, kind, count, value in struct.iter_unpack(entry, whole[: len(whole) // size * size]):
        written = formats.get(kind) if count == 1 else None
        tags.append(Tag(tag, kind, count, struct.unpack_from(order + written, value)[0] if written else None))
    return tags
