"""How UniMP writes: what `generate` of transformers has to be told of pictures and of added tokens.

Shapes: B users, T text tokens, R rows of beams, V words of the language model.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

from .configuration_unimp import UniMPConfig
from .gated_cross_attention import MediaKeysValues


class UniMPGenerationMixin(GenerationMixin):
    """Pictures read once for all beams, added tokens among the words, blocks and pictures that a step continues."""

    # Of the model that this is mixed into.
    config: UniMPConfig
    model: Any
    own_inputs: Callable[[Any], dict[str, Any]]
    __call__: Callable[..., Any]

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
        """Pictures are encoded once, before beams; they are distinct, not a batch, so beams do not repeat them.
        A cache to go on from is of the batch."""
        pictures = {name: model_kwargs.pop(name, None) for name in ("pixel_values", "vision_features")}
        pictures = self.own_inputs({name: tensor for name, tensor in pictures.items() if tensor is not None})
        media_states = model_kwargs.pop("media_states", None)
        if media_states is None and pictures:
            media_states = self(**pictures, return_dict=True).media_states
        if expand_size > 1 and model_kwargs.get("cache") is not None:
            model_kwargs["cache"].batch_repeat_interleave(expand_size)
        mixin: Any = super()
        expanded_ids, model_kwargs = mixin._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if media_states is not None:
            model_kwargs |= {"media_states": media_states, "media_keys_values": MediaKeysValues()}
        return expanded_ids, model_kwargs

    def _prefill(self, input_ids: torch.Tensor, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        size = generation_config.prefill_chunk_size
        first, stop = self.config.group_slices["codes"]
        if size is not None and (self.config.item_at_eoc or ((input_ids >= first) & (input_ids < stop)).any()):
            raise ValueError(
                f"prefill_chunk_size={size}: which item an [EOC] closes (item_at_eoc) and where in its picture a code "
                "stands cannot be told from a piece of the prompt. Leave it out."
            )
        mixin: Any = super()
        return mixin._prefill(input_ids, generation_config, *args, **kwargs)

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
        if (own := inputs.get("input_ids")) is not None:
            # But for the ids, which transformers laid out for a compiled step.
            inputs |= self.model.without_first(input_ids, input_ids.shape[1] - own.shape[1]) | {"input_ids": own}
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
