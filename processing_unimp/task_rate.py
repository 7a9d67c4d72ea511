"""rate: how many stars this shopper would give, as a distribution over 1 to 5."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .catalogue import Catalogue
from .control_tokens import NUM_STARS, ControlTokens
from .history import Case, Histories
from .item_text import stars_of
from .task import CaseScores, ExampleSource, ItemSlot, Piece, Request, Task, history_of

STARS = np.arange(1, NUM_STARS + 1)


class Rate(Task):
    name = "rate"
    answer_group = "stars"
    headline = "rmse"
    keys = ("item",)
    higher_is_better = False

    def example(self, case: Case, source: ExampleSource, upcoming: Sequence[Any] = ()) -> Request | None:
        stars = stars_of(case.target.rating)
        if stars is None:
            return None
        return {"task": self.name, "history": history_of(case, source), "item": case.target.item_id, "answer": stars}

    def prompt(self, request: Request) -> list[Piece]:
        return [
            "Given",
            ItemSlot(request.get("item")),
            ", can you predict the preference level of the user to the product?",
        ]

    def target(self, request: Request, tokens: ControlTokens, catalogue: Catalogue) -> list[int]:
        return [tokens.star(request["answer"])]

    def answer(self, request: Request, output: Any, catalogue: Catalogue) -> dict[str, Any]:
        probabilities = np.asarray(output, dtype=np.float64)
        return {
            "task": self.name,
            "stars": float(probabilities @ STARS),
            "most_likely": int(STARS[probabilities.argmax()]),
            "probabilities": {int(star): float(p) for star, p in zip(STARS, probabilities, strict=True)},
            "entropy": float(-(probabilities * np.log(np.clip(probabilities, 1e-12, None))).sum()),
        }

    def score(self, request: Request, output: Any, catalogue: Catalogue, seen: Sequence[str]) -> CaseScores:
        """The expected stars, those that were given, and how sure of the likeliest."""
        probabilities, true = np.asarray(output, dtype=np.float64), float(request["answer"])
        return {
            "predicted": float(probabilities @ STARS),
            "true": true,
            "confidence": probabilities.max(),
            "is_right": bool(STARS[probabilities.argmax()] == true),
        }

    def baselines(
        self, requests: Sequence[Request], train: Histories, source: ExampleSource
    ) -> dict[str, Iterable[Any]]:
        """The training distribution for everybody (a constant), and the shopper's own earlier mean."""
        rated = train.ratings[np.isfinite(train.ratings)]
        counts = np.array([(np.floor(rated + 0.5) == star).sum() for star in STARS], dtype=np.float64)
        constant = counts / max(counts.sum(), 1)
        mean = float(constant @ STARS)
        return {
            "constant (training mean)": [constant] * len(requests),
            "shopper's mean": (_two_stars(_shrunk_mean(request, mean)) for request in requests),
        }


def _shrunk_mean(request: Request, mean: float) -> float:
    """The mean of the given stars and three times `mean`."""
    given = [entry["rating"] for entry in request["history"] if entry.get("rating") is not None]
    return float((sum(given) + 3 * mean) / (len(given) + 3))


def _two_stars(value: float) -> np.ndarray:
    """The distribution on the two stars around `value` whose expectation it is."""
    lower = min(int(value), NUM_STARS - 1)
    probabilities = np.zeros(NUM_STARS)
    probabilities[lower - 1], probabilities[lower] = lower + 1 - value, value - lower
    return probabilities
