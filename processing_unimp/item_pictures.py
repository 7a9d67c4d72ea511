"""Where the picture of each item is: bytes or a path of a file, as the table or a later change gives it."""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from .picture import UnreadablePicture, open_picture
from .picture_folder import PictureFolder

try:  # comes with datasets; inside `try` so that Hub export does not list it as a requirement of its own
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError as error:
    raise ImportError("UniMP reads its tables with pyarrow; pip install datasets brings it") from error

logger = logging.getLogger(__name__)

# Bytes and path of a picture, one of them None; None for no picture.
Source = dict[str, Any] | None

_NUM_WARNINGS = 5


class ItemPictures:
    """The pictures of a catalogue by item number, opened when they are asked for.

    Args:
        item_ids (`list[str]`): the catalogue's own list, which grows with it.
        column (`pa.ChunkedArray`, *optional*): a source for each of these items; `None` for a table without pictures.
        root (`str` or `Path`): where relative paths start, and what no path may lead out of.

    Attributes:
        unreadable (`dict[str, str]`): item id to reason, for pictures found missing or broken so far.
    """

    def __init__(self, item_ids: list[str], column: "pa.ChunkedArray | None", root: str | os.PathLike[str]) -> None:
        self.item_ids = item_ids
        self.folder = PictureFolder(root)
        self.unreadable: dict[str, str] = {}
        self._column = column
        self._num_in_table = len(item_ids)
        self._newer: dict[int, Source] = {}  # added or changed since; they come before the table
        self._is_there: np.ndarray | None = None
        self._are_pictures: set[int] = set()  # whose bytes were decoded once

    @property
    def has_column(self) -> bool:
        """Whether the table has pictures, or an item was added or changed since."""
        return self._column is not None or bool(self._newer)

    def replace(self, sources: Mapping[int, Source]) -> None:
        """Exchanges pictures, or adds those of new items; what was known to be broken is tried again."""
        self._newer.update(sources)
        self._are_pictures.difference_update(sources)
        for number in sources:
            if number < len(self.item_ids):
                self.unreadable.pop(self.item_ids[number], None)

    def source(self, number: int) -> Source:
        """Bytes or path of a picture, as it was given."""
        if self._is_newer(number):
            return self._newer.get(number)
        source = None if self._column is None else self._column[number].as_py()
        if source is None or (source["bytes"] is None and not source["path"]):
            return None
        return {"bytes": source["bytes"], "path": source["path"]}

    def has(self, number: int) -> bool:
        """Whether an item has a picture that exists and is not known to be broken (it is not decoded here)."""
        if self.item_ids[number] in self.unreadable:
            return False
        if self._is_newer(number):
            source = self._newer.get(number)
            return source is not None and (source["bytes"] is not None or self._is_file(number, source["path"]))
        if self._is_there is None:
            self._is_there = self._find_sources()
        return bool(self._is_there[number]) and self.item_ids[number] not in self.unreadable

    def open(self, number: int) -> Image.Image | None:
        """The picture as upright RGB; `None` where there is none, or (recorded in `unreadable`) none to be read."""
        source = self.source(number)
        if source is None or self.item_ids[number] in self.unreadable:
            return None
        try:
            return open_picture(self._with_bytes(source))
        except UnreadablePicture as error:
            self._record_unreadable(number, str(error))
            return None

    def open_source(self, source: Source) -> Image.Image | None:
        """A picture that is not in the catalogue yet; `None` where there is none or it cannot be read."""
        try:
            return None if source is None else open_picture(self._with_bytes(source))
        except UnreadablePicture:
            return None

    def digest(self, number: int) -> int:
        """64 bits of the SHA-256 of the picture's bytes, from table or file; 0 where there are none to be read."""
        source = self.source(number)
        try:
            content = None if source is None else self._with_bytes(source)["bytes"]
        except UnreadablePicture:
            content = None
        return 0 if content is None else int.from_bytes(hashlib.sha256(content).digest()[:8], "little")

    def embedded(self, number: int) -> Source:
        """The picture as it is saved: its file, read once and taken if it is a picture, and the name of that without
        its folder."""
        source = self.source(number)
        if source is None:
            return None
        try:
            read = self._with_bytes(source)
            if source["bytes"] is None or number not in self._are_pictures:
                open_picture(read)
        except UnreadablePicture as error:
            self._record_unreadable(number, str(error))
            return None
        if source["bytes"] is not None:
            self._are_pictures.add(number)
        return read | {"path": source["path"] and PurePosixPath(source["path"].replace("\\", "/")).name}

    def _is_newer(self, number: int) -> bool:
        return number in self._newer or number >= self._num_in_table

    def _with_bytes(self, source: dict[str, Any]) -> dict[str, Any]:
        return source if source["bytes"] is not None else source | {"bytes": self.folder.read(source["path"])}

    def _is_file(self, number: int, path: str) -> bool:
        if not (found := bool(self.folder.holds([path])[0])):
            self._record_unreadable(number, self.folder.why_not(path))
        return found

    def _find_sources(self) -> np.ndarray:
        """Which items of the table have bytes, or the path of a file that is there."""
        if self._column is None:
            return np.zeros(self._num_in_table, dtype=bool)
        found: np.ndarray = pc.struct_field(self._column, "bytes").is_valid().to_numpy().copy()
        paths = pc.struct_field(self._column, "path").to_pylist()
        named = [number for number, path in enumerate(paths) if path and not found[number]]
        found[named] = self.folder.holds([paths[number] for number in named])
        for number in named:
            if not found[number] and number not in self._newer:  # whose path in the table counts no more
                self._record_unreadable(number, self.folder.why_not(paths[number]))
        return found

    def _record_unreadable(self, number: int, reason: str) -> None:
        item_id = self.item_ids[number]
        if item_id in self.unreadable:
            return
        self.unreadable[item_id] = reason
        count = len(self.unreadable)
        if count <= _NUM_WARNINGS:
            further = " Further ones are only recorded in catalogue.unreadable_pictures."
            last = further if count == _NUM_WARNINGS else ""
            logger.warning("item %r is used without its picture: %s%s", item_id, reason, last)
