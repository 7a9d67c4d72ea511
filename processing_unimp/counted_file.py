"""A file in memory that may be read so often and no more: each part of a picture costs the parser of its format a few
reads, and lists that it joins part by part take time with the square of their number."""

import io


class CountedFile(io.BytesIO):
    """Bytes as a file; a read too many is a `ValueError`.

    Args:
        data (`bytes`)
        reads_left (`int`): how often it may be read; it may be set anew.
    """

    def __init__(self, data: bytes, reads_left: int) -> None:
        super().__init__(data)
        self.reads_left = reads_left

    def __repr__(self) -> str:
        return f"of {len(self.getbuffer())} bytes"  # what a parser says that it cannot identify

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise ValueError("it has more parts than are read")
        return super().read(size)
