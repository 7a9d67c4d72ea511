"""Frozen vision features of a shop's pictures: computed once, memory-mapped from disk.

Shapes: N items, U pictures, P patches (tokens) a picture, F width of a vision feature.
A folder holds store.json (what made them), features.bin (rows of (P, F)) and pictures.bin (of each picture that was
looked at its digest, its row and the CRC-32 of that row, and the CRC-32 of these three). Files only grow: what has
changed since is looked at when the store is built again, and what another process has open stays as it is. A row is
checked when it is first read, pictures.bin when it is opened.
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
PICTURES = "pictures.bin"
METADATA = "store.json"
# Of earlier versions, which did not know what picture a row is of, or whether it was noted so.
_OBSOLETE = ("features.json", "metadata.json", "metadata.unfinished.json", "checksums.bin", "rows.bin")

RECORD = np.dtype([("picture", "<u8"), ("row", "<i8"), ("checksum", "<u4"), ("of_record", "<u4")])
_CHECKED_BYTES = RECORD.itemsize - 4  # of a record: all but its own checksum
NO_ROW = -1  # of no picture, or of one that cannot be read
BUILD_AGAIN = "It was damaged or exchanged: copy it again, or build the features again with rebuild=True."

# numpy has no bfloat16; float16 has more digits for values of the size of vision features.
_STORED_AS = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "float16"}


class FeatureStore:
    """
    Vision features by token number of the item; made by [`FeatureStore.build`] or [`FeatureStore.open`]. Stores that
    were opened of the same files for the same pictures are equal.

    Attributes:
        digests (`np.ndarray` of shape `(N,)`): of the pictures that the items have, 0 where there is none.
        lacking (`np.ndarray`): numbers of the items whose pictures were never looked at.
        num_items (`int`): N.
        num_pictures (`int`): items with features.
        num_patches (`int`): P.
        feature_size (`int`): F.
    """

    def __init__(self, folder: str | Path, digests: np.ndarray, verify: bool = True) -> None:
        self.folder = Path(folder)
        self.digests = digests = np.asarray(digests, dtype=RECORD["picture"])
        self.verify = verify
        self.metadata: dict[str, Any] = _metadata_of(self.folder / METADATA)
        self.num_patches: int = self.metadata["num_patches"]
        self.feature_size: int = self.metadata["feature_size"]
        records = _records_of(self.folder / PICTURES, verify)
        written = (self.folder / PICTURES).stat()  # of each build; what of it is read, the digests say
        self._build = (written.st_dev, written.st_ino, written.st_mtime_ns, written.st_size, digests.tobytes())
        self._num_rows = int(records["row"].max()) + 1
        needed = self._num_rows * _row_bytes(self.metadata)
        size = (self.folder / FEATURES).stat().st_size if (self.folder / FEATURES).is_file() else 0
        if size < needed:
            raise ValueError(
                f"{self.folder / FEATURES} has {size} bytes; expected at least {needed}. The folder was copied in "
                "part: copy it again, or delete it and build the features again."
            )
        order = np.argsort(records["picture"], kind="stable")
        places = order[np.searchsorted(records["picture"], digests, side="right", sorter=order) - 1]
        is_known = records["picture"][places] == digests
        self._rows = np.where(is_known, records["row"][places], NO_ROW)
        self.lacking = np.flatnonzero(~is_known)
        self.num_items = len(digests)
        self.num_pictures = int((self._rows >= 0).sum())
        with_row = records[records["row"] >= 0]
        self._checksums = np.zeros(self._num_rows, dtype=RECORD["checksum"])
        self._checksums[with_row["row"]] = with_row["checksum"]
        self._checked = np.full(self._num_rows, not verify)
        shape = (self._num_rows, self.num_patches, self.feature_size)
        self._features = (
            np.memmap(self.folder / FEATURES, dtype=self.metadata["dtype"], mode="r", shape=shape)
            if self._num_rows  # an empty file cannot be mapped
            else np.empty(shape, dtype=self.metadata["dtype"])
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FeatureStore) and self._build == other._build

    def __hash__(self) -> int:
        return hash(self._build)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memmap is a copy of the whole file; a worker process maps it again instead.
        return FeatureStore, (str(self.folder), self.digests, self.verify)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        digests: np.ndarray,
        tower: PreTrainedModel | None = None,
        image_processor: Any = None,
        verify: bool = True,
    ) -> "FeatureStore":
        """
        Open a store that has the features of all pictures.

        Args:
            folder (`str` or `Path`): where [`FeatureStore.build`] put it.
            digests (`np.ndarray` of shape `(N,)`): [`Catalogue.picture_digests`] as they are now.
            tower (`PreTrainedModel`, *optional*): if given, its weights must be those that made the features.
            image_processor (`BaseImageProcessor`, *optional*): if given, it must prepare pictures as it did then.
            verify (`bool`, *optional*, defaults to `True`): whether features have to be what was written.

        Raises:
            ValueError:
                No store there, a damaged one, one of another tower or image processor, or one that was not finished or
                has not seen pictures that came or changed since.
        """
        folder = Path(folder)
        if not (folder / METADATA).is_file():
            raise ValueError(f"{folder} holds no store of vision features; expected a finished one. Run build first.")
        store = cls(folder, digests, verify)
        store._check_made_by(_makers(tower, image_processor))
        if len(store.lacking):
            raise ValueError(
                f"The store {folder} lacks the vision features of {len(store.lacking)} of {np.count_nonzero(digests)} "
                f"pictures, such as that of item number {store.lacking[0]}: it was not finished, or they came or "
                "changed since. Run build, which looks at these alone."
            )
        return store

    @classmethod
    def build(
        cls,
        tower: PreTrainedModel,
        image_processor: Any,
        picture_of: Callable[[int], Image.Image | None],
        digests: np.ndarray,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float16,
        batch_size: int = 32,
        rebuild: bool = False,
    ) -> "FeatureStore":
        """
        Compute the features of a catalogue that are not there yet: of all pictures, of those that came or changed
        since, or of those that a build which was stopped has left. Those of pictures that no item has any longer stay.

        Args:
            tower (`PreTrainedModel`): frozen vision tower; used in eval mode, on its own device.
            image_processor (`BaseImageProcessor`): of that tower.
            picture_of (`Callable`): from an item's token number to its picture, or `None` if it cannot be read.
            digests (`np.ndarray` of shape `(N,)`):
                [`Catalogue.picture_digests`]; `picture_of` is called with the numbers of new ones, in order.
            folder (`str` or `Path`): created if needed.
            dtype (`torch.dtype`, *optional*, defaults to `torch.float16`):
                On disk, float16 or float32, for a new store; bfloat16 is stored as float16.
            batch_size (`int`, *optional*, defaults to 32): pictures a forward.
            rebuild (`bool`, *optional*, defaults to `False`): start anew whatever is there.

        Raises:
            ValueError:
                Before anything is computed: a store of another tower or image processor is there, the folder cannot be
                written, or its disk has not enough room. Later: the disk is full, pictures come out in different
                sizes, or features do not fit into float16.
        """
        folder = Path(folder)
        if dtype not in _STORED_AS:
            raise ValueError(f"dtype={dtype}: expected torch.float16, torch.bfloat16 or torch.float32.")
        if len(digests) < 1 or batch_size < 1:
            raise ValueError(f"{len(digests)} digests and batch_size={batch_size}: expected at least 1 of each.")
        makers = _makers(tower, image_processor)
        was_training = tower.training
        tower.eval()
        try:
            if rebuild or not (folder / METADATA).is_file():
                probe = _compute(tower, image_processor, [Image.new("RGB", (64, 64))])
                sizes = {"num_patches": probe.shape[1], "feature_size": probe.shape[2], "dtype": _STORED_AS[dtype]}
                _begin(folder, makers | sizes)
            store = cls(folder, digests)
            store._check_made_by(makers)
            if len(store.lacking):
                store._look_at_lacking(tower, image_processor, picture_of, batch_size)
                store = cls(folder, digests)
        finally:
            tower.train(was_training)
        return store

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
        pooled = np.zeros((self.num_items, self.feature_size), dtype=np.float32)
        with_features = np.flatnonzero(self._rows >= 0)
        for start in range(0, len(with_features), 256):
            numbers = with_features[start : start + 256]
            self._check(self._rows[numbers])
            pooled[numbers] = self._features[self._rows[numbers]].mean(axis=1, dtype=np.float32)
        return torch.from_numpy(pooled)

    def _check(self, rows: np.ndarray) -> None:
        """Compare rows that were not read before with their checksums."""
        for row in np.unique(rows[~self._checked[rows]]):
            if zlib.crc32(self._features[row].tobytes()) != self._checksums[row]:
                raise ValueError(f"row {row} of {self.folder / FEATURES} is not what was written. {BUILD_AGAIN}")
            self._checked[row] = True

    def _check_made_by(self, makers: dict[str, str]) -> None:
        stale = [name for name, value in makers.items() if self.metadata.get(name) != value]
        if stale:
            came = ", ".join(f"{name} {self.metadata.get(name)} instead of {makers[name]}" for name in stale)
            raise ValueError(
                f"The vision features in {self.folder} are not of this {' and '.join(stale)}: found {came}. Name "
                "another folder, or build them again with rebuild=True (or delete the folder)."
            )

    def _look_at_lacking(
        self,
        tower: PreTrainedModel,
        image_processor: Any,
        picture_of: Callable[[int], Image.Image | None],
        batch_size: int,
    ) -> None:
        """Append the features of pictures that are not there, each picture once however many items have it."""
        _, first = np.unique(self.digests[self.lacking], return_index=True)
        numbers = self.lacking[np.sort(first)]
        row, row_bytes = self._num_rows, _row_bytes(self.metadata)
        _check_room(self.folder, len(numbers) * (row_bytes + RECORD.itemsize))
        if self.num_pictures:
            logger.info(f"vision features in {self.folder}: {len(numbers)} pictures are new, the others are there")
        with _with_resume_hint(self.folder):
            features, records = ((self.folder / name).open("r+b") for name in (FEATURES, PICTURES))
        progress = logging.tqdm(total=len(numbers), desc="vision features", unit=" pictures")
        with features, records, progress:
            # What a killed build has written without noting it, or noted in part, is written over.
            features.seek(row * row_bytes)
            records.seek(records.seek(0, os.SEEK_END) // RECORD.itemsize * RECORD.itemsize)
            for start in range(0, len(numbers), batch_size):
                batch = numbers[start : start + batch_size]
                found = {
                    place: picture for place, n in enumerate(batch) if (picture := picture_of(int(n))) is not None
                }
                noted = np.zeros(len(batch), dtype=RECORD)
                noted["picture"], noted["row"] = self.digests[batch], NO_ROW
                if found:
                    array = _to_numpy(_compute(tower, image_processor, list(found.values())), self.metadata["dtype"])
                    with _with_resume_hint(self.folder):
                        features.write(array.tobytes())
                        features.flush()
                    noted["row"][list(found)] = row + np.arange(len(found))
                    noted["checksum"][list(found)] = [zlib.crc32(each.tobytes()) for each in array]
                    row += len(found)
                noted["of_record"] = _checksums_of(noted)
                # After the features, so that a row that is noted is a row that is there.
                with _with_resume_hint(self.folder):
                    records.write(noted.tobytes())
                    records.flush()
                progress.update(len(batch))
            os.fsync(features.fileno())
            os.fsync(records.fileno())


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


def _makers(tower: PreTrainedModel | None, image_processor: Any) -> dict[str, str]:
    makers = {}
    if tower is not None:
        makers["tower"] = tower_fingerprint(tower)
    if image_processor is not None:
        makers["image_processor"] = image_processor_fingerprint(image_processor)
    return makers


def _begin(folder: Path, metadata: dict[str, Any]) -> None:
    """An empty store, whatever is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # In this order a kill leaves nothing that could be taken for a store.
        for name in (METADATA, PICTURES, FEATURES, *_OBSOLETE):
            (folder / name).unlink(missing_ok=True)
        (folder / FEATURES).touch()
        (folder / PICTURES).touch()
        write_whole(folder / METADATA, json.dumps(metadata, indent=2).encode())
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error}). Name another folder for the features.") from error


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
            f"Vision features up to {largest:g} do not fit into {dtype}, or are no numbers. Build the store anew with "
            "dtype=torch.float32 (rebuild=True, or delete its folder), and check that the tower's weights are finite."
        )
    return stored.numpy()


