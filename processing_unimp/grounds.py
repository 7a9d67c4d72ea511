"""What an explanation can rest on: which items of the history share an attribute with the item, and were they liked?

Counted, so that it is true whatever a model writes. An answer of explain brings it along; where the prompt tells it as
well (`tell_grounds`), a model need not learn to count.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .item_terms import ItemTerms
from .item_text import clean_value, stars_of

MOST_GROUNDS = 4  # values of an item, the first in the order of its attributes
MOST_WORDS = 4  # of a value
LIKED = 4  # stars

Ground = dict[str, Any]


def grounds_of(item: Mapping[str, Any], history: Sequence[Mapping[str, Any]], terms: ItemTerms) -> list[Ground]:
    """What of an item the history speaks to.

    Args:
        item (`Mapping`): its attributes.
        history (`Sequence[Mapping]`): those of the items that a model reads, also `"item_id"` and `"rating"` of each.
        terms (`ItemTerms`): of the shop. Only values count that at least two of its items share, and at most half.

    Returns:
        `list[dict]`: for each of up to four values `{"attribute", "value", "items", "liked"}`: the ids of the items of
        the history that have it (`None` for one that is only described), and how many of them got 4 or 5 stars.
    """
    found: list[Ground] = []
    for name in terms.attributes:
        values = [value for value in dict.fromkeys(_values(item.get(name))) if terms.has_value(name, value)]
        of_history = [{value.lower() for value in _values(entry.get(name))} for entry in history] if values else []
        for value in values[: MOST_GROUNDS - len(found)]:
            alike = [entry for entry, own in zip(history, of_history, strict=True) if value.lower() in own]
            stars = [stars_of(entry.get("rating")) for entry in alike]
            found.append(
                {
                    "attribute": name,
                    "value": value,
                    "items": [entry.get("item_id") for entry in alike],
                    "liked": sum(own is not None and own >= LIKED for own in stars),
                }
            )
    return found


def in_words(grounds: Sequence[Ground]) -> str:
    """`" colour teal 2 liked 1 category mug 0"`: by value, how many items share it and how many of them were liked."""
    # Where there are none, "liked" is left out: a small model takes "2 liked 0" and "0 liked 0" for the same.
    return "".join(
        f" {clean_value(each['attribute'], MOST_WORDS)} {each['value']} {len(each['items'])}"
        + (f" liked {each['liked']}" if each["items"] else "")
        for each in grounds
    )


def _values(cell: Any) -> list[str]:
    """The words of a cell; a number is no value to have in common."""
    cells = cell if isinstance(cell, list | tuple) else [cell]
    return [text for part in cells if isinstance(part, str) and (text := clean_value(part, MOST_WORDS))]
