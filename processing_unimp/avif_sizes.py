"""How many pixels an AVIF makes its decoder hold: those of the coded frames, and not of the size that the file tells.

A decoder scales what it has decoded to the size that the file tells, so a picture of 16 x 16 pixels may hold frames of
16,384 x 16,384. The frames say their size in the sequence header of AV1, one of the units (OBU) that they are made of.
"""

from collections.abc import Iterator

_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_SEQUENCE_HEADER = 1
# A picture has some; reading more would take long.
_MAX_UNITS = 100_000
_MAX_LIST_OF_ITEMS = 65_536  # bytes


class _Bits:
    """Numbers of some bits each, the first bits first; after the end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, number: int) -> int:
        self.left -= number
        shifted = self.value >> self.left if self.left >= 0 else self.value << -self.left
        return shifted & ((1 << number) - 1)


def coded_pixels_of_avif(data: bytes) -> int:
    """Pixels of all frames that are decoded for the first picture of a file, with those of its transparency.

    Raises:
        ValueError: a file without any, or one that ends early.
    """
    sizes = [size for frames in _coded(memoryview(data)) if (size := _pixels(frames)) is not None]
    if not sizes:
        raise ValueError("it has no sequence header, without which no AVIF is decoded")
    return sum(sizes)


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    while len(data) >= 8:
        size, begin = int.from_bytes(data[:4], "big"), 8
        if size == 1:
            size, begin = int.from_bytes(data[8:16], "big"), 16
        size = size or len(data)
        if size < begin:
            raise ValueError(f"a box of {size} bytes")
        yield bytes(data[4:8]), data[begin:size]
        data = data[size:]


def _coded(file: memoryview) -> Iterator[bytes]:
    """What is coded, by item, and of moving pictures what begins with the first of each chunk."""
    waiting = list(_boxes(file))
    while waiting:
        kind, body = waiting.pop()
        if kind in _CONTAINERS:
            waiting += _boxes(body)
        elif kind in (b"stco", b"co64") and len(body) >= 8:
            width = 4 if kind == b"stco" else 8
            first = int.from_bytes(body[8 : 8 + width], "big")
            yield bytes(file[first:])
        elif kind == b"meta":
            inner = dict(_boxes(body[4:]))
            if b"iloc" in inner:
                yield from _items(inner[b"iloc"], file, inner.get(b"idat", memoryview(b"")))


def _items(iloc: memoryview, file: memoryview, beside: memoryview) -> Iterator[bytes]:
    if len(iloc) > _MAX_LIST_OF_ITEMS:
        raise ValueError(f"its list of items has {len(iloc)} bytes: at most {_MAX_LIST_OF_ITEMS} are read")
    version, bits = iloc[0], _Bits(bytes(iloc[4:]))
    offset_size, length_size, base_size, index_size = (8 * bits.read(4) for _ in range(4))
    wide = 32 if version == 2 else 16
    taken = 0
    for _ in range(bits.read(wide)):
        bits.read(wide)
        is_beside = version > 0 and bits.read(16) & 15 == 1
        bits.read(16)
        base, parts = bits.read(base_size), []
        for _ in range(bits.read(16)):
            if bits.left < 0:
                raise ValueError("its list of items ends early")
            if version > 0:
                bits.read(index_size)
            begin, length = base + bits.read(offset_size), bits.read(length_size)
            source = beside if is_beside else file
            parts.append(source[begin : begin + length if length else len(source)])
            taken += len(parts[-1])
            if taken > 2 * len(file):
                raise ValueError("its items are larger than the file")
        yield b"".join(parts)


def _pixels(frames: bytes) -> int | None:
    """Of the largest frame that its sequence header allows; `None` for what holds none, such as EXIF data."""
    place, largest, units = 0, None, 0
    while place < len(frames):
        units += 1
        if units > _MAX_UNITS:
            raise ValueError(f"it has more than {_MAX_UNITS} units of AV1")
        head = frames[place]
        place += 2 if head & 4 else 1
        size = len(frames) - place
        if head & 2:
            size = shift = 0
            while place < len(frames):
                byte, place = frames[place], place + 1
                size |= (byte & 127) << shift
                shift += 7
                if not byte & 128 or shift > 56:
                    break
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            largest = max(largest or 0, _largest_frame(_Bits(frames[place : place + min(size, 1000)])))
        place += size
    return largest


def _largest_frame(bits: _Bits) -> int:
    """See the AV1 specification, 5.5.1."""
    bits.read(4)
    is_reduced = bits.read(1)
    if is_reduced:
        bits.read(5)
    else:
        delay_bits = 0
        if bits.read(1):
            bits.read(64)
            if bits.read(1):
                zeros = 0
                while zeros < 32 and not bits.read(1):
                    zeros += 1
                bits.read(zeros if zeros < 32 else 0)
            if bits.read(1):
                delay_bits = bits.read(5) + 1
                bits.read(42)
        has_display_delay = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if delay_bits and bits.read(1):
                bits.read(2 * delay_bits + 1)
            if has_display_delay and bits.read(1):
                bits.read(4)
    number_bits = [bits.read(4) + 1, bits.read(4) + 1]
    width, height = (bits.read(number) + 1 for number in number_bits)
    if bits.left < 0:
        raise ValueError("its sequence header ends early")
    if not is_reduced:
        # A frame may have a size of its own, of as many bits.
        widest, highest = (1 << number for number in number_bits)
        if widest >= 2 * width or highest >= 2 * height:
            return widest * highest
    return width * height
