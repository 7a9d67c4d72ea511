"""From requests to outputs in three steps that evaluation and serving share.

The processor makes tensors of requests, `answer` runs the model on them, and `split` gives each request its own part;
see `answer_group` of a task for what that is. To imagine takes a search before: the same steps with other requests.
"""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor
from transformers.utils import logging

from .hybrid_scores import HybridScores, StandIn, numbers_of
from .imagining import PictureIndex, codec_of, picture_features, retrieve
from .interfaces import Catalogue, PictureFeatures, Processor, Request
from .ranking import check_numbers
from .unknown_items import with_stand_ins

if TYPE_CHECKING:
    from .modeling_unimp import UniMPForConditionalGeneration

logger = logging.get_logger(__name__)

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
    model: "UniMPForConditionalGeneration",
    processor: Processor,
    requests: Sequence[Request],
    answer_group: str,
    *,
    batch_size: int = 32,
    vision_features: PictureFeatures | None = None,
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
        generate_kwargs (*optional*): see [`answer`].

    Yields:
        `np.ndarray` `(N,)` logits, `(5,)` or `(K,)` probabilities, `str`, or for codes a dict: what [`answer`] gives,
        and `nll`, the mean over the true picture's codes, `None` where a request has no `"answer"`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1.")
    index = None
    if answer_group == "codes" and requests:
        with answering(model):
            index = PictureIndex.of(model, processor, vision_features)
    for start in range(0, len(requests), batch_size):
        part = requests[start : start + batch_size]
        reading: dict[str, Any] = {
            "vision_features": vision_features,
            "positions": range(start, start + len(part)),
        }
        # The caller's code runs between the yields: no mode of torch or the model may be on then.
        with answering(model):
            if index is not None:
                part = retrieve(search_with(model, processor, **reading), processor, part, index.has_picture)
            inputs = processor(requests=as_read(model, processor, answer_group, part, reading["positions"]), **reading)
            scored = with_stand_ins(model, processor, answer_group, part, reading["positions"])
            outputs = answer(model, processor, answer_group, scored, inputs, index=index, **generate_kwargs)
            if index is not None and all("answer" in request for request in part):
                labelled = model.own_inputs(processor(requests=part, labels=True, **reading))
                del labelled["label_kinds"]
                nll = model(**labelled, skip_logits=True).nll.view(len(part), -1).mean(dim=1).tolist()
                outputs = [output | {"nll": own} for output, own in zip(outputs, nll, strict=True)]
            answers = split(processor, answer_group, part, outputs)
        yield from answers


def as_read(
    model: "UniMPForConditionalGeneration",
    processor: Processor,
    answer_group: str,
    requests: Sequence[Request],
    positions: Sequence[int] | None = None,
) -> list[Request]:
    """Requests in the form in which the network reads them: as recommendations where candidates are ranked, and where
    the closed-form scores alone see to the query of a search.

    Raises:
        ValueError: what these ask cannot be answered, which the processor would not see; by the number in `positions`.
    """
    hybrid, tasks = model.hybrid_scores, set()
    if hybrid is not None and answer_group == "decisions" and hybrid.ranks_candidates:
        tasks = {"select"}
    elif hybrid is not None and answer_group == "items" and hybrid.search_reads == "recommend":
        tasks = {"search"}
    read = []
    for position, request in zip(positions or range(len(requests)), requests, strict=True):
        if request["task"] in tasks:
            try:
                processor.question_of(request)
            except ValueError as error:
                raise ValueError(f"request {position}: {error}") from error
            request = {"task": "recommend", "history": request.get("history")}
        read.append(request)
    return read


def is_untrained(model: "UniMPForConditionalGeneration", task: str) -> bool:
    """Whether a model was never trained for a task, and closed-form scores do not answer it."""
    trained, hybrid = model.config.trained_tasks, model.hybrid_scores
    return not (trained is None or task in trained or (hybrid is not None and hybrid.answers(task)))


def warn_if_untrained(model: "UniMPForConditionalGeneration", task: str) -> bool:
    """[`is_untrained`] of a task that is asked for, which is told in the log."""
    found = is_untrained(model, task)
    if found:
        trained = ", ".join(model.config.trained_tasks or ())
        logger.warning_once(
            f"This model was trained to {trained} and never to {task}: its answers say little. Train it with this "
            "task among `tasks`."
        )
    return found


