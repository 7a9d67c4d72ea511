"""Perceiver resampler: any number of vision features a picture -> L latents (https://huggingface.co/papers/2204.14198).

Shapes: U pictures, P patches, L latents, H heads, F width of a feature, D width of a latent. As in OpenFlamingo:
keys and values from [media; latents], no biases in the projections, a final LayerNorm.
"""

import torch
from torch import nn

from .configuration_unimp import UniMPConfig


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    implementation: str | None = "sdpa",
) -> torch.Tensor:
    """`softmax(query @ key.T / sqrt(head_dim) + mask) @ value`.

    Args:
        query, key, value (`torch.FloatTensor` of shape `(batch, H, length, head_dim)`)
        mask (`torch.FloatTensor` broadcastable to `(batch, H, queries, keys)`, *optional*): additive.
        implementation (`str`, *optional*, defaults to `"sdpa"`): `"eager"` writes it out, all else is torch's own.
    """
    if implementation != "eager":
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value


def feed_forward(width: int) -> nn.Sequential:
    """LayerNorm, four times as wide, exact GELU, back; without biases."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width, bias=False),
        nn.GELU(),
        nn.Linear(4 * width, width, bias=False),
    )


class UniMPPerceiverAttention(nn.Module):
    """Latents look at the media and at themselves."""

    def __init__(self, config: UniMPConfig):
        super().__init__()
        self.config = config
        width, inner = config.media_width, config.resampler_heads * config.resampler_head_dim
        self.media_norm = nn.LayerNorm(width)
        self.latents_norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, inner, bias=False)
        self.v_proj = nn.Linear(width, inner, bias=False)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(
        self, media_UPD: torch.Tensor, latents_ULD: torch.Tensor, attentions: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """With a list, weights `(U, H, L, P + L)` in float32 are appended to it."""
        latents_ULD = self.latents_norm(latents_ULD)
        context = torch.cat([self.media_norm(media_UPD), latents_ULD], dim=1)
        query, key, value = (
            projected.unflatten(-1, (self.config.resampler_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(latents_ULD), self.k_proj(context), self.v_proj(context))
        )
        if attentions is not None:
            attentions.append((query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).float().softmax(dim=-1))
        attended = attend(query, key, value, implementation=self.config._attn_implementation)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class UniMPPerceiverBlock(nn.Module):
    def __init__(self, config: UniMPConfig):
        super().__init__()
        self.attention = UniMPPerceiverAttention(config)
        self.feed_forward = feed_forward(config.media_width)

    def forward(
        self, media_UPD: torch.Tensor, latents_ULD: torch.Tensor, attentions: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        latents_ULD = latents_ULD + self.attention(media_UPD, latents_ULD, attentions)
        return latents_ULD + self.feed_forward(latents_ULD)


class UniMPPerceiverResampler(nn.Module):
    """Vision features of a picture as a fixed number of latents.

    Args:
        config (`UniMPConfig`): `num_latents`, `resampler_*` and the two widths. The features are projected first only
            where the latents have another width.
    """

    def __init__(self, config: UniMPConfig):
        super().__init__()
        needs_projection = config.media_width != config.vision_feature_size
        self.input_proj = (
            nn.Linear(config.vision_feature_size, config.media_width, bias=False) if needs_projection else None
        )
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.media_width))
        self.blocks = nn.ModuleList(UniMPPerceiverBlock(config) for _ in range(config.resampler_depth))
        self.norm = nn.LayerNorm(config.media_width)

    def forward(
        self, features_UPF: torch.Tensor, output_attentions: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """
        Args:
            features_UPF (`torch.FloatTensor`): frozen features of U pictures.
            output_attentions (`bool`, *optional*, defaults to `False`)

        Returns:
            `torch.FloatTensor` of shape `(U, L, D)`; with `output_attentions` a pair of these and the weights of each
            block, `(U, H, L, P + L)`: over the picture's features, then over the latents themselves.
        """
        attentions: list[torch.Tensor] | None = [] if output_attentions else None
        media_UPD = features_UPF if self.input_proj is None else self.input_proj(features_UPF)
        latents_ULD = self.latents.expand(len(media_UPD), -1, -1)
        for block in self.blocks:
            latents_ULD = block(media_UPD, latents_ULD, attentions)
        latents_ULD = self.norm(latents_ULD)
        return latents_ULD if attentions is None else (latents_ULD, tuple(attentions))
