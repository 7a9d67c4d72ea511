"""Gated cross-attention: text looks at pictures, through gates that start closed (https://huggingface.co/papers/2204.14198).

Shapes: B users, T text tokens, N tokens that see a picture, U distinct pictures of the batch, L latents, D widths,
S spans (tokens of one item in one row), M tokens of the longest span, I pictures that are seen: of one row at most, or
by any token.
"""

from typing import Any, NamedTuple

import torch
from torch import nn

from .configuration_unimp import UniMPConfig
from .perceiver import attend, feed_forward


class FoldedSpans(NamedTuple):
    """Each token sees one picture or none: spans of tokens are folded into a batch, so that no mask is needed."""

    tokens_N: torch.Tensor  # where in the flattened (B * T) the tokens that see a picture are
    slots_N: torch.Tensor  # where in the flattened (S * M) they go
    seen_I: torch.Tensor  # rows in the media of the pictures that any token sees
    pictures_S: torch.Tensor  # which of these a span sees
    longest: int


class PictureMask(NamedTuple):
    """Each token sees any of its row's pictures."""

    pictures_BI: torch.Tensor
    visible_BTI: torch.Tensor


@torch.compiler.disable
def fold_spans(media_index_BT: torch.Tensor) -> FoldedSpans | None:
    """Fold runs of tokens of one picture; `None` when no token sees any.

    Args:
        media_index_BT (`torch.LongTensor`): 0 for no picture, else 1 + its row in the media.
    """
    # A column of zeros separates the last span of a row from the first of the next.
    flat = nn.functional.pad(media_index_BT, (1, 0)).flatten()
    starts = (flat != flat.roll(1)) & (flat != 0)
    seen = flat.nonzero().squeeze(1)
    if len(seen) == 0:
        return None
    first = starts.nonzero().squeeze(1)
    span_N = starts.cumsum(0)[seen] - 1
    place_N = seen - first[span_N]
    longest = int(place_N.max()) + 1
    width = media_index_BT.shape[1] + 1
    tokens_N = seen - seen // width - 1
    seen_I, pictures_S = (flat[first] - 1).unique(return_inverse=True)
    return FoldedSpans(tokens_N, span_N * longest + place_N, seen_I, pictures_S, longest)


@torch.compiler.disable
def mask_pictures(media_index_BT: torch.Tensor, num_pictures: int, accumulate: bool) -> PictureMask | None:
    """Which of its row's distinct pictures each token sees; `None` when no token sees any.

    Args:
        media_index_BT (`torch.LongTensor`): 0 for no picture, else 1 + its row in the media.
        num_pictures (`int`): U.
        accumulate (`bool`): whether a token sees the pictures of all tokens up to and including it, or its own only.
    """
    own_BTU = media_index_BT.unsqueeze(-1) == torch.arange(1, num_pictures + 1, device=media_index_BT.device)
    of_row_BU = own_BTU.any(dim=1)
    most = int(of_row_BU.sum(dim=1).max())
    if most == 0:
        return None
    pictures_BI = of_row_BU.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    visible_BTU = own_BTU.cumsum(dim=1) > 0 if accumulate else own_BTU
    # Rows with fewer pictures are filled up with pictures that none of their tokens sees.
    visible_BTI = visible_BTU.gather(2, pictures_BI.unsqueeze(1).expand(-1, own_BTU.shape[1], -1))
    return PictureMask(pictures_BI, visible_BTI)


