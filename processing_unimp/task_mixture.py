"""The training examples of all tasks together: which window of whose history, and which request about it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .all_tasks import TASKS
from .catalogue import Catalogue
from .history import Case, Histories
from .task import ExampleSource, Request

# How many interactions are tried in place of one that a task cannot use: for the drawn task, and for any.
MAX_DRAWS_OF_TASK, MAX_DRAWS = 100, 10_000
NUM_TRIED = 500  # interactions, to tell how many of all a task can use
# What is asked of somebody who is new, and how many rows ask it: there the model learns what is usual in the shop.
ROWS_AT_ONCE = 1_000_000
WITHOUT_HISTORY, SHARE_WITHOUT_HISTORY = ("recommend", "search", "rate"), 0.02


class TaskMixture(torch.utils.data.Dataset):
    """A dataset of requests with answers; what row `i` of epoch `e` is depends on `(seed, e, i)` alone.

    Interactions of one timestamp have no order: each row draws one. A few rows have no history.

    Args:
        train (`Histories`): the training part of a split.
        catalogue (`Catalogue`): the shop.
        tasks (`Sequence[str]`): names of the tasks to train.
        windows (`str`, *optional*, defaults to `"random"`): `"random"` takes `repeats` random windows of each
            shopper an epoch, `"all"` takes every position of every history, `"whole"` `repeats` windows of which all
            of a history is read in about so many epochs as it is longer than `history_length`: what the loss of the
            next item wants.
        repeats (`int`, *optional*, defaults to 1): random windows of a shopper an epoch.
        temperature (`float`, *optional*, defaults to 1.0): tasks are drawn in proportion to
            `number of cases ** (1 / temperature)`; large values make them alike.
        shares (`Mapping[str, float]`, *optional*): factors on the probabilities of tasks; 1 where not named, 0 for a
            task that is evaluated and not trained.
        history_length, query_attribute, num_candidates, num_retrieved, wish_attributes (*optional*): see
            `ExampleSource`.
        seed (`int`, *optional*, defaults to 0).

    Raises:
        ValueError: a task that does not exist or for which the data has nothing, or no shopper with two interactions.
    """

    def __init__(
        self,
        train: Histories,
        catalogue: Catalogue,
        tasks: Sequence[str],
        *,
        windows: str = "random",
        repeats: int = 1,
        temperature: float = 1.0,
        shares: Mapping[str, float] | None = None,
        history_length: int = 5,
        query_attribute: str | None = None,
        num_candidates: int = 8,
        num_retrieved: int = 2,
        wish_attributes: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        unknown = [name for name in tasks if name not in TASKS]
        if unknown or not tasks:
            raise ValueError(f"tasks {list(tasks)!r}: expected some of {', '.join(TASKS)}.")
        if len(set(tasks)) < len(tasks):
            raise ValueError(f"tasks {list(tasks)!r}: expected each of them once; `shares` draws one oftener.")
        if windows not in ("random", "all", "whole"):
            raise ValueError(f"windows={windows!r}: expected 'random', 'all' or 'whole'.")
        if not temperature > 0 or repeats < 1:
            raise ValueError(f"temperature={temperature}, repeats={repeats}: expected both to be positive.")
        bad_shares = {
            name: share for name, share in (shares or {}).items() if name not in tasks or not 0 <= share < math.inf
        }
        if bad_shares or not any((shares or {}).get(name, 1) for name in tasks):
            raise ValueError(
                f"shares {bad_shares or shares}: expected numbers from 0 for some of {', '.join(tasks)}, not all 0."
            )
        self.train = train
        self.catalogue = catalogue
        self.history_length = history_length
        self.query_attribute = query_attribute
        self.num_candidates = num_candidates
        self.num_retrieved = num_retrieved
        self.wish_attributes = tuple(wish_attributes)
        self.windows = windows
        self.seed = seed
        self.epoch = 0
        self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None
        lengths = train.lengths
        usable = np.flatnonzero(lengths >= 2)
        if not len(usable):
            raise ValueError("no shopper has two training interactions; nothing can be predicted from a history.")
        self.users: np.ndarray
        self.positions: np.ndarray | None
        if windows == "all":
            each = lengths[usable] - 1
            self.users = np.repeat(usable, each)
            self.positions = 1 + np.arange(len(self.users)) - np.repeat(np.cumsum(each) - each, each)
        else:
            self.users = np.tile(usable, repeats)
            self.positions = None
        self.num_cases = {name: self._count(name) for name in tasks}
        empty = [name for name, count in self.num_cases.items() if count == 0]
        if empty:
            raise ValueError(
                f"the data has nothing to train {', '.join(empty)} with: rate needs ratings, explain explanations, "
                f"search a query_attribute of the items (now {query_attribute!r}; there are {catalogue.attributes}), "
                "select more items than candidates, imagine a query_attribute and pictures with codes (image_codec). "
                "Leave these out of `tasks`."
            )
        weights = np.array([self.num_cases[name] for name in tasks], dtype=np.float64) ** (1 / temperature)
        weights *= [(shares or {}).get(name, 1.0) for name in tasks]
        self.probabilities: dict[str, float] = dict(zip(tasks, (weights / weights.sum()).tolist(), strict=True))

    def _count(self, name: str) -> int:
        """Cases the data has for a task, estimated on 500 interactions drawn from all shoppers; at least 1 where
        there are any that few shoppers have."""
        rng = np.random.default_rng(self.seed)
        picks = rng.choice(self.users, size=NUM_TRIED)
        found = sum(self._example(int(user), rng, [name]) is not None for user in picks)
        total = self.train.num_interactions - len(self.train)
        return round(total * found / len(picks)) or int(self._finds_any(name, rng))

    def _finds_any(self, name: str, rng: np.random.Generator) -> bool:
        """Whether a task can use one of the interactions that have what it asks for."""
        positions = np.arange(self.train.num_interactions) - self.train.starts[self.train.user_numbers]
        can_be_asked = positions > 0
        if name in ("rate", "explain"):
            can_be_asked &= np.isfinite(self.train.ratings) if name == "rate" else self.train.are_explained
        rows = rng.permutation(np.flatnonzero(can_be_asked))[:NUM_TRIED]
        users = self.train.user_numbers[rows]
        return any(
            self._example(int(user), rng, [name], int(positions[row])) is not None
            for user, row in zip(users, rows, strict=True)
        )

    def _source(self, rng: np.random.Generator) -> ExampleSource:
        return ExampleSource(
            self.catalogue,
            rng,
            history_length=self.history_length,
            query_attribute=self.query_attribute,
            num_candidates=self.num_candidates,
            is_training=True,
            num_retrieved=self.num_retrieved,
            wish_attributes=self.wish_attributes,
        )

    def _example(
        self, user: int, rng: np.random.Generator, tasks: Sequence[str], position: int | None = None
    ) -> Request | None:
        if position is None:
            position = self._draw_position(user, rng)
        is_whole = any(TASKS[name].needs_whole_history for name in tasks)
        first = 0 if is_whole else max(0, position - self.history_length)
        events = self.train.events(self.train.rows_of(user, rng)[first : position + 3])
        history, target, upcoming = (
            events[: position - first],
            events[position - first],
            events[position - first + 1 :],
        )
        case = Case(self.train.users[user], history, target)
        source = self._source(rng)
        for name in tasks:
            request = TASKS[name].example(case, source, upcoming)
            if request is not None:
                if name in WITHOUT_HISTORY and rng.random() < SHARE_WITHOUT_HISTORY:
                    request["history"] = []
                return request | {"next": target.item_id}
        return None

    def set_epoch(self, epoch: int) -> None:
        """New windows and tasks; the Trainer calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.users)

    def _tasks_and_positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each row of this epoch the task's place among the names, and where its window ends: drawn for all rows at
        once, which for one after the other would take minutes."""
        if self._drawn is None or self._drawn[0] != self.epoch:
            # Numpy takes what is missing of a seed as 0: without the 1 row 0 would draw the same numbers.
            rng = np.random.default_rng((self.seed, self.epoch, 0, 1))
            bounds = np.cumsum(list(self.probabilities.values()))[:-1]
            lengths = self.train.lengths
            tasks, positions = np.empty(len(self), dtype=np.uint8), np.empty(len(self), dtype=np.int32)
            for start in range(0, len(self), ROWS_AT_ONCE):
                rows = slice(start, min(start + ROWS_AT_ONCE, len(self)))
                of_task, of_position = rng.random((rows.stop - start, 2)).T
                tasks[rows] = np.searchsorted(bounds, of_task, side="right")
                if self.positions is not None:
                    positions[rows] = self.positions[rows]
                    continue
                of_users = lengths[self.users[rows]]
                first = self._first_positions(of_users)
                positions[rows] = first + (of_position * (of_users - first)).astype(np.int64)
            self._drawn = self.epoch, tasks, positions
        return self._drawn[1:]

    def _first_positions(self, lengths: Any) -> Any:
        """Of histories of these lengths: a window that ends earlier than a history is long reads less of it."""
        return np.minimum(self.history_length, lengths - 1) if self.windows == "whole" else np.ones_like(lengths)

    def _draw_position(self, user: int, rng: np.random.Generator) -> int:
        length = self.train.length_of(user)
        return int(rng.integers(self._first_positions(length), length))

    def __getitem__(self, index: int) -> Request:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        names = list(self.probabilities)
        of_tasks, positions = self._tasks_and_positions()
        first = int(of_tasks[index])
        request = self._example(int(self.users[index]), rng, names[first : first + 1], int(positions[index]))
        # An interaction that the task cannot use, such as an unrated one, is replaced by another, so that each task
        # has its share; after `MAX_DRAWS_OF_TASK` of them any task will do.
        draws = 0
        while request is None:
            if draws == MAX_DRAWS:
                raise ValueError(
                    f"{MAX_DRAWS} interactions in a row cannot be used by any of the tasks {', '.join(names)}."
                )
            draws += 1
            others = names[first + 1 :] + names[:first] if draws >= MAX_DRAWS_OF_TASK else []
            tasks = [names[first], *(name for name in others if self.probabilities[name])]
            request = self._example(int(rng.choice(self.users)), rng, tasks)
        return request
