"""UniMP (https://huggingface.co/papers/2403.10667): a language model that sees the pictures of a shopper's history.

Shapes: B users, T text tokens, P codes of a picture, U distinct pictures of the batch, L latents, D width of a latent,
V words of the language model, N items, W width of an embedding.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.utils import can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg

from .assembly import from_backbones
from .backbones import whole_weights
from .configuration_unimp import UniMPConfig
from .focal_loss import supervised_rows, token_nll
from .gated_cross_attention import MediaKeysValues
from .generation import UniMPGenerationMixin
from .hybrid_scores import HybridScores, hybrid_beside, save_hybrid_beside
from .image_codec import ImageCodec
from .imagining import check_codec, codec_beside, fit_codes_to_codec, imagine, save_codec_beside
from .interfaces import Catalogue, Processor
from .item_embeddings import ItemContent, item_logits
from .network import UniMPModel
from .partial_training import check_left_out, freeze_backbones, gate_openings, trained_state_dict
from .pretrained_unimp import UniMPPreTrainedModel, mark_initialised
from .ranking import check_numbers, rank_items

if TYPE_CHECKING:
    # transformers saves the code of a published model by such lines: config.json names the pipeline, too.
    from .pipeline_unimp import PersonalizationPipeline  # noqa: F401


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


class UniMPForConditionalGeneration(UniMPPreTrainedModel, UniMPGenerationMixin):
    """UniMP with its head: words through the language model's, added tokens through their output rows.

    Args:
        config (`UniMPConfig`)
        text_model (`PreTrainedModel`, *optional*): a pretrained causal language model; random without it.
        vision_tower (`PreTrainedModel`, *optional*): a pretrained tower; random without it.
    """

    # Language models whose plan shards the words' embedding would otherwise share it with a head that is not.
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}
    _image_codec: ImageCodec | None = None
    # Added to the network's logits where items are ranked, candidates chosen, stars given; `None`: the network alone.
    hybrid_scores: HybridScores | None = None

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
            mark_initialised(self.lm_head)
        # Language models disagree on what they call their input embeddings.
        words = self.model.get_input_embeddings()
        name = next(name for name, module in self.named_modules() if module is words)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()
        self.generation_config.pad_token_id = config.padding_token_id

    def save_beside(self, save_directory: str | os.PathLike) -> None:
        """Save the image codec, if there is one, in `image_codec/`, and the closed-form scores in
        hybrid_scores.safetensors."""
        save_codec_beside(self, save_directory)
        save_hybrid_beside(self.hybrid_scores, save_directory)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        output_loading_info: bool = False,
        verify: bool = True,
        **kwargs: Any,
    ) -> Any:
        """As [`UniMPPreTrainedModel.from_pretrained`], with image codec and closed-form scores beside the model."""
        name = pretrained_model_name_or_path
        loaded = super().from_pretrained(name, *args, output_loading_info=output_loading_info, verify=verify, **kwargs)
        model = loaded[0] if output_loading_info else loaded
        model.image_codec = codec_beside(model, name, verify, **kwargs)
        model.hybrid_scores = hybrid_beside(name, verify, model.config.num_items, **kwargs)
        return loaded

    @classmethod
    def from_backbones(
        cls,
        text_model: str,
        vision_model: str | None = None,
        catalogue: Catalogue | None = None,
        processor: Processor | None = None,
        *,
        tower: PreTrainedModel | None = None,
        content_pictures: torch.Tensor | None = None,
        dtype: torch.dtype | str | None = None,
        **overrides: Any,
    ) -> "UniMPForConditionalGeneration":
        """A new UniMP on pretrained backbones, or on random ones of a named size.

        Args:
            text_model (`str`): name or folder of a causal language model, or a size.
            vision_model (`str`, *optional*): name or folder of a vision backbone, or a size; without it, no pictures.
            catalogue (`Catalogue`, *optional*): whose items get a token each.
            processor (`UniMPProcessor`, *optional*): knows what items say, for `item_rows` other than `"free"`.
            tower (`PreTrainedModel`, *optional*): of that vision model, where it is loaded already.
            content_pictures (`torch.FloatTensor` of shape `(N, G)`, *optional*): pooled features of a frozen tower,
                zeros for an item without a picture, where `item_rows` other than `"free"` are made from pictures too.
            dtype (`torch.dtype` or `str`, *optional*): of all weights; `None` is float32.
            overrides (*optional*): fields of [`UniMPConfig`].
        """
        with whole_weights():
            model: UniMPForConditionalGeneration = from_backbones(
                cls, text_model, vision_model, catalogue, processor, tower, content_pictures, dtype, overrides
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
        media_keys_values: MediaKeysValues | None = None,
        code_places: torch.Tensor | None = None,
        closed_items: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool | None = None,
        answer_group: str | None = None,
        task_ids: torch.Tensor | None = None,
        sampled_items: int = 0,
        competing_items: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> UniMPOutput:
        """Pictures without tokens give `media_states` alone.

        Args:
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*): `labels[b, t]` is predicted from the tokens
                before t; -100 where there is none.
            logits_to_keep (`int` or `torch.LongTensor` of shape `(n,)`, *optional*, defaults to 0): how many last
                positions get logits, or which; 0 is all.
            use_cache (`bool`, *optional*): by default what the language model's config says, and `False` with labels.
            skip_logits (`bool`, *optional*): whether to leave the logits out; by default while training with labels.
            answer_group (`str`, *optional*): the only group that gets logits, see [`~UniMPForConditionalGeneration.
                answer_logits`]; `-inf` elsewhere. `generate` then writes nothing else, and no item rows are made.
            task_ids (*optional*): which task each row is; of a batch of the processor, for the Trainer alone.
            sampled_items (`int`, *optional*, defaults to 0): how many items, drawn anew each time, stand for all
                others in the loss of items; 0 for all of them. For `label_softmax="group"`.
            competing_items (`torch.BoolTensor` of shape `(N,)`, *optional*): items that the loss may lower; by default
                all. An item that nobody could take yet is not one that nobody wants.
            kwargs (*optional*): `shift_labels` instead of `labels`, where `shift_labels[b, t]` is predicted from the
                tokens up to t; `num_items_in_batch`, which the sum of `nll` is divided by; and the language model's.

        The other arguments are those of [`UniMPModel.forward`].
        """
        # Not in the signature: transformers' Trainer wants every argument called "labels" in each batch.
        num_items_in_batch, shift_labels = kwargs.pop("num_items_in_batch", None), kwargs.pop("shift_labels", None)
        targets = labels if shift_labels is None else shift_labels
        if targets is not None and cache is None and use_cache is None:
            # Nothing goes on from a loss, and filling a cache copies all keys and values.
            use_cache = False
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
            media_keys_values=media_keys_values,
            code_places=code_places,
            closed_items=closed_items,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_BTW = outputs.last_hidden_state
        if hidden_BTW is None:
            return UniMPOutput(media_states=outputs.media_states)
        loss = nll = logits = None
        if targets is not None:
            nll = self._supervised_nll(hidden_BTW, targets, shift_labels is not None, sampled_items, competing_items)
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
            return partial(
                self._logits,
                tokens=slice(None) if every else None,
                with_words=every,
                with_items=True,
                # Rows made from content are made once, however often the head is called. Free ones are parameters,
                # which are there in the forward of their module alone.
                item_rows=None if self.config.item_rows == "free" else self.item_rows(),
            )
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
        self,
        hidden: torch.Tensor,
        tokens: slice | None,
        with_words: bool = False,
        with_items: bool = False,
        item_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        logits = [self.lm_head(hidden)] if with_words else []
        if tokens is not None:
            logits.append(self.model.item_embeddings("token_logits", hidden, tokens))
        if with_items and item_rows is not None:
            logits.append(item_logits(hidden, item_rows, is_ranking=not with_words))
        elif with_items:
            logits.append(self.model.item_embeddings("item_logits", hidden, not with_words))
        return torch.cat(logits, dim=-1) if len(logits) > 1 else logits[0]

    @torch.compiler.disable
    def _supervised_nll(
        self,
        hidden_BTW: torch.Tensor,
        labels_BT: torch.Tensor,
        is_shifted: bool,
        sampled_items: int,
        competing_items: torch.Tensor | None,
    ) -> torch.Tensor:
        """`-log p` of each label; only positions with a label go through the head."""
        hidden, targets = supervised_rows(hidden_BTW, labels_BT, is_shifted)
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < self.config.vocab_size:
            raise ValueError(
                f"labels reach from {int(targets.min())} to {int(targets.max())}: expected -100, or ids below "
                f"{self.config.vocab_size}. Was the batch made for another catalogue?"
            )
        if self.config.label_softmax == "vocabulary":
            if sampled_items:
                raise ValueError(
                    f"sampled_items={sampled_items}: labels compete with all of the vocabulary here, expected 0; or "
                    "build the model with label_softmax='group'."
                )
            head = self._head()
            if competing_items is not None:
                first_item, _ = self.config.group_slices["items"]
                head = _competing(head, nn.functional.pad(competing_items, (first_item, 0), value=True), targets)
            return token_nll(hidden, targets, head, self.config.vocab_size)
        # Also without any label the result has to hang on the graph.
        nll = hidden.float().sum(dim=-1) * 0
        for group, (first, stop) in self.config.group_slices.items():
            of_group = (targets >= first) & (targets < stop)
            if of_group.any():
                numbers, head, classes = targets[of_group] - first, self._head(group), stop - first
                if group == "items" and 0 < sampled_items < self.config.num_items:
                    numbers, head, classes = self._sampled_head(numbers, sampled_items, competing_items)
                elif group == "items" and competing_items is not None:
                    head = _competing(head, competing_items, numbers)
                nll = nll.index_put((of_group,), token_nll(hidden[of_group], numbers, head, classes))
        return nll

    def _sampled_head(
        self, targets: torch.Tensor, sampled_items: int, competing_items: torch.Tensor | None
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor], int]:
        """Where the targets are among the logits of these and of drawn items, the map to such logits, how many.

        Each drawn item stands for as many as there are others to a drawn one, so that the sum of exponentials is right
        on average (importance sampling, https://huggingface.co/papers/1412.2007).
        """
        right, places = targets.unique(return_inverse=True)
        is_other = torch.ones(self.config.num_items, dtype=torch.bool, device=targets.device)
        if competing_items is not None:
            is_other &= competing_items
        is_other[right] = False
        drawn = torch.randint(self.config.num_items, (sampled_items,), device=targets.device)
        drawn = drawn[is_other[drawn]]
        rows = self.model.item_embeddings("output_rows", torch.cat([right, drawn]))
        corrections = torch.zeros(len(rows), device=targets.device)
        corrections[len(right) :] = math.log(int(is_other.sum()) / max(len(drawn), 1) or 1.0)

        def project(hidden: torch.Tensor) -> torch.Tensor:
            logits = nn.functional.linear(hidden, rows.to(hidden.dtype))
            return logits.float() + corrections

        return places, project, len(rows)

    # ------------------------------------------------------------------------------------------------------ answers

    def own_inputs(self, batch: Any) -> dict[str, Any]:
        """A batch of the processor on this model's device; of an offloaded model the hooks decide where it goes."""
        inputs = {name: value for name, value in batch.items() if name != "task_ids"}
        device = self.device
        if device.type == "meta":
            return inputs
        return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}

    def answer_logits(self, group: str, num_positions: int = 1, **inputs: Any) -> torch.Tensor:
        """Logits of one group of tokens at the last positions; nothing else goes through the head.

        Args:
            group (`str`): `"words"`, `"stars"`, `"decisions"`, `"codes"` or `"items"`.
            num_positions (`int`, *optional*, defaults to 1)
            inputs: those of [`UniMPModel.forward`], padded on the left; tokens that a `cache` holds may be among them,
                as in `generate`.

        Returns:
            `torch.FloatTensor` of shape `(B, num_positions, size of the group)`.

        Raises:
            ValueError: another group, one that this model does not have, or logits that are no numbers.
        """
        if "cache" in inputs and inputs["input_ids"].shape == inputs["attention_mask"].shape:
            inputs |= self.model.without_first(inputs["input_ids"], inputs["cache"].get_seq_length())
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
        """Output rows `(N, W)` of all items, for callers that multiply with them many times: logits are products with
        the hidden states."""
        rows: torch.Tensor = self.model.item_embeddings("output_rows")
        return rows

    # ------------------------------------------------------------------------------------------- what of it learns

    def freeze_backbones(
        self, train: Literal["new", "last_layer", "all"] = "new", train_vision: bool = False
    ) -> "UniMPForConditionalGeneration":
        """Choose what learns.

        Args:
            train (`str`, *optional*, defaults to `"new"`): `"new"`: resampler, cross-attention and added rows (the
                paper). `"last_layer"`: also the language model's last layer and final norm. `"all"`: also the rest of
                the language model.
            train_vision (`bool`, *optional*, defaults to `False`): whether the vision tower learns.
        """
        freeze_backbones(self, train, train_vision)
        return self

    def trained_state_dict(self) -> dict[str, torch.Tensor]:
        """What `freeze_backbones` lets learn, and all buffers; `from_pretrained` finds the rest at the backbones."""
        return trained_state_dict(self)

    def check_left_out(self) -> None:
        """Refuse to leave out frozen weights that could not be found again: those of a backbone without a name."""
        check_left_out(self)

    def gate_openings(self) -> dict[str, float]:
        """`tanh` of each gate, by layer counted from 1: 0 is closed."""
        return gate_openings(self)

    # ---------------------------------------------------------------------------------------------------- pictures

    @property
    def image_codec(self) -> ImageCodec | None:
        """Makes pictures of codes; frozen, and saved in `image_codec/` of the model's folder, not with its weights."""
        return self._image_codec

    @image_codec.setter
    def image_codec(self, codec: ImageCodec | None) -> None:
        if codec is not None:
            check_codec(codec, self.config)
        self._image_codec = codec

    def fit_codes_to_codec(self) -> None:
        """Draw the codes' rows alike for codes that look alike: a random projection of the codec's codebook."""
        fit_codes_to_codec(self)

    @torch.no_grad()
    def imagine(self, *, seed: int = 0, generation_config: Any = None, **inputs_and_options: Any) -> torch.Tensor:
        """Write pictures as codes, with the K/V cache: exactly P codes a picture, and nothing but codes.

        Args:
            seed (`int`, *optional*, defaults to 0): another seed, another picture; the same request and seed, the
                same, alone or in a batch, whatever else is drawn meanwhile.
            generation_config (`GenerationConfig`, *optional*): instead of single options of `generate`.
            inputs_and_options: a batch of imagine requests as the processor makes it, and options of `generate`:
                `temperature` (0.2 by default), `top_k`, `top_p`, `num_beams`, `do_sample` (`False` for the likeliest
                code each time). Options on lengths have no effect.

        Returns:
            `torch.LongTensor` of shape `(B, P)`, each from 0 to `config.num_codes - 1`; `image_codec.decode` makes
            pictures of them.
        """
        return imagine(self, seed, generation_config, inputs_and_options)

    # ---------------------------------------------------------------------------------------------------- catalogue

    def set_content(self, content: ItemContent) -> None:
        """Set what item rows are made from, for `item_rows` other than `"free"`; see
        [`UniMPItemEmbeddings.set_content`]."""
        self.model.item_embeddings.set_content(content)

    def add_items(
        self,
        num_new: int,
        content: ItemContent | None = None,
        catalogue_fingerprint: str | None = None,
    ) -> None:
        """Give new items of a catalogue a token; scores of the old ones stay as they are.

        Args:
            num_new (`int`): how many were appended.
            content (`ItemContent`, *optional*): what they are, for `item_rows` other than `"free"`.
            catalogue_fingerprint (`str`, *optional*): of the grown catalogue.
        """
        if num_new < 0:
            raise ValueError(f"num_new={num_new}: items can be added, not taken away; retire them in the catalogue.")
        self.model.item_embeddings.add_items(num_new, content)
        self.config.num_items += num_new
        self.config.catalogue_fingerprint = catalogue_fingerprint

    def update_items(
        self, numbers: torch.Tensor, content: ItemContent, keep_pictures: torch.Tensor | None = None
    ) -> None:
        """Replace what some items are, for `item_rows` other than `"free"`; see
        [`UniMPItemEmbeddings.update_items`]."""
        self.model.item_embeddings.update_items(numbers, content, keep_pictures)

    def check_processor(self, processor: Processor) -> None:
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

    def check_catalogue(self, catalogue: Catalogue) -> None:
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


def _competing(
    head: Callable[[torch.Tensor], torch.Tensor], competing: torch.Tensor, targets: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The head with `-inf` for classes that do not compete, unless one is the target of any row."""
    left_out = ~competing
    left_out[targets] = False
    return lambda hidden: head(hidden).masked_fill(left_out, float("-inf"))