def _records_of(file: Path, verify: bool) -> np.ndarray:
    """What is noted of each picture, that of no picture first."""
    none = np.array([(0, NO_ROW, 0, 0)], dtype=RECORD)
    if not file.is_file():
        raise ValueError(f"{file} is missing from the store. {BUILD_AGAIN}")
    noted = np.fromfile(file, dtype=RECORD)
    if verify and (wrong := np.flatnonzero(noted["of_record"] != _checksums_of(noted))).size:
        raise ValueError(f"record {wrong[0]} of {file} in the store is not what was written. {BUILD_AGAIN}")
    records: np.ndarray = np.concatenate([none, noted])
    if (records["row"] < NO_ROW).any():
        raise ValueError(f"{file} is damaged: the row {records['row'].min()}. {BUILD_AGAIN}")
    rows, times = np.unique(records["row"][records["row"] >= 0], return_counts=True)
    if (times > 1).any():
        raise ValueError(f"{file} is damaged: row {rows[times > 1][0]} is of several pictures. {BUILD_AGAIN}")
    return records


def _checksums_of(records: np.ndarray) -> np.ndarray:
    content, size = records.tobytes(), RECORD.itemsize
    starts = range(0, len(content), size)
    found = (zlib.crc32(content[start : start + _CHECKED_BYTES]) for start in starts)
    return np.fromiter(found, dtype=RECORD["of_record"], count=len(records))


def _metadata_of(file: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        sizes = [metadata[name] for name in ("num_patches", "feature_size")]
        if not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise ValueError(f"the sizes {sizes}")
        if metadata["dtype"] not in _STORED_AS.values():
            raise ValueError(f"the dtype {str(metadata['dtype'])[:40]!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error!r}. {BUILD_AGAIN}") from error
    return dict(metadata)


def _row_bytes(metadata: dict[str, Any]) -> int:
    return metadata["num_patches"] * metadata["feature_size"] * np.dtype(metadata["dtype"]).itemsize


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"Vision features need up to {needed / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free. Make "
            "room, name a folder on another disk, or choose a vision model with fewer or narrower features."
        )
