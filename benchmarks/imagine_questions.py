"""What shoppers of the made-up shop ask a model to imagine, and what is right for them."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.drawing_reader import read_drawing
from processing_unimp import Case, Catalogue, ExampleSource, Targets
from processing_unimp.demo_shop import COLOURS
from processing_unimp.task import history_of
from processing_unimp.task_search import query_of

MEASURES = ("category", "colour", "both", "history's colour", "pattern", "next colour")
WISH_MEASURES = MEASURES[:3]
OFTEN = 2  # times among the shown items, to be a taste
GOOD = 4  # stars

Request = dict[str, Any]


@dataclass(frozen=True)
class Looks:
    """What is seen of an item; `None` where it is not clear or not known."""

    category: str | None
    colour: str | None
    pattern: str | None


@dataclass(frozen=True)
class Question:
    """A request and what is right for it.

    Attributes:
        category (`str`): the kind that is asked for, of the item that came next.
        colours (`frozenset[str]`): the shopper's favourites, or of a wish the one that the query names.
        history_colours, patterns (`frozenset[str]`): what the shown history speaks for, see `wanted`.
        next_colour (`str`, *optional*): of the item that came next.
        measures (`tuple[str, ...]`): what `right` looks at, the first of `MEASURES`.
    """

    case: Case
    request: Request
    category: str
    colours: frozenset[str]
    history_colours: frozenset[str]
    patterns: frozenset[str]
    next_colour: str | None
    measures: tuple[str, ...] = MEASURES


def wanted(values: Sequence[str | None], ratings: Sequence[float | None]) -> frozenset[str]:
    """What a shown history speaks for: the definition of a "history's colour", and likewise of a right pattern.

    The tastes that made the shoppers are not used, only what shows of them: the values that at least two of the shown
    items have; when none comes twice, those of the items rated 4 or 5; when there is none, all values of the history.
    So there may be several, and the level of chance has to be computed with the same sets.

    Args:
        values (`Sequence[str]`): of the items that the request shows, oldest first; `None` where it is not known.
        ratings (`Sequence[float]`): their stars, `None` where there are none.
    """
    known = [(value, rating) for value, rating in zip(values, ratings, strict=True) if value is not None]
    counts = Counter(value for value, _ in known)
    often = {value for value, count in counts.items() if count >= OFTEN}
    liked = {value for value, rating in known if rating is not None and rating >= GOOD}
    return frozenset(often or liked or counts)


def seen(picture: Image.Image) -> Looks:
    """A picture's looks, by its pixels alone."""
    drawing = read_drawing(picture)
    return Looks(drawing.category, drawing.colour, drawing.pattern)


def seen_of(catalogue: Catalogue, item_id: str) -> Looks:
    """A real item's looks: its picture read as the imagined ones are, or its attributes when it has no picture."""
    picture = catalogue.picture(item_id)
    if picture is not None:
        return seen(picture)
    item = catalogue.item(item_id)
    return Looks(item["category"], item["colour"], None)


def right(looks: Looks, question: Question) -> np.ndarray:
    """The question's measures as 0 or 1: the category asked for, a right colour (a favourite, or the one asked for),
    both, a colour and a pattern that the history speaks for, and the very colour of the item that came next."""
    marks = {
        "category": looks.category == question.category,
        "colour": looks.colour in question.colours,
        "both": looks.category == question.category and looks.colour in question.colours,
        "history's colour": looks.colour in question.history_colours,
        "pattern": looks.pattern in question.patterns,
        "next colour": looks.colour is not None and looks.colour == question.next_colour,
    }
    return np.array([marks[measure] for measure in question.measures], dtype=float)


def make_questions(
    targets: Targets,
    source: ExampleSource,
    looks: dict[str, Looks],
    favourites: Mapping[str, frozenset[str]],
    number: int,
    seed: int,
) -> tuple[list[Question], int]:
    """Questions to random shoppers for a kind, and how many shoppers were skipped.

    The query is the category of the item that came next; a shopper is skipped when that has no category or no
    picture.

    Args:
        targets (`Targets`): of the test part.
        source (`ExampleSource`): catalogue, history length and query attribute of the recipe.
        looks (`dict[str, Looks]`): of all items. The colour of an item is its attribute, which is true in this shop,
            or where that is missing the colour that is seen; its pattern is what is seen.
        favourites (`Mapping[str, frozenset[str]]`): by user id the colours that are right.
        number (`int`): questions wanted; all there are when there are no more.
        seed (`int`): chooses the shoppers.

    Raises:
        `ValueError`: for a shopper without favourites.
    """
    catalogue = source.catalogue
    questions: list[Question] = []
    skipped = 0
    for index in np.random.default_rng(seed).permutation(len(targets)):
        if len(questions) == number:
            break
        case = targets[int(index)]
        query = query_of(catalogue.item(case.target.item_id)[str(source.query_attribute)])
        if query is None or not catalogue.has_picture(case.target.item_id):
            skipped += 1
            continue
        if case.user_id not in favourites:
            raise ValueError(
                f"no favourite colours of shopper {case.user_id!r} among those of {len(favourites)} shoppers: "
                "expected those of the same shop, true_tastes(num_items, num_shoppers, seed)."
            )
        history = history_of(case, source)
        shown, ratings = [entry["item_id"] for entry in history], [entry["rating"] for entry in history]
        *colours, next_colour = [
            catalogue.item(item_id)["colour"] or looks[item_id].colour for item_id in (*shown, case.target.item_id)
        ]
        patterns = [looks[item_id].pattern for item_id in shown]
        request = {"task": "imagine", "history": history, "query": query}
        questions.append(
            Question(
                case,
                request,
                category=query,
                colours=favourites[case.user_id],
                history_colours=wanted(colours, ratings),
                patterns=wanted(patterns, ratings),
                next_colour=next_colour,
            )
        )
    return questions, skipped


def make_wishes(questions: Sequence[Question], seed: int) -> list[Question]:
    """The same shoppers with the same histories, asked for the same kinds in a colour drawn by lot from all eight."""
    names = list(COLOURS)
    # Another stream than the one that chooses the shoppers.
    drawn = np.random.default_rng([seed, 1]).integers(len(names), size=len(questions))
    wishes = []
    for question, number in zip(questions, drawn, strict=True):
        colour = names[number]
        wishes.append(
            dataclasses.replace(
                question,
                request=question.request | {"query": f"{colour} {question.category}"},
                colours=frozenset({colour}),
                measures=WISH_MEASURES,
            )
        )
    return wishes
