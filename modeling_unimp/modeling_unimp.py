"""UniMP (https://huggingface.co/papers/2403.10667): a language model that sees the pictures of a shopper's history.

Shapes: B users, T text tokens, U distinct pictures of the batch, P patches, F width of a feature, L latents, D width
of a latent, V words of the language model, K added tokens that are no items, N items, W width of an embedding.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling, ModelOutput
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, can_return_tuple, logging
from transformers.utils.deprecation import deprecate_kwarg

from .assembly import from_backbones
from .backbones import (
    is_unused_vision_part,
    vision_outputs,
)
from .configuration_unimp import UniMPConfig
from .focal_loss import supervised_rows, token_nll
from .gated_cross_attention import (
    FoldedSight,
    MaskedSight,
    UniMPGatedCrossAttention,
    fold_spans,
    insert_gated_cross_attention,
    mask_pictures,
)
from .imagining import UniMPImagining, codec_beside, save_codec_beside
from .item_embeddings import UniMPItemEmbeddings, UniMPRows
from .manifest import check_weights, write_manifest
from .partial_training import UniMPPartialTraining, load_left_out
from .perceiver import UniMPPerceiverResampler
from .ranking import check_numbers, rank_items

logger = logging.get_logger(__name__)

# Language models that hand keyword arguments on to their layers (others would ignore the pictures in silence) and
# whose logits are `hidden @ rows.T` with nothing after it, so that added rows compete with words on equal terms.
SUPPORTED_TEXT_MODELS = (
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "olmo2",
    "opt",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
)


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


@dataclass
class UniMPOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): mean of `nll`.
        logits (`torch.FloatTensor` of shape `(B, T, config.vocab_size)`, *optional*): words, control tokens, stars,
            decisions, codes, items.
        nll (`torch.FloatTensor` of shape `(n,)`, *optional*): `-log p` of each supervised token, in the order of
            `labels[:, 1:][labels[:, 1:] != -100]`.
        cache (`Cache`, *optional*)
        hidden_states, attentions (`tuple[torch.FloatTensor]`, *optional*): of the language model.
        media_states (`torch.FloatTensor` of shape `(U, L, D)`, *optional*): latents of the distinct pictures.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    nll: torch.Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    media_states: torch.Tensor | None = None


class UniMPPreTrainedModel(PreTrainedModel):
    config: UniMPConfig
    config_class = UniMPConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["UniMPPerceiverBlock"]
    _skip_keys_device_placement = ["cache"]
    # Of the language model and the tower; the resampler and the gated cross-attention then take SDPA.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    @torch.no_grad()
    def initialize_weights(self) -> None:
        # transformers hands each module to its nearest PreTrainedModel: the gated cross-attention, inside the language
        # model, would go to one that does not know it, and its gates would stay uninitialised memory.
        for module in self.modules():
            if isinstance(module, UniMPGatedCrossAttention):
                for part in reversed(list(module.modules())):
                    self._initialize_weights(part)
        super().initialize_weights()

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As `PreTrainedModel.save_pretrained`; a manifest.json says what the weights are."""
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if is_main_process:
            whole, index = Path(save_directory, SAFE_WEIGHTS_NAME), Path(save_directory, SAFE_WEIGHTS_INDEX_NAME)
            if whole.is_file() and index.is_file() and whole.stat().st_mtime_ns < index.stat().st_mtime_ns:
                whole.unlink()  # of an earlier save; it would be loaded in place of the shards
            weights = Path(save_directory).glob("model*.safetensors")
            write_manifest(save_directory, sorted(file.name for file in weights))
        if push_to_hub:
            known = (
                "commit_message",
                "commit_description",
                "private",
                "token",
                "revision",
                "create_pr",
                "tags",
                "max_shard_size",
            )
            given = {name: kwargs[name] for name in known if name in kwargs}
            self.push_to_hub(kwargs.get("repo_id", Path(save_directory).name), **given)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        output_loading_info: bool = False,
        verify: bool = True,
        **kwargs: Any,
    ) -> Any:
        """As `PreTrainedModel.from_pretrained`; weights that a checkpoint of trained weights leaves out
        (`trained_state_dict`) come from the backbones named in its config.

        Args:
            output_loading_info (`bool`, *optional*, defaults to `False`): as there; missing weights are in it, and no
                error.
            verify (`bool`, *optional*, defaults to `True`): whether weights have to be what was saved.

        Raises:
            ValueError: weights that are missing, damaged or exchanged, or a config that cannot be read.
        """
        name = pretrained_model_name_or_path
        if verify and name is not None and kwargs.get("state_dict") is None:
            check_weights(name, **kwargs)
        try:
            parent: Any = super()
            model, info = parent.from_pretrained(name, *args, output_loading_info=True, **kwargs)
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, ValueError) and str(name) in str(error):
                raise
            raise ValueError(
                f"the model in {str(name)!r} cannot be loaded ({type(error).__name__}: {error}). It may be "
                "damaged: copy, download or save it again."
            ) from error
        info["missing_keys"] -= load_left_out(model, set(info["missing_keys"]))
        tower = "" if model.config.vision_config is None else model.config.vision_config.model_type
        lost = sorted(key for key in info["missing_keys"] if not is_unused_vision_part(key, tower))
        if lost and name is not None and verify and not output_loading_info:
            raise ValueError(
                f"the weights in {str(name)!r} lack {len(lost)}, such as {', '.join(lost[:3])}: random ones would "
                "take their place. Save the whole model again; verify=False loads it as it is."
            )
        return (model, info) if output_loading_info else model

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """The words' embedding as it is: ids of added tokens begin right after the words, so it cannot be resized."""
        size = self.config.text_config.vocab_size
        if new_num_tokens is not None and new_num_tokens != size:
            raise ValueError(
                f"cannot resize the words from {size} to {new_num_tokens}: ids of added tokens begin right after. "
                "Resize the language model before building UniMP on it; for more items, call add_items."
            )
        return self.get_input_embeddings()

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, UniMPGatedCrossAttention):
            init.constant_(module.attention_gate, self.config.initial_gate)
            init.constant_(module.feed_forward_gate, self.config.initial_gate)
        elif isinstance(module, UniMPPerceiverResampler):
            init.normal_(module.latents, std=1.0)
        elif isinstance(module, UniMPRows):
            init.normal_(module.tokens, std=std)
            if module.content is not None:
                # Inputs are normed: rows come out as large as free ones.
                for projection in (module.content.text_proj, module.content.picture_proj):
                    if projection is not None:
                        init.normal_(projection.weight, std=std * projection.in_features**-0.5)
            if module.items is not None and module.content is not None:
                init.zeros_(module.items)
            elif module.items is not None:
                init.normal_(module.items, std=std)
        elif isinstance(module, UniMPItemEmbeddings):
            if module.code_places is not None and module.after_places is not None:
                init.normal_(module.code_places, std=std)
                init.zeros_(module.after_places)
            if module.content_token_ids is not None:
                init.constant_(module.content_token_ids, -1)
            if module.content_pictures is not None:
                init.zeros_(module.content_pictures)
        else:
            super()._init_weights(module)


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
        _check_text_config(config.text_config)
        self.vision_tower: PreTrainedModel | None = None
        if config.vision_config is not None:
            self.vision_tower = vision_tower or AutoModel.from_config(config.vision_config)
            for name, parameter in self.vision_tower.named_parameters():
                if is_unused_vision_part(name, config.vision_config.model_type):
                    parameter.requires_grad_(False)
        self.language_model = language_model or AutoModel.from_config(config.text_config)
        for part in (language_model, vision_tower):
            if part is not None:
                _mark_initialised(part)
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

    def embed(self, input_ids: torch.Tensor, code_places: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings `(B, T, W)` of words and added tokens `(B, T)`."""
        words = self.get_input_embeddings()
        added = input_ids >= self.config.text_config.vocab_size
        embeds = words(input_ids.masked_fill(added, 0))
        if code_places is None and self.config.codes_per_picture:
            code_places = self.code_places(input_ids)
        places = None if code_places is None else code_places[added]
        rows = self.item_embeddings(
            "read", input_ids[added] - self.config.text_config.vocab_size, places, words.__call__
        )
        # Out of place: the words' output may be a leaf, when activation checkpointing asks it for a gradient.
        return embeds.index_put((added,), rows.to(embeds.dtype))

    def code_places(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Where in its picture each code stands `(B, T)`, -1 for other tokens; a run of codes is pictures on end."""
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
        code_places: torch.Tensor | None = None,
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
            code_places (`torch.LongTensor` of shape `(B, T)`, *optional*): see [`UniMPModel.code_places`]; needed only
                when a picture's first codes are in the cache, or with `inputs_embeds`.
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
            inputs_embeds = self.embed(input_ids, code_places)
        index_BS = self._checked_media_index(media_index, media_states, past, inputs_embeds.shape[1])

        sight = None
        if index_BS is not None and media_states is not None:
            if self.media_proj is not None:
                inputs_embeds = self._with_media(input_ids, inputs_embeds, index_BS, media_states)
            else:
                sight = self._sight(index_BS, len(media_states), inputs_embeds.shape[1])
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        if sight is not None and self.late_cross_attention is None:
            kwargs |= {"media_states": media_states, "media_sight": sight}
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
        if sight is not None and self.late_cross_attention is not None:
            hidden_states = self.late_cross_attention(hidden_states, media_states, sight)
        if code_places is not None:
            hidden_states = self.item_embeddings("after_codes", hidden_states, code_places)
        return UniMPModelOutput(
            last_hidden_state=hidden_states,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            media_states=media_states,
        )

    def _checked_media_index(
        self, media_index: torch.Tensor | None, media_states: torch.Tensor | None, past: int, length: int
    ) -> torch.Tensor | None:
        """`media_index` up to the last token of this call: all of the sequence, or of this call alone."""
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
        most = int(media_index.max()) if media_index.numel() else 0
        num_pictures = 0 if media_states is None else len(media_states)
        if most > num_pictures and self.config.fusion != "none":
            raise ValueError(f"media_index names picture {most}, but only {num_pictures} pictures came.")
        return media_index if most else None

    def _sight(self, index_BS: torch.Tensor, num_pictures: int, length: int) -> FoldedSight | MaskedSight | None:
        """Which of the last `length` tokens sees which picture."""
        if self.config.fusion == "exclusive":
            return fold_spans(index_BS[:, -length:])
        sight = mask_pictures(index_BS, num_pictures, accumulate=True)
        return None if sight is None else MaskedSight(sight.pictures_BI, sight.visible_BTI[:, -length:])

    def _with_media(
        self,
        input_ids: torch.Tensor | None,
        embeds_BTW: torch.Tensor,
        index_BS: torch.Tensor,
        media_ULD: torch.Tensor,
    ) -> torch.Tensor:
        """Early and pooled fusion: latents in place of the `[IMG]` tokens, or their mean added to them."""
        assert self.media_proj is not None
        index_BT = index_BS[:, -embeds_BTW.shape[1] :]
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


class UniMPForConditionalGeneration(UniMPImagining, UniMPPartialTraining, UniMPPreTrainedModel, GenerationMixin):
    """UniMP with its head: words through the language model's, added tokens through their output rows.

    Args:
        config (`UniMPConfig`)
        text_model (`PreTrainedModel`, *optional*): a pretrained causal language model; random without it.
        vision_tower (`PreTrainedModel`, *optional*): a pretrained tower; random without it.
    """

    # Language models whose plan shards the words' embedding would otherwise share it with a head that is not.
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(
        self,
        config: UniMPConfig,
        text_model: Any = None,
        vision_tower: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        self.model = UniMPModel(config, None if text_model is None else text_model.base_model, vision_tower)
        if text_model is None:
            self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        else:
            self.lm_head = text_model.get_output_embeddings()
            _mark_initialised(self.lm_head)
        # Language models disagree on what they call their input embeddings.
        words = self.model.get_input_embeddings()
        name = next(name for name, module in self.named_modules() if module is words)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()
        self.generation_config.pad_token_id = config.padding_token_id

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """As [`UniMPPreTrainedModel.save_pretrained`], with the image codec, if there is one, in `image_codec/`."""
        if is_main_process:
            save_codec_beside(self, save_directory)
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        output_loading_info: bool = False,
        verify: bool = True,
        **kwargs: Any,
    ) -> Any:
        """As [`UniMPPreTrainedModel.from_pretrained`], with the image codec that is beside the model."""
        name = pretrained_model_name_or_path
        loaded = super().from_pretrained(name, *args, output_loading_info=output_loading_info, verify=verify, **kwargs)
        model = loaded[0] if output_loading_info else loaded
        model.image_codec = codec_beside(model, name, verify, **kwargs)
        return loaded

    @classmethod
    def from_backbones(
        cls,
        text_model: str,
        vision_model: str | None = None,
        catalogue: Any = None,
        processor: Any = None,
        *,
        content_pictures: bool = False,
        dtype: torch.dtype | str | None = None,
        **overrides: Any,
    ) -> "UniMPForConditionalGeneration":
        """A new UniMP on pretrained backbones, or on random ones of a named size.

        Args:
            text_model (`str`): name or folder of a causal language model, or a size.
            vision_model (`str`, *optional*): name or folder of a vision backbone, or a size; without it, no pictures.
            catalogue (`Catalogue`, *optional*): whose items get a token each.
            processor (`UniMPProcessor`, *optional*): reads the catalogue's text for `item_rows` other than `"free"`.
            content_pictures (`bool`, *optional*, defaults to `False`): whether `item_rows` other than `"free"` are
                made from pictures too; `set_content` then has to be called with the pooled features of a frozen tower.
            dtype (`torch.dtype` or `str`, *optional*): of all weights; `None` is float32.
            overrides (*optional*): fields of [`UniMPConfig`].
        """
        model: UniMPForConditionalGeneration = from_backbones(
            cls, text_model, vision_model, catalogue, processor, content_pictures, dtype, overrides
        )
        return model

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See [`UniMPModel.get_image_features`]."""
        return self.model.get_image_features(pixel_values, **kwargs)

    # ------------------------------------------------------------------------------------------------------ forward

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
        code_places: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool | None = None,
        answer_group: str | None = None,
        task_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> UniMPOutput:
        """Pictures without tokens give `media_states` alone.

        Args:
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*): `labels[b, t]` is predicted from the tokens
                before t; -100 where there is none.
            logits_to_keep (`int` or `torch.LongTensor` of shape `(n,)`, *optional*, defaults to 0): how many last
                positions get logits, or which; 0 is all.
            skip_logits (`bool`, *optional*): whether to leave the logits out; by default while training with labels.
            answer_group (`str`, *optional*): the only group that gets logits, see [`~UniMPForConditionalGeneration.
                answer_logits`]; `-inf` elsewhere. `generate` then writes nothing else, and no item rows are made.
            task_ids (*optional*): which task each row is; of a batch of the processor, for the Trainer alone.
            kwargs (*optional*): `shift_labels` instead of `labels`, where `shift_labels[b, t]` is predicted from the
                tokens up to t; `num_items_in_batch`, which the sum of `nll` is divided by; and the language model's.

        The other arguments are those of [`UniMPModel.forward`].
        """
        # Not in the signature: transformers' Trainer wants every argument called "labels" in each batch.
        num_items_in_batch, shift_labels = kwargs.pop("num_items_in_batch", None), kwargs.pop("shift_labels", None)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            vision_features=vision_features,
            media_index=media_index,
            media_states=media_states,
            code_places=code_places,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_BTW = outputs.last_hidden_state
        if hidden_BTW is None:
            return UniMPOutput(media_states=outputs.media_states)
        loss = nll = logits = None
        targets = labels if shift_labels is None else shift_labels
        if targets is not None:
            nll = self._supervised_nll(hidden_BTW, targets, is_shifted=shift_labels is not None)
            loss = nll.sum() / (max(len(nll), 1) if num_items_in_batch is None else num_items_in_batch)
        if not (skip_logits if skip_logits is not None else self.training and targets is not None):
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self._head(self._checked_group(answer_group))(hidden_BTW[:, kept])
            if answer_group is not None:
                first, stop = self.config.group_slices[answer_group]
                logits = nn.functional.pad(logits, (first, self.config.vocab_size - stop), value=float("-inf"))
        return UniMPOutput(
            loss=loss,
            logits=logits,
            nll=nll,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            media_states=outputs.media_states,
        )

    def _head(self, group: str | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
        """The map from hidden states to logits of a group, or of all; item rows are made only where needed."""
        if group in (None, "items"):
            every = group is None
            return partial(self._logits, tokens=slice(None) if every else None, with_words=every, with_items=True)
        first, stop = (end - self.config.text_config.vocab_size for end in self.config.group_slices[group])
        return partial(self._logits, tokens=slice(max(first, 0), stop), with_words=group == "words")

    def _checked_group(self, group: str | None) -> str | None:
        slices = self.config.group_slices
        if group is not None and group not in slices:
            raise ValueError(f"group={group!r}: expected one of {', '.join(slices)}.")
        if group is not None and slices[group][0] == slices[group][1]:
            raise ValueError(f"this model has no {group}: num_{group} is 0 in its config.")
        return group

    def _logits(
        self, hidden: torch.Tensor, tokens: slice | None, with_words: bool = False, with_items: bool = False
    ) -> torch.Tensor:
        logits = [self.lm_head(hidden)] if with_words else []
        if tokens is not None:
            logits.append(self.model.item_embeddings("token_logits", hidden, tokens))
        if with_items:
            logits.append(self.model.item_embeddings("item_logits", hidden, self.get_input_embeddings().__call__))
        return torch.cat(logits, dim=-1) if len(logits) > 1 else logits[0]

    def _supervised_nll(
        self, hidden_BTW: torch.Tensor, labels_BT: torch.Tensor, is_shifted: bool = False
    ) -> torch.Tensor:
        """`-log p` of each label; only positions with a label go through the head."""
        hidden, targets = supervised_rows(hidden_BTW, labels_BT, is_shifted)
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < self.config.vocab_size:
            raise ValueError(
                f"labels reach from {int(targets.min())} to {int(targets.max())}: expected -100, or ids below "
                f"{self.config.vocab_size}. Was the batch made for another catalogue?"
            )
        if self.config.label_softmax == "vocabulary":
            return token_nll(hidden, targets, self._head())
        # Also without any label the result has to hang on the graph.
        nll = hidden.float().sum(dim=-1) * 0
        for group, (first, stop) in self.config.group_slices.items():
            of_group = (targets >= first) & (targets < stop)
            if of_group.any():
                own = token_nll(hidden[of_group], targets[of_group] - first, self._head(group))
                nll = nll.index_put((of_group,), own)
        return nll

    # --------------------------------------------------------------------------------------------------- generation

    def generate(self, *args: Any, answer_group: str | None = None, **kwargs: Any) -> Any:
        """As `GenerationMixin.generate`.

        Args:
            answer_group (`str`, *optional*): the only group of tokens that is written, see `forward`; words by default
                where `config.label_softmax` is `"group"`, since logits of several groups were never compared then.
        """
        if answer_group is None and self.config.label_softmax == "group":
            answer_group = "words"
        named = {} if answer_group is None else {"answer_group": answer_group}
        return super().generate(*args, **named, **kwargs)

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Pictures are encoded once, before beams; they are distinct, not a batch, so beams do not repeat them."""
        pictures = {name: model_kwargs.pop(name, None) for name in ("pixel_values", "vision_features")}
        pictures = self.own_inputs({name: tensor for name, tensor in pictures.items() if tensor is not None})
        media_states = model_kwargs.pop("media_states", None)
        if media_states is None and pictures:
            media_states = self(**pictures, return_dict=True).media_states
        mixin: Any = super()
        expanded_ids, model_kwargs = mixin._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if media_states is not None:
            model_kwargs["media_states"] = media_states
        return expanded_ids, model_kwargs

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        mixin: Any = super()
        inputs: dict[str, Any] = mixin.prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, inputs_embeds=inputs_embeds, **kwargs
        )
        read = inputs.get("input_ids") if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
        cache, media_index = inputs.get("cache"), inputs.get("media_index")
        if media_index is not None and read is not None:
            # What is written has no picture of its own, nor have the candidates of assisted decoding.
            length = read.shape[1] + (0 if cache is None else int(cache.get_seq_length()))
            missing = length - media_index.shape[1]
            if missing > 0 and media_index.shape[1] != read.shape[1]:
                inputs["media_index"] = nn.functional.pad(media_index, (0, missing))
        if self.config.codes_per_picture and inputs.get("input_ids") is not None:
            inputs["code_places"] = self.model.code_places(input_ids)[:, -inputs["input_ids"].shape[1] :]
        return inputs

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> Any:
        mixin: Any = super()
        generator = mixin._get_candidate_generator(*args, **kwargs)
        if isinstance(generator, PromptLookupCandidateGenerator):
            # Made for the language model's words alone; what it looks up may be an added token.
            generator.vocab_size = self.config.vocab_size
        return generator

    def compute_transition_scores(
        self,
        sequences: torch.Tensor,
        scores: tuple[torch.Tensor, ...],
        beam_indices: torch.Tensor | None = None,
        normalize_logits: bool = False,
    ) -> torch.Tensor:
        """As `GenerationMixin.compute_transition_scores`, which knows words only: the score of each token written.

        Args:
            sequences (`torch.LongTensor` of shape `(R, T)`), scores (`tuple` of a tensor `(R', config.vocab_size)` a
                step), beam_indices (`torch.LongTensor` of shape `(R, steps)`, *optional*): of what `generate` returns.
            normalize_logits (`bool`, *optional*, defaults to `False`): whether scores become log probabilities first.

        Returns:
            `torch.FloatTensor` of shape `(R, steps)`; 0 after the end of a beam.
        """
        scores_RSV = torch.stack(scores, dim=1)
        if normalize_logits:
            scores_RSV = scores_RSV.log_softmax(dim=-1)
        if beam_indices is None:
            beam_indices = torch.arange(len(scores_RSV), device=sequences.device)[:, None].expand(-1, len(scores))
        beam_indices = beam_indices[:, : int((beam_indices >= 0).sum(dim=-1).max())]
        num_steps = beam_indices.shape[1]
        step = torch.arange(num_steps, device=sequences.device)
        written = scores_RSV[beam_indices.clamp(min=0), step, sequences[:, sequences.shape[1] - num_steps :]]
        return written.masked_fill(beam_indices < 0, 0)

    # ------------------------------------------------------------------------------------------------------ answers

    def own_inputs(self, batch: Any) -> dict[str, torch.Tensor]:
        """A batch of the processor on this model's device; of an offloaded model the hooks decide where it goes."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "task_ids"}
        device = self.device
        return inputs if device.type == "meta" else {name: tensor.to(device) for name, tensor in inputs.items()}

    def answer_logits(self, group: str, num_positions: int = 1, **inputs: Any) -> torch.Tensor:
        """Logits of one group of tokens at the last positions; nothing else goes through the head.

        Args:
            group (`str`): `"words"`, `"stars"`, `"decisions"`, `"codes"` or `"items"`.
            num_positions (`int`, *optional*, defaults to 1)
            inputs: those of [`UniMPModel.forward`], padded on the left.

        Returns:
            `torch.FloatTensor` of shape `(B, num_positions, size of the group)`.

        Raises:
            ValueError: another group, one that this model does not have, or logits that are no numbers.
        """
        outputs = self(
            **inputs,
            answer_group=group,
            logits_to_keep=num_positions,
            skip_logits=False,
            use_cache=False,
            return_dict=True,
        )
        first, stop = self.config.group_slices[group]
        logits: torch.Tensor = outputs.logits[..., first:stop]
        return check_numbers(logits)

    @torch.no_grad()
    def rank(
        self, top_k: int = 10, allowed: torch.Tensor | None = None, **inputs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The exact best items of the whole catalogue, from one forward.

        Args:
            top_k (`int`, *optional*, defaults to 10)
            allowed (`torch.BoolTensor` of shape `(N,)` or `(B, N)`, *optional*): items that may be ranked.
            inputs: those of [`UniMPModel.forward`], padded on the left.

        Returns:
            `tuple`: probabilities among the allowed items and item numbers, both `(B, k)`; see [`rank_items`].
        """
        return rank_items(self.answer_logits("items", **inputs)[:, -1], top_k, allowed)

    @torch.no_grad()
    def stars(self, **inputs: Any) -> torch.Tensor:
        """Probabilities `(B, 5)` of one to five stars."""
        return self.answer_logits("stars", **inputs)[:, -1].float().softmax(dim=-1)

    @torch.no_grad()
    def decisions(self, num_candidates: int, **inputs: Any) -> torch.Tensor:
        """Probability `(B, num_candidates)` that each candidate is chosen, read after the last positions, its slots.

        A row of fewer candidates has its own at the end.
        """
        return self.answer_logits("decisions", num_candidates, **inputs).float().softmax(dim=-1)[..., 1]

    def item_rows(self) -> torch.Tensor:
        """Output rows `(N, W)` of all items, for whoever multiplies with them many times: logits are products with
        the hidden states."""
        rows: torch.Tensor = self.model.item_embeddings("item_rows", self.get_input_embeddings().__call__)
        return rows

    # ---------------------------------------------------------------------------------------------------- catalogue

    def set_content(self, content_token_ids: torch.Tensor, content_pictures: torch.Tensor | None = None) -> None:
        """Say what the items are, for `item_rows` other than `"free"`; see [`UniMPItemEmbeddings.set_content`]."""
        self.model.item_embeddings.set_content(content_token_ids, content_pictures)

    def add_items(
        self,
        num_new: int,
        content_token_ids: torch.Tensor | None = None,
        content_pictures: torch.Tensor | None = None,
        catalogue_fingerprint: str | None = None,
    ) -> None:
        """Give new items of a catalogue a token; scores of the old ones stay as they are.

        Args:
            num_new (`int`): how many were appended.
            content_token_ids, content_pictures (`torch.Tensor`, *optional*): what they are, for `item_rows` other than
                `"free"`; see [`UniMPItemEmbeddings.set_content`].
            catalogue_fingerprint (`str`, *optional*): of the grown catalogue.
        """
        if num_new < 0:
            raise ValueError(f"num_new={num_new}: items can be added, not taken away; retire them in the catalogue.")
        self.model.item_embeddings.add_items(num_new, content_token_ids, content_pictures)
        self.config.num_items += num_new
        self.config.catalogue_fingerprint = catalogue_fingerprint

    def update_items(
        self, numbers: torch.Tensor, content_token_ids: torch.Tensor, content_pictures: torch.Tensor | None = None
    ) -> None:
        """Say anew what some items are, for `item_rows` other than `"free"`; see
        [`UniMPItemEmbeddings.update_items`]."""
        self.model.item_embeddings.update_items(numbers, content_token_ids, content_pictures)

    def check_processor(self, processor: Any) -> None:
        """Refuse a processor that writes other sequences than this model reads, or whose catalogue is another."""
        if processor.first_token_id != self.config.text_config.vocab_size:
            raise ValueError(
                f"the processor's added ids begin at {processor.first_token_id} and this model's at "
                f"{self.config.text_config.vocab_size}: load the processor saved with the model."
            )
        if processor.num_image_tokens != self.config.num_image_tokens:
            raise ValueError(
                f"the processor writes {processor.num_image_tokens} [IMG] tokens a picture and fusion="
                f"{self.config.fusion!r} reads {self.config.num_image_tokens}: set processor.num_image_tokens = "
                "model.config.num_image_tokens."
            )
        if processor.num_codes != self.config.num_codes:
            raise ValueError(
                f"the processor writes pictures in {processor.num_codes} codes and this model has tokens for "
                f"{self.config.num_codes}: load the processor saved with the model."
            )
        self.check_catalogue(processor.catalogue)

    def check_catalogue(self, catalogue: Any) -> None:
        """Refuse a catalogue whose items are not those of the item tokens."""
        if len(catalogue) != self.config.num_items:
            raise ValueError(
                f"the catalogue holds {len(catalogue)} items and this model {self.config.num_items} item tokens. "
                "Load the catalogue saved with the model, or call model.add_items for items that were appended to it."
            )
        expected = self.config.catalogue_fingerprint
        if expected is not None and catalogue.fingerprint != expected:
            raise ValueError(
                f"the catalogue's fingerprint is {catalogue.fingerprint} and this model was made for {expected}: its "
                "item tokens would stand for other items. Load the catalogue saved with the model."
            )


def _check_text_config(text_config: Any) -> None:
    if text_config.model_type not in SUPPORTED_TEXT_MODELS:
        raise ValueError(
            f"a language model of type {text_config.model_type!r} is not supported: it is not known to hand pictures "
            "on to its layers, or its logits are not those of a plain head. Expected one of "
            f"{', '.join(SUPPORTED_TEXT_MODELS)}."
        )
    if text_config.model_type == "gemma3_text" and text_config.final_logit_softcapping is not None:
        raise ValueError(
            f"final_logit_softcapping={text_config.final_logit_softcapping}: added rows need logits without one."
        )
    if text_config.model_type == "opt" and text_config.word_embed_proj_dim != text_config.hidden_size:
        raise ValueError(
            f"an OPT with embeddings of width {text_config.word_embed_proj_dim} in layers of width "
            f"{text_config.hidden_size} is not supported: expected one width, as all but OPT-350M have."
        )


def _mark_initialised(module: nn.Module) -> None:
    """Keep pretrained weights from being drawn anew by `post_init`."""
    for part in module.modules():
        part._is_hf_initialized = True  # type: ignore[assignment]
