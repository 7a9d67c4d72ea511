"""Baselines of explanations: training texts given to others, those of the same item or of the shopper's own.

They are what a model that writes has to be better than, for a text that somebody wrote reads well whatever it says.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np

from processing_unimp import EvaluationCases, Histories
from processing_unimp.item_text import clean_value
from processing_unimp.task_explain import MAX_EXPLANATION_WORDS

from .ranking_baselines import Scorer, Variant

MOST_COMPARED = 300  # texts among which the most central one is looked for


def of_everybody(train: Histories) -> Iterator[Variant]:
    """The same for all: the commonest text, or the most central."""
    texts = [text for _, _, text in _written(train)]
    commonest, middle = Counter(texts).most_common(1)[0][0], central(texts)
    yield {"text": "commonest"}, lambda cases: (commonest for _ in range(len(cases)))
    yield {"text": "central"}, lambda cases: (middle for _ in range(len(cases)))


def at_random(train: Histories) -> Iterator[Variant]:
    """Each case another text, the same ones each time."""
    texts = [text for _, _, text in _written(train)]
    yield {}, lambda cases: (texts[drawn] for drawn in np.random.default_rng(0).integers(len(texts), size=len(cases)))


def of_the_item(train: Histories) -> Iterator[Variant]:
    """What another shopper wrote of the item; of an item that nobody wrote about, the most central text of all."""
    by_item: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for time, item, text in _written(train):
        by_item[item].append((time, text))
    middle = central([text for written in by_item.values() for _, text in written])

    def scorer(choice: str) -> Scorer:
        @cache
        def text_of(item: int) -> str:
            texts = [text for _, text in sorted(by_item.get(item, []))]
            return CHOICES[choice](texts) if texts else middle

        return lambda cases: (text_of(int(item)) for item in cases.cases.histories.item_numbers[cases.cases.rows])

    for choice in CHOICES:
        yield {"text": choice}, scorer(choice)


def of_the_shopper(train: Histories) -> Iterator[Variant]:
    """What the shopper wrote before, of other items; else the most central text of all."""
    middle = central([text for _, _, text in _written(train)])

    def scorer(choice: str) -> Scorer:
        def texts(cases: EvaluationCases) -> Iterator[str]:
            for place in range(len(cases)):
                own = [_clean(event.explanation) for event in cases.cases[place].history]
                written = [text for text in own if text]
                yield CHOICES[choice](written) if written else middle

        return texts

    for choice in CHOICES:
        yield {"text": choice}, scorer(choice)


def central(texts: Sequence[str]) -> str:
    """The text whose words are most like those of the others: by the mean F1 of their sets of words; the first of
    equals. Of very many texts some are compared."""
    rng = np.random.default_rng(0)
    if len(texts) > MOST_COMPARED:
        texts = [texts[int(place)] for place in rng.choice(len(texts), MOST_COMPARED, replace=False)]
    words = [frozenset(text.lower().split()) for text in texts]
    similarity = [
        sum(2 * len(one & other) / (len(one) + len(other)) for place, other in enumerate(words) if place != own)
        for own, one in enumerate(words)
    ]
    return texts[int(np.argmax(similarity))]


# Of several texts one.
CHOICES: dict[str, Callable[[Sequence[str]], str]] = {"latest": lambda texts: texts[-1], "central": central}


def _written(train: Histories) -> Iterator[tuple[float, int, str]]:
    """Time, item and text of each explanation, shopper by shopper."""
    for user in range(len(train)):
        for event, item in zip(train.of(user), train.items_of(user).tolist(), strict=True):
            if text := _clean(event.explanation):
                yield event.timestamp, item, text


def _clean(text: str | None) -> str:
    """As the task reads it."""
    return clean_value(text, MAX_EXPLANATION_WORDS) or ""
