"""What a model is evaluated on: the requests of one task with their true answers, and the scores of outputs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from .all_tasks import TASKS
from .history import Case, Histories
from .metrics.lists import ListMeasures
from .metrics.summary import summarise
from .splits import Targets
from .task import CaseScores, ExampleSource, Request, Scores, Task, history_of, stacked


class Requests(Sequence[Request]):
    """The requests of cases, each made when it is asked for; a slice is a list of them.

    What was drawn once, such as candidates, and the true answers are kept; histories are read from the table.

    Args:
        task (`Task`): what is asked.
        cases (`Targets`): whose histories are shown.
        columns (`dict[str, list]`): by name what the requests hold beside task and history, a value a case.
        source (`ExampleSource`): how much of a history is shown.
    """

    def __init__(self, task: Task, cases: Targets, columns: dict[str, list[Any]], source: ExampleSource):
        self.task, self.cases, self.columns, self.source = task, cases, columns, source

    def __len__(self) -> int:
        return len(self.cases)

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> list[Request]: ...
    def __getitem__(self, index: int | slice) -> Request | list[Request]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        history = history_of(self.cases.latest(index, self.source.history_length), self.source)
        return {"task": self.task.name, "history": history} | self.drawn(index)

    def drawn(self, index: int) -> Request:
        """The task and what was drawn and is kept of one request: all but its history."""
        return {"task": self.task.name} | {name: column[index] for name, column in self.columns.items()}

    def take(self, chosen: Sequence[int]) -> "Requests":
        """Returns those with these numbers, still to be made."""
        columns = {name: [column[place] for place in chosen] for name, column in self.columns.items()}
        return Requests(self.task, self.cases.take(np.array(chosen, dtype=np.int64)), columns, self.source)


@dataclass
class EvaluationCases:
    """The cases of one task; the same for every model, since all random draws in them come from a seed.

    Args:
        task (`Task`): what is asked.
        cases (`Targets`): histories and what happened next, by number.
        requests (`Requests`): one a case, with the true `"answer"`.
        source (`ExampleSource`): the shop.
        exclude_seen (`bool`): whether items of the history are left out of a ranking.
        skipped (`int`): cases the data has no answer for, such as unrated ones, and with `exclude_seen` those of a
            ranking whose true item is in the history.
        seen (`int`): how many of these are the latter.
    """

    task: Task
    cases: Targets
    requests: Requests
    source: ExampleSource
    exclude_seen: bool
    skipped: int
    seen: int = 0

    @classmethod
    def of(
        cls, name: str, targets: Targets, source: ExampleSource, *, exclude_seen: bool, max_cases: int | None = None
    ) -> "EvaluationCases":
        """Cases of the task `name`; of more than `max_cases` a random sample, drawn from `source.rng`."""
        order = source.rng.permutation(len(targets)) if max_cases is not None else np.arange(len(targets))
        task, chosen, columns, skipped, seen = TASKS[name], list[int](), dict[str, list[Any]](), 0, 0
        for index in order:
            if max_cases is not None and len(chosen) == max_cases:
                break
            case = targets[int(index)]
            request = task.example(case, source)
            # With seen items left out, a target that was seen cannot be ranked. If only this one of the seen items
            # competed, a model that ranks all seen items first would have a hit.
            hidden = exclude_seen and task.answer_group == "items" and _is_seen(case)
            if request is None or hidden:
                skipped, seen = skipped + 1, seen + hidden
                continue
            chosen.append(int(index))
            for key, value in request.items():
                if key not in ("task", "history"):
                    columns.setdefault(key, []).append(value)
        cases = targets.take(np.array(chosen, dtype=np.int64))
        return cls(task, cases, Requests(task, cases, columns, source), source, exclude_seen, skipped, seen)

    def __len__(self) -> int:
        return len(self.cases)

    def score(self, index: int, output: Any) -> CaseScores:
        """Scores of the output for one case; see `Task.score`."""
        is_ranking = self.task.answer_group == "items"
        seen = self.cases.item_ids_before(index) if self.exclude_seen and is_ranking else []
        return self.task.score(self.requests.drawn(index), output, self.source.catalogue, seen)

    def scores(self, outputs: Iterable[Any]) -> Scores:
        """Scores of outputs for all cases, in their order; no more than one output is held at a time."""
        return stacked(self.score(index, output) for index, output in enumerate(outputs))

    def baselines(self, train: Histories, lists: ListMeasures | None = None) -> dict[str, dict[str, float]]:
        """Metrics of the trivial baselines by name, scored as the model is."""
        outputs_by_name = self.task.baselines(self.requests, train, self.source)
        return {name: summarise(self.task, self.scores(outputs), lists) for name, outputs in outputs_by_name.items()}


def _is_seen(case: Case) -> bool:
    return any(event.item_id == case.target.item_id for event in case.history)
