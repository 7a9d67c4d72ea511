"""processor_manifest.json: hashes of catalogue, tokenizer, terms and settings, so that damage is found on load."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import sha_fileobj
from transformers.utils import logging

logger = logging.get_logger(__name__)

PROCESSOR_MANIFEST = "processor_manifest.json"


def hash_of(file: Path) -> str:
    """sha256 of a file, as 64 hex digits."""
    with file.open("rb") as opened:
        return sha_fileobj(opened).hex()


def known_hashes(folder: Path) -> dict[str, list[str]]:
    """Which hashes each file of a folder may have: none for a folder without a manifest.

    Raises:
        ValueError: a manifest that cannot be read.
    """
    file = folder / PROCESSOR_MANIFEST
    if not file.is_file():
        return {}
    try:
        read: Any = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): [str(each) for each in hashes] for name, hashes in read.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error!r}. Save the processor again, or delete the file.") from error


def write_hashes(folder: Path, hashes: Mapping[str, list[str]]) -> None:
    """Replace the record of the hashes that the files of a folder may have."""
    unfinished = folder / f"{PROCESSOR_MANIFEST}.unfinished"
    unfinished.write_text(json.dumps(hashes, indent=2), encoding="utf-8")
    os.replace(unfinished, folder / PROCESSOR_MANIFEST)


def replace_file(new: Path, file: Path) -> None:
    """Put a new file in place of one; at no moment is there one that the manifest beside it does not know."""
    known = known_hashes(file.parent)
    if file.name in known:
        fresh = hash_of(new)
        write_hashes(file.parent, known | {file.name: [*known[file.name], fresh]})
        os.replace(new, file)
        write_hashes(file.parent, known | {file.name: [fresh]})
    else:
        os.replace(new, file)


def check_hash(file: Path) -> None:
    """Compare a file with the manifest beside it, if there is one with an entry for it.

    Raises:
        ValueError: it is not what was written.
    """
    expected = known_hashes(file.parent).get(file.name)
    if expected is not None and hash_of(file) not in expected:
        raise ValueError(
            f"{file} is not what was written: its sha256 is not that of {PROCESSOR_MANIFEST}. It was damaged or "
            "exchanged: copy, download or save it again; verify=False loads it as it is."
        )


def check_all(exact: Iterable[Path | None], settings: Iterable[Path | None]) -> None:
    """Compare files with the manifest beside them, as far as they are there; settings that are not what was written
    are told in the log, for people write these by hand.

    Raises:
        ValueError: one of the others is not what was written.
    """
    for file in filter(None, exact):
        check_hash(file)
    for file in filter(None, settings):
        try:
            check_hash(file)
        except ValueError as error:
            logger.warning(f"{error} If it was changed by hand, all is well; saving it again ends this warning.")


def check_present(files: Mapping[str, Path | None], manifest: Path | None) -> None:
    """Compare the names of files with a manifest, if there is one.

    Raises:
        FileNotFoundError: a file that was saved is not there.
    """
    noted = {} if manifest is None else known_hashes(manifest.parent)
    for name, file in files.items():
        if name in noted and file is None:
            raise FileNotFoundError(
                f"{name} is missing beside {manifest}, which says what was saved: copy, download or save the folder "
                "again; verify=False loads what is there."
            )
