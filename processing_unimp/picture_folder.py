"""Resolves the picture paths of an items table inside one folder and nowhere else: tables may be untrusted."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .bounds import short_repr
from .picture import UnreadablePicture, read_picture_file


class PictureFolder:
    """Paths of a table, looked up inside one folder.

    A path is relative to the folder, or absolute and inside it. Where it leads is decided after links are followed; of
    a path that leads out, neither the answer nor an error tells whether anything is there.

    Args:
        root (`str` or `Path`): the folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).resolve()

    def find(self, path: str) -> Path:
        """Returns the file that a path names.

        Raises:
            UnreadablePicture: the path leads out of the folder, or is an address. (Whether there is such a file shows
                when it is read.)
        """
        if "://" in path:
            raise UnreadablePicture(
                f"the picture {short_repr(path)} is an address. Expected a local file; download it."
            )
        try:
            found = (self.root / path).resolve()
        except (OSError, ValueError, RuntimeError):  # a name too long, a zero byte, links in a circle
            raise UnreadablePicture(f"{short_repr(path)} cannot be a path of a picture. Correct it.") from None
        if not found.is_relative_to(self.root):
            raise UnreadablePicture(
                f"the picture path {short_repr(path)} leads out of {str(self.root)!r}. Expected a file inside; for "
                "pictures elsewhere name their folder with image_root."
            )
        return found

    def read(self, path: str) -> bytes:
        """Returns the bytes of a picture file.

        Raises:
            UnreadablePicture: the path leads out of the folder, or to no file that can be read whole.
        """
        if os.path.split(path)[1] in ("", ".", ".."):
            raise UnreadablePicture(f"the picture path {short_repr(path)} names a folder. Expected a file.")
        found = self.find(path)
        try:
            return read_picture_file(found)
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            why = self.why_not(path) if is_missing else f"cannot read {short_repr(path)}: {error.strerror}."
            raise UnreadablePicture(why) from error

    def why_not(self, path: str) -> str:
        """Why a path names no picture file, in words."""
        try:
            return (
                f"no picture file at {short_repr(str(self.find(path)))}. Correct the path, or leave the image empty."
            )
        except UnreadablePicture as error:
            return str(error)

    def holds(self, paths: Sequence[str | None]) -> np.ndarray:
        """Returns for each path whether it names a regular file inside the folder: `(n,)` of `bool`."""
        # One listing a folder instead of one question a file, however its path is written.
        folders: dict[str, Path | None] = {}
        files: dict[Path | None, set[str]] = {None: set()}
        found = np.zeros(len(paths), dtype=bool)
        for row, path in enumerate(paths):
            if not path or "://" in path:
                continue
            written, name = os.path.split(path)
            if written not in folders:
                folders[written] = folder = self._found(written)
                if folder is not None and folder not in files:
                    files[folder] = self._files(folder)
            found[row] = name in files[folders[written]]
        return found

    def _found(self, folder: str) -> Path | None:
        try:
            return self.find(folder)
        except UnreadablePicture:
            return None

    def _files(self, folder: Path) -> set[str]:
        try:
            with os.scandir(folder) as entries:
                return {entry.name for entry in entries if self._is_file(entry, folder)}
        except OSError:  # no such folder, or none that may be read: its pictures are missing
            return set()

    def _is_file(self, entry: "os.DirEntry[str]", folder: Path) -> bool:
        if not entry.is_symlink():
            return entry.is_file()
        try:
            return self.find(os.path.join(folder, entry.name)).is_file()
        except (OSError, UnreadablePicture):
            return False
