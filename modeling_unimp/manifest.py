"""manifest.json: size and hash of weights and config in a folder, so that damage is found before it answers."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import sha_fileobj
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME, cached_file, logging

logger = logging.get_logger(__name__)

MANIFEST = "manifest.json"
AGAIN = "It was damaged or exchanged: copy, download or save it again; verify=False loads it as it is."
BY_HAND = "If it was changed by hand, all is well, and saving it again ends this warning."
CONFIGS = (CONFIG_NAME, GENERATION_CONFIG_NAME)
HUB_ARGUMENTS = ("cache_dir", "revision", "subfolder", "token", "local_files_only", "force_download")


def write_manifest(folder: str | os.PathLike, names: Iterable[str]) -> None:
    """Note what files of a folder are, in place of what was noted before."""
    folder, entries = Path(folder), {}
    for name in names:
        with (folder / name).open("rb") as file:
            entries[name] = {"bytes": (folder / name).stat().st_size, "sha256": sha_fileobj(file).hex()}
    write_whole(folder / MANIFEST, json.dumps(entries, indent=2).encode())


def configs_in(folder: str | os.PathLike) -> list[str]:
    """Names of the configs of a model that lie in a folder."""
    return [name for name in CONFIGS if Path(folder, name).is_file()]


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that others see what was there before or all of the new, whenever this ends."""
    unfinished = file.with_name(file.name + ".new")
    unfinished.write_bytes(content)
    os.replace(unfinished, file)


def check_manifest(
    manifest: Path, file_of: Callable[[str], Path | None], wanted: Callable[[str], bool], may_lack: bool = True
) -> None:
    """
    Compare files with what was noted of them.

    Args:
        manifest (`Path`): what [`write_manifest`] wrote.
        file_of (`Callable`): from a name in it to the file; `None` where there is none.
        wanted (`Callable`): whether a name is looked at.
        may_lack (`bool`, *optional*, defaults to `True`): whether one may be gone, of which the loading will tell.

    Raises:
        ValueError: a file that is not what it was; the message names it.
        FileNotFoundError: one that is gone and may not be.
    """
    try:
        entries: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        noted = {name: (entry["bytes"], entry["sha256"]) for name, entry in entries.items() if wanted(name)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{manifest} is damaged: {error!r}. {AGAIN}") from error
    for name, (size, digest) in noted.items():
        file = file_of(name)
        if file is None and may_lack:
            continue
        if file is None:
            raise FileNotFoundError(f"{name} is missing beside {manifest}, which says what was saved. {AGAIN}")
        if file.stat().st_size != size:
            raise ValueError(f"{file} has {file.stat().st_size} bytes where {size} were written. {AGAIN}")
        with file.open("rb") as opened:
            if sha_fileobj(opened).hex() != digest:
                raise ValueError(f"{file} is not what was written: its sha256 is not that of {MANIFEST}. {AGAIN}")


def check_weights(
    name: str | os.PathLike, stem: str = "model", variant: str | None = None, may_lack: bool = True, **hub: Any
) -> None:
    """Compare the weights of a folder, or of a repository on the Hub, with its manifest, if it has one. A config that
    is not what was saved with them is told, for people write it by hand.

    Args:
        name (`str` or `Path`)
        stem (`str`, *optional*, defaults to `"model"`): how the files of weights are called.
        variant (`str`, *optional*): of the weights, as in `from_pretrained`.
        may_lack (`bool`, *optional*, defaults to `True`): see [`check_manifest`].
        hub (*optional*): arguments of `from_pretrained`, of which those that find files are used.
    """
    where = {key: hub[key] for key in HUB_ARGUMENTS if hub.get(key) is not None}

    def file_of(file: str) -> Path | None:
        found = cached_file(str(name), file, _raise_exceptions_for_missing_entries=False, **where)
        return None if found is None else Path(found)

    manifest = file_of(MANIFEST)
    if manifest is not None:
        begins = f"{stem}.{variant}" if variant else stem
        names = f"{begins}.safetensors", f"{begins}-"
        check_manifest(manifest, file_of, lambda each: each.startswith(names), may_lack)
        for config in CONFIGS if stem == "model" else ():
            try:
                check_manifest(manifest, file_of, lambda each, config=config: each == config)  # type: ignore[misc]
            except ValueError as error:
                logger.warning(f"{error} {BY_HAND}")
