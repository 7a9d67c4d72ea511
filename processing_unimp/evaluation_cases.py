"""What a model is evaluated on: the requests of one task with their true answers, and the scores of outputs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .all_tasks import TASKS
from .history import Case, Histories
from .metrics.summary import summarise
from .splits import Targets
from .task import CaseScores, ExampleSource, Request, Scores, Task, stacked


@dataclass
class EvaluationCases:
    """The cases of one task; the same for every model, since all random draws in them come from a seed.

    Args:
        task (`Task`): what is asked.
        cases (`list[Case]`): histories and what happened next.
        requests (`list[dict]`): one a case, with the true `"answer"`.
        source (`ExampleSource`): the shop.
        exclude_seen (`bool`): whether items of the history are left out of a ranking.
        skipped (`int`): cases the data has no answer for, such as unrated ones, and with `exclude_seen` those of a
            ranking whose true item is in the history.
    """

    task: Task
    cases: list[Case]
    requests: list[Request]
    source: ExampleSource
    exclude_seen: bool
    skipped: int

    @classmethod
    def of(
        cls, name: str, targets: Targets, source: ExampleSource, *, exclude_seen: bool, max_cases: int | None = None
    ) -> "EvaluationCases":
        """Cases of the task `name`; of more than `max_cases` a random sample, drawn from `source.rng`."""
        order = source.rng.permutation(len(targets)) if max_cases is not None else np.arange(len(targets))
        cases: list[Case] = []
        requests: list[Request] = []
        skipped = 0
        for index in order:
            if max_cases is not None and len(cases) == max_cases:
                break
            case = targets[int(index)]
            request = TASKS[name].example(case, source)
            # With seen items left out, a target that was seen cannot be ranked. If only this one of the seen items
            # competed, a model that ranks all seen items first would have a hit.
            hidden = exclude_seen and TASKS[name].answer_group == "items" and _is_seen(case)
            if request is None or hidden:
                skipped += 1
                continue
            cases.append(case)
            requests.append(request)
        return cls(TASKS[name], cases, requests, source, exclude_seen, skipped)

    def __len__(self) -> int:
        return len(self.cases)

    def score(self, index: int, output: Any) -> CaseScores:
        """Scores of the output for one case; see `Task.score`."""
        return self.task.score(
            self.cases[index], self.requests[index], output, self.source.catalogue, self.exclude_seen
        )

    def scores(self, outputs: Iterable[Any]) -> Scores:
        """Scores of outputs for all cases, in their order; no more than one output is held at a time."""
        return stacked(self.score(index, output) for index, output in enumerate(outputs))

    def baselines(self, train: Histories) -> dict[str, dict[str, float]]:
        """Metrics of the trivial baselines by name, scored as the model is."""
        outputs_by_name = self.task.baselines(self.requests, train, self.source)
        return {name: summarise(self.task, self.scores(outputs)) for name, outputs in outputs_by_name.items()}


def _is_seen(case: Case) -> bool:
    return any(event.item_id == case.target.item_id for event in case.history)
