"""Requests in, the model's outputs out; the one path that evaluation and serving share.

An output is what its task reads (see `answer_group` of a task): item logits, star or candidate probabilities, words,
pictures.
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from .imagining import PictureIndex, picture_features, retrieve
from .ranking import check_numbers

MAX_NEW_TOKENS = 64


class WordsOnly(LogitsProcessor):
    """Lets nothing but the language model's own words be written: an explanation has no item tokens.

    Args:
        num_words (`int`): V; ids from there on are added tokens.
    """

    def __init__(self, num_words: int) -> None:
        self.num_words = num_words

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        words_only: Any = check_numbers(scores).clone()
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
    shelf: PictureIndex | None = None,
    **generate_kwargs: Any,
) -> Iterator[Any]:
    """Answer requests whose tasks share an answer group, a batch at a time, in their order.

    Args:
        model (`UniMPForConditionalGeneration`): also unwrapped from DDP or PEFT.
        processor (`UniMPProcessor`): the model's own.
        requests (`Sequence[dict]`): any number of requests.
        answer_group (`str`): `"items"`, `"stars"`, `"decisions"`, `"words"` or `"codes"`.
        batch_size (`int`, *optional*, defaults to 32).
        vision_features (`FeatureStore`, *optional*): see `UniMPProcessor.__call__`.
        positions (`Sequence[int]`, *optional*): what errors call the requests; by default their places from 0.
        shelf (`PictureIndex`, *optional*): what pictures are compared with; by default made when they are asked for.
        generate_kwargs (*optional*): arguments of `generate`, for words (`max_new_tokens` is 64 if not among them) and
            codes (see `UniMPForConditionalGeneration.imagine`); `seed` is for codes alone.

    Yields:
        `np.ndarray` `(N,)` logits, `(5,)` or `(K,)` probabilities, `str`, or for codes a dict: `picture`
        (`PIL.Image.Image`), `wish` (what it shows, in words), `retrieved` (catalogue rows), `features` `(G,)` of the
        picture, `catalogue_features` `(N, G)` (one array for all; both less the catalogue's mean), `similarity` `(N,)`
        between the two, `nll` (mean over the true picture's codes, `None` where a request has no `"answer"`).
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1.")
    if positions is None:
        positions = range(len(requests))
    for name, expected in (("num_return_sequences", 1), ("return_dict_in_generate", False)):
        if generate_kwargs.get(name) not in (None, expected):
            raise ValueError(
                f"{name}={generate_kwargs[name]!r}: an answer is one text or picture a request; leave it out."
            )
    if answer_group == "codes" and shelf is None and requests:
        with _answering(model):
            shelf = PictureIndex.of(model, processor, vision_features)
    for start in range(0, len(requests), batch_size):
        part = slice(start, start + batch_size)
        reading = {"vision_features": vision_features, "positions": positions[part]}
        # Whoever takes the answers runs between the yields: no mode of torch or the model may be on then.
        with _answering(model):
            if answer_group == "codes":
                answers = list(_imagine(model, processor, requests[part], shelf, reading, generate_kwargs))
            else:
                answers = list(_read(model, processor, requests[part], answer_group, reading, generate_kwargs))
        yield from answers


@contextlib.contextmanager
def _answering(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def _inputs(model: Any, processor: Any, requests: Sequence[Any], **reading: Any) -> dict[str, torch.Tensor]:
    inputs: dict[str, torch.Tensor] = model.own_inputs(processor(requests=requests, **reading))
    return inputs


def _read(
    model: Any,
    processor: Any,
    requests: Sequence[dict[str, Any]],
    answer_group: str,
    reading: dict[str, Any],
    generate_kwargs: dict[str, Any],
) -> Iterator[Any]:
    inputs = _inputs(model, processor, requests, **reading)
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
        options = {name: value for name, value in generate_kwargs.items() if name != "seed"}
        generated = model.generate(**inputs, answer_group="words", **_generate_arguments(processor, options))
        yield from (processor.words(row) for row in generated[:, inputs["input_ids"].shape[1] :].cpu())


def _imagine(
    model: Any,
    processor: Any,
    requests: Sequence[dict[str, Any]],
    shelf: Any,
    reading: dict[str, Any],
    generate_kwargs: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Search, write codes, decode, and see what the picture is like."""
    requests = retrieve(model, processor, requests, shelf.has_picture, **reading)
    codes = model.imagine(**_inputs(model, processor, requests, **reading), **generate_kwargs)
    pictures = model.image_codec.decode(codes)
    features = picture_features(model, processor, pictures) - shelf.mean
    nll = [None] * len(requests)
    if all("answer" in request for request in requests):
        labelled = _inputs(model, processor, requests, labels=True, **reading)
        del labelled["label_kinds"]
        nll = model(**labelled, skip_logits=True).nll.view(codes.shape).mean(dim=1).tolist()
    for request, picture, own, own_nll in zip(requests, pictures, features, nll, strict=True):
        yield {
            "picture": picture,
            "wish": request["wish"],
            "retrieved": [processor.catalogue.number(item_id) for item_id in request["retrieved"]],
            "features": own,
            "catalogue_features": shelf.features,
            "similarity": shelf.similarity(own),
            "nll": own_nll,
        }


def _generate_arguments(processor: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The caller's arguments of `generate`, and ours where the caller says nothing."""
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
