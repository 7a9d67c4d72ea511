"""The pictures of one batch, each once, and what is kept of catalogue pictures from one batch to the next."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

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
    """Pixels of catalogue pictures by item number, while there is room, and digests of them or of their features."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._version: tuple[int, str] | None = None
        self._forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return PixelCache, (self.catalogue,)

    def belong_to(self, picture_settings: str) -> None:
        """Forget what is of a catalogue before its last update, or of an image processor with other settings."""
        version = (self.catalogue.num_updates, picture_settings)
        if version != self._version:
            self._forget()
            self._version = version

    def get(self, number: int) -> torch.Tensor | None:
        return self._pixels.get(number)

    def keep(self, number: int, pixels: torch.Tensor) -> None:
        if (len(self._pixels) + 1) * pixels.nbytes <= PICTURE_CACHE_BYTES:
            self._pixels[number] = pixels

    def digest(self, key: Any, vision_features: VisionFeatures | None) -> str | None:
        """That of a catalogue picture's pixels, or of its features in a store, where it is known."""
        return self._digests_of(vision_features).get(key)

    def keep_digest(self, key: Any, vision_features: VisionFeatures | None, digest: str) -> None:
        # A picture of a request's own is known by its place in memory, where another one may come.
        if isinstance(key, int):
            self._digests_of(vision_features)[key] = digest

    def _digests_of(self, vision_features: VisionFeatures | None) -> dict[int, str]:
        return self._digests if vision_features is None else self._of_stores.setdefault(vision_features, {})

    def _forget(self) -> None:
        self._pixels: dict[int, torch.Tensor] = {}
        self._digests: dict[int, str] = {}
        # A store that nobody uses any more is not kept open for its digests.
        self._of_stores: WeakKeyDictionary[VisionFeatures, dict[int, str]] = WeakKeyDictionary()


class BatchPictures:
    """The distinct pictures of one batch, in order of first use.

    Args:
        item_text (`ItemText`): knows the picture of an item.
        pixels_of (`Callable`): a picture as the vision tower wants it, `(3, H, W)`.
        cache (`PixelCache`): of the catalogue's pictures.
        vision_features (`FeatureStore`, *optional*): frozen features that are taken instead of pixels.
        latents (`Mapping[str, torch.Tensor]`, *optional*): of pictures that the model knows, by digest; what is known
            is not opened.
    """

    def __init__(
        self,
        item_text: ItemText,
        pixels_of: Callable[[Any], torch.Tensor],
        cache: PixelCache,
        vision_features: "VisionFeatures | None",
        latents: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.item_text = item_text
        self.pixels_of = pixels_of
        self.cache = cache
        self.vision_features = vision_features
        self.latents = latents
        # Those that the request which is read came with: nobody else is answered with them.
        self.own_latents: Mapping[str, torch.Tensor] | None = None
        self.rows: dict[Hashable, int] = {}
        # Given pictures are told apart by their identity, which another one would get once they are gone.
        self._given: list[Any] = []
        # Of the pictures that the model has to look at: pixels, or numbers in the store of features.
        self.new: list[Any] = []
        self.known: list[tuple[str, torch.Tensor | None]] = []

    def key(self, entry: ItemEntry) -> Hashable | None:
        """The entry's picture, taken into the batch; `None` when there is none or it cannot be read."""
        key = self.item_text.picture_key(entry)
        if key is None or key in self.rows:
            return key
        own_key = (key, id(self.own_latents))
        if own_key in self.rows:
            return own_key
        if self.vision_features is not None:
            if not isinstance(key, int):
                raise ValueError("an item with its own 'image' cannot be read from the feature store of a catalogue.")
            if not self.vision_features.has(key):
                return None
        if self.latents is None:
            taken = key if self._take(key, entry) else None
        else:
            taken = self._take_unless_known(key, entry, self.latents, own_key)
        if taken is not None:
            self.rows[taken] = len(self.rows)
            self._given.append(entry.image)
        return taken

    def _take(self, key: Any, entry: ItemEntry) -> bool:
        """Whether the picture can be read; the model then has to look at it."""
        new = self._pixels(key, entry) if self.vision_features is None else key
        if new is not None:
            self.new.append(new)
        return new is not None

    def _take_unless_known(
        self, key: Any, entry: ItemEntry, latents: Mapping[str, torch.Tensor], own_key: Hashable
    ) -> Hashable | None:
        """As `_take`, but for a picture that the model knows, by the digest of what it would look at, or that the
        request came with the latents of: the key of the picture, or the request's own."""
        digest = self.cache.digest(key, self.vision_features)
        known, taken = self._known(digest, latents, key, own_key)
        if known is None:
            seen = self._pixels(key, entry) if self.vision_features is None else self.vision_features.features([key])
            if seen is None:
                return None
            if digest is None:
                digest = hashlib.sha256(seen.contiguous().numpy().tobytes()).hexdigest()
                known, taken = self._known(digest, latents, key, own_key)
                self.cache.keep_digest(key, self.vision_features, digest)
            if known is None:
                self.new.append(seen if self.vision_features is None else key)
        assert digest is not None
        self.known.append((digest, known))
        return taken

    def _known(
        self, digest: str | None, latents: Mapping[str, torch.Tensor], key: Hashable, own_key: Hashable
    ) -> tuple[torch.Tensor | None, Hashable]:
        """Latents of a picture, if there are some, and the key that they are taken under."""
        known = None if digest is None else latents.get(digest)
        if known is None and digest is not None and self.own_latents is not None and digest in self.own_latents:
            return self.own_latents[digest], own_key
        return known, key

    def _pixels(self, key: Any, entry: ItemEntry) -> torch.Tensor | None:
        if not isinstance(key, int):
            return self.pixels_of(open_picture(entry.image))
        pixels = self.cache.get(key)
        if pixels is None:
            catalogue = self.cache.catalogue
            picture = catalogue.picture(catalogue.item_id(key))
            if picture is None:
                return None
            pixels = self.pixels_of(picture)
            self.cache.keep(key, pixels)
        return pixels

    def index(self, key: Hashable | None) -> int:
        return 0 if key is None else 1 + self.rows[key]

    def tensors(self) -> dict[str, Any]:
        """What the model has to look at, and with `latents` what it knows already."""
        tensors: dict[str, Any] = {} if self.latents is None else {"latents": self.known}
        if self.new and self.vision_features is not None:
            tensors["vision_features"] = self.vision_features.features(self.new)
        elif self.new:
            tensors["pixel_values"] = torch.stack(self.new)
        return tensors
