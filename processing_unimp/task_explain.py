"""explain: in words, why a product might be suitable or unsuitable for this shopper."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .catalogue import Catalogue
from .control_tokens import ControlTokens
from .grounds import in_words
from .history import Case, Histories
from .item_text import clean_value
from .task import CaseScores, ExampleSource, ItemSlot, Piece, Request, ShopperText, Task, history_of

MAX_EXPLANATION_WORDS = 48


class Explain(Task):
    name = "explain"
    answer_group = "words"
    headline = "rougeL"
    keys = ("item", "grounds")

    def example(self, case: Case, source: ExampleSource, upcoming: Sequence[Any] = ()) -> Request | None:
        explanation = clean_value(case.target.explanation, MAX_EXPLANATION_WORDS)
        if explanation is None:
            return None
        return {
            "task": self.name,
            "history": history_of(case, source),
            "item": case.target.item_id,
            "answer": explanation,
        }

    def prompt(self, request: Request) -> list[Piece]:
        """The paper's instruction; with `"grounds"` it says after the item what the history has in common with it."""
        grounds: list[Piece] = [" whose", ShopperText(in_words(request["grounds"]))] if request.get("grounds") else []
        return [
            "Given",
            ItemSlot(request.get("item")),
            *grounds,
            ", can you explain to the user why the product might be suitable or unsuitable?",
        ]

    def target(self, request: Request, tokens: ControlTokens, catalogue: Catalogue) -> str:
        return " " + str(request["answer"])

    def answer(self, request: Request, output: Any, catalogue: Catalogue) -> dict[str, Any]:
        return {"task": self.name, "text": str(output), "grounds": request.get("grounds", [])}

    def score(self, request: Request, output: Any, catalogue: Catalogue, seen: Sequence[str]) -> CaseScores:
        """The two texts, which metrics over all cases compare."""
        return {"predicted": str(output), "true": request["answer"]}

    def baselines(
        self, requests: Sequence[Request], train: Histories, source: ExampleSource
    ) -> dict[str, Iterable[Any]]:
        """The most frequent training explanation for everybody, and a random one."""
        texts = [clean_value(text, MAX_EXPLANATION_WORDS) for text in train.explanations()]
        known = [text for text in texts if text]
        if not known:
            return {}
        most_frequent = Counter(known).most_common(1)[0][0]
        rng = np.random.default_rng(0)
        return {
            "commonest text": [most_frequent] * len(requests),
            "random text": [known[int(i)] for i in rng.integers(len(known), size=len(requests))],
        }