class MediaKeysValues:
    """Keys and values of pictures for as long as the same are looked at, as in `generate`: no text changes them, so
    that each block makes its own once."""

    def __init__(self) -> None:
        self._of_block: dict[nn.Module, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def of(self, block: "UniMPGatedCrossAttention", media_ULD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        known = self._of_block.get(block)
        if known is None or known[0] is not media_ULD:
            known = self._of_block[block] = (media_ULD, block.k_proj(media_ULD), block.v_proj(media_ULD))
        return known[1:]


class UniMPGatedCrossAttention(nn.Module):
    """`x + tanh(a) * attention(x, media)`, then `x + tanh(f) * feed_forward(x)`, on tokens that see a picture.

    Both gates start at 0; a token that sees no picture passes through unchanged.

    Args:
        config (`UniMPConfig`): `cross_attention_*` and the two widths.
    """

    def __init__(self, config: UniMPConfig):
        super().__init__()
        self.config = config
        width = config.text_config.hidden_size
        inner = config.cross_attention_heads * config.cross_attention_head_dim
        self.text_norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(config.media_width, inner, bias=False)
        self.v_proj = nn.Linear(config.media_width, inner, bias=False)
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.feed_forward = feed_forward(width)
        # One element and not none: FSDP cannot shard scalars.
        self.attention_gate = nn.Parameter(torch.empty(1))
        self.feed_forward_gate = nn.Parameter(torch.empty(1))

    def forward(
        self,
        text_BTD: torch.Tensor,
        media_ULD: torch.Tensor,
        media_mask: FoldedSpans | PictureMask,
        keys_values: MediaKeysValues | None = None,
    ) -> torch.Tensor:
        """
        Args:
            text_BTD (`torch.FloatTensor`): hidden states of the language model.
            media_ULD (`torch.FloatTensor`): latents of the batch's distinct pictures.
            media_mask (`FoldedSpans` or `PictureMask`): which token sees which picture.
            keys_values (`MediaKeysValues`, *optional*): where those of `media_ULD` are found, or kept, for a
                `PictureMask`; of spans each token sees its picture in one call alone.
        """
        # Of each distinct picture once, then handed to all that see it.
        if isinstance(media_mask, FoldedSpans):
            # A history that a cache holds has many that no token of this call sees.
            seen_ILD = media_ULD[media_mask.seen_I]
            key_ILD, value_ILD = self.k_proj(seen_ILD), self.v_proj(seen_ILD)
            text_ND = text_BTD.flatten(0, 1)[media_mask.tokens_N]
            changed = self._gated(
                text_ND, self._folded_attention(self.text_norm(text_ND), key_ILD, value_ILD, media_mask)
            )
            return (
                text_BTD.flatten(0, 1).index_copy(0, media_mask.tokens_N, changed.to(text_BTD.dtype)).view_as(text_BTD)
            )
        if keys_values is None:
            key_ULD, value_ULD = self.k_proj(media_ULD), self.v_proj(media_ULD)
        else:
            key_ULD, value_ULD = keys_values.of(self, media_ULD)
        changed = self._gated(
            text_BTD, self._masked_attention(self.text_norm(text_BTD), key_ULD, value_ULD, media_mask)
        )
        return torch.where(media_mask.visible_BTI.any(-1, keepdim=True), changed.to(text_BTD.dtype), text_BTD)

    def _gated(self, text: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        text = text + self.attention_gate.tanh() * self.out_proj(attended)
        return text + self.feed_forward_gate.tanh() * self.feed_forward(text)

    def _folded_attention(
        self, text_ND: torch.Tensor, key_ILD: torch.Tensor, value_ILD: torch.Tensor, media_mask: FoldedSpans
    ) -> torch.Tensor:
        """Spans are the batch; their padding is computed and thrown away."""
        query = self.q_proj(text_ND)
        folded = query.new_zeros(len(media_mask.pictures_S) * media_mask.longest, query.shape[-1])
        folded = folded.index_copy(0, media_mask.slots_N, query).unflatten(0, (-1, media_mask.longest))
        key, value = key_ILD[media_mask.pictures_S], value_ILD[media_mask.pictures_S]
        return self._attend(folded, key, value).flatten(0, 1)[media_mask.slots_N]

    def _masked_attention(
        self, text_BTD: torch.Tensor, key_ULD: torch.Tensor, value_ULD: torch.Tensor, media_mask: PictureMask
    ) -> torch.Tensor:
        """Keys are the latents of all of a row's pictures, behind an additive mask."""
        key, value = (projected[media_mask.pictures_BI].flatten(1, 2) for projected in (key_ULD, value_ULD))
        query = self.q_proj(text_BTD)
        hidden = ~media_mask.visible_BTI.repeat_interleave(key_ULD.shape[1], dim=-1).unsqueeze(1)
        mask = torch.zeros_like(hidden, dtype=query.dtype).masked_fill(hidden, torch.finfo(query.dtype).min)
        attended = self._attend(query, key, value, mask)
        # A token that sees nothing got the mean over everything: the mask alone does not make it zero.
        return attended * media_mask.visible_BTI.any(-1, keepdim=True)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        query, key, value = (
            each.unflatten(-1, (self.config.cross_attention_heads, -1)).transpose(1, 2) for each in (query, key, value)
        )
        attended = attend(query, key, value, mask, self.config._attn_implementation)
        return attended.transpose(1, 2).flatten(2)


class UniMPGatedMixin:
    """Makes a decoder layer take media: mixed into the layer's own class, which is how any language model is gated."""

    gated_cross_attention: UniMPGatedCrossAttention | None
    added_dropout: float  # of what the layer adds, in training: few language models have dropout there
    training: bool

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Pickle finds a class by its name, and under the name of ours is the layer's own.
        return _new_gated_layer, (_own_class(type(self)),), self.__dict__

    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # Positional, because reentrant activation checkpointing loses the gradient of keyword arguments.
        media = (kwargs.pop(name, None) for name in ("media_states", "media_mask", "media_keys_values"))
        return super().__call__(hidden_states, *media, *args, **kwargs)  # type: ignore[misc]

    def forward(
        self,
        hidden_states: torch.Tensor,
        media_states: torch.Tensor | None,
        media_mask: FoldedSpans | PictureMask | None,
        media_keys_values: MediaKeysValues | None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        given = hidden_states
        if self.gated_cross_attention is not None and media_mask is not None:
            hidden_states = self.gated_cross_attention(hidden_states, media_states, media_mask, media_keys_values)
        hidden_states = super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
        if self.training and self.added_dropout:
            hidden_states = given + nn.functional.dropout(hidden_states - given, self.added_dropout)
        return hidden_states


_GATED_CLASSES: dict[type, type] = {}


def _gated_class(own: type) -> type:
    """A layer's own class with the mixin before it; one for all layers of a class."""
    if own not in _GATED_CLASSES:
        _GATED_CLASSES[own] = type(own.__name__, (UniMPGatedMixin, own), {"__module__": own.__module__})
    return _GATED_CLASSES[own]


def _own_class(gated: type) -> type:
    return next(own for own, made in _GATED_CLASSES.items() if made is gated)


def _new_gated_layer(own: type) -> Any:
    return object.__new__(_gated_class(own))


def find_decoder_layers(language_model: nn.Module, num_layers: int) -> tuple[nn.Module, nn.ModuleList]:
    """The list of decoder layers of any language model, and the module that owns it."""
    for owner in language_model.modules():
        for child in owner.children():
            if (
                isinstance(child, nn.ModuleList)
                and len(child) == num_layers
                and len({type(each) for each in child}) == 1
            ):
                return owner, child
    raise ValueError(
        f"{type(language_model).__name__} has no list of {num_layers} decoder layers of one class; "
        "it needs another way to insert cross-attention."
    )


def insert_gated_cross_attention(language_model: nn.Module, config: UniMPConfig) -> None:
    """Put a gated cross-attention before every n-th layer, in place; all layers learn to accept media arguments."""
    _, layers = find_decoder_layers(language_model, config.text_config.num_hidden_layers)
    layer: Any
    for index, layer in enumerate(layers):
        layer.gated_cross_attention = UniMPGatedCrossAttention(config) if index in config.gated_layers else None
        layer.added_dropout = config.dropout
        layer.__class__ = _gated_class(type(layer))