def finds_nothing(model: "UniMPForConditionalGeneration", request: Request) -> bool:
    """Whether a request has a query of which no item has a word; without closed-form scores nobody looks for it."""
    query = request.get("query") if request["task"] in ("search", "imagine") else None
    return query is not None and model.hybrid_scores is not None and not model.hybrid_scores.finds(query)


def answer(
    model: "UniMPForConditionalGeneration",
    processor: Processor,
    answer_group: str,
    requests: Sequence[Request],
    inputs: Mapping[str, torch.Tensor],
    *,
    index: PictureIndex | None = None,
    **generate_kwargs: Any,
) -> Any:
    """The model's outputs for a batch of B requests; call it inside `answering`.

    Args:
        requests (`Sequence[dict]`): as [`with_stand_ins`] makes them, for codes with what was retrieved. The
            processor made `inputs` of what [`as_read`] makes of them.
        inputs (`Mapping[str, torch.Tensor]`): of the processor, on any device.
        index (`PictureIndex`, *optional*): what pictures are compared with, for codes.
        generate_kwargs (*optional*): arguments of `generate`, for words (`max_new_tokens` is 64 where neither these
            nor `model.generation_config` have a length) and codes (see `UniMPForConditionalGeneration.imagine`);
            `seed` is for codes alone.

    Returns:
        `torch.FloatTensor` `(B, N)` logits of the items, `(B, 5)` probabilities of stars, `(B, K)` of the candidates,
        a row's own at its end, `torch.LongTensor` `(B, T)` words; or for codes a dict a request: `picture`
        (`PIL.Image.Image`), `wish` (what it shows, in words), `retrieved` (catalogue rows), `features` `(G,)` of the
        picture, `catalogue_features` `(N, G)` (one array for all; both less the catalogue's mean), `similarity` `(N,)`
        between the two, `nll` (`None`).
    """
    if answer_group in ("words", "codes"):
        _check_one_answer(model, generate_kwargs)
    own: dict[str, Any] = model.own_inputs(inputs)
    hybrid, catalogue = model.hybrid_scores, processor.catalogue
    if answer_group == "items":
        logits = model.answer_logits("items", **own)[:, -1].float()
        return logits if hybrid is None else hybrid.add_to_requests(logits, requests, catalogue)
    if answer_group == "stars":
        stars = model.stars(**own)
        return stars if hybrid is None else hybrid.star_probabilities(stars, requests, catalogue)
    if answer_group == "decisions" and hybrid is not None and hybrid.ranks_candidates:
        logits = model.answer_logits("items", **own)[:, -1].float()
        return candidate_probabilities(hybrid, logits, requests, catalogue)
    if answer_group == "decisions":
        return model.decisions(max(len(request["candidates"]) for request in requests), **own)
    if answer_group == "words":
        options = {name: value for name, value in generate_kwargs.items() if name != "seed"}
        written = model.generate(**own, answer_group="words", **_generate_arguments(model, processor, options))
        return written[:, own["input_ids"].shape[1] :]
    assert answer_group == "codes" and index is not None, answer_group
    pictures = codec_of(model).decode(model.imagine(**own, **generate_kwargs))
    features = picture_features(model, processor, pictures) - index.mean
    return [
        {
            "picture": picture,
            "wish": request["wish"],
            "retrieved": [processor.catalogue.number(item_id) for item_id in request["retrieved"]],
            "features": of_picture,
            "catalogue_features": index.features,
            "similarity": index.similarity(of_picture),
            "nll": None,
        }
        for request, picture, of_picture in zip(requests, pictures, features, strict=True)
    ]


def candidate_probabilities(
    hybrid: HybridScores, logits: torch.Tensor, requests: Sequence[Request], catalogue: Catalogue
) -> torch.Tensor:
    """[`HybridScores.candidate_probabilities`] among the candidates that are still sold; the others have 0."""
    found, available = hybrid.candidate_probabilities(logits, requests, catalogue), catalogue.available
    for row, request in zip(found, requests, strict=True):
        candidates = [None if isinstance(each, StandIn) else each for each in request["candidates"]]
        numbers = np.array(numbers_of(candidates, catalogue))
        own = row[len(row) - len(numbers) :]
        own[torch.from_numpy((numbers >= 0) & ~available[numbers])] = 0
        own /= own.sum() or 1.0
    return found


