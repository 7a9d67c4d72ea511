"""select: which of the candidates suit the shopper, a probability for each.

The paper lets the model write the chosen items one after the other. Here the answer has one slot for each candidate,
in the request's order, and the model says yes or no after reading it: all slots are read in one forward, every
candidate gets a probability, and an item that is not a candidate cannot be chosen.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .bounds import short_repr
from .case_metrics import precision_recall_f1
from .catalogue import Catalogue
from .control_tokens import ControlTokens
from .history import Case, Histories
from .task import CaseScores, ExampleSource, ItemSlot, Piece, Request, Task, history_of, with_attributes

MAX_POSITIVES = 3


class Select(Task):
    name = "select"
    answer_group = "decisions"
    headline = "f1"
    keys = ("candidates",)
    needs_whole_history = True

    def example(self, case: Case, source: ExampleSource, upcoming: Sequence[Any] = ()) -> Request | None:
        """1 to 3 of the shopper's next items among items that the shopper never touched."""
        touched = {event.item_id for event in (*case.history, case.target, *upcoming)}
        following = list(dict.fromkeys(event.item_id for event in (case.target, *upcoming)))
        positives = following[: int(source.rng.integers(1, MAX_POSITIVES + 1))]
        offered = source.catalogue.offered
        wanted = min(source.num_candidates - len(positives), len(offered) - len(touched))
        if wanted < 1:
            return None
        negatives: dict[str, None] = {}
        while len(negatives) < wanted:
            item_id = source.catalogue.item_id(offered[source.rng.integers(len(offered))])
            if item_id not in touched:
                negatives[item_id] = None
        candidates = [*positives, *negatives]
        order = source.rng.permutation(len(candidates))
        return {
            "task": self.name,
            "history": history_of(case, source),
            "candidates": [candidates[i] for i in order],
            "answer": [bool(i < len(positives)) for i in order],
        }

    def prompt(self, request: Request) -> list[Piece]:
        candidates = request.get("candidates")
        if not isinstance(candidates, (list, tuple)) or not candidates:
            raise ValueError(
                f"a select request with the candidates {short_repr(candidates)}: expected a list of items, not empty."
            )
        return [
            "Given",
            *[ItemSlot(candidate) for candidate in candidates],
            ", can you select all the appropriate items for the user?",
        ]

    def target(self, request: Request, tokens: ControlTokens, catalogue: Catalogue) -> list[int]:
        return [tokens.decision(chosen) for chosen in request["answer"]]

    def answer(self, request: Request, output: Any, catalogue: Catalogue) -> dict[str, Any]:
        """A candidate that is no longer sold is not selected, and its score is 0."""
        scored = [
            with_attributes(_as_answer(candidate, catalogue), score=float(score), selected=bool(chosen))
            for candidate, score, chosen in zip(
                request["candidates"], *_selection(request, output, catalogue), strict=True
            )
        ]
        return {"task": self.name, "items": scored}

    def score(self, request: Request, output: Any, catalogue: Catalogue, seen: Sequence[str]) -> CaseScores:
        """Precision, recall and F1 of the candidates that the answer selects, and how sure of the likeliest."""
        right = np.asarray(request["answer"], dtype=bool)
        probabilities, chosen = _selection(request, np.asarray(output, dtype=np.float64), catalogue)
        precision, recall, f1 = precision_recall_f1(chosen, right)
        return {
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "confidence": probabilities.max(),
            "is_right": bool((right & chosen)[probabilities.argmax()]),
        }

    def baselines(
        self, requests: Sequence[Request], train: Histories, source: ExampleSource
    ) -> dict[str, Iterable[Any]]:
        """Everything, and the most popular candidate alone."""
        popularity = train.item_counts()

        def most_popular(request: Request) -> np.ndarray:
            counts = np.array([popularity[source.catalogue.number(item)] for item in request["candidates"]])
            counts = np.where(_are_sold(request["candidates"], source.catalogue), counts, -1)
            chosen: np.ndarray = (np.arange(len(counts)) == counts.argmax()).astype(np.float64)
            return chosen

        return {
            "choose all": (np.ones(len(request["candidates"])) for request in requests),
            "most popular candidate": (most_popular(request) for request in requests),
        }


def choose(probabilities: Any) -> np.ndarray:
    """The candidates to select `(K,)`: the set with the best expected F1, given each candidate's probability.

    It holds the k most likely candidates, with k at the maximum of `2 * (sum of their p) / (k + sum of all p)`; no
    threshold has to be tuned, and one suitable item among many is found although it is seldom likelier than not.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    order = np.argsort(-p, kind="stable")
    expected_f1 = 2 * p[order].cumsum() / (np.arange(1, len(p) + 1) + p.sum())
    chosen = np.zeros(len(p), dtype=bool)
    chosen[order[: expected_f1.argmax() + 1]] = True
    return chosen


def _are_sold(candidates: Sequence[Any], catalogue: Catalogue) -> np.ndarray:
    """Which candidates may be selected `(K,)`: one that the catalogue does not know may."""
    ids = map(_id_of, candidates)
    return np.array(
        [each is None or each not in catalogue or catalogue.is_available(each) for each in ids], dtype=bool
    )


def _selection(request: Request, output: Any, catalogue: Catalogue) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the candidates and which of them are selected, both `(K,)`; see `Select.answer`."""
    sold = _are_sold(request["candidates"], catalogue)
    scores, chosen = np.where(sold, output, 0.0), np.zeros(len(sold), dtype=bool)
    if sold.any():
        chosen[sold] = choose(scores[sold])
    return scores, chosen


def _id_of(candidate: Any) -> str | None:
    item_id = candidate.get("item_id") if isinstance(candidate, dict) else candidate
    return None if item_id is None else str(item_id)


def _as_answer(candidate: Any, catalogue: Catalogue) -> dict[str, Any]:
    """Id and attributes of a candidate: the catalogue's, and over them what the request says."""
    given = candidate if isinstance(candidate, dict) else {"item_id": str(candidate)}
    given = {key: value for key, value in given.items() if key != "image"}
    item_id = _id_of(candidate)
    known = catalogue.item(item_id) if item_id is not None and item_id in catalogue else {}
    return known | given
