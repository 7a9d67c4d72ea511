"""The pages of a column in a parquet file, by their own headers: what the end of the file tells of them may be untrue.

Headers are in Thrift's compact protocol; what they say is described at
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

DELTA_BYTE_ARRAY = 7  # an encoding: a value is what it shares with the one before it, and the rest
DICTIONARY_PAGE = 2  # a kind of page
# By the kind of a page of values: in which field of its header more is said of it, and there the encoding.
_DETAILS: dict[Any, tuple[Any, Any]] = {0: (5, 2), DICTIONARY_PAGE: (7, 2), 3: (8, 4)}
_HEADER_BYTES = 2_048, 65_536  # that are looked at, if need be
_MAX_DEPTH = 8  # of structures inside one another
_TRUE, _FALSE, _BYTE, _DOUBLE, _TEXT, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


class Page(NamedTuple):
    """One page: its kind, its bytes once it is unpacked, and the number and the encoding of its values."""

    kind: int
    unpacked_bytes: int
    num_values: int
    encoding: int


def pages_of(source: Any, start: int, end: int, num_values: int) -> Iterator[Page]:
    """Pages in the order in which a reader takes them.

    Args:
        source (`pa.NativeFile`): the file.
        start (`int`): of the first page.
        end (`int`): of the column.
        num_values (`int`): after which a reader takes no further page.

    Raises:
        ValueError: a header that cannot be read.
    """
    seen = 0
    while start < end and seen < num_values:
        header, length = _header(source, start)
        page = _page(header)
        yield page
        seen += 0 if page.kind == DICTIONARY_PAGE else page.num_values
        start += length + header[3]


def _page(header: dict[int, Any]) -> Page:
    kind = header.get(1)
    field, place = _DETAILS.get(kind, (None, None)) if isinstance(kind, int) else (None, None)
    details = {1: 0, place: -1} if field is None else header.get(field)
    if not isinstance(details, dict):
        details = {}
    numbers: list[Any] = [kind, header.get(2), header.get(3), details.get(1), details.get(place)]
    if not all(type(number) is int for number in numbers):
        raise ValueError("a page of the file cannot be read: its header does not say what it holds")
    kind, unpacked, packed, num_values, encoding = numbers
    if min(unpacked, packed, num_values) < 0:
        raise ValueError("a page of the file cannot be read: its header says a size below 0")
    return Page(kind, unpacked, num_values, encoding)


def _header(source: Any, start: int) -> tuple[dict[int, Any], int]:
    """The fields of a header, and its length in bytes."""
    for size in _HEADER_BYTES:
        reader = _Compact(source.read_at(size, start))
        try:
            return reader.structure(), reader.place
        except IndexError:
            continue
    raise ValueError(f"a page of the file cannot be read: its header has more than {size} bytes, or ends early")


class _Compact:
    """Reads values one after the other; `IndexError` where the data ends."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def structure(self, depth: int = 0) -> dict[int, Any]:
        """Fields by number; those of a kind that no size or number has are passed over."""
        if depth > _MAX_DEPTH:
            raise ValueError("a page of the file cannot be read: its header is too deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind == _DOUBLE:
            return self._skip(8)
        if kind == _TEXT:
            return self._skip(self._number())
        if kind in (_LIST, _SET):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._number()
            return self._entries(size, [head & 15], depth)
        if kind == _MAP:
            size = self._number()
            kinds = self._byte() if size else 0
            return self._entries(size, [kinds >> 4, kinds & 15], depth)
        if kind == _STRUCT:
            return self.structure(depth + 1)
        if kind > _STRUCT or kind == 0:
            raise ValueError(f"a page of the file cannot be read: its header has a field of kind {kind}")
        return self._signed()

    def _entries(self, size: int, kinds: list[int], depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("a page of the file cannot be read: its header is too deep")
        for _ in range(size):
            for kind in kinds:
                if kind in (_TRUE, _FALSE):  # in a list they take a byte
                    self._byte()
                else:
                    self._value(kind, depth + 1)

    def _byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def _skip(self, size: int) -> None:
        self.place += size

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 63:
                return value

    def _signed(self) -> int:
        number = self._number()
        return (number >> 1) ^ -(number & 1)