def search_with(
    model: "UniMPForConditionalGeneration", processor: Processor, **reading: Any
) -> Callable[[Sequence[Request]], torch.Tensor]:
    """The model's own search, for [`retrieve`]; `reading` are `positions` and `vision_features` of the processor."""

    def search(requests: Sequence[Request]) -> torch.Tensor:
        with answering(model):
            read = as_read(model, processor, "items", requests, reading.get("positions"))
            scored = with_stand_ins(model, processor, "items", requests, reading.get("positions"))
            logits_BN: torch.Tensor = answer(model, processor, "items", scored, processor(requests=read, **reading))
        return logits_BN

    return search


def split(processor: Processor, answer_group: str, requests: Sequence[Request], outputs: Any) -> list[Any]:
    """Each request's own part of what [`answer`] gives: an array of logits or probabilities, text, or a dict."""
    if answer_group == "codes":
        return list(outputs)
    if answer_group == "words":
        return [processor.words(row) for row in outputs.cpu()]
    rows = list(outputs.cpu().numpy())
    if answer_group == "decisions":
        return [row[len(row) - len(request["candidates"]) :] for row, request in zip(rows, requests, strict=True)]
    return rows


@dataclass
class _Answering:
    """Of a model: how many threads answer with it, and which parts were in training mode before."""

    count: int = 0
    training: list[nn.Module] = field(default_factory=list)


_ANSWERING: dict[nn.Module, _Answering] = {}
_LOCK = threading.Lock()


@contextlib.contextmanager
def answering(model: "UniMPForConditionalGeneration") -> Iterator[None]:
    """The model in eval mode and torch in inference mode; what was in training mode is again after the last of several
    threads that answer."""
    with _LOCK:
        entered = _ANSWERING.setdefault(model, _Answering())
        entered.count += 1
        # To set what is set already takes as long as a small model's answer.
        if training := [part for part in model.modules() if part.training]:
            entered.training += training
            model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        with _LOCK:
            entered.count -= 1
            if not entered.count:
                for part in entered.training:
                    part.training = True
                del _ANSWERING[model]


def _check_one_answer(model: "UniMPForConditionalGeneration", generate_kwargs: dict[str, Any]) -> None:
    """Refuse options by which `generate` returns something else than a row of tokens a request."""
    config = generate_kwargs.get("generation_config")
    for name, usual in (("num_return_sequences", 1), ("return_dict_in_generate", False)):
        said = {
            name: generate_kwargs.get(name),
            f"generation_config.{name}": getattr(config, name, None),
            f"model.generation_config.{name}": getattr(model.generation_config, name, None),
        }
        for where, value in said.items():
            if value not in (None, usual):
                raise ValueError(f"{where}={value!r}: an answer is one text or picture a request; leave it out.")


def _generate_arguments(
    model: "UniMPForConditionalGeneration", processor: Processor, given: dict[str, Any]
) -> dict[str, Any]:
    """The caller's arguments of `generate`, with our defaults for what neither these nor the model's own say."""
    ours: dict[str, Any] = {
        "max_new_tokens": MAX_NEW_TOKENS,
        "eos_token_id": processor.tokenizer.eos_token_id,
        "pad_token_id": processor.control.pad,
    }
    # What transformers took over from the language model's config nobody chose for explanations.
    own, taken_over = model.generation_config, GenerationConfig.from_model_config(model.config)
    chosen = {name for name in (*ours, "max_length") if getattr(own, name) not in (None, getattr(taken_over, name))}
    if "max_length" in chosen:
        chosen.add("max_new_tokens")
    ours = {name: value for name, value in ours.items() if name not in chosen}
    config = copy.deepcopy(given.get("generation_config"))
    if given.get("max_length") is not None or (config is not None and config.max_length is not None):
        # Beside a number of new tokens, also of the model's own, a length counts for nothing.
        ours["max_new_tokens"] = None
    if config is not None:
        # transformers does not want a config and single values at once.
        config.update(**{name: value for name, value in ours.items() if getattr(config, name) is None})
        given, ours = given | {"generation_config": config}, {}
    written = [WordsOnly(processor.first_token_id), *(given.get("logits_processor") or ())]
    # Strings at which to stop are looked up with it.
    return ours | given | {"logits_processor": written, "tokenizer": processor.tokenizer}
