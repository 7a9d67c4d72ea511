"""search: items that fit both a query and the shopper's taste, ranked over the whole catalogue."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .history import Histories
from .item_text import clean_value
from .splits import Case
from .task import ExampleSource, Piece, Request, ShopperText, history_of
from .task_recommend import Recommend

MAX_QUERY_WORDS = 16


class Search(Recommend):
    """A query is read as an attribute is: one line of at most 16 words."""

    name = "search"
    headline = "ndcg@10"

    def example(self, case: Case, source: ExampleSource, upcoming: Sequence[Any] = ()) -> Request | None:
        if source.query_attribute is None:
            return None
        query = query_of(source.catalogue.item(case.target.item_id).get(source.query_attribute))
        if query is None:
            return None
        return {"task": self.name, "history": history_of(case, source), "query": query, "answer": case.target.item_id}

    def prompt(self, request: Request) -> list[Piece]:
        query = request.get("query")
        words = clean_value(query, MAX_QUERY_WORDS) if isinstance(query, str) else None
        if words is None:
            raise ValueError(f"a search request with the query {query!r}: expected a text, e.g. 'query': 'red shoes'.")
        return [
            ShopperText(words),
            " Can you retrieve the items that aligns with both the user's history and the given query?",
        ]

    def baselines(
        self, requests: Sequence[Request], train: Histories, source: ExampleSource
    ) -> dict[str, Sequence[Any]]:
        """Popularity, with and without a perfect text match of the query on its attribute."""
        popularity = train.item_counts().astype(np.float64)
        values = np.array([query_of(value) or "" for value in source.catalogue.column(str(source.query_attribute))])
        matching = {query: values == query for query in {request["query"] for request in requests}}
        top = popularity.max() + 1
        return {
            "popularity": [popularity] * len(requests),
            "popularity in query": [popularity + top * matching[request["query"]] for request in requests],
        }


def query_of(value: Any) -> str | None:
    """A category as a search query; of a path or list of categories the last, most specific one."""
    if isinstance(value, (list, tuple)):
        value = value[-1] if value else None
    return clean_value(value, MAX_QUERY_WORDS)
