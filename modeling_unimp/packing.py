"""Rows of unequal length are put side by side, so that a language model computes next to nothing for padding.

Each row stays alone: transformers' masks take positions that begin anew for the beginning of another sequence
(https://huggingface.co/docs/transformers/main/en/main_classes/data_collator, "padding-free").

Shapes: B rows, T tokens of the longest, N tokens that are no padding, R packed rows, W width of an embedding.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from .gated_cross_attention import FoldedSpans

# FlashAttention takes all sequences in one row, not several in each of many; OPT makes its mask without the positions.
PACKABLE_ATTENTION = ("sdpa", "eager")
NOT_PACKABLE = ("opt",)


def can_pack(text_config: Any) -> bool:
    """Whether a language model keeps rows apart that are put side by side."""
    return text_config._attn_implementation in PACKABLE_ATTENTION and text_config.model_type not in NOT_PACKABLE


class Packing(NamedTuple):
    """Where each token of padded rows `(B, T)` stands in packed ones `(R, T)`."""

    shape: tuple[int, int]  # (B, T)
    tokens_N: torch.Tensor  # where in the flattened (B * T) a token is
    slots_N: torch.Tensor  # where in the flattened (R * T) it goes
    position_ids_RT: torch.Tensor  # 0 also where nothing is: a sequence of its own

    @classmethod
    @torch.compiler.disable
    def of(cls, attention_mask_BT: torch.Tensor) -> "Packing | None":
        """The longest row first, each into the first packed row that has room for it; `None` where that saves none."""
        mask = attention_mask_BT.cpu().numpy() != 0
        (num_rows, width), lengths = mask.shape, mask.sum(axis=1)
        free: list[int] = []
        starts = np.zeros(num_rows, dtype=np.int64)  # of each row in the flattened (R * T)
        for row in np.argsort(-lengths, kind="stable"):
            packed = next((number for number, room in enumerate(free) if room >= lengths[row]), len(free))
            if packed == len(free):
                free.append(width)
            starts[row] = packed * width + width - free[packed]
            free[packed] -= lengths[row]
        if len(free) == num_rows:
            return None
        rows, columns = mask.nonzero()
        places = mask.cumsum(axis=1)[rows, columns] - 1
        slots = starts[rows] + places
        position_ids = np.zeros(len(free) * width, dtype=np.int64)
        position_ids[slots] = places
        device = attention_mask_BT.device
        return cls(
            (num_rows, width),
            torch.from_numpy(rows * width + columns).to(device),
            torch.from_numpy(slots).to(device),
            torch.from_numpy(position_ids).view(-1, width).to(device),
        )

    def pack(self, rows_BTW: torch.Tensor) -> torch.Tensor:
        """`(R, T, W)`, zeros where nothing is."""
        packed = rows_BTW.new_zeros(self.position_ids_RT.numel(), rows_BTW.shape[-1])
        packed = packed.index_copy(0, self.slots_N, rows_BTW.flatten(0, 1)[self.tokens_N])
        return packed.view(*self.position_ids_RT.shape, -1)

    def unpack(self, packed_RTW: torch.Tensor) -> torch.Tensor:
        """`(B, T, W)`, zeros for padding."""
        rows = packed_RTW.new_zeros(self.shape[0] * self.shape[1], packed_RTW.shape[-1])
        rows = rows.index_copy(0, self.tokens_N, packed_RTW.flatten(0, 1)[self.slots_N])
        return rows.view(*self.shape, -1)

    def pack_spans(self, spans: FoldedSpans) -> FoldedSpans:
        """The same tokens see the same pictures; padding sees none."""
        slot_of = torch.full((self.shape[0] * self.shape[1],), -1, device=self.slots_N.device)
        slot_of[self.tokens_N] = self.slots_N
        slots = slot_of[spans.tokens_N]
        return spans._replace(tokens_N=slots[slots >= 0], slots_N=spans.slots_N[slots >= 0])
