"""UserState: a shopper's history as the language model has read it, for any number of requests.

Every request of a shopper begins with the same tokens, `[CLS] item item ...`, and a causal language model reads what
comes first without what follows. Their keys and values are computed once; a request goes on from them.

Shapes: B requests, T tokens of the longest, S tokens of a history, H heads, E width of a head, L latents, D widths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from .gated_cross_attention import find_decoder_layers
from .interfaces import PictureFeatures, Processor
from .picture_latents import PictureLatents

if TYPE_CHECKING:
    from .modeling_unimp import UniMPForConditionalGeneration

# A token and the digest of the picture it sees, if it sees one.
Token = tuple[int, str | None]
# Options of `generate` that choose how its cache is made; assisted decoding does not go on from one.
CACHE_OPTIONS = (
    *("cache", "past_key_values", "cache_implementation", "prefill_chunk_size"),
    *("assistant_model", "assistant_early_exit", "prompt_lookup_num_tokens"),
)


@dataclass(frozen=True, eq=False)
class UserState:
    """A history as a model has read it; [`PersonalizationPipeline.read`] makes one.

    It stands wherever a history does. No answer changes it; it can be pickled, and used by another process that has
    the same model. It is a saving alone: what a state does not hold, or holds of other weights, is read again (weights
    that were written through `.data` seem to be the same: see `WeightsVersion`). What it holds is taken for its own
    requests alone. To unpickle one runs what is in it: load none of a stranger's.

    Args:
        history (`list`): as it was given.
        fingerprint (`Any`): of the weights that read it; see `weights_fingerprint`.
        tokens (`tuple`): S tokens, each with the digest of its picture.
        keys_values (`tuple`): of each layer keys and values, `(1, H, S, E)`.
        latents (`dict[str, torch.FloatTensor]`): `(L, D)` by digest of the picture.
    """

    history: list[Any]
    fingerprint: Any
    tokens: tuple[Token, ...]
    keys_values: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    latents: dict[str, torch.Tensor]

    def __getstate__(self) -> dict[str, Any]:
        on_cpu = tuple((keys.cpu(), values.cpu()) for keys, values in self.keys_values)
        return vars(replace(self, keys_values=on_cpu))

    def tolist(self) -> list[Any]:
        """The history, as readers of requests ask columns of other libraries for theirs."""
        return self.history

    @property
    def nbytes(self) -> int:
        """Bytes of memory, but for the history; no more than those of `max_length` tokens of the processor."""
        tensors = [tensor for layer in self.keys_values for tensor in layer] + [*self.latents.values()]
        return sum(tensor.nbytes for tensor in tensors)

    def num_common(self, tokens: Sequence[Token]) -> int:
        """How many of these tokens the state holds, from the first one on."""
        pairs = enumerate(zip(self.tokens, tokens, strict=False))
        return next((place for place, (own, other) in pairs if own != other), min(len(self.tokens), len(tokens)))


def read_histories(
    model: "UniMPForConditionalGeneration",
    processor: Processor,
    histories: Sequence[Any],
    latents: PictureLatents,
    fingerprint: Any,
    *,
    after: Sequence[UserState | None] | None = None,
    positions: Sequence[int] | None = None,
    vision_features: PictureFeatures | None = None,
) -> list[UserState]:
    """Read histories in one forward; call it inside `answering`.

    Args:
        histories (`Sequence[list]`)
        latents (`PictureLatents`): of pictures that were looked at before.
        fingerprint (`Any`): of the model's weights.
        after (`Sequence[UserState]`, *optional*): states to go on from, where they hold the first tokens.
        positions (`Sequence[int]`, *optional*): numbers in error messages.
        vision_features (`FeatureStore`, *optional*)
    """
    inputs: Mapping[str, Any] = processor(
        requests=[{"task": "recommend", "history": history} for history in histories],
        history_only=True,
        vision_features=vision_features,
        positions=positions,
        latents=latents,
        own_latents=[None if state is None else state.latents for state in after or [None] * len(histories)],
    )
    digests = [digest for digest, _ in inputs["latents"]]
    rows = tokens_of(inputs)
    inputs = latents.media_states(model, inputs)
    cache: Any = cache_of(model, inputs, rows, after or [None] * len(rows)) or DynamicCache()
    own = model.own_inputs(inputs)
    own |= model.model.without_first(own["input_ids"], cache.get_seq_length())
    model(**own, cache=cache, use_cache=True, skip_logits=True, return_dict=True)
    states = []
    for number, (history, tokens) in enumerate(zip(histories, rows, strict=True)):
        seen = {digest for _, digest in tokens}
        states.append(
            UserState(
                history=list(history),
                fingerprint=fingerprint,
                tokens=tuple(tokens),
                keys_values=tuple(
                    (
                        layer.keys[number : number + 1, :, -len(tokens) :].clone(),
                        layer.values[number : number + 1, :, -len(tokens) :].clone(),
                    )
                    for layer in cache.layers
                ),
                latents={
                    digest: media.to("cpu", copy=True)
                    for digest, media in zip(digests, inputs.get("media_states", ()), strict=True)
                    if digest in seen
                },
            )
        )
    return states


def tokens_of(inputs: Mapping[str, Any]) -> list[list[Token]]:
    """The tokens of each row of a batch that a processor made with `latents`, without its padding."""
    digests = [None, *(digest for digest, _ in inputs["latents"])]
    rows = []
    for ids, mask, index in zip(inputs["input_ids"], inputs["attention_mask"], inputs["media_index"], strict=True):
        first = len(ids) - int(mask.sum())
        pairs = zip(ids[first:].tolist(), index[first:].tolist(), strict=True)
        rows.append([(token, digests[seen]) for token, seen in pairs])
    return rows


def cache_of(
    model: "UniMPForConditionalGeneration",
    inputs: Mapping[str, Any],
    rows: Sequence[Sequence[Token]],
    states: Sequence[UserState | None],
    num_answers: int = 1,
) -> DynamicCache | None:
    """What states hold of the first columns of a batch, as a K/V cache; `None` where that is nothing.

    It ends in the same column for all rows, before the first that one of them has to read itself. The batch stays laid
    out as it is, so that whatever takes it goes on from the cache.

    Args:
        inputs (`Mapping[str, torch.Tensor]`): a left-padded batch.
        rows (`Sequence[list]`): its tokens, see [`tokens_of`].
        states (`Sequence[UserState]`): one a row, or `None`.
        num_answers (`int`, *optional*, defaults to 1): last tokens of each row that have to be read anew.
    """
    length = inputs["input_ids"].shape[1]
    held = [0 if state is None else state.num_common(row) for state, row in zip(states, rows, strict=True)]
    column = length - max(max(len(row) - count, num_answers) for row, count in zip(rows, held, strict=True))
    # Early fusion reads the tokens of a picture together.
    is_image = inputs["input_ids"] == model.config.image_token_id
    while column > 0 and (is_image[:, column - 1] & is_image[:, column]).any():
        column -= 1
    paddings = [length - len(row) for row in rows]
    if column <= min(paddings):
        return None
    layers = []
    for number, device in enumerate(_devices_of_layers(model)):
        of_rows = [None if state is None else state.keys_values[number] for state in states]
        like = next(keys for keys, _ in filter(None, of_rows))
        keys, values = (
            torch.cat(
                [
                    _first_columns(None if own is None else own[which], padding, column, like)
                    for own, padding in zip(of_rows, paddings, strict=True)
                ]
            )
            for which in (0, 1)
        )
        # Where the weights of an offloaded layer are meanwhile is nowhere; its state is where they were.
        layers.append((keys, values) if device.type == "meta" else (keys.to(device), values.to(device)))
    return DynamicCache(layers)


def chooses_cache(model: "UniMPForConditionalGeneration", options: Mapping[str, Any]) -> bool:
    """Whether these options of `generate`, or the model's own, ask for another cache than one to go on from."""
    configs = [options.get("generation_config"), model.generation_config]
    chosen = [dict(options), *(vars(config) for config in configs if config is not None)]
    return any(
        each.get("use_cache") is False or any(each.get(name) is not None for name in CACHE_OPTIONS) for each in chosen
    )


def _devices_of_layers(model: "UniMPForConditionalGeneration") -> list[torch.device]:
    _, layers = find_decoder_layers(model.model.language_model, model.config.text_config.num_hidden_layers)
    return [next(layer.parameters()).device for layer in layers]


def _first_columns(held_1HSE: torch.Tensor | None, padding: int, column: int, like_1HSE: torch.Tensor) -> torch.Tensor:
    """Keys or values of a row's first columns `(1, H, column, E)`; those of padding are never looked at."""
    if held_1HSE is None or padding >= column:
        return like_1HSE.new_zeros(*like_1HSE.shape[:2], column, like_1HSE.shape[3])
    return torch.nn.functional.pad(held_1HSE[:, :, : column - padding], (0, 0, padding, 0))
