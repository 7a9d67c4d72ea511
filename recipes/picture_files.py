"""The picture files below a folder, and which of them may not be used; none is opened."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from processing_unimp.picture import UnreadablePicture
from processing_unimp.picture_folder import PictureFolder

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


class PictureFile(NamedTuple):
    """One file with the ending of a picture.

    Args:
        stem (`str`): its name without the ending.
        path (`Path`): where it is.
        problem (`str`, *optional*): what to count it as where it may not be used.
    """

    stem: str
    path: Path
    problem: str | None


def hashed_name(item_id: str) -> str:
    """Returns the name of an item's downloaded picture: SHA-256 in hex, for ids hold anything and file names do not.

    In SQL it is `sha256(item_id)`.
    """
    return hashlib.sha256(item_id.encode("utf-8", "backslashreplace")).hexdigest()


def find_pictures(folder: Path, root: Path) -> Iterator[PictureFile]:
    """Yields the picture files below a folder, in the order of their names; none where there is no such folder.

    Args:
        folder (`Path`): where to look; links to other folders are not followed.
        root (`Path`): the folder that links to files must not lead out of, for whoever loads the tables will not
            follow them there.
    """
    inside = PictureFolder(root)
    errors: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=errors.append):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                path = Path(place, name)
                yield PictureFile(stem, path, _problem(path, inside))
    for error in errors:
        if error.filename != str(folder):
            yield PictureFile("", Path(error.filename), "picture folders that cannot be listed")


def _problem(path: Path, inside: PictureFolder) -> str | None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "picture files with a name that is no UTF-8"
    try:
        found = (inside.find(str(path)) if path.is_symlink() else path).lstat()
    except (OSError, UnreadablePicture):
        return "picture files that are links to nothing, or out of the folder"
    if not stat.S_ISREG(found.st_mode):
        return "picture files that are no regular files"
    return None if found.st_size else "empty picture files"
