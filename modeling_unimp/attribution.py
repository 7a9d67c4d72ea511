"""Why an item is ranked where it is: what the history, the query, the item's popularity and the network have in its
score.

The score is a sum (see `hybrid_scores.py`), and so is the q of each closed-form score over the history: an item of the
history has in q what it adds to it, and of the squashed value the same proportion. Network and popularity are measured
against an item as likely as any other, `log p(i) + log N`: that is where they neither speak for it nor against it.

Shapes: N items, K of the history, n whose scores are attributed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .hybrid_scores import (
    AFTER,
    AGAIN,
    MAX_HISTORY,
    PICTURES,
    POPULARITY,
    TEXT,
    HybridScores,
    Score,
    StandIn,
    numbers_of,
)
from .interfaces import Catalogue, Request

# What the closed-form scores of a history say, in words; of "EASE 100" what is no number.
SOURCES = {
    "EASE": "taken by the same shoppers, or alike",  # it counts what is alike in words and pictures, too
    "EASE without content": "taken by the same shoppers",
    "kNN": "taken by the same shoppers",
    "transitions": "taken soon before or after it",
    AFTER: "taken after it",
    TEXT: "alike in words",
    PICTURES: "alike in pictures",
    AGAIN: "taken again",
}
QUERY, NETWORK, REST = "query", "network", "rest of the history"
# Of an item that nobody took yet, which has the neighbours of another one.
BORROWED = "goes with what is like it"


def because(
    hybrid: HybridScores | None,
    request: Request,
    scores_N: torch.Tensor,
    items: Sequence[int],
    catalogue: Catalogue,
    most: int,
) -> list[list[dict[str, Any]]]:
    """What carried the scores of some items.

    Args:
        hybrid (`HybridScores`, *optional*): the model's.
        request (`dict`): to recommend or search, as the tasks read it, perhaps with stand-ins.
        scores_N (`torch.FloatTensor` of shape `(N,)`): of its items, as [`HybridScores.add`] gave them.
        items (`Sequence[int]`): n rows of the catalogue.
        catalogue (`Catalogue`)
        most (`int`): items of the history that are named, those with the largest parts.

    Returns:
        `list[list[dict]]`: for each item its parts, the largest first: `{"source", "share"}`, of an item of the
        history also `"item_id"`, or `"item"` where it was described without one. The source is in words how an item
        of the history goes with this one (the score that most of its part came through), or `"query"`,
        `"popularity"`, `"network"`, `"rest of the history"`. The absolute values of the shares sum to 1; a part below
        0 speaks against the item, and one that is 0 is left out.

    Raises:
        ValueError: a model without closed-form scores for the task.
    """
    task, num_items = request["task"], len(scores_N)
    if hybrid is None or task not in hybrid.weights:
        advice = "with `hybrid: fitted`" if hybrid is None else f"with {task} among `tasks`"
        raise ValueError(
            f"because={most}: this model has no closed-form scores to {task}, whose parts could be told. Train it "
            f"{advice}, or ask modeling_unimp.serving.reasons.leave_one_out, which serves any model."
        )
    entries = request["history"][-MAX_HISTORY:]
    history = numbers_of(entries, catalogue)
    # Each item by itself, in its place: the others are of no catalogue.
    alone = [[number if at == place else -1 for at in range(len(history))] for place, number in enumerate(history)]
    of_network, *weights = hybrid.weights_of(task, request.get("query"))
    even = torch.tensor(float(num_items)).log()
    parts: dict[str, torch.Tensor] = {NETWORK: scores_N[items].float().cpu() + of_network * even}
    # An item of the catalogue that stands in several places is told of once, at its first.
    first: dict[int, int] = {}
    told_at = [
        place if isinstance(entry, StandIn) else first.setdefault(number, place)
        for place, (entry, number) in enumerate(zip(entries, history, strict=True))
    ]
    of_history: dict[tuple[int, str], torch.Tensor] = defaultdict(lambda: torch.zeros(len(items)))
    knows_nothing = of_network == 0
    for weight, score in zip(weights, hybrid.scores, strict=True):
        if not weight or score.source == POPULARITY:
            continue
        squashed_N = hybrid.squashed(score, [history], [request.get("query")], num_items)[0]
        knows_nothing &= not squashed_N.any()
        part_n = weight * squashed_N[items]
        parts[NETWORK] = parts[NETWORK] - part_n
        if score.source in hybrid.terms:
            parts[QUERY] = parts.get(QUERY, 0) + part_n
        elif history:
            raw_Kn = hybrid.raw(score, alone, num_items=num_items)[:, items]
            total_n = raw_Kn.sum(dim=0)
            proportion_Kn = raw_Kn / total_n.where(total_n != 0, torch.ones_like(total_n))
            for place, proportion_n in zip(told_at, proportion_Kn, strict=True):
                of_history[place, _without_number(score.source)] += part_n * proportion_n
    if weight := 1.0 if knows_nothing else hybrid.popularity_weight(task):
        part_n = weight * hybrid.raw(Score(POPULARITY), [()], num_items=num_items)[0, items]
        least = hybrid.popularity.min() + torch.tensor(float(hybrid.num_items)).log()
        parts[NETWORK] = parts[NETWORK] - part_n
        parts[POPULARITY] = part_n + weight * least
    if not of_network:
        del parts[NETWORK]  # nothing is left but what rounding left
    borrows = [
        isinstance(entry, StandIn) or number in hybrid.stand_ins
        for entry, number in zip(entries, history, strict=True)
    ]

    def told(row: int) -> list[dict[str, Any]]:
        by_place: dict[int, dict[str, float]] = defaultdict(dict)
        for (place, source), part_n in of_history.items():
            if part := float(part_n[row]):
                words = _in_words(source, borrows[place] or items[row] in hybrid.stand_ins)
                by_place[place][words] = by_place[place].get(words, 0.0) + part
        named = {place: _named(entries[place], history[place], catalogue) for place in by_place}
        return _shares({name: float(part_n[row]) for name, part_n in parts.items()}, by_place, named, most)

    return [told(row) for row in range(len(items))]


def _without_number(source: str) -> str:
    return " ".join(word for word in source.split() if not word.isdigit())


def _in_words(source: str, is_borrowed: bool) -> str:
    if is_borrowed and source not in (TEXT, PICTURES, AGAIN):
        return BORROWED
    return SOURCES.get(source, source)


def _named(entry: Any, number: int, catalogue: Catalogue) -> dict[str, Any]:
    """An item of the history by its id, or without one as it was described."""
    if not isinstance(entry, StandIn):
        return {"item_id": catalogue.item_id(number)}
    if "item_id" in entry.described:
        return {"item_id": entry.described["item_id"]}
    return {"item": {name: value for name, value in entry.described.items() if name != "image"}}


def _shares(
    parts: Mapping[str, float],
    of_history: Mapping[int, Mapping[str, float]],
    named: Mapping[int, dict[str, Any]],
    most: int,
) -> list[dict[str, Any]]:
    """The parts of one item's score as shares; those of a history by place and source."""
    ordered = sorted(of_history, key=lambda place: -sum(of_history[place].values()))
    found: list[tuple[float, dict[str, Any]]] = []
    for place in ordered[:most]:
        own = of_history[place]
        found.append((sum(own.values()), named[place] | {"source": max(own, key=own.__getitem__)}))
    rest = sum(part for place in ordered[most:] for part in of_history[place].values())
    found += [(part, {"source": source}) for source, part in {**parts, REST: rest}.items() if part]
    total = sum(abs(part) for part, _ in found)
    found.sort(key=lambda each: -each[0])
    return [{**named, "share": part / total} for part, named in found]
