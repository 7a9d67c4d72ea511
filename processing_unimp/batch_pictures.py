"""The pictures of one batch, each once, and pixels of catalogue pictures kept from one batch to the next."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch

from .catalogue import Catalogue
from .item_text import ItemEntry, ItemText
from .picture import open_picture

# Decoded and resized pictures kept in memory; beyond it they are opened again each time.
PICTURE_CACHE_BYTES = 256 * 2**20


class VisionFeatures(Protocol):
    """Frozen features of catalogue pictures by item number, such as a `FeatureStore`."""

    def has(self, number: int) -> bool: ...

    def features(self, numbers: Sequence[Any]) -> torch.Tensor: ...


class PixelCache:
    """Pixels of catalogue pictures by item number, while there is room; a catalogue that was updated empties it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._pixels: dict[int, torch.Tensor] = {}
        self._num_updates = catalogue.num_updates

    def get(self, number: int) -> torch.Tensor | None:
        if self._num_updates != self.catalogue.num_updates:
            self._pixels, self._num_updates = {}, self.catalogue.num_updates
        return self._pixels.get(number)

    def keep(self, number: int, pixels: torch.Tensor) -> None:
        if (len(self._pixels) + 1) * pixels.nbytes <= PICTURE_CACHE_BYTES:
            self._pixels[number] = pixels


class BatchPictures:
    """The distinct pictures of one batch, in order of first use.

    Args:
        item_text (`ItemText`): knows the picture of an item.
        pixels_of (`Callable`): a picture as the vision tower wants it, `(3, H, W)`.
        cache (`PixelCache`): of the catalogue's pictures.
        vision_features (`FeatureStore`, *optional*): frozen features that are taken instead of pixels.
    """

    def __init__(
        self,
        item_text: ItemText,
        pixels_of: Callable[[Any], torch.Tensor],
        cache: PixelCache,
        vision_features: "VisionFeatures | None",
    ) -> None:
        self.item_text = item_text
        self.pixels_of = pixels_of
        self.cache = cache
        self.vision_features = vision_features
        self.rows: dict[Hashable, int] = {}
        self.pixels: list[torch.Tensor] = []

    def key(self, entry: ItemEntry) -> Hashable | None:
        """The entry's picture, taken into the batch; `None` when there is none or it cannot be read."""
        key = self.item_text.picture_key(entry)
        if key is None or key in self.rows:
            return key
        if self.vision_features is not None:
            if not isinstance(key, int):
                raise ValueError("an item with its own 'image' cannot be read from the feature store of a catalogue.")
            if not self.vision_features.has(key):
                return None
        else:
            pixels = self._pixels_of_item(key) if isinstance(key, int) else self.pixels_of(open_picture(entry.image))
            if pixels is None:
                return None
            self.pixels.append(pixels)
        self.rows[key] = len(self.rows)
        return key

    def _pixels_of_item(self, number: int) -> torch.Tensor | None:
        pixels = self.cache.get(number)
        if pixels is None:
            catalogue = self.cache.catalogue
            picture = catalogue.picture(catalogue.item_id(number))
            if picture is None:
                return None
            pixels = self.pixels_of(picture)
            self.cache.keep(number, pixels)
        return pixels

    def index(self, key: Hashable | None) -> int:
        return 0 if key is None else 1 + self.rows[key]

    def tensors(self) -> dict[str, torch.Tensor]:
        if not self.rows:
            return {}
        if self.vision_features is not None:
            return {"vision_features": self.vision_features.features(list(self.rows))}
        return {"pixel_values": torch.stack(self.pixels)}
