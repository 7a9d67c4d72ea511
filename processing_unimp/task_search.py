"""search: items that fit both a query and the shopper's taste, ranked over the whole catalogue."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .bounds import short_repr
from .catalogue import Catalogue
from .history import Case, Histories
from .item_text import clean_value
from .task import ExampleSource, Piece, Request, ShopperText, history_of
from .task_recommend import Recommend

MAX_QUERY_WORDS = 16
MAX_WISH_WORDS = 3
BARE_QUERIES = 0.5


class Search(Recommend):
    """A query is read as an attribute is: one line of at most 16 words."""

    name = "search"
    headline = "ndcg@10"
    keys = ("query",)
    is_next_item = False

    def example(self, case: Case, source: ExampleSource, upcoming: Sequence[Any] = ()) -> Request | None:
        if source.query_attribute is None:
            return None
        query = query_of(source.catalogue.item(case.target.item_id).get(source.query_attribute))
        if query is None:
            return None
        if source.is_training:
            query = wish_for(case.target.item_id, query, source, BARE_QUERIES)
        return {"task": self.name, "history": history_of(case, source), "query": query, "answer": case.target.item_id}

    def prompt(self, request: Request) -> list[Piece]:
        return [
            # With the space before them, words are the tokens that attributes are made of.
            ShopperText(" " + query_words(request)),
            " Can you retrieve the items that aligns with both the user's history and the given query?",
        ]

    def baselines(
        self, requests: Sequence[Request], train: Histories, source: ExampleSource
    ) -> dict[str, Iterable[Any]]:
        """Popularity, with and without a perfect text match of the query on its attribute."""
        popularity = train.item_counts().astype(np.float64)
        values = [query_of(value) or "" for value in source.catalogue.column(str(source.query_attribute))]
        queries, query_numbers = np.unique(values, return_inverse=True)
        number_of = dict(zip(queries.tolist(), range(len(queries)), strict=True))
        top = popularity.max() + 1
        return {
            "popularity": [popularity] * len(requests),
            "popularity in query": (
                popularity + top * (query_numbers == number_of[request["query"]]) for request in requests
            ),
        }


def query_words(request: Request) -> str:
    """A request's query as one line; a `ValueError` when there is nothing to read."""
    query = request.get("query")
    words = clean_value(query, MAX_QUERY_WORDS) if isinstance(query, str) else None
    if words is None:
        raise ValueError(
            f"a request to {request['task']} with the query {short_repr(query)}: expected a text such as 'red shoes'."
        )
    return words


def in_shop_spelling(query: str, catalogue: Catalogue, attribute: str) -> str:
    """A query that differs from a value of the query attribute in nothing but capitals, as the shop writes it: the
    network knows its words so. Any other as it is."""
    words = clean_value(query, MAX_QUERY_WORDS)
    if words is None:
        return query
    found = _spellings(catalogue, attribute, catalogue.version)
    return found.get(words) or found.get(words.casefold(), words)


@functools.lru_cache(maxsize=4)
def _spellings(catalogue: Catalogue, attribute: str, version: tuple[int, int]) -> dict[str, str]:
    """Queries by themselves and in lower case; `version` makes the cache follow changes of the catalogue."""
    values = {
        value[-1] if isinstance(value, (list, tuple)) else value for value in catalogue.column(attribute) if value
    }
    queries = sorted(filter(None, map(query_of, values)))
    return {query.casefold(): query for query in reversed(queries)} | {query: query for query in queries}


def query_of(value: Any) -> str | None:
    """A category as a search query: of a path or list of categories the last, most specific one."""
    if isinstance(value, (list, tuple)):
        value = value[-1] if value else None
    return clean_value(value, MAX_QUERY_WORDS)


def wish_for(true_id: str, query: str, source: ExampleSource, bare: float) -> str:
    """The query of a training example with the true item's `wish_attributes` before it: "teal mug" for "mug".

    From such queries the model learns what the words look like. A share of `bare` stays the query alone.
    """
    item = source.catalogue.item(true_id)
    values = [clean_value(item[name], MAX_WISH_WORDS) for name in source.wish_attributes]
    if not source.wish_attributes or source.rng.random() < bare:
        return query
    return " ".join([*(value for value in values if value), query])
