"""Tuned baselines of rankings: popularity, shared values, neighbours, EASE, pairs of them, words of a query.

Each family yields its variants, what they are set to and what they score. Similarities keep an item's 1,000 nearest.

Shapes: C cases, N items, k nearest.
"""

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse

from modeling_unimp.term_index import TermIndex, texts_of
from modeling_unimp.training.item_similarity import Neighbours, item_knn
from modeling_unimp.training.linear_models import InverseOfUsers, ease, inverse_of_users, taken_after
from processing_unimp import Catalogue, EvaluationCases, Histories, Targets

logger = logging.getLogger("baselines")

HALF_LIVES = (0.5, 1.0, 2.0, 4.0, 8.0, 32.0, np.inf)  # of an item's weight, in places of the history
TIME_SHARES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # half-lives of popularity, in parts of the time trained on
NEIGHBOURS = (50, 200, 1000)
KNN_SHRINKAGES = (0.0, 10.0, 30.0, 100.0)
EASE_PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
BLEND_WEIGHTS = (0.03, 0.1, 0.3, 1.0, 3.0)
POPULARITY_WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
TIE_BREAK = 1e-9  # times a popularity of at most 1: orders items that a score leaves equal, and nothing else
BLOCK_BYTES = 2**23  # of scores that are held at once

# What a baseline predicts for each case in turn: a score for every item `(N,)`, the stars it expects `(1,)`, a text.
Scorer = Callable[[EvaluationCases], Iterable[Any]]
Variant = tuple[dict[str, Any], Scorer]


def constant(value: np.ndarray) -> Scorer:
    """The same for every case."""
    return lambda cases: itertools.repeat(value, len(cases))


def _of_maximum(scores: np.ndarray) -> np.ndarray:
    highest = scores.max()
    return scores / highest if highest > 0 else scores


def at_random(num_items: int) -> Iterator[Variant]:
    rng = np.random.default_rng(0)
    yield {}, lambda cases: (rng.random(num_items) for _ in range(len(cases)))


def popularity(train: Histories) -> Iterator[Variant]:
    yield {}, constant(train.item_counts().astype(np.float64))


def recent_popularity(train: Histories) -> Iterator[Variant]:
    """Interactions counted with a weight that halves with their age at the end of training."""
    age = train.timestamps.max() - train.timestamps
    for share in TIME_SHARES:
        weights = 0.5 ** (age / ((share * age.max()) or 1.0))
        counts = np.bincount(train.item_numbers, weights=weights, minlength=len(train.catalogue))
        yield {"half_life_of_training_time": share}, constant(counts)


def seen_again(tie_break: np.ndarray) -> Iterator[Variant]:
    """The items of the history: what is bought again, where seen items stay in the ranking (`exclude_seen: false`)."""
    for half_life in HALF_LIVES:
        yield {"half_life": half_life}, from_history(lambda weights: weights, half_life, tie_break)


def same_attribute(catalogue: Catalogue, attributes: Sequence[str], tie_break: np.ndarray) -> Iterator[Variant]:
    """Items that share a value, such as the product code, with items of the history; which attribute is chosen."""
    for name in attributes:
        values = unit_values(catalogue.column(name))
        if values.getnnz(axis=0).max(initial=0) > 1:
            for half_life in HALF_LIVES:
                parameters = {"attribute": name, "half_life": half_life}
                yield parameters, from_history(partial(shared_with, values), half_life, tie_break)


def nearest(neighbours: Neighbours, tie_break: np.ndarray, sizes: Sequence[int] | None = None) -> Iterator[Variant]:
    """Items near to those of the history; how many of an item's nearest count is chosen."""
    width = neighbours.items.shape[1]
    for k in sorted({min(k, width) for k in sizes or NEIGHBOURS}):
        similarity = matrix_of(neighbours, k)
        for half_life in HALF_LIVES:
            yield (
                {"k": k, "half_life": half_life},
                from_history(partial(_times, similarity), half_life, tie_break),
            )


def tuned_knn(train: Histories, tie_break: np.ndarray) -> Iterator[Variant]:
    """Items bought by the same shoppers as those of the history."""
    for shrinkage in KNN_SHRINKAGES:
        for parameters, scorer in nearest(item_knn(train, shrinkage, NEIGHBOURS[-1]), tie_break):
            yield {"shrinkage": shrinkage} | parameters, scorer


def tuned_ease(train: Histories, tie_break: np.ndarray, **content: Any) -> Iterator[Variant]:
    """EASE, the linear item-to-item model in closed form (https://huggingface.co/papers/1905.03375), the 1,000 largest
    weights: all of them, or those above 0. `content` is that of [`inverse_of_users`]."""
    yield from _linear(train, lambda inverse: ease(inverse, NEIGHBOURS[-1]), tie_break, **content)


def tuned_taken_after(train: Histories, tie_break: np.ndarray, **content: Any) -> Iterator[Variant]:
    """What is taken after an item, by the linear model of UniMP's closed form; arguments are those of
    [`tuned_ease`]."""
    yield from _linear(train, lambda inverse: taken_after(train, inverse, NEIGHBOURS[-1]), tie_break, **content)


def _linear(
    train: Histories, model: Callable[[InverseOfUsers], Neighbours], tie_break: np.ndarray, **content: Any
) -> Iterator[Variant]:
    for penalty in EASE_PENALTIES:
        found = model(inverse_of_users(train, penalty, **content))
        for signs, values in (("both", found.values), ("above 0", np.maximum(found.values, 0))):
            for parameters, scorer in nearest(Neighbours(found.items, values), tie_break, NEIGHBOURS[-1:]):
                yield {"lambda": penalty, "signs": signs} | parameters, scorer


