"""What the six tasks have in common: a task turns a shopper's case into a request, a request into a prompt, and the
model's output into a plain answer and into numbers.

A model's output is one array or text a request, by `answer_group`: `"items"` the logits of all items `(N,)`, `"stars"`
their probabilities `(5,)`, `"decisions"` a probability per candidate `(K,)`, `"words"` a text, `"codes"` a
picture with what it resembles. Baselines produce the same, so that one `judge` serves both.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .catalogue import Catalogue
from .control_tokens import ControlTokens
from .history import Case, Histories
from .item_text import stars_of

TASK_NAMES = ("recommend", "search", "rate", "explain", "select", "imagine")

Request = dict[str, Any]
Judgement = dict[str, Any]


@dataclass(frozen=True)
class ItemSlot:
    """A place in a prompt for the block of one item, as the request names it."""

    entry: Any


@dataclass(frozen=True)
class ShopperText:
    """A place in a prompt for words that are not ours, such as a search query."""

    text: str


Piece = str | ItemSlot | ShopperText


@dataclass(frozen=True)
class ExampleSource:
    """Where examples take what a case alone does not say.

    Args:
        catalogue (`Catalogue`): the shop.
        rng (`np.random.Generator`): the only source of chance.
        history_length (`int`, *optional*, defaults to 5): how many of the latest items a request shows.
        query_attribute (`str`, *optional*): attribute a search query is made from, e.g. `"category"`.
        num_candidates (`int`, *optional*, defaults to 8): candidates of a select request, positives included.
        is_training (`bool`, *optional*, defaults to `False`): whether the examples are to be learnt from.
        num_retrieved (`int`, *optional*, defaults to 2): items that a training example of imagine has found; in an
            evaluation the model's own search finds them.
        wish_attributes (`Sequence[str]`, *optional*): what the wishes of imagine name beside the query, e.g. a colour.
    """

    catalogue: Catalogue
    rng: np.random.Generator
    history_length: int = 5
    query_attribute: str | None = None
    num_candidates: int = 8
    is_training: bool = False
    num_retrieved: int = 2
    wish_attributes: Sequence[str] = ()


class Task(ABC):
    """One kind of request. Instances hold no state."""

    name: ClassVar[str]
    answer_group: ClassVar[str]
    headline: ClassVar[str]
    higher_is_better: ClassVar[bool] = True

    @abstractmethod
    def example(self, case: Case, source: ExampleSource, upcoming: Sequence[Any] = ()) -> Request | None:
        """The request this case makes, with its true `"answer"`; `None` when the data lacks what the task asks.

        Args:
            case (`Case`): history and the interaction to be predicted.
            source (`ExampleSource`): catalogue and chance.
            upcoming (`Sequence[Interaction]`, *optional*): what the shopper did after the target, training only.
        """

    @abstractmethod
    def prompt(self, request: Request) -> list[Piece]:
        """The instruction that follows the history, in the paper's words."""

    @abstractmethod
    def target(self, request: Request, tokens: ControlTokens, catalogue: Catalogue) -> list[int] | str:
        """The true answer as token ids, or as text for the words of an explanation."""

    @abstractmethod
    def answer(self, request: Request, output: Any, catalogue: Catalogue) -> dict[str, Any]:
        """The model's output as a plain dict for the caller."""

    @abstractmethod
    def judge(self, case: Case, request: Request, output: Any, catalogue: Catalogue, exclude_seen: bool) -> Judgement:
        """What `summarise` needs to know of one answer."""

    @abstractmethod
    def summarise(self, judgements: Sequence[Judgement]) -> dict[str, float]:
        """Metrics over all judged answers."""

    def num_blocks(self, source: ExampleSource) -> int:
        """About how long prompt and answer of a training example are, in blocks of items."""
        return 1

    def headline_of(self, judgements: Sequence[Judgement]) -> float:
        """The headline metric alone, for intervals; `summarise` unless that is dear to compute."""
        return self.summarise(judgements)[self.headline]

    def shown(self, judgements: Sequence[Judgement]) -> dict[str, list[Judgement]]:
        """Baselines that answer with what the model was shown, such as an item it found; judged already."""
        return {}

    @abstractmethod
    def baselines(
        self, requests: Sequence[Request], train: Histories, source: ExampleSource
    ) -> dict[str, Sequence[Any]]:
        """Outputs of the trivial answers that any model has to beat, fitted on the training part alone."""


def history_of(case: Case, source: ExampleSource) -> list[dict[str, Any]]:
    """The latest part of a case's history in the form of a request, stars included."""
    latest = case.history[-source.history_length :]
    return [{"item_id": event.item_id, "rating": stars_of(event.rating)} for event in latest]


def described(catalogue: Catalogue, number: int, **said: Any) -> dict[str, Any]:
    """Item id and attributes of a catalogue row, for an answer, and what the answer says of it."""
    return with_attributes(catalogue.item(catalogue.item_id(number)), **said)


def with_attributes(item: Mapping[str, Any], **said: Any) -> dict[str, Any]:
    """An item and what an answer says of it, such as its score; an attribute of that name becomes `item_score`."""
    named: dict[str, Any] = {}
    for name, value in item.items():
        if name in said:
            name = f"item_{name}"
            while name in item or name in said:
                name = f"item_{name}"
        named[name] = value
    return named | said
