"""Requests in, the model's outputs out; the one path that evaluation and serving share.

An output is what its task reads (see `answer_group` of a task): item logits, star or candidate probabilities, words.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor


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
    max_new_tokens: int = 64,
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
        max_new_tokens (`int`, *optional*, defaults to 64): length limit of words.
        generate_kwargs (*optional*): more arguments of `generate`, for words.

    Yields:
        `np.ndarray` `(N,)` logits, `(5,)` or `(K,)` probabilities, or `str`.
    """
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(requests), batch_size):
            chunk = requests[start : start + batch_size]
            batch = processor(requests=chunk, vision_features=vision_features)
            inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "task_ids"}
            with torch.inference_mode():
                yield from _read(model, processor, chunk, inputs, answer_group, max_new_tokens, generate_kwargs)
    finally:
        model.train(was_training)


def _read(
    model: Any,
    processor: Any,
    requests: Sequence[dict[str, Any]],
    inputs: dict[str, torch.Tensor],
    answer_group: str,
    max_new_tokens: int,
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
        generated = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            eos_token_id=processor.tokenizer.eos_token_id,
            pad_token_id=processor.control.pad,
            logits_processor=[WordsOnly(processor.first_token_id)],
            **generate_kwargs,
        )
        yield from (processor.words(row) for row in generated[:, inputs["input_ids"].shape[1] :].cpu())
