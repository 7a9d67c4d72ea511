"""What the six tasks have in common: a task turns a shopper's case into a request, a request into a prompt, and the
model's output into a plain answer and into scores.

A model's output is one array or text a request, by `answer_group`: `"items"` the logits of all items `(N,)`, `"stars"`
their probabilities `(5,)`, `"decisions"` a probability per candidate `(K,)`, `"words"` a text, `"codes"` a
picture with what it resembles. Baselines produce the same, so that one `score` serves both.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .catalogue import Catalogue
from .control_tokens import ControlTokens
from .history import Case, Histories
from .item_text import stars_of

TASK_NAMES = ("recommend", "search", "rate", "explain", "select", "imagine")

Request = dict[str, Any]
# How good one answer is: numbers, and what metrics over all cases need beside them, such as texts.
CaseScores = dict[str, Any]
# The same of all cases: by name an array with a row a case.
Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class ItemSlot:
    """A place in a prompt for the block of one item, as the request names it."""

    entry: Any


@dataclass(frozen=True)
class ShopperText:
    """A place in a prompt for text of the shopper's, such as a search query."""

    text: str


Piece = str | ItemSlot | ShopperText


@dataclass(frozen=True)
class ExampleSource:
    """What examples need beside a case.

    Args:
        catalogue (`Catalogue`): the shop.
        rng (`np.random.Generator`): all random draws come from it.
        history_length (`int`, *optional*, defaults to 5): how many of the latest items a request shows.
        query_attribute (`str`, *optional*): attribute a search query is made from, e.g. `"category"`.
        num_candidates (`int`, *optional*, defaults to 8): candidates of a select request, positives included.
        is_training (`bool`, *optional*, defaults to `False`): whether the examples are for training.
        num_retrieved (`int`, *optional*, defaults to 2): retrieved items in the prompt of a training example of
            imagine; in an evaluation the model's own search retrieves them.
        wish_attributes (`Sequence[str]`, *optional*): attributes that queries of training name beside the
            `query_attribute`, e.g. a colour.
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
    # What its requests hold beside task and history, and what an example and the truth about it have.
    keys: ClassVar[tuple[str, ...]] = ()
    # Whether its examples look at more of a history than a request shows.
    needs_whole_history: ClassVar[bool] = False
    # Whether the answer is what follows a history of itself, so that after a compact one nothing has to be asked.
    is_next_item: ClassVar[bool] = False

    @abstractmethod
    def example(self, case: Case, source: ExampleSource, upcoming: Sequence[Any] = ()) -> Request | None:
        """The request this case makes, with its true `"answer"`; `None` when the data lacks what the task asks.

        Args:
            case (`Case`): history and the interaction to be predicted.
            source (`ExampleSource`): catalogue, options and random draws.
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
    def score(self, request: Request, output: Any, catalogue: Catalogue, seen: Sequence[str]) -> CaseScores:
        """How good one output is; the same names for every case.

        Args:
            request (`dict`): with the true `"answer"`, and without the history.
            output (`Any`): of a model or a baseline, see the head of this file.
            catalogue (`Catalogue`): the shop.
            seen (`Sequence[str]`): items of the history that are left out of a ranking.
        """

    def retrieval_baselines(self, scores: Scores) -> dict[str, Scores]:
        """Scores of baselines that answer with an item the model retrieved, or with one that it competes with."""
        return {}

    @abstractmethod
    def baselines(
        self, requests: Sequence[Request], train: Histories, source: ExampleSource
    ) -> dict[str, Iterable[Any]]:
        """Outputs of the trivial baselines, fitted on the training part alone: one a request, by name.

        Those that differ are made one after the other, as they are asked for.
        """


def stacked(scores: Iterable[CaseScores]) -> Scores:
    """Scores of single cases as arrays, in their order."""
    rows = list(scores)
    return {name: np.stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def history_of(case: Case, source: ExampleSource) -> list[dict[str, Any]]:
    """The latest part of a case's history in the form of a request, stars included."""
    latest = case.history[max(len(case.history) - source.history_length, 0) :]
    return [{"item_id": event.item_id, "rating": stars_of(event.rating)} for event in latest]


def described(catalogue: Catalogue, number: int, **results: Any) -> dict[str, Any]:
    """Item id and attributes of a catalogue row, and `results` such as its score."""
    return with_attributes(catalogue.item(catalogue.item_id(number)), **results)


def with_attributes(item: Mapping[str, Any], **results: Any) -> dict[str, Any]:
    """An item with `results` such as its score; an attribute that is named like one of them becomes `item_score`."""
    named: dict[str, Any] = {}
    for name, value in item.items():
        if name in results:
            name = f"item_{name}"
            while name in item or name in results:
                name = f"item_{name}"
        named[name] = value
    return named | results
