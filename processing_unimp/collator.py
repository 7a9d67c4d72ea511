"""Requests of a batch to tensors, in the DataLoader."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .processing_unimp import UniMPProcessor
from .sequence_rows import IGNORED
from .task import Request

IS_FILLER = "is_filler"


@dataclass
class UniMPCollator:
    """Encodes and pads a batch; each distinct picture once, every label with its kind. A request with the key
    `"is_filler"` gets no labels: with several processes a Trainer fills up the last batches with some.

    Args:
        processor (`UniMPProcessor`): the model's own.
        context (`str`, *optional*, defaults to `"none"`): see `UniMPProcessor.__call__`.
        next_item (`bool`, *optional*, defaults to `False`): see `UniMPProcessor.__call__`.
        vision_features (`FeatureStore`, *optional*): frozen features of the catalogue's pictures.
    """

    processor: UniMPProcessor
    context: str = "none"
    next_item: bool = False
    vision_features: Any = None

    def __call__(self, requests: Sequence[Request]) -> dict[str, torch.Tensor]:
        is_filler = torch.tensor([IS_FILLER in request for request in requests])
        requests = [{key: value for key, value in each.items() if key != IS_FILLER} for each in requests]
        batch = dict(
            self.processor(
                requests=requests,
                labels=True,
                context=self.context,
                next_item=self.next_item,
                vision_features=self.vision_features,
            )
        )
        batch["labels"][is_filler], batch["label_kinds"][is_filler] = IGNORED, 0
        return batch
