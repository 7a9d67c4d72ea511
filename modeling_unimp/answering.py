"""Requests in, the model's outputs out; the one path that evaluation and serving share.

An output is what its task reads (see `answer_group` of a task): item logits, star or candidate probabilities, words.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

MAX_NEW_TOKENS = 64


class WordsOnly(LogitsProcessor):
    """Lets nothing but the language model's own words be written: an explanation has no item tokens.

    Args:
        num_words (`int`): V; ids from there on are added tokens.
    """

    def __init__(self, num_words: int) -> None:
        self.num_words = num_words

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        words_only: Any = scores.clone()
        words_only[:, self.num_words :] = float("-inf")
        return words_only


def outputs_of(
    model: Any,
    processor: Any,
    requests: Sequence[dict[str, Any]],
    answer_group: str,
    *,
    batch_size: int = 32,
    vision_features: Any = None,
    positions: Sequence[int] | None = None,
    **generate_kwargs: Any,
) -> Iterator[Any]:
    """Answer requests whose tasks share an answer group, a batch at a time, in their order.

    Args:
        model (`UniMPForConditionalGeneration`): also unwrapped from DDP or PEFT.
        processor (`UniMPProcessor`): the model's own.
        requests (`Sequence[dict]`): any number of requests.
        answer_group (`str`): `"items"`, `"stars"`, `"decisions"` or `"words"`.
        batch_size (`int`, *optional*, defaults to 32).
        vision_features (`FeatureStore`, *optional*): see `UniMPProcessor.__call__`.
        positions (`Sequence[int]`, *optional*): what errors call the requests; by default their places from 0.
        generate_kwargs (*optional*): arguments of `generate`, for words; `max_new_tokens` is 64 if not among them.

    Yields:
        `np.ndarray` `(N,)` logits, `(5,)` or `(K,)` probabilities, or `str`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1.")
    if positions is None:
        positions = range(len(requests))
    for start in range(0, len(requests), batch_size):
        part = slice(start, start + batch_size)
        # Whoever takes the answers runs between the yields: no mode of torch or the model may be on then.
        yield from _answer_batch(
            model, processor, requests[part], positions[part], answer_group, vision_features, generate_kwargs
        )


def _answer_batch(
    model: Any,
    processor: Any,
    requests: Sequence[dict[str, Any]],
    positions: Sequence[int],
    answer_group: str,
    vision_features: Any,
    generate_kwargs: dict[str, Any],
) -> list[Any]:
    batch = processor(requests=requests, vision_features=vision_features, positions=positions)
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "task_ids"}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return list(_read(model, processor, requests, inputs, answer_group, generate_kwargs))
    finally:
        model.train(was_training)


def _read(
    model: Any,
    processor: Any,
    requests: Sequence[dict[str, Any]],
    inputs: dict[str, torch.Tensor],
    answer_group: str,
    generate_kwargs: dict[str, Any],
) -> Iterator[Any]:
    if answer_group == "items":
        yield from model.answer_logits("items", **inputs)[:, -1].float().cpu().numpy()
    elif answer_group == "stars":
        yield from model.stars(**inputs).float().cpu().numpy()
    elif answer_group == "decisions":
        counts = [len(request["candidates"]) for request in requests]
        chosen = model.decisions(max(counts), **inputs).float().cpu().numpy()
        yield from (row[len(row) - count :] for row, count in zip(chosen, counts, strict=True))
    else:
        assert answer_group == "words", answer_group
        generated = model.generate(**inputs, **_generate_arguments(processor, generate_kwargs))
        yield from (processor.words(row) for row in generated[:, inputs["input_ids"].shape[1] :].cpu())


def _generate_arguments(processor: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The caller's arguments of `generate`, and ours where the caller says nothing."""
    for name, expected in (("num_return_sequences", 1), ("return_dict_in_generate", False)):
        if given.get(name) not in (None, expected):
            raise ValueError(f"{name}={given[name]!r}: an answer is one text a request; leave it out.")
    ours = {
        "max_new_tokens": MAX_NEW_TOKENS,
        "eos_token_id": processor.tokenizer.eos_token_id,
        "pad_token_id": processor.control.pad,
    }
    config = copy.deepcopy(given.get("generation_config"))
    if given.get("max_length") is not None or (config is not None and config.max_length is not None):
        del ours["max_new_tokens"]
    if config is not None:
        # transformers does not want a config and single values at once.
        config.update(**{name: value for name, value in ours.items() if getattr(config, name) is None})
        given, ours = given | {"generation_config": config}, {}
    written = [WordsOnly(processor.first_token_id), *given.get("logits_processor", ())]
    return ours | given | {"logits_processor": written}
