"""Evaluation protocols: which interactions are trained on and which are predicted; each split documents its leaks.

Nothing is copied: the parts of a split are views by user and position.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime

import numpy as np

from .catalogue import Catalogue
from .cell_values import as_seconds
from .history import Case, Histories

logger = logging.getLogger(__name__)
MOST_NEW = 0.2  # of the items that are sold


class Targets:
    """Positions in histories to be predicted from everything before them.

    Args:
        histories (`Histories`): whole histories, targets included.
        users (`np.ndarray` of shape `(num_targets,)`): user indices into `histories`.
        positions (`np.ndarray` of shape `(num_targets,)`): index of each target in its user's history, at least 1.
    """

    def __init__(self, histories: Histories, users: np.ndarray, positions: np.ndarray):
        self.histories = histories
        self.users = np.asarray(users, dtype=np.int64)
        self.positions = np.asarray(positions, dtype=np.int64)
        if self.users.shape != self.positions.shape or self.users.ndim != 1:
            raise ValueError(
                f"users has shape {self.users.shape}, positions {self.positions.shape}. Expected one of each a target."
            )
        if len(self.users) and not (0 <= self.users.min() and self.users.max() < len(histories)):
            raise ValueError(f"targets name users outside 0 to {len(histories) - 1}.")
        if np.any(self.positions < 1) or np.any(self.positions >= histories.lengths[self.users]):
            raise ValueError("a target is outside its user's history or first in it. Expected a history before it.")

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, i: int) -> Case:
        return self.latest(i)

    def latest(self, i: int, length: int | None = None) -> Case:
        """Returns the `i`-th case with the latest `length` interactions of its history, or all of them."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"target {i} of {len(self)}")
        u, position = int(self.users[i]), int(self.positions[i])
        start = 0 if length is None else max(position - length, 0)
        *history, target = self.histories.of(u, start, position + 1)
        return Case(self.histories.users[u], history, target)

    def item_ids_before(self, i: int) -> list[str]:
        """Returns the items of the `i`-th target's history, oldest first."""
        items = self.histories.items_of(int(self.users[i]))[: int(self.positions[i])]
        return [self.histories.catalogue.item_id(number) for number in items]

    def take(self, chosen: np.ndarray) -> "Targets":
        """Returns the targets with these numbers, in the order given."""
        return Targets(self.histories, self.users[chosen], self.positions[chosen])

    def __iter__(self) -> Iterator[Case]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Targets({len(self)} of {self.histories!r})"

    @property
    def rows(self) -> np.ndarray:
        """Rows of the targets in the columns of `histories`, shape `(num_targets,)`."""
        return self.histories.starts[:-1][self.users] + self.positions

    def sample(self, n: int, seed: int = 0) -> "Targets":
        """Returns `n` random targets in their old order (all of them if there are no more)."""
        if n >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), size=n, replace=False)))


@dataclass
class Split:
    """What is trained on and what is asked.

    Attributes:
        name (`str`): the protocol.
        train (`Histories`): what may be learnt from; users without any such interaction are not in it.
        validation, test (`Targets`): one target a user.
        new_users (`Targets`, *optional*): last interactions of users of whom nothing is in `train`.
        new_domain (`Targets`, *optional*): targets in a domain of which nothing is in `train`; see `hold_out_domain`.
        new_items (`np.ndarray`, *optional*): of bool `(N,)`: listed, and nobody is known to have taken them; see
            `new_items_of`.
        removed (`dict[str, int]`): what is left out, by reason, from the source table on.
        leaks (`str`): what `train` tells about the time after a test question, in words, with numbers.
    """

    name: str
    train: Histories
    validation: Targets
    test: Targets
    new_users: Targets | None = None
    new_domain: Targets | None = None
    new_items: np.ndarray | None = None
    removed: dict[str, int] = field(default_factory=dict)
    leaks: str = ""


def new_items_of(
    train: Histories, core: np.ndarray, counts: np.ndarray, held_out: np.ndarray | None = None
) -> np.ndarray | None:
    """Items that are sold and that nobody took yet: they go by what they are.

    Such an item may also be one that nobody wants. Where no more items were never taken than once or twice, they are
    the end of a long tail; where they are more than a fifth of what is sold, the shop is like that for long. They are
    not new then.

    Args:
        train (`Histories`): the training part.
        core (`np.ndarray` of shape `(N,)`): how often each item is taken in what was split.
        counts (`np.ndarray` of shape `(N,)`): the same of the whole table: who was taken there and is not in the core
            is known, and too seldom taken to be learnt.
        held_out (`np.ndarray` of bool, `(N,)`, *optional*): items kept out of the training to be asked for: new,
            however many they are.

    Returns:
        `np.ndarray`: of bool `(N,)`; `None` where there are none.
    """
    available = np.array(train.catalogue.available)
    asked_for = np.zeros(len(available), dtype=bool) if held_out is None else held_out & available
    others = available & ~asked_for
    is_untaken = (train.item_counts() == 0) & ~((counts > 0) & (core == 0)) & others
    num_rare = int((others & ((counts == 1) | (counts == 2))).sum())
    if not num_rare < is_untaken.sum() <= MOST_NEW * available.sum():
        is_untaken[:] = False
    is_new: np.ndarray = is_untaken | asked_for
    return is_new if is_new.any() else None


