"""Frozen vision features of a whole catalogue: computed once, memory-mapped from disk.

Shapes: N items, U pictures, P patches (tokens) a picture, F width of a vision feature.
A folder holds features.bin (rows of (P, F)), checksums.bin (CRC-32 of each row), rows.bin (row of each item) and
metadata.json, written last. A row is checked when it is first read.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel
from transformers.utils import logging

from ..backbones import vision_features
from ..manifest import write_whole

logger = logging.get_logger(__name__)

FEATURES = "features.bin"
CHECKSUMS = "checksums.bin"
ROWS = "rows.bin"
METADATA = "metadata.json"
UNFINISHED = "metadata.unfinished.json"

ROWS_HASH = "rows_sha256"  # in the metadata
CHECKSUM = np.dtype("<u4")
BUILD_AGAIN = "It was damaged or exchanged: copy it again, or build the features again with rebuild=True."

NO_PICTURE = -1
NOT_LOOKED_AT = -2

# numpy has no bfloat16; float16 has more digits for values of the size of vision features.
_STORED_AS = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "float16"}


class FeatureStore:
    """
    Vision features by token number of the item; made by [`FeatureStore.build`] or [`FeatureStore.open`]. Stores that
    were opened of the same files are equal.

    Attributes:
        num_items (`int`): N.
        num_pictures (`int`): items with features.
        num_patches (`int`): P.
        feature_size (`int`): F.
    """

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        self.folder = Path(folder)
        self.verify = verify
        self.metadata: dict[str, Any] = _metadata_of(self.folder / METADATA)
        # Each build writes the file anew.
        written = (self.folder / METADATA).stat()
        self._build = (written.st_dev, written.st_ino, written.st_mtime_ns)
        self.num_items: int = self.metadata["num_items"]
        self.num_pictures: int = self.metadata["num_pictures"]
        self.num_patches: int = self.metadata["num_patches"]
        self.feature_size: int = self.metadata["feature_size"]
        shape = (self.num_pictures, self.num_patches, self.feature_size)
        has_checksums = ROWS_HASH in self.metadata  # those of earlier versions have none
        sizes = {FEATURES: self.num_pictures * _row_bytes(self.metadata), ROWS: self.num_items * 8}
        if has_checksums:
            sizes[CHECKSUMS] = self.num_pictures * CHECKSUM.itemsize
        for name, needed in sizes.items():
            size = (self.folder / name).stat().st_size if (self.folder / name).is_file() else 0
            if size < needed:
                raise ValueError(
                    f"{self.folder / name} has {size} bytes; expected at least {needed}. The folder was copied in "
                    "part: copy it again, or delete it and build the features again."
                )
        self._rows = np.fromfile(self.folder / ROWS, dtype=np.int64, count=self.num_items)
        # Earlier versions appended; an append that was cut off has written rows that do not count.
        self._rows[self._rows >= self.num_pictures] = NO_PICTURE
        self._checksums = self._checked = None
        if self.verify and has_checksums:
            if _hash_of_rows(self._rows) != self.metadata[ROWS_HASH]:
                raise ValueError(
                    f"{self.folder / ROWS} or {METADATA} beside it is not what was written. {BUILD_AGAIN}"
                )
            self._checksums = np.fromfile(self.folder / CHECKSUMS, dtype=CHECKSUM, count=self.num_pictures)
            self._checked = np.zeros(self.num_pictures, dtype=bool)
        self._features = (
            np.memmap(self.folder / FEATURES, dtype=self.metadata["dtype"], mode="r", shape=shape)
            if self.num_pictures  # an empty file cannot be mapped
            else np.empty(shape, dtype=self.metadata["dtype"])
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FeatureStore) and self._build == other._build

    def __hash__(self) -> int:
        return hash(self._build)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memmap is a copy of the whole file; a worker process maps it again instead.
        return FeatureStore, (str(self.folder), self.verify)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        fingerprint: str,
        tower: PreTrainedModel | None = None,
        image_processor: Any = None,
        verify: bool = True,
    ) -> "FeatureStore":
        """
        Open a finished store.

        Args:
            folder (`str` or `Path`): where [`FeatureStore.build`] put it.
            fingerprint (`str`): of the catalogue.
            tower (`PreTrainedModel`, *optional*): if given, its weights must be those that made the features.
            image_processor (`BaseImageProcessor`, *optional*): if given, it must prepare pictures as it did then.
            verify (`bool`, *optional*, defaults to `True`): whether features have to be what was written.

        Raises:
            ValueError: no finished store there, a damaged one, or one of another catalogue, tower or image processor.
        """
        folder = Path(folder)
        if not (folder / METADATA).is_file():
            state = "an unfinished store" if (folder / UNFINISHED).is_file() else "no store"
            raise ValueError(f"{folder} holds {state} of vision features; expected a finished one. Run build first.")
        store = cls(folder, verify)
        identity = _identity(fingerprint, tower, image_processor)
        stale = [name for name, value in identity.items() if store.metadata.get(name) != value]
        if stale:
            came = ", ".join(f"{name} {store.metadata.get(name)} instead of {identity[name]}" for name in stale)
            raise ValueError(
                f"The vision features in {folder} are not of this {' and '.join(stale)}: found {came}. Name another "
                "folder, or build them again with rebuild=True (or delete the folder)."
            )
        return store

    @classmethod
    def build(
        cls,
        tower: PreTrainedModel,
        image_processor: Any,
        picture_of: Callable[[int], Image.Image | None],
        num_items: int,
        folder: str | Path,
        *,
        fingerprint: str,
        dtype: torch.dtype = torch.float16,
        batch_size: int = 32,
        num_pictures: int | None = None,
        rebuild: bool = False,
    ) -> "FeatureStore":
        """
        Compute the features of a catalogue, or open them if they are there. A build that was stopped goes on where it
        was.

        The pictures themselves are not part of the fingerprint: after exchanging some, pass `rebuild=True`.

        Args:
            tower (`PreTrainedModel`): frozen vision tower; used in eval mode, on its own device.
            image_processor (`BaseImageProcessor`): of that tower.
            picture_of (`Callable`): from an item's token number to its picture, or `None`.
            num_items (`int`): N; `picture_of` is called with 0 to N - 1, in order.
            folder (`str` or `Path`): created if needed.
            fingerprint (`str`): of the catalogue.
            dtype (`torch.dtype`, *optional*, defaults to `torch.float16`):
                On disk, float16 or float32; bfloat16 is stored as float16.
            batch_size (`int`, *optional*, defaults to 32): pictures a forward.
            num_pictures (`int`, *optional*):
                At most so many items have a picture, for the free space asked for; defaults to `num_items`.
            rebuild (`bool`, *optional*, defaults to `False`): start anew whatever is there.

        Raises:
            ValueError:
                Before anything is computed: a finished store of something else is there, the folder cannot be written,
                or its disk has not enough room. Later: the disk is full, pictures come out in different sizes, or
                features do not fit into float16.
        """
        folder = Path(folder)
        if dtype not in _STORED_AS:
            raise ValueError(f"dtype={dtype}: expected torch.float16, torch.bfloat16 or torch.float32.")
        if num_items < 1 or batch_size < 1:
            raise ValueError(f"num_items={num_items} and batch_size={batch_size}: expected at least 1 of each.")
        if (folder / METADATA).is_file() and not rebuild:
            return cls.open(folder, fingerprint, tower, image_processor)
        was_training = tower.training
        tower.eval()
        try:
            _build(
                tower,
                image_processor,
                picture_of,
                folder,
                _identity(fingerprint, tower, image_processor) | {"num_items": num_items, "dtype": _STORED_AS[dtype]},
                batch_size,
                num_items if num_pictures is None else min(num_pictures, num_items),
                rebuild,
            )
        finally:
            tower.train(was_training)
        return cls(folder)

    def has(self, number: int) -> bool:
        """Whether the item with this token number has features."""
        return 0 <= number < self.num_items and bool(self._rows[number] >= 0)

    def features(self, numbers: Sequence[int]) -> torch.Tensor:
        """
        Features of items by token number.

        Returns:
            `torch.FloatTensor` of shape `(U, P, F)`, float32, in the order of `numbers`.

        Raises:
            ValueError: an item has none; ask `has` first. Or its features on disk are damaged.
        """
        without = [number for number in numbers if not self.has(number)]
        if without:
            raise ValueError(
                f"{len(without)} of {len(numbers)} items have no vision features, such as number {without[0]} (the "
                f"store holds {self.num_pictures} pictures of {self.num_items} items). Leave them out with `has`."
            )
        rows = self._rows[np.asarray(numbers, dtype=np.int64)]
        self._check(rows)
        return torch.from_numpy(self._features[rows].astype(np.float32))

    def pooled(self) -> torch.Tensor:
        """
        Mean over the patches of each item's picture, zeros where there is none.

        Returns:
            `torch.FloatTensor` of shape `(N, F)`, float32.

        Raises:
            ValueError: features on disk are damaged.
        """
        means = np.zeros((self.num_pictures, self.feature_size), dtype=np.float32)
        for start in range(0, self.num_pictures, 256):
            self._check(np.arange(start, min(start + 256, self.num_pictures)))
            means[start : start + 256] = self._features[start : start + 256].mean(axis=1, dtype=np.float32)
        pooled = np.zeros((self.num_items, self.feature_size), dtype=np.float32)
        pooled[self._rows >= 0] = means[self._rows[self._rows >= 0]]
        return torch.from_numpy(pooled)

    def _check(self, rows: np.ndarray) -> None:
        """Compare rows that were not read before with their checksums."""
        if self._checksums is None or self._checked is None:
            return
        for row in np.unique(rows[~self._checked[rows]]):
            if zlib.crc32(self._features[row].tobytes()) != self._checksums[row]:
                raise ValueError(f"row {row} of {self.folder / FEATURES} is not what was written. {BUILD_AGAIN}")
            self._checked[row] = True


def tower_fingerprint(tower: PreTrainedModel) -> str:
    """16 hex digits that change with any weight of the tower, its dtype or its activation."""
    digest = hashlib.sha256(str(getattr(tower.config, "hidden_act", "")).encode())
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def image_processor_fingerprint(image_processor: Any) -> str:
    """16 hex digits that change with any setting of the image processor."""
    settings = json.loads(image_processor.to_json_string())
    # Which processor it is part of says nothing about pictures.
    for name in ("processor_class", "auto_map"):
        settings.pop(name, None)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _identity(catalogue: str, tower: PreTrainedModel | None, image_processor: Any) -> dict[str, Any]:
    identity = {"catalogue": catalogue}
    if tower is not None:
        identity["tower"] = tower_fingerprint(tower)
    if image_processor is not None:
        identity["image_processor"] = image_processor_fingerprint(image_processor)
    return identity


def _build(
    tower: PreTrainedModel,
    image_processor: Any,
    picture_of: Callable[[int], Image.Image | None],
    folder: Path,
    metadata: dict[str, Any],
    batch_size: int,
    num_pictures: int,
    rebuild: bool,
) -> None:
    num_items = metadata["num_items"]
    probe = _compute(tower, image_processor, [Image.new("RGB", (64, 64))])
    metadata |= {"num_patches": probe.shape[1], "feature_size": probe.shape[2], "checksums": "crc32"}
    row_bytes = _row_bytes(metadata)
    unfinished = folder / UNFINISHED
    resumes = not rebuild and _is_begun(unfinished, metadata)

    _check_room(folder, num_pictures * (row_bytes + CHECKSUM.itemsize) + num_items * 8)
    if not resumes:
        with _with_resume_hint(folder):
            # In this order a kill leaves nothing that looks finished or that could be gone on with.
            for name in (METADATA, UNFINISHED, FEATURES, CHECKSUMS, ROWS):
                (folder / name).unlink(missing_ok=True)
            (folder / FEATURES).touch()
            (folder / CHECKSUMS).touch()
            np.full(num_items, NOT_LOOKED_AT, dtype=np.int64).tofile(folder / ROWS)
            write_whole(unfinished, json.dumps(metadata, indent=2).encode())
    rows = np.memmap(folder / ROWS, dtype=np.int64, mode="r+", shape=(num_items,))
    start = int(np.argmax(rows == NOT_LOOKED_AT)) if (rows == NOT_LOOKED_AT).any() else num_items
    written = int(rows.max()) + 1 if start else 0
    if start:
        logger.info(f"vision features in {folder}: {start} of {num_items} items are there, going on")

    progress = logging.tqdm(total=num_items, initial=start, desc="vision features", unit=" items")
    with progress, (folder / FEATURES).open("r+b") as file, (folder / CHECKSUMS).open("r+b") as checksums:
        # What a killed build wrote without noting it in rows.
        for each, size in ((file, row_bytes), (checksums, CHECKSUM.itemsize)):
            each.truncate(written * size)
            each.seek(0, os.SEEK_END)
        while start < num_items:
            pictures: dict[int, Image.Image] = {}
            stop = start
            while stop < num_items and len(pictures) < batch_size:
                picture = picture_of(stop)
                if picture is not None:
                    pictures[stop] = picture
                stop += 1
            if pictures:
                features = _compute(tower, image_processor, list(pictures.values()))
                array = _to_numpy(features, metadata["dtype"])
                with _with_resume_hint(folder):
                    file.write(array.tobytes())
                    file.flush()
                    checksums.write(_checksums_of(array).tobytes())
                    checksums.flush()
            new_rows = np.full(stop - start, NO_PICTURE, dtype=np.int64)
            new_rows[np.fromiter(pictures, np.int64) - start] = written + np.arange(len(pictures))
            # After the features, so that a row that is noted is a row that is there.
            rows[start:stop] = new_rows
            written += len(pictures)
            progress.update(stop - start)
            start = stop
        os.fsync(file.fileno())
        os.fsync(checksums.fileno())
    rows.flush()
    metadata |= {"num_pictures": written, ROWS_HASH: _hash_of_rows(rows)}
    with _with_resume_hint(folder):
        write_whole(folder / METADATA, json.dumps(metadata, indent=2).encode())
        unfinished.unlink()


@contextmanager
def _with_resume_hint(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"Vision features could not be written to {folder}: {error}. Make room and run the same again: it goes on "
            "where it was."
        ) from error


@torch.no_grad()
def _compute(tower: PreTrainedModel, image_processor: Any, pictures: list[Image.Image]) -> torch.Tensor:
    pixel_values = image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    return vision_features(tower, pixel_values.to(tower.device))


def _to_numpy(features: torch.Tensor, dtype: str) -> np.ndarray:
    stored = features.detach().to("cpu", getattr(torch, dtype))
    if not torch.isfinite(stored).all():
        largest = features.detach().float().abs().max().item()
        raise ValueError(
            f"Vision features up to {largest:g} do not fit into {dtype}, or are no numbers. Build the store with "
            "dtype=torch.float32, and check that the tower's weights are finite."
        )
    return stored.numpy()


def _checksums_of(array: np.ndarray) -> np.ndarray:
    return np.array([zlib.crc32(row.tobytes()) for row in array], dtype=CHECKSUM)


def _hash_of_rows(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()


def _is_begun(unfinished: Path, metadata: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(unfinished.read_text(encoding="utf-8")) == metadata)
    except (OSError, ValueError):  # what cannot be written either is said when it is tried
        return False


def _metadata_of(file: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        sizes = [metadata[name] for name in ("num_items", "num_pictures", "num_patches", "feature_size")]
        if not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise ValueError(f"the sizes {sizes}")
        if metadata["dtype"] not in _STORED_AS.values():
            raise ValueError(f"the dtype {str(metadata['dtype'])[:40]!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error!r}. {BUILD_AGAIN}") from error
    return dict(metadata)


def _row_bytes(metadata: dict[str, Any]) -> int:
    return metadata["num_patches"] * metadata["feature_size"] * np.dtype(metadata["dtype"]).itemsize


def _check_room(folder: Path, needed: int) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write_test"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error}). Name another folder for the features.") from error
    there = sum((folder / name).stat().st_size for name in (FEATURES, ROWS) if (folder / name).is_file())
    free = shutil.disk_usage(folder).free + there
    if free < needed:
        raise ValueError(
            f"Vision features need up to {needed / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free. Make "
            "room, name a folder on another disk, or choose a vision model with fewer or narrower features."
        )
