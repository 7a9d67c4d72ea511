"""Requests of the page and of its endpoints, as plain JSON in and out; errors are `ValueError` with what to do.

The methods named after the six tasks are the endpoints; what the page shows of their answers is in `panels.py`.
"""

import hashlib
import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hub_cards.html_pieces import exact_uri
from modeling_unimp.answering import is_untrained
from processing_unimp import TASK_NAMES
from processing_unimp.bounds import short_repr

from .stopping import stopping_options

EXACT_SIDE = 256  # pixels; a picture that the model made is sent as it is up to here
MAX_QUICK_QUERIES = 8
MAX_QUICK_QUERY = 40  # characters
MAX_TYPED = 200  # characters of a line on the page
MAX_RANKED = 100  # items of an answer
MAX_STATES = 8  # histories that are kept as the model has read them
MAX_REASONS = 3  # items of the history that a ranked item is said to be because of
MAX_SEED = 2**53  # JavaScript has no larger exact whole numbers

Entry = str | dict[str, Any]


class Answers:
    """Answers of one model over its shop.

    Args:
        pipeline (`PersonalizationPipeline`): of the tasks, those that it answers without the mark `"untrained"` are
            offered.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.catalogue = pipeline.processor.catalogue
        self._words: tuple[Any, list[str]] = (None, [])
        self._states: OrderedDict[Any, Any] = OrderedDict()
        self.missing = {
            task: f"it was not trained to {task}" for task in TASK_NAMES if is_untrained(pipeline.model, task)
        }
        if pipeline.model.image_codec is None:
            self.missing["imagine"] = "it has no image codec, so it cannot imagine pictures"
        elif not any(map(self.catalogue.has_picture, self.catalogue.item_ids)):
            self.missing["imagine"] = "no item of its catalogue has a picture, and it starts from pictures of items"

    @property
    def tasks(self) -> list[str]:
        """The tasks this model answers."""
        return [task for task in TASK_NAMES if task not in self.missing]

    @property
    def reads_pictures(self) -> bool:
        return self.pipeline.model.model.resampler is not None

    @property
    def history_length(self) -> int:
        """How many items of a history the model reads, the latest ones."""
        return int(self.pipeline.processor.history_length)

    def recommend(self, history: list[Entry], top_k: int = 12) -> dict[str, Any]:
        """Recommend the items that a shopper is likeliest to take next, best first, each with its probability and,
        where the model can tell, with what carried its score.

        Args:
            history: what the shopper took, latest last: item ids, or objects with an item_id and perhaps a rating;
                empty for somebody new.
            top_k: how many items, at most 100.
        """
        top_k = whole_number(top_k, "top_k", 1, MAX_RANKED)
        return self._ask("recommend", history, top_k=top_k, **self._because("recommend"))

    def search(self, history: list[Entry], query: str, top_k: int = 12) -> dict[str, Any]:
        """Search the shop for items that fit both the query and the shopper, best first, each with its probability.

        Args:
            history: what the shopper took, latest last: item ids, or objects with an item_id and perhaps a rating.
            query: what is looked for, in a few words.
            top_k: how many items, at most 100.
        """
        top_k = whole_number(top_k, "top_k", 1, MAX_RANKED)
        return self._ask("search", history, {"query": query}, top_k=top_k, **self._because("search"))

    def _because(self, task: str) -> dict[str, Any]:
        """The argument that asks for reasons, where the model has closed-form scores, whose parts they are."""
        hybrid = self.pipeline.model.hybrid_scores
        return {} if hybrid is None or task not in hybrid.weights else {"because": MAX_REASONS}

    def rate(self, history: list[Entry], item: str) -> dict[str, Any]:
        """Predict how many stars a shopper would give an item: the mean, the likeliest, and each star's probability.

        Args:
            history: what the shopper took, latest last: item ids, or objects with an item_id and perhaps a rating.
            item: the id of the item.
        """
        answer = self._ask("rate", history, {"item": item})
        # The keys of JSON are text.
        return answer | {"probabilities": {str(star): share for star, share in answer["probabilities"].items()}}

    def explain(self, history: list[Entry], item: str) -> dict[str, Any]:
        """Explain in a sentence why an item may suit a shopper, or not.

        Args:
            history: what the shopper took, latest last: item ids, or objects with an item_id and perhaps a rating.
            item: the id of the item.
        """
        return self._ask("explain", history, {"item": item}, **stopping_options())

    def select(self, history: list[Entry], candidates: list[Entry]) -> dict[str, Any]:
        """Select the candidates that suit a shopper; each gets a probability of its own.

        Args:
            history: what the shopper took, latest last: item ids, or objects with an item_id and perhaps a rating.
            candidates: item ids, or objects that describe an item the shop does not have.
        """
        return self._ask("select", history, {"candidates": candidates})

    def imagine(self, history: list[Entry], query: str, seed: int = 0) -> dict[str, Any]:
        """Draw a picture of a product that fits both the wish and the shopper, and name what the shop has like it.

        Args:
            history: what the shopper took, latest last: item ids, or objects with an item_id and perhaps a rating.
            query: the wish, in a few words.
            seed: another number, another picture.
        """
        seed = whole_number(seed, "seed", 0, MAX_SEED)
        answer = self._ask("imagine", history, {"query": query}, seed=seed, top_k=6, **stopping_options())
        return answer | {"picture": str(exact_uri(answer["picture"], EXACT_SIDE))}

    def _ask(self, task: str, history: Any, more: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        if task in self.missing:
            raise ValueError(f"This model cannot {task}: {self.missing[task]}. Ask for {', '.join(self.tasks)}.")
        request = {"task": task, "history": self._read(history)} | dict(more or {})
        answer: dict[str, Any] = self.pipeline(request, **options)
        return answer

    def _read(self, history: Any) -> Any:
        """A history as the model has read it, for this answer or an earlier one; of one item more, that item alone."""
        if not isinstance(history, list) or not history:
            return history
        key, key_before = (self._key(part) for part in (history, history[:-1]))
        state = self._states.pop(key, None)
        if state is None:
            before = self._states.get(key_before)
            state = self.pipeline.read(history) if before is None else self.pipeline.extend(before, history[-1])
        self._states[key] = state
        while len(self._states) > MAX_STATES:
            self._states.popitem(last=False)
        return state

    def _key(self, history: list[Entry]) -> tuple[Any, ...]:
        """Of a history in the shop as it is now."""
        return self.catalogue.version, hashlib.sha256(repr(history).encode("utf-8", "backslashreplace")).digest()

    def find(self, words: str, most: int) -> list[dict[str, Any]]:
        """Items on sale that have all these words somewhere, in the order of the catalogue; all for no words."""
        if not isinstance(words, str) or len(words) > MAX_TYPED:
            raise ValueError(f"Looking for {short_repr(words)}: expected at most {MAX_TYPED} characters.")
        wanted = words.casefold().split()
        with self.catalogue.lock.answering():
            words_of_items = self._words_of_items()
            numbers = (
                int(number)
                for number in np.flatnonzero(self.catalogue.available)
                if all(word in words_of_items[number] for word in wanted)
            )
            found = itertools.islice(numbers, most)
            return [self.catalogue.item(self.catalogue.item_id(number)) for number in found]

    def _words_of_items(self) -> list[str]:
        """All attributes of each item as one line of words; built again when the catalogue has changed."""
        version = self.catalogue.version
        if self._words[0] != version:
            columns = [self.catalogue.column(name) for name in ("item_id", *self.catalogue.attributes)]
            lines = (" ".join(str(value) for value in row if value is not None) for row in zip(*columns, strict=True))
            self._words = (version, [line.casefold() for line in lines])
        return self._words[1]

    def on_sale(self, item_ids: Iterable[str]) -> list[str]:
        """The items that are not retired."""
        return [item_id for item_id in item_ids if self.catalogue.is_available(item_id)]

    def quick_queries(self) -> list[str]:
        """The most common values of the query attribute among items on sale, to press instead of typing."""
        name = self.pipeline.processor.query_attribute
        if name is None or name not in self.catalogue.attributes:
            return []
        with self.catalogue.lock.answering():
            values = itertools.compress(self.catalogue.column(name), self.catalogue.available)
        queries = (value for value in values if isinstance(value, str) and 0 < len(value) <= MAX_QUICK_QUERY)
        return [query for query, _ in Counter(queries).most_common(MAX_QUICK_QUERIES)]


def whole_number(value: Any, name: str, least: int, most: int) -> int:
    """A number as JSON has it, where 3.0 may stand for 3."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or value != int(value):
        raise ValueError(f"{name}={short_repr(value)}: expected a whole number from {least} to {most}.")
    return int(value)