def k_core(histories: Histories, k: int = 5) -> Histories:
    """Keeps users and items with at least `k` interactions each, again and again until all that is left has them.

    Repeated interactions of one user with one item count each time. Counts of what goes are added to `removed`.

    Raises:
        ValueError: `k` is less than 1, or nothing is left.
    """
    if k < 1:
        raise ValueError(f"k is {k}. Expected at least 1.")
    user_of, item_of = histories.user_numbers, histories.item_numbers
    keep = np.ones(histories.num_interactions, dtype=bool)
    while True:
        user_counts = np.bincount(user_of[keep], minlength=len(histories))
        item_counts = np.bincount(item_of[keep], minlength=len(histories.catalogue))
        still = keep & (user_counts[user_of] >= k) & (item_counts[item_of] >= k)
        if still.sum() == keep.sum():
            break
        keep = still
    if not keep.any():
        raise ValueError(
            f"no interaction of {histories!r} survives the {k}-core, where each user and each item has at least {k}. "
            "Choose a smaller k (k_core of a recipe; 1 keeps all)."
        )
    core = histories.where(keep).select_users(np.flatnonzero(user_counts))
    items_before = int((histories.item_counts() > 0).sum())
    removed = {
        f"interactions outside the {k}-core": int((~keep).sum()),
        f"users outside the {k}-core": len(histories) - len(core),
        f"items outside the {k}-core (they stay in the catalogue)": items_before - int((item_counts > 0).sum()),
    }
    _count(core.removed, removed)
    return core


def leave_last_out(histories: Histories, new_users: float = 0.1, seed: int = 0) -> Split:
    """The paper's protocol: a user's last interaction is the test, the one before validation, the rest training.

    The history of a test case includes the validation interaction. Users with fewer than 3 interactions are trained
    on and not asked.

    Args:
        histories (`Histories`): usually a [`k_core`].
        new_users (`float`, *optional*, defaults to `0.1`): share of the users with at least 3 interactions that is
            held out wholly; their last interactions are `Split.new_users` (None if the share is 0).
        seed (`int`, *optional*, defaults to `0`): chooses these users.
    """
    if not 0 <= new_users < 1:
        raise ValueError(f"new_users is {new_users}. Expected a share from 0 to below 1, such as 0.1.")
    lengths = histories.lengths
    askable = np.flatnonzero(lengths >= 3)
    if len(askable) == 0:
        raise ValueError(f"no user of {histories!r} has 3 interactions. Expected training, validation and test each.")
    num_new = round(new_users * len(askable))
    held_out = np.zeros(len(histories), dtype=bool)
    held_out[np.random.default_rng(seed).choice(askable, size=num_new, replace=False)] = True

    asked = askable[~held_out[askable]]
    if len(asked) == 0:
        raise ValueError(f"new_users={new_users} holds out all {len(askable)} users. Choose a smaller share.")
    newcomers = np.flatnonzero(held_out)
    ends = np.where(lengths >= 3, lengths - 2, lengths)
    train = histories.truncate(ends).select_users(np.flatnonzero(~held_out & (ends > 0)))
    test = Targets(histories, asked, lengths[asked] - 1)
    removed = dict(histories.removed)
    _count(removed, {"users with fewer than 3 interactions, trained on and not asked": int((lengths < 3).sum())})

    times = histories.timestamps[test.rows]
    before = histories.timestamps[test.rows - 1]
    newer = 1 - np.searchsorted(np.sort(train.timestamps), times, side="right") / train.num_interactions
    leaks = (
        "Leave-last-out is no split in time: "
        f"{_percent(newer)} of the training interactions are newer than a test target, on average over the targets, "
        "so training knows which items became popular later. "
        f"{_percent(times == before)} of the test targets have the timestamp of the interaction before them, "
        "so their order is only that of the file. " + _seen_before(test)
    )
    return Split(
        name="leave_last_out",
        train=train,
        validation=Targets(histories, asked, lengths[asked] - 2),
        test=test,
        new_users=Targets(histories, newcomers, lengths[newcomers] - 1) if num_new else None,
        removed=removed,
        leaks=leaks,
    )


