"""Sequences under construction, and many of them as one left-padded batch."""

from collections.abc import Hashable, Sequence

import torch

IGNORED = -100  # the label of a token that is not learnt from


class SequenceRow:
    """One sequence under construction: ids, pictures, labels and kinds, always equally long."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.pictures: list[Hashable | None] = []
        self.labels: list[int] = []
        self.kinds: list[int] = []

    def append(
        self,
        ids: Sequence[int],
        pictures: Sequence[Hashable | None] | None = None,
        labels: Sequence[int] | None = None,
        kinds: Sequence[int] | None = None,
    ) -> None:
        self.ids.extend(ids)
        self.pictures.extend([None] * len(ids) if pictures is None else pictures)
        self.labels.extend([IGNORED] * len(ids) if labels is None else labels)
        self.kinds.extend([0] * len(ids) if kinds is None else kinds)


def left_padded(values: Sequence[Sequence[int]], fill: int, length: int = 0) -> torch.Tensor:
    length = max(length, *map(len, values))
    return torch.tensor([[fill] * (length - len(value)) + list(value) for value in values])


def padded_inputs(
    sequences: Sequence[tuple[list[int], list[int]]], pad: int, length: int = 0
) -> dict[str, torch.Tensor]:
    """Ids and media index of each row to tensors."""
    return {
        "input_ids": left_padded([ids for ids, _ in sequences], pad, length),
        "attention_mask": left_padded([[1] * len(ids) for ids, _ in sequences], 0, length),
        "media_index": left_padded([index for _, index in sequences], 0, length),
    }