def ease_with_content(
    train: Histories, terms: sparse.csr_matrix | None, pictures: np.ndarray | None, tie_break: np.ndarray
) -> Iterator[Variant]:
    """EASE to which items that are alike in terms and pictures are items that more users have both of."""
    if terms is not None or pictures is not None:
        yield from tuned_ease(train, tie_break, terms=terms, pictures=pictures)


def pair(first: Variant, second: Variant) -> Iterator[Variant]:
    """Two baselines added, each case's scores divided by their maximum."""

    def scorer(weight: float) -> Scorer:
        def scores(cases: EvaluationCases) -> Iterator[np.ndarray]:
            for one, other in zip(first[1](cases), second[1](cases), strict=True):
                yield of_maximum(one) + weight * of_maximum(other)

        return scores

    of_both = first[0] | {f"second_{name}": value for name, value in second[0].items()}
    for weight in BLEND_WEIGHTS:
        yield {"weight": weight} | of_both, scorer(weight)


def bm25(train: Histories, attributes: Sequence[str]) -> Iterator[Variant]:
    """Words of the query in the items' texts, and the log of each item's popularity; the category is not known."""
    catalogue = train.catalogue
    items = [catalogue.item(item_id) for item_id in catalogue.item_ids]
    texts = [texts_of({name: item[name] for name in attributes}) for item in items]
    index = TermIndex.of(texts, are_words=True)
    popular = np.log(train.item_counts() + 1.0)

    def scorer(weight: float) -> Scorer:
        def scores(cases: EvaluationCases) -> Iterator[np.ndarray]:
            for place in range(len(cases)):
                found = torch.zeros(len(catalogue))
                index.add_to(found, cases.requests.drawn(place)["query"])
                yield found.numpy() + weight * popular

        return scores

    for weight in POPULARITY_WEIGHTS:
        yield {"weight_of_popularity": weight}, scorer(weight)


def from_history(
    propagate: Callable[[sparse.csr_matrix], sparse.csr_matrix], half_life: float, tie_break: np.ndarray
) -> Scorer:
    """What the weighted items of the history lead to, by `propagate` from `(C, N)` to `(C, N)`.

    The whole history counts, not only the `history_length` items that UniMP reads.
    """

    def scores(cases: EvaluationCases) -> Iterator[np.ndarray]:
        for part in blocks_of(len(cases), len(tie_break)):
            weights = history_weights(cases.cases.take(part), half_life)
            yield from propagate(weights).toarray() + TIE_BREAK * tie_break

    return scores


def history_weights(targets: Targets, half_life: float) -> sparse.csr_matrix:
    """How much each item of the histories weighs `(C, N)`: the latest 1, one `half_life` places earlier 1/2."""
    histories, lengths = targets.histories, targets.positions
    starts = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    items = histories.item_numbers[np.repeat(histories.starts[targets.users], lengths) + places]
    weights = 0.5 ** ((np.repeat(lengths, lengths) - 1 - places) / half_life)
    return sparse.csr_matrix((weights, items, starts), shape=(len(targets), len(histories.catalogue)))


def matrix_of(neighbours: Neighbours, k: int) -> sparse.csr_matrix:
    """The `k` nearest of each item, `(N, N)`."""
    items, values = neighbours.items[:, :k], neighbours.values[:, :k]
    num_items, width = items.shape
    starts = np.arange(num_items + 1) * width
    # Of its own: entries that are 0 are taken out in place, and the neighbours are read again.
    entries = values.ravel().astype(np.float64), items.flatten(), starts
    found = sparse.csr_matrix(entries, shape=(num_items,) * 2)
    found.eliminate_zeros()
    return found


def _times(similarity: sparse.csr_matrix, weights: sparse.csr_matrix) -> sparse.csr_matrix:
    return weights @ similarity


def unit_values(column: Sequence[Any]) -> sparse.csr_matrix:
    """The values of each item, equal and of length 1, `(N, number of values)`."""
    values = [
        sorted(set(map(str, value if isinstance(value, list | tuple) else [value])) - {"None", ""}) for value in column
    ]
    index = {value: number for number, value in enumerate(sorted(set(itertools.chain.from_iterable(values))))}
    starts = np.concatenate([[0], np.cumsum([len(row) for row in values])])
    numbers = np.array([index[value] for row in values for value in row], dtype=np.int64)
    data = np.array([1 / math.sqrt(len(row)) for row in values for _ in row])
    return sparse.csr_matrix((data, numbers, starts), shape=(len(values), len(index)))


def shared_with(values: sparse.csr_matrix, weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """The cosine of values, summed over weighted items: never `(N, N)`; no item is like itself."""
    has = sparse.diags((values.getnnz(axis=1) > 0).astype(np.float64))
    return (weights @ values) @ values.T - weights @ has


def of_maximum(scores: np.ndarray) -> np.ndarray:
    highest = scores.max()
    return scores / highest if highest > 0 else scores


def blocks_of(num_cases: int, num_items: int) -> Iterator[np.ndarray]:
    """The numbers of all cases, so many at a time that their scores take no more than `BLOCK_BYTES`."""
    size = max(1, BLOCK_BYTES // (8 * num_items))
    yield from (np.arange(start, min(start + size, num_cases)) for start in range(0, num_cases, size))
