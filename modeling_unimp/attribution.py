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

from .hybrid_scores import AGAIN, MAX_HISTORY, PICTURES, POPULARITY, TEXT, HybridScores, Score, numbers_of
from .interfaces import Catalogue, Request

# What the closed-form scores of a history say, in words; of "EASE 100" the first.
SOURCES = {
    "EASE": "taken by the same shoppers, or alike",  # it counts what is alike in words and pictures, too
    "kNN": "taken by the same shoppers",
    "transitions": "taken soon before or after it",
    TEXT: "alike in words",
    PICTURES: "alike in pictures",
    AGAIN: "taken again",
}
QUERY, NETWORK, REST = "query", "network", "rest of the history"


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
        request (`dict`): to recommend or search, as the tasks read it.
        scores_N (`torch.FloatTensor` of shape `(N,)`): of its items, as [`HybridScores.add`] gave them.
        items (`Sequence[int]`): n rows of the catalogue.
        catalogue (`Catalogue`)
        most (`int`): items of the history that are named, those with the largest parts.

    Returns:
        `list[list[dict]]`: for each item its parts, the largest first: `{"source", "share"}`, of an item of the
        history also `"item_id"`. The source is in words how an item of the history goes with this one (the score that
        most of its part came through), or `"query"`, `"popularity"`, `"network"`, `"rest of the history"`. The
        absolute values of the shares sum to 1; a part below 0 speaks against the item, and one that is 0 is left out.

    Raises:
        ValueError: a model without closed-form scores for the task.
    """
    task, num_items = request["task"], len(scores_N)
    if hybrid is None or task not in hybrid.weights:
        raise ValueError(
            f"because={most}: this model has no closed-form scores to {task}, whose parts could be told. Train it "
            "with `hybrid: fitted`, or ask modeling_unimp.serving.reasons.leave_one_out, which serves any model."
        )
    history = numbers_of(request["history"], catalogue)[-MAX_HISTORY:]
    # Each item by itself, in its place: the others are of no catalogue.
    alone = [[number if at == place else -1 for at in range(len(history))] for place, number in enumerate(history)]
    of_network, *weights = hybrid.weights_of(task, request.get("query"))
    even = torch.tensor(float(num_items)).log()
    parts: dict[str, torch.Tensor] = {NETWORK: scores_N[items].float().cpu() + of_network * even}
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
            for number, proportion_n in zip(history, proportion_Kn, strict=True):
                of_history[number, SOURCES.get(score.source.split()[0], score.source)] += part_n * proportion_n
    if weight := 1.0 if knows_nothing else hybrid.popularity_weight(task):
        part_n = weight * hybrid.raw(Score(POPULARITY), [()], num_items=num_items)[0, items]
        least = hybrid.popularity.min() + torch.tensor(float(hybrid.num_items)).log()
        parts[NETWORK] = parts[NETWORK] - part_n
        parts[POPULARITY] = part_n + weight * least
    if not of_network:
        del parts[NETWORK]  # nothing is left but what rounding left
    return [
        _told(
            {name: float(part[place]) for name, part in parts.items()},
            {key: float(part[place]) for key, part in of_history.items()},
            catalogue,
            most,
        )
        for place in range(len(items))
    ]


def _told(
    parts: Mapping[str, float], of_history: Mapping[tuple[int, str], float], catalogue: Catalogue, most: int
) -> list[dict[str, Any]]:
    """The parts of one item's score as shares."""
    by_item: dict[int, dict[str, float]] = defaultdict(dict)
    for (number, source), part in of_history.items():
        if part:
            by_item[number][source] = part
    ordered = sorted(by_item, key=lambda number: -sum(by_item[number].values()))
    found: list[tuple[float, dict[str, Any]]] = []
    for number in ordered[:most]:
        own = by_item[number]
        found.append(
            (sum(own.values()), {"item_id": catalogue.item_id(number), "source": max(own, key=own.__getitem__)})
        )
    rest = sum(part for number in ordered[most:] for part in by_item[number].values())
    found += [(part, {"source": source}) for source, part in {**parts, REST: rest}.items() if part]
    total = sum(abs(part) for part, _ in found)
    found.sort(key=lambda each: -each[0])
    return [{**named, "share": part / total} for part, named in found]
