"""recommend: the next item, ranked over the whole catalogue."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .case_metrics import rank_of_target
from .catalogue import Catalogue
from .control_tokens import ControlTokens
from .history import Case, Histories
from .task import CaseScores, ExampleSource, Piece, Request, Task, described, history_of

TOP = 10  # of a list that is looked at as a whole


class Recommend(Task):
    name = "recommend"
    answer_group = "items"
    headline = "ndcg@10"
    is_next_item = True

    def example(self, case: Case, source: ExampleSource, upcoming: Sequence[Any] = ()) -> Request | None:
        return {"task": self.name, "history": history_of(case, source), "answer": case.target.item_id}

    def prompt(self, request: Request) -> list[Piece]:
        return ["Can you recommend the next item to the user?"]

    def target(self, request: Request, tokens: ControlTokens, catalogue: Catalogue) -> list[int]:
        return [tokens.item(catalogue.number(request["answer"]))]

    def answer(self, request: Request, output: Any, catalogue: Catalogue) -> dict[str, Any]:
        """`output` is a pair: catalogue rows, best first, and by name what is known of each, such as its `"score"`."""
        numbers, results = output
        return {
            "task": self.name,
            "items": [
                described(catalogue, number, **dict(zip(results, of_item, strict=True)))
                for number, *of_item in zip(numbers, *results.values(), strict=True)
            ],
        }

    def score(self, request: Request, output: Any, catalogue: Catalogue, seen: Sequence[str]) -> CaseScores:
        """The rank of the true item, the ten best that may be shown (-1 for none), and how sure of the first."""
        excluded = ~catalogue.available
        excluded[[catalogue.number(item_id) for item_id in seen]] = True
        target, scores = catalogue.number(request["answer"]), np.asarray(output, dtype=np.float64)
        rank = rank_of_target(scores, target, np.flatnonzero(excluded))
        competes = ~excluded
        competes[target] = True
        scores = np.where(competes, scores, -np.inf)
        best = np.argpartition(-scores, min(TOP, len(scores) - 1))[:TOP]
        confidence = 1 / np.exp(scores - scores[best].max()).sum()
        return {
            "rank": rank,
            "best": np.pad(np.where(excluded[best], -1, best), (0, TOP - len(best)), constant_values=-1),
            "num_items": len(scores),
            "confidence": confidence,
            "is_right": rank == 1,
        }

    def baselines(
        self, requests: Sequence[Request], train: Histories, source: ExampleSource
    ) -> dict[str, Iterable[Any]]:
        popularity = train.item_counts().astype(np.float64)
        rng = np.random.default_rng(0)
        return {
            "popularity": [popularity] * len(requests),
            "random": (rng.random(len(popularity)) for _ in requests),
        }
