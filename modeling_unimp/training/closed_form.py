"""The closed-form scores of a shop, made of its training part alone; how much each counts is fitted later.

Shapes: N items, D width of a picture's vector.
"""

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from scipy import sparse

from processing_unimp import Catalogue, Histories

from ..hybrid_scores import AFTER, AGAIN, PICTURES, POPULARITY, QUERIES, TEXT, HybridScores, Score
from ..term_index import TermIndex, query_texts, texts_of
from .item_similarity import (
    Neighbours,
    item_knn,
    picture_similarity,
    term_vectors,
    text_similarity,
    windowed_transitions,
)
from .linear_models import LATER_HALF_LIFE, PENALTY, ease, inverse_of_users, items_of_linear_models, taken_after

EASE_PENALTIES = (10.0, PENALTY)  # a small one suits small shops, a large one busy shops: the fit chooses
MOST_FOR_ALL_INVERSES = 10_000  # items; of more each takes a minute, and one was as good as all (benchmarks/LOG.md)
KNN, WITHOUT_CONTENT = "kNN", f"EASE {PENALTY:g} without content"
WORDS, VALUES = "query words", "query value"


def closed_form_scores(
    train: Histories,
    pictures: np.ndarray | None,
    query_attribute: str | None,
    exclude_seen: bool,
    attributes: Sequence[str] | None = None,
    new_items: np.ndarray | None = None,
    sources: Collection[str] | None = None,
) -> HybridScores:
    """All closed-form scores of a shop, without weights yet.

    Args:
        train (`Histories`): the training part.
        pictures (`np.ndarray` of shape `(N, D)`, *optional*): a vector for each picture, zeros where there is none.
        query_attribute (`str`, *optional*): what queries of the shop mostly name, such as the category.
        exclude_seen (`bool`): whether items of a history are left out of rankings; if not, "again" is a score too.
        attributes (`Sequence[str]`, *optional*): what is read of an item; all that the catalogue has without it.
        new_items (`np.ndarray` of bool, `(N,)`, *optional*): listed, and taken by nobody yet: they go with what the
            item goes with that is most like them in words.
        sources (`Collection[str]`, *optional*): names of the linear models and of kNN to make, such as those of scores
            that were fitted; by default those that suit the number of items that were taken.
    """
    catalogue, attributes = train.catalogue, attributes or None
    pictures = None if pictures is None or not np.any(pictures) else pictures
    terms = term_vectors(catalogue, attributes)
    found: dict[str, Neighbours | None] = {}
    sources = _sources_for(train) if sources is None else sources
    for penalty in EASE_PENALTIES:
        if f"EASE {penalty:g}" in sources:
            found |= _linear_models(train, penalty, terms, pictures)
    if WITHOUT_CONTENT in sources and (terms is not None or pictures is not None):
        found[WITHOUT_CONTENT] = ease(inverse_of_users(train))
    if KNN in sources:
        found[KNN] = item_knn(train)
    found |= {
        "transitions": windowed_transitions(train),
        TEXT: None if terms is None else text_similarity(terms),
        PICTURES: None if pictures is None else picture_similarity(pictures),
    }
    neighbours = {
        name: (torch.from_numpy(each.items), torch.from_numpy(each.values))
        for name, each in found.items()
        if each is not None
    }
    # One shop wants the last item, another all of them alike: the fit chooses.
    middle = float(np.clip(np.median(np.diff(train.starts)) / 2, 4, 32))
    sources = [*neighbours, *([] if exclude_seen else [AGAIN])]
    lives = {AFTER: (LATER_HALF_LIFE,)}  # by which it was made
    scores = [Score(name, life) for name in sources for life in lives.get(name, (1.0, middle, math.inf))]
    indices = term_indices(catalogue, query_attribute, attributes)
    scores += [Score(POPULARITY), *(Score(name) for name in indices)]
    counts = train.item_counts() + 1
    popularity = torch.from_numpy(np.log(counts / counts.sum()))
    stand_ins = {} if new_items is None else _stand_ins(new_items, found[TEXT], found[PICTURES])
    return HybridScores(
        neighbours, indices, popularity, scores, None, None, query_attribute, stand_ins, attributes=attributes
    )


def _sources_for(train: Histories) -> set[str]:
    """The linear models of a shop, and kNN for items that have none."""
    num_items = len(items_of_linear_models(train))
    sources = {f"EASE {PENALTY:g}"}
    if num_items <= MOST_FOR_ALL_INVERSES:
        # Without content: where what is alike is no hint of what goes together.
        sources |= {*(f"EASE {penalty:g}" for penalty in EASE_PENALTIES), WITHOUT_CONTENT}
    if num_items < np.count_nonzero(train.item_counts()):
        sources.add(KNN)
    return sources


def _linear_models(
    train: Histories, penalty: float, terms: sparse.csr_matrix | None, pictures: np.ndarray | None
) -> dict[str, Neighbours]:
    """Those of one penalty by their names; their inverse is let go before that of the next is made."""
    inverse = inverse_of_users(train, penalty, terms=terms, pictures=pictures)
    found = {f"EASE {penalty:g}": ease(inverse)}
    if penalty == PENALTY:
        found[AFTER] = taken_after(train, inverse)
    return found


def _stand_ins(new_items: np.ndarray, *similarity: Neighbours | None) -> dict[int, int]:
    """Of each new item the one most like it that is not new, by the first similarity that finds one."""
    stand_ins: dict[int, int] = {}
    for near in filter(None, similarity):
        numbers = np.flatnonzero(new_items)
        is_known = (near.values[numbers] > 0) & ~new_items[near.items[numbers]]
        first = is_known.argmax(axis=1)
        found = is_known.any(axis=1)
        others = near.items[numbers[found], first[found]]
        stand_ins = dict(zip(numbers[found].tolist(), others.tolist(), strict=True)) | stand_ins
    return stand_ins


def term_indices(
    catalogue: Catalogue, query_attribute: str | None, attributes: Sequence[str] | None = None
) -> dict[str, TermIndex]:
    """What queries are looked up in: words of the attributes, whole values, and what the query attribute says."""
    texts = [texts_of(item, attributes) for item in catalogue.items()]
    found = {WORDS: TermIndex.of(texts, are_words=True), VALUES: TermIndex.of(texts, are_words=False)}
    if query_attribute is not None:
        queries = [query_texts(value) for value in catalogue.column(query_attribute)]
        found[QUERIES] = TermIndex.of(queries, are_words=False)
    return found
