"""imagine: a picture of a product that the shopper may like (paper, sections 2.3 and A.2, eq. 9).

In two stages: first search for items that fit query and shopper, then, with these in the prompt, write the picture as
the codes of an image codec. An item whose picture has no codes cannot be a target.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .case_metrics import cosine_similarity
from .catalogue import Catalogue
from .control_tokens import ControlTokens
from .history import Case, Histories, Interaction
from .item_text import clean_value, stars_of
from .task import CaseScores, ExampleSource, ItemSlot, Piece, Request, Scores, ShopperText, Task, described, history_of
from .task_search import MAX_WISH_WORDS, in_shop_spelling, query_of, query_words, wish_for

LIKED_STARS = 4
BARE_QUERIES = 0.2
REPLACED_CODES = 0.8


class Imagine(Task):
    """The picture is of a product the shopper may like: a target that got fewer than four stars is no example.

    An output is a dict: `picture` (`PIL.Image.Image`), `wish` (the query it was drawn for), `retrieved` (catalogue
    rows), `features` `(G,)` that the picture is compared by, `catalogue_features` `(N, G)` of all pictures
    (both minus the catalogue's mean), `similarity` `(N,)` of the picture to these, `nll` (mean over the true picture's
    codes, `None` where the true picture is not known).

    The headline `gain` is how much more the picture resembles the true item's than another item's of the same query: 0
    for a picture that knows the query alone, above it for one that knows the shopper.
    """

    name = "imagine"
    answer_group = "codes"
    headline = "gain"
    keys = ("query", "wish", "retrieved", "noisy_codes", "others")

    def example(self, case: Case, source: ExampleSource, upcoming: Sequence[Any] = ()) -> Request | None:
        catalogue, true_id = source.catalogue, case.target.item_id
        if source.query_attribute is None or not catalogue.has_picture_codes(true_id):
            return None
        query = query_of(catalogue.item(true_id).get(source.query_attribute))
        if query is None or not was_liked(case.target):
            return None
        request = {"task": self.name, "history": history_of(case, source), "query": query, "answer": true_id}
        if source.is_training:
            wish = wish_for(true_id, query, source, BARE_QUERIES)
            return request | {
                "query": wish,
                "retrieved": sample_retrieved(case, query, source, is_named=wish != query),
                "noisy_codes": noisy_codes(true_id, source),
            }
        return request | {"others": other_items(case, query, source)}

    def prompt(self, request: Request) -> list[Piece]:
        return [
            *[ItemSlot(item) for item in request.get("retrieved", ())],
            ShopperText(" " + query_words(request | {"query": request.get("wish", request.get("query"))})),
            " Can you generate the product figure that the user may be interested in?",
        ]

    def target(self, request: Request, tokens: ControlTokens, catalogue: Catalogue) -> list[int]:
        item_id = str(request["answer"])
        if not catalogue.has_picture_codes(item_id):
            raise ValueError(
                f"item {item_id!r} has no picture codes to train on: it has no picture, or "
                "catalogue.set_picture_codes was not called."
            )
        assert catalogue.picture_codes is not None
        return [tokens.code(int(code)) for code in catalogue.picture_codes[catalogue.number(item_id)]]

    def answer(self, request: Request, output: Any, catalogue: Catalogue) -> dict[str, Any]:
        """`output` is a pair: the above, and the rows of the nearest real items, best first."""
        imagined, nearest = output
        return {
            "task": self.name,
            "picture": imagined["picture"],
            "wish": imagined["wish"],
            "retrieved": [described(catalogue, number) for number in imagined["retrieved"]],
            "nearest": [
                described(catalogue, int(number), similarity=float(imagined["similarity"][number]))
                for number in nearest
            ],
        }

    def score(self, request: Request, output: Any, catalogue: Catalogue, seen: Sequence[str]) -> CaseScores:
        """Likelihood of the true picture, similarities, and the features of the pictures that are compared."""
        features = output["catalogue_features"]
        true, other, random = (features[catalogue.number(item)] for item in (request["answer"], *request["others"]))
        similarity, similarity_to_other = cosine_similarity(output["features"][None], np.stack([true, other]))
        return {
            "similarity": similarity,
            "similarity_to_other": similarity_to_other,
            "nll": np.nan if output["nll"] is None else output["nll"],
            "features": output["features"],
            "true": true,
            "other": other,
            "random": random,
            "retrieved": features[output["retrieved"][0]],
        }

    def retrieval_baselines(self, scores: Scores) -> dict[str, Scores]:
        """The pictures of a random item of the query and of the first item that the model retrieved."""
        return {
            name: scores
            | {
                "features": features,
                "similarity": cosine_similarity(features, scores["true"]),
                "similarity_to_other": cosine_similarity(features, scores["other"]),
                "nll": np.full(len(features), np.nan),
            }
            for name, features in (
                ("random item of the query", scores["random"]),
                ("first retrieved item", scores["retrieved"]),
            )
        }

    def baselines(
        self, requests: Sequence[Request], train: Histories, source: ExampleSource
    ) -> dict[str, Iterable[Any]]:
        """None: see `retrieval_baselines`."""
        return {}


def was_liked(event: Interaction) -> bool:
    """Four or five stars, or none given."""
    stars = stars_of(event.rating)
    return stars is None or stars >= LIKED_STARS


def expand_query(
    request: Request, catalogue: Catalogue, scores: np.ndarray, attributes: Sequence[str], query_attribute: str
) -> str:
    """The query with the attribute values before it that the shopper likes: "teal mug" for "mug".

    For each attribute, the value whose items in the history got the most stars above two, among the values of items
    that the search scores above 0; among values with equal stars, and where no value has any, the one with the highest
    total score. Scores alone would not do: they predict the next item, which often resembles the last one, in a colour
    that the shopper may have given two stars.

    Args:
        request (`dict`): with a `"query"` and a `"history"`; a query that is no value of `query_attribute` is returned
            as it is.
        catalogue (`Catalogue`): the shop.
        scores (`np.ndarray` of shape `(N,)`): probability of each item in the model's search, 0 for an item that must
            not be retrieved.
        attributes (`Sequence[str]`): the attributes whose values are added.
        query_attribute (`str`): the attribute that queries are values of.
    """
    query = in_shop_spelling(query_words(request), catalogue, query_attribute)
    known = items_of_queries(catalogue, query_attribute, catalogue.version)
    if query not in known:
        return query
    words = []
    for name in attributes:
        column, mass = catalogue.column(name), dict[str, float]()
        liked = _liked_values(request["history"], catalogue, name)
        for row in known[query]:
            value = clean_value(column[row], MAX_WISH_WORDS)
            if value and scores[row] > 0:
                mass[value] = mass.get(value, 0.0) + float(scores[row])
        if mass:
            words.append(max(mass, key=lambda value: (liked.get(value, 0.0), mass[value])))
    return " ".join([*words, query])


def _liked_values(history: Sequence[Any], catalogue: Catalogue, attribute: str) -> dict[str, float]:
    """Stars above two of a history's items, summed by their value of an attribute; an unrated item counts as four.

    Args:
        history (`Sequence`): of a request: item ids, or dicts with an `item_id` or attributes and perhaps a `rating`.
    """
    liked: dict[str, float] = {}
    for entry in history:
        item = entry if isinstance(entry, Mapping) else {"item_id": entry}
        stars = stars_of(item.get("rating"))
        if str(item.get("item_id")) in catalogue:
            item = catalogue.item(str(item["item_id"]))
        if value := clean_value(item.get(attribute), MAX_WISH_WORDS):
            liked[value] = liked.get(value, 0.0) + max((LIKED_STARS if stars is None else stars) - 2, 0)
    return liked


def noisy_codes(true_id: str, source: ExampleSource) -> list[int]:
    """The true codes as inputs of a training example, a share of them replaced by random codes.

    From the true codes a model learns to continue the picture from its beginning, and hardly uses the text (Bowman et
    al. 2016, https://huggingface.co/papers/1511.06349, on word dropout); nor would it learn to continue after an error
    of its own.
    """
    catalogue = source.catalogue
    assert catalogue.picture_codes is not None
    codes = catalogue.picture_codes[catalogue.number(true_id)].copy()
    replaced = source.rng.random(len(codes)) < REPLACED_CODES
    codes[replaced] = source.rng.choice(catalogue.picture_codes.max() + 1, size=int(replaced.sum()))
    return [int(code) for code in codes]


def sample_retrieved(case: Case, query: str, source: ExampleSource, is_named: bool) -> list[str]:
    """Stands in for the search in training: items of the query that share the most attributes with what was liked;
    where the request names the target's wish attributes (`is_named`), items that have these come first.

    Never the target itself. A query with too few other items is filled up with items of the whole shop.
    """
    catalogue = source.catalogue
    values = _attribute_values(catalogue, catalogue.version)
    latest = case.history[-source.history_length :]
    liked = [event for event in latest if was_liked(event)] or latest
    seen = values[[catalogue.number(event.item_id) for event in liked]]
    named = [catalogue.attributes.index(name) for name in source.wish_attributes]
    target_values = values[catalogue.number(case.target.item_id), named]
    found: list[int] = []
    for numbers in _pictured(case, query, source):
        if len(found) == source.num_retrieved:
            break  # The whole shop is compared only where the query has too few items.
        left = numbers[~np.isin(numbers, found)]
        shared = ((values[left][:, None] == seen[None]) & (seen[None] >= 0)).sum(axis=(1, 2))
        if is_named:
            as_named = ((values[left][:, named] == target_values) & (target_values >= 0)).sum(axis=1)
            shared = shared + values.shape[1] * len(seen) * as_named
        order = np.argsort(-(shared + source.rng.random(len(left))))
        found += left[order[: source.num_retrieved - len(found)]].tolist()
    return [catalogue.item_id(number) for number in found]


def other_items(case: Case, query: str, source: ExampleSource) -> list[str]:
    """Two random items of the query except the target, filled up from the whole shop: one that an imagined picture is
    compared with, one that is a baseline's answer."""
    drawn: list[int] = []
    for numbers in _pictured(case, query, source):
        left = numbers[~np.isin(numbers, drawn)]
        drawn += source.rng.permutation(left)[: 2 - len(drawn)].tolist()
    if len(drawn) < 2:
        raise ValueError(f"a catalogue of {len(drawn) + 1} pictures: imagine is evaluated on at least 3.")
    return [source.catalogue.item_id(number) for number in drawn]


def _pictured(case: Case, query: str, source: ExampleSource) -> list[np.ndarray]:
    """Rows with a picture, without the target: those of the query, then all."""
    catalogue = source.catalogue
    codes = catalogue.picture_codes
    assert codes is not None
    usable = catalogue.available & (codes[:, 0] >= 0)
    usable[catalogue.number(case.target.item_id)] = False
    of_query = items_of_queries(catalogue, str(source.query_attribute), catalogue.version)[query]
    return [of_query[usable[of_query]], np.flatnonzero(usable)]


@functools.lru_cache(maxsize=4)
def items_of_queries(catalogue: Catalogue, attribute: str, version: tuple[int, int]) -> dict[str, np.ndarray]:
    """Catalogue rows by query; `version` makes the cache follow changes of the catalogue."""
    queries = np.array([query_of(value) or "" for value in catalogue.column(attribute)])
    order = np.argsort(queries, kind="stable")
    names, starts = np.unique(queries[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))


@functools.lru_cache(maxsize=4)
def _attribute_values(catalogue: Catalogue, version: tuple[int, int]) -> np.ndarray:
    """Each attribute of each item as a number, equal for equal values, -1 where it is missing: `(N, attributes)`."""
    values = np.full((len(catalogue), len(catalogue.attributes)), -1)
    for column, name in enumerate(catalogue.attributes):
        known: dict[str, int] = {}
        for row, value in enumerate(catalogue.column(name)):
            if value is not None:
                values[row, column] = known.setdefault(str(value), len(known))
    return values
