"""What the resampler made of pictures, kept in memory: a server looks at each picture once.

Shapes: U distinct pictures of a batch, L latents, D width of a latent.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from .weights_version import WeightsVersion

if TYPE_CHECKING:
    from .modeling_unimp import UniMPForConditionalGeneration

MAX_BYTES = 2**30  # 4,096 pictures of the paper's model in float32


class PictureLatents(Mapping[str, torch.Tensor]):
    """Latents `(L, D)` on the CPU by digest of the picture, those used last; for answering, not for training.

    A picture that was exchanged has another digest. Weights of tower or resampler that change empty it.

    Args:
        max_bytes (`int`, *optional*, defaults to 1 GiB)
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._version: WeightsVersion | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return PictureLatents, (self.max_bytes,)

    def __getitem__(self, digest: str) -> torch.Tensor:
        with self._lock:
            self._kept.move_to_end(digest)  # a KeyError where there is none
            return self._kept[digest]

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._kept))

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, digest: str, latents: torch.Tensor) -> None:
        """Keep the latents of a picture; those that were not used for the longest time give way."""
        with self._lock:
            if digest in self._kept or latents.nbytes > self.max_bytes:
                return
            self._kept[digest] = latents
            self.nbytes += latents.nbytes
            while self.nbytes > self.max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self.nbytes -= oldest.nbytes

    def belong_to(self, model: "UniMPForConditionalGeneration") -> None:
        """Forget what was made with weights that a model no longer has."""
        parts = [part for part in (model.model.vision_tower, model.model.resampler) if part is not None]
        version = WeightsVersion(*parts)
        with self._lock:
            if version != self._version:
                self._kept, self._version, self.nbytes = OrderedDict(), version, 0

    def media_states(self, model: "UniMPForConditionalGeneration", inputs: Mapping[str, Any]) -> dict[str, Any]:
        """A batch of the processor with `media_states` `(U, L, D)` for its pictures; new ones are looked at, and kept.

        Args:
            inputs (`Mapping`): of a processor that was given these `latents`.
        """
        inputs = dict(inputs)
        known = inputs.pop("latents")
        new = {name: inputs.pop(name) for name in ("pixel_values", "vision_features") if name in inputs}
        if not known:
            return inputs
        made = iter(model(**model.own_inputs(new), return_dict=True).media_states if new else ())
        states = []
        for digest, latents in known:
            if latents is None:
                latents = next(made)
                self.keep(digest, latents.to("cpu", copy=True))
            states.append(latents)
        # New ones are on the model's device, known ones may be.
        return inputs | {"media_states": torch.stack([latents.to(states[-1].device) for latents in states])}
