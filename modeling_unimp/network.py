"""The network below the heads: tokens and pictures in, hidden states out (https://huggingface.co/papers/2403.10667).

Shapes: B users, T text tokens, U distinct pictures of the batch, P patches, F width of a feature, L latents, D width
of a latent, S tokens with those of the cache, W width of an embedding.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling, ModelOutput
from transformers.utils import can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg

from .backbones import check_text_config, is_unused_vision_part, vision_outputs
from .configuration_unimp import UniMPConfig
from .gated_cross_attention import (
    FoldedSpans,
    MediaKeysValues,
    PictureMask,
    UniMPGatedCrossAttention,
    fold_spans,
    insert_gated_cross_attention,
    mask_pictures,
)
from .item_embeddings import UniMPItemEmbeddings
from .packing import Packing, can_pack
from .perceiver import UniMPPerceiverResampler
from .pretrained_unimp import UniMPPreTrainedModel, mark_initialised


@dataclass
class UniMPModelOutput(ModelOutput):
    """
    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, T, W)`)
        cache (`Cache`, *optional*)
        hidden_states, attentions (`tuple[torch.FloatTensor]`, *optional*): of the language model.
        media_states (`torch.FloatTensor` of shape `(U, L, D)`, *optional*): latents, to be passed on instead of
            `pixel_values`.
    """

    last_hidden_state: torch.Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    media_states: torch.Tensor | None = None


class UniMPModel(UniMPPreTrainedModel):
    """Vision tower, perceiver resampler, language model with gated cross-attention, rows of the added tokens.

    Args:
        config (`UniMPConfig`)
        language_model (`PreTrainedModel`, *optional*): a pretrained model without a head; random without it.
        vision_tower (`PreTrainedModel`, *optional*): a pretrained tower; random without it.

    Raises:
        ValueError: a language model that would ignore pictures, or whose logits are not those of a plain head.
    """

    def __init__(
        self,
        config: UniMPConfig,
        language_model: PreTrainedModel | None = None,
        vision_tower: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        check_text_config(config.text_config)
        self.vision_tower: PreTrainedModel | None = None
        if config.vision_config is not None:
            self.vision_tower = vision_tower or AutoModel.from_config(config.vision_config)
            for name, parameter in self.vision_tower.named_parameters():
                if is_unused_vision_part(name, config.vision_config.model_type):
                    parameter.requires_grad_(False)
        self.language_model = language_model or AutoModel.from_config(config.text_config)
        for part in (language_model, vision_tower):
            if part is not None:
                mark_initialised(part)
        self.resampler = None if config.fusion == "none" else UniMPPerceiverResampler(config)
        insert_gated_cross_attention(self.language_model, config)
        # What takes the place of cross-attention in the other fusions.
        self.media_proj = (
            nn.Linear(config.media_width, config.text_config.hidden_size, bias=False)
            if config.fusion in ("early", "pooled")
            else None
        )
        self.late_cross_attention = UniMPGatedCrossAttention(config) if config.fusion == "late" else None
        self.item_embeddings = UniMPItemEmbeddings(config)
        self.post_init()

    def get_input_embeddings(self) -> Any:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> "UniMPModel":
        super().train(mode)
        if self.vision_tower is not None and not self._vision_is_trained():
            # Or batch norms would go on learning, and dropout make frozen features noisy.
            self.vision_tower.eval()
        return self

    def _vision_is_trained(self) -> bool:
        assert self.vision_tower is not None
        return any(parameter.requires_grad for parameter in self.vision_tower.parameters())

    def encode_pictures(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features of the vision tower, as a feature store keeps them.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(U, 3, H, W)`)

        Returns:
            `torch.FloatTensor` of shape `(U, P, F)`.
        """
        features = self._vision_outputs(pixel_values).last_hidden_state
        assert features is not None
        return features

    def _vision_outputs(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        if self.vision_tower is None:
            raise ValueError("pixel_values came, but this model has no vision tower: pass vision_features instead.")
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._vision_is_trained()):
            return vision_outputs(self.vision_tower, pixel_values, **kwargs)

    def encode_media(
        self, pixel_values: torch.Tensor | None = None, vision_features: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Latents of distinct pictures. With hooks (offload, FSDP2) ask `forward` for them, without tokens.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(U, 3, H, W)`, *optional*)
            vision_features (`torch.FloatTensor` of shape `(U, P, F)`, *optional*): instead of pixels.

        Returns:
            `torch.FloatTensor` of shape `(U, L, D)`.
        """
        if self.resampler is None:
            raise ValueError(
                "pictures came to a model with fusion='none': leave out pixel_values and vision_features."
            )
        if (pixel_values is None) == (vision_features is None):
            raise ValueError("pass either pixel_values or vision_features, not both and not neither.")
        features_UPF = vision_features
        if pixel_values is not None:
            features_UPF = self.encode_pictures(pixel_values)
        assert features_UPF is not None
        if features_UPF.ndim != 3 or features_UPF.shape[-1] != self.config.vision_feature_size:
            raise ValueError(
                f"vision features of shape {tuple(features_UPF.shape)}: expected (pictures, patches, "
                f"{self.config.vision_feature_size}), the config's vision_feature_size."
            )
        return self.resampler(features_UPF.to(self.resampler.latents.dtype))

    # How many tokens are added ones depends on the data: a compiled model does this, and what else is marked so, as it
    # is written, and has no further graph breaks.
    @torch.compiler.disable
    def embed(
        self,
        input_ids: torch.Tensor,
        code_places: torch.Tensor | None = None,
        closed_items: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings `(B, T, W)` of words and added tokens `(B, T)`."""
        words, num_words = self.get_input_embeddings(), self.config.text_config.vocab_size
        added = input_ids >= num_words
        embeds = words(input_ids.masked_fill(added, 0))
        if code_places is None and self.config.codes_per_picture:
            code_places = self.code_places(input_ids)
        if closed_items is None and self.config.item_at_eoc:
            closed_items = self.closed_items(input_ids)
        places = None if code_places is None else code_places[added]
        rows = self.item_embeddings("input_rows", input_ids[added] - num_words, places)
        # Out of place: the words' output may be a leaf, when activation checkpointing asks it for a gradient.
        embeds = embeds.index_put((added,), rows.to(embeds.dtype))
        if closed_items is None:
            return embeds
        closes = closed_items >= 0
        rows = self.item_embeddings("input_rows", closed_items[closes] - num_words, None)
        return embeds.index_put((closes,), rows.to(embeds.dtype), accumulate=True)

    def without_first(self, input_ids: torch.Tensor, past: int) -> dict[str, torch.Tensor]:
        """Inputs of `forward` for the tokens after the first `past`, which a cache holds: their ids, and what of the
        others they depend on."""
        rest = {"input_ids": input_ids[:, past:]}
        if self.config.codes_per_picture:
            rest["code_places"] = self.code_places(input_ids)[:, past:]
        if self.config.item_at_eoc:
            rest["closed_items"] = self.closed_items(input_ids)[:, past:]
        return rest

    def closed_items(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The item that each `[EOC]` closes, by its id `(B, T)`; -1 for other tokens and where a block names none."""
        first, stop = self.config.group_slices["items"]
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        is_end = input_ids == self.config.eoc_token_id
        item = place.where((input_ids >= first) & (input_ids < stop), -1).cummax(dim=1).values
        end = place.where(is_end, -1).cummax(dim=1).values
        previous_end = nn.functional.pad(end, (1, 0), value=-1)[:, :-1]
        return input_ids.gather(1, item.clamp(min=0)).where(is_end & (item > previous_end), -1)

    def code_places(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Where in its picture each code stands `(B, T)`, -1 for other tokens; a longer run is several pictures."""
        first, stop = self.config.group_slices["codes"]
        is_code = (input_ids >= first) & (input_ids < stop)
        count = is_code.cumsum(dim=1)
        before = count.masked_fill(is_code, 0).cummax(dim=1).values
        return ((count - before - 1) % self.config.codes_per_picture).masked_fill(~is_code, -1)

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """What the language model sees of pictures, in the form that transformers asks of every model that sees.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(U, 3, H, W)`)
            kwargs (*optional*): `output_hidden_states`, `output_attentions`, of the tower; `return_dict`.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` `(U, P, F)`, the tower's, and `pooler_output`
            `(U, L, D)`, the latents.
        """
        outputs = self._vision_outputs(pixel_values, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=self.encode_media(vision_features=outputs.last_hidden_state),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        media_index: torch.Tensor | None = None,
        media_states: torch.Tensor | None = None,
        media_keys_values: MediaKeysValues | None = None,
        code_places: torch.Tensor | None = None,
        closed_items: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> UniMPModelOutput:
        """Pictures without tokens give `media_states` alone.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`, *optional*)
            attention_mask (`torch.Tensor` of shape `(B, past + T)`, *optional*): padding goes on the left.
            position_ids (`torch.LongTensor` of shape `(B, T)`, *optional*): by default counted from the first token
                that is no padding.
            cache (`Cache`, *optional*)
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, W)`, *optional*): instead of `input_ids`; see `embed`.
            pixel_values (`torch.FloatTensor` of shape `(U, 3, H, W)`, *optional*): the batch's distinct pictures.
            vision_features (`torch.FloatTensor` of shape `(U, P, F)`, *optional*): instead of pixels.
            media_index (`torch.LongTensor` of shape `(B, T)` or `(B, past + T)`, *optional*): 0 for a token without a
                picture, else 1 + its picture's row. With a cache, fusions `"all"` and `"late"` need the long form.
            media_states (`torch.FloatTensor` of shape `(U, L, D)`, *optional*): instead of pixels or features.
            media_keys_values (`MediaKeysValues`, *optional*): the same in each call with the same `media_states`, of
                which cross-attention then makes keys and values once.
            code_places (`torch.LongTensor` of shape `(B, T)`, *optional*): see [`UniMPModel.code_places`]; needed only
                when a picture's first codes are in the cache, or with `inputs_embeds`.
            closed_items (`torch.LongTensor` of shape `(B, T)`, *optional*): see [`UniMPModel.closed_items`]; needed
                only when the item of an `[EOC]` is in the cache. [`UniMPModel.without_first`] gives both.
            use_cache (`bool`, *optional*)
        """
        has_pictures = pixel_values is not None or vision_features is not None
        is_for_pictures = has_pictures and all(each is None for each in (input_ids, inputs_embeds, media_index))
        if (input_ids is None) == (inputs_embeds is None) and not is_for_pictures:
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        if media_states is None and has_pictures:
            media_states = self.encode_media(pixel_values, vision_features)
        if is_for_pictures:
            return UniMPModelOutput(media_states=media_states)
        past = 0 if cache is None else int(cache.get_seq_length())
        if code_places is None and input_ids is not None and self.config.codes_per_picture:
            code_places = self.code_places(input_ids)
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed(input_ids, code_places, closed_items)
        inputs_embeds = nn.functional.dropout(inputs_embeds, self.config.dropout, self.training)
        index_BS = self._checked_media_index(media_index, media_states, past, inputs_embeds.shape[1])

        media_mask = None
        if index_BS is not None and media_states is not None:
            if self.media_proj is not None:
                inputs_embeds = self._with_media(input_ids, inputs_embeds, index_BS, media_states)
            else:
                media_mask = self._media_mask(index_BS, len(media_states), inputs_embeds.shape[1])
        packing = None
        if cache is None and position_ids is None and use_cache is False and attention_mask is not None:
            packing = self._packing(attention_mask, media_mask, kwargs)
        if packing is not None:
            inputs_embeds, position_ids, attention_mask = packing.pack(inputs_embeds), packing.position_ids_RT, None
        elif position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        if media_mask is not None and self.late_cross_attention is None:
            if packing is not None and isinstance(media_mask, FoldedSpans):
                media_mask = packing.pack_spans(media_mask)
            kwargs |= {"media_states": media_states, "media_mask": media_mask, "media_keys_values": media_keys_values}
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if packing is not None:
            hidden_states = packing.unpack(hidden_states)
        if media_mask is not None and self.late_cross_attention is not None:
            hidden_states = self.late_cross_attention(hidden_states, media_states, media_mask, media_keys_values)
        if code_places is not None:
            hidden_states = self.item_embeddings("after_codes", hidden_states, code_places)
        return UniMPModelOutput(
            last_hidden_state=hidden_states,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            media_states=media_states,
        )

    def _packing(
        self, attention_mask: torch.Tensor, media_mask: FoldedSpans | PictureMask | None, asked: dict[str, Any]
    ) -> Packing | None:
        """How the rows are packed for the language model; `None` where it takes them as they are."""
        config = self.language_model.config
        states = any(
            asked.get(name) or getattr(config, name, False) for name in ("output_hidden_states", "output_attentions")
        )
        # The pictures that a token may look at are told by its row there.
        by_row = isinstance(media_mask, PictureMask) and self.late_cross_attention is None
        if states or by_row or attention_mask.ndim != 2 or not can_pack(config):
            return None
        return Packing.of(attention_mask)

    @torch.compiler.disable
    def _checked_media_index(
        self, media_index: torch.Tensor | None, media_states: torch.Tensor | None, past: int, length: int
    ) -> torch.Tensor | None:
        """`media_index` up to the last token of this call: all of the sequence where tokens see pictures of earlier
        ones, else of this call alone; `None` when no token of it sees any."""
        if media_index is None:
            if media_states is not None:
                raise ValueError("pictures came without a media_index: it says which token sees which picture.")
            return None
        if media_index.shape[1] >= past + length:
            media_index = media_index[:, : past + length]
        elif media_index.shape[1] != length or (past and self.config.fusion in ("all", "late")):
            raise ValueError(
                f"media_index covers {media_index.shape[1]} tokens; the cache holds {past} and {length} came: "
                f"expected {past + length}, those of the cache first."
            )
        if self.config.fusion not in ("all", "late"):
            media_index = media_index[:, -length:]
        most = int(media_index.max()) if media_index.numel() else 0
        num_pictures = 0 if media_states is None else len(media_states)
        if most > num_pictures and self.config.fusion != "none":
            raise ValueError(f"media_index names picture {most}, but only {num_pictures} pictures came.")
        return media_index if most else None

    def _media_mask(self, index_BS: torch.Tensor, num_pictures: int, length: int) -> FoldedSpans | PictureMask | None:
        """Which of the last `length` tokens sees which picture."""
        if self.config.fusion == "exclusive":
            return fold_spans(index_BS)
        media_mask = mask_pictures(index_BS, num_pictures, accumulate=True)
        return None if media_mask is None else PictureMask(media_mask.pictures_BI, media_mask.visible_BTI[:, -length:])

    @torch.compiler.disable
    def _with_media(
        self,
        input_ids: torch.Tensor | None,
        embeds_BTW: torch.Tensor,
        index_BT: torch.Tensor,
        media_ULD: torch.Tensor,
    ) -> torch.Tensor:
        """Early and pooled fusion: latents in place of the `[IMG]` tokens, or their mean added to them."""
        assert self.media_proj is not None
        if input_ids is None:
            row = self.embed(torch.tensor([[self.config.image_token_id]], device=embeds_BTW.device))
            is_image = (embeds_BTW == row.to(embeds_BTW.dtype)).all(-1)
        else:
            is_image = input_ids == self.config.image_token_id
        is_image &= index_BT > 0
        pictures = index_BT[is_image] - 1
        if self.config.fusion == "pooled":
            added = self.media_proj(media_ULD.mean(dim=1))[pictures]
            return embeds_BTW.index_put((is_image,), added.to(embeds_BTW.dtype), accumulate=True)
        num_latents = media_ULD.shape[1]
        count_B = is_image.sum(dim=1)
        if (count_B % num_latents).any():
            row_number = int((count_B % num_latents).nonzero()[0])
            raise ValueError(
                f"row {row_number} holds {int(count_B[row_number])} [IMG] tokens: fusion='early' needs {num_latents} "
                "together for each picture. Give the processor num_image_tokens=config.num_image_tokens, and do not "
                "prefill in chunks."
            )
        latent = (is_image.cumsum(dim=1) - 1)[is_image] % num_latents
        return embeds_BTW.index_put((is_image,), self.media_proj(media_ULD)[pictures, latent].to(embeds_BTW.dtype))