def by_time(
    histories: Histories, validation_from: float | str | date | datetime, test_from: float | str | date | datetime
) -> Split:
    """Splits at two moments, as a shop lives through them: training is everything before `validation_from`.

    The validation target of a user is the first interaction from `validation_from` to before `test_from`, the test
    target the first from `test_from` on; both with everything before them as history (a test history may hold
    interactions of the validation time). Later interactions are not asked; users without a history are not asked.

    Args:
        histories (`Histories`): timestamps in seconds if the moments are given as dates.
        validation_from, test_from (`float`, `str`, `date` or `datetime`): seconds, or a date ("2020-09-15", UTC).
    """
    begin, end = as_seconds(validation_from), as_seconds(test_from)
    times = histories.timestamps
    if not begin < end:
        raise ValueError(f"validation_from={validation_from!r} is not before test_from={test_from!r}. Swap them.")
    if not times.min() < begin or not times.max() >= end:
        raise ValueError(
            f"the interactions reach from {times.min():.0f} to {times.max():.0f}, the split is at {begin:.0f} and "
            f"{end:.0f}. Expected interactions before the first and from the second moment on."
        )
    user_of, num_users = histories.user_numbers, len(histories)
    before_validation = np.bincount(user_of[times < begin], minlength=num_users)
    before_test = np.bincount(user_of[times < end], minlength=num_users)
    lengths = histories.lengths

    validation_users = np.flatnonzero((before_validation > 0) & (before_test > before_validation))
    test_users = np.flatnonzero((before_test > 0) & (lengths > before_test))
    train = histories.truncate(before_validation).select_users(np.flatnonzero(before_validation))
    test = Targets(histories, test_users, before_test[test_users])
    num_asked = len(validation_users) + len(test_users)
    removed = dict(histories.removed)
    _count(
        removed,
        {
            "users without an interaction before validation_from, not trained on": int((before_validation == 0).sum()),
            "users without a history before their first test interaction, not asked": int(
                ((before_test == 0) & (lengths > 0)).sum()
            ),
            "interactions from validation_from on that are neither trained on nor asked": int((times >= begin).sum())
            - num_asked,
        },
    )
    unseen = train.item_counts()[histories.item_numbers[test.rows]] == 0
    leaks = (
        "Nothing in training is newer than a question. "
        f"{_percent(unseen)} of the test targets are items without a training interaction. " + _seen_before(test)
    )
    return Split(
        name="by_time",
        train=train,
        validation=Targets(histories, validation_users, before_validation[validation_users]),
        test=test,
        removed=removed,
        leaks=leaks,
    )


def hold_out_domain(histories: Histories, catalogue: Catalogue, domain: str) -> tuple[Histories, Targets]:
    """Takes one domain out of the histories and asks for it.

    Returns:
        `tuple[Histories, Targets]`: the histories without any interaction in `domain` (users left empty are removed
        and counted), and each user's last interaction in it, with everything that user did before, of any domain, as
        history. What a user did in other domains after the target stays in the histories: they are no split in time.

    Raises:
        ValueError: no item has this domain, nobody interacted with it after another interaction, or nothing is left.
    """
    domains = catalogue.column("domain")
    inside_item = np.array([name == domain for name in domains], dtype=bool)
    if not inside_item.any():
        known = sorted({name for name in domains if name is not None})
        what = f"it has {', '.join(map(repr, known[:10]))}" if known else "its items have no domain"
        raise ValueError(f"no item of the catalogue is of domain {domain!r}; {what}. Choose one of them.")
    inside = inside_item[histories.item_numbers]
    rest = histories.where(~inside)
    if rest.num_interactions == 0:
        raise ValueError(f"all interactions are in domain {domain!r}. Nothing would be left to train on.")
    kept = rest.select_users(np.flatnonzero(rest.lengths))
    _count(
        kept.removed,
        {
            f"interactions held out in domain {domain!r}": int(inside.sum()),
            f"users with interactions in domain {domain!r} alone": len(histories) - len(kept),
        },
    )
    positions = np.arange(histories.num_interactions) - np.repeat(histories.starts[:-1], histories.lengths)
    last = np.full(len(histories), -1)
    last[histories.user_numbers[inside]] = positions[inside]  # rows are in time order: the last write stays
    users = np.flatnonzero(last >= 1)
    if len(users) == 0:
        raise ValueError(f"nobody has an interaction in domain {domain!r} after an earlier one. Nothing can be asked.")
    return kept, Targets(histories, users, last[users])


def _seen_before(targets: Targets) -> str:
    """How often the target, of which a user has one, is an item of the user's own history: what excluding seen items
    would make impossible."""
    histories = targets.histories
    asked, rows = np.full(len(histories), -1), np.zeros(len(histories), dtype=np.int64)
    asked[targets.users], rows[targets.users] = histories.item_numbers[targets.rows], targets.rows
    user_of = histories.user_numbers
    is_again = (histories.item_numbers == asked[user_of]) & (np.arange(len(user_of)) < rows[user_of])
    seen = np.bincount(user_of[is_again], minlength=len(histories))[targets.users] > 0
    return f"{_percent(seen)} of the test targets are items the user had before."


def _percent(shares: np.ndarray) -> str:
    return f"{100 * shares.mean() if len(shares) else 0:.1f} %"


def _count(removed: dict[str, int], reasons: dict[str, int]) -> None:
    for reason, count in reasons.items():
        if count:
            removed[reason] = removed.get(reason, 0) + count
            logger.info("split: %d %s", count, reason)
