"""Who did what, in time order: the interactions table as numpy columns, grouped by user.

Only text (explanations) stays in Arrow and is read when a history is asked for; rows never become dicts.
"""

import logging
import operator
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .bounds import short_repr
from .catalogue import Catalogue
from .table_columns import (
    are_plain_numbers,
    checked_rows,
    has_text,
    ids_as_text,
    numbers_of,
    seconds_of,
    table_of,
    text_column,
    unwrapped,
)
from .tables import arrow_table, find_table, read_table, say_unused

try:  # comes with datasets; inside `try` so that Hub export does not list it as a requirement of its own
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError as error:
    raise ImportError("UniMP reads its tables with pyarrow; pip install datasets brings it") from error

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

REQUIRED_COLUMNS = ("user_id", "item_id", "timestamp")
OPTIONAL_COLUMNS = ("rating", "explanation")
COLUMNS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS
KEPT = "the interaction is kept without it"


@dataclass(frozen=True)
class Interaction:
    """One thing a user did with one item.

    Attributes:
        item_id (`str`): an item of the catalogue.
        timestamp (`float`): seconds since 1970 (UTC), or the plain number of a table that counts otherwise.
        rating (`float`, *optional*): 1 to 5.
        explanation (`str`, *optional*): why the item suits the user or does not.
    """

    item_id: str
    timestamp: float
    rating: float | None = None
    explanation: str | None = None


@dataclass(frozen=True)
class Case:
    """One question to a model: what a user had done, oldest first, and what came next."""

    user_id: str
    history: list[Interaction]
    target: Interaction


class Histories:
    """Histories of all users, each in time order; equal timestamps keep the order of the file.

    Users are in order of their first row in the file. Make one with [`Histories.load`],
    [`Histories.from_interactions`] or [`Histories.from_dataset`]; the parts of a split are `Histories` too and share
    the text.

    Attributes:
        catalogue (`Catalogue`): the items.
        users (`list[str]`): user ids, unique.
        starts (`np.ndarray` of shape `(num_users + 1,)`): user `u` has the rows `starts[u]` to `starts[u + 1]`.
        item_numbers, timestamps (`np.ndarray` of shape `(num_interactions,)`): the rows; timestamps in seconds.
        ratings (`np.ndarray` of shape `(num_interactions,)`): 1 to 5, NaN where there is none.
        removed (`dict[str, int]`): what the source held and this object does not, by reason.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        users: list[str],
        starts: np.ndarray,
        item_numbers: np.ndarray,
        timestamps: np.ndarray,
        ratings: np.ndarray,
        rows: np.ndarray,
        texts: dict[str, "pa.ChunkedArray"],
        has_text: dict[str, np.ndarray],
        removed: dict[str, int],
    ):
        self.catalogue = catalogue
        self.users = users
        self.starts = starts
        self.item_numbers = item_numbers
        self.timestamps = timestamps
        self.ratings = ratings
        self.removed = removed
        self._rows = rows  # of the source table, where the text is
        self._texts = texts
        self._has_text = has_text
        self._index: dict[str, int] | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], catalogue: Catalogue) -> "Histories":
        """Reads an interactions table.

        Args:
            path (`str` or `Path`): a .parquet, .jsonl, .json or .csv file (.gz too), or a folder that holds one
                `interactions.<ext>`, with the columns `user_id`, `item_id`, `timestamp` (number, date or ISO text;
                seconds where it is a date; of numbers and dates in one column the fewer are removed) and optionally
                `rating` (1 to 5), `explanation`.
            catalogue (`Catalogue`): rows about other items are removed and counted in `removed`.

        Raises:
            ValueError: no such table, a required column is missing or of an unusable type, or no row is left.
        """
        return cls._build(read_table(find_table(path, "interactions"), COLUMNS), catalogue)

    @classmethod
    def from_interactions(cls, interactions: Iterable[dict[str, Any]], catalogue: Catalogue) -> "Histories":
        """Makes histories of dicts with the keys of an interactions table; see [`Histories.load`]."""
        rows = checked_rows(interactions, "interactions")
        say_unused(sorted({name for row in rows for name in row} - {*COLUMNS}), COLUMNS, "histories")
        return cls._build(table_of({name: row[name] for name in COLUMNS if name in row} for row in rows), catalogue)

    @classmethod
    def from_dataset(cls, dataset: Any, catalogue: Catalogue) -> "Histories":
        """Makes histories of a `datasets.Dataset` with the columns of an interactions table; see `load`."""
        table = arrow_table(dataset)
        say_unused([name for name in table.column_names if name not in COLUMNS], COLUMNS, "histories")
        return cls._build(table, catalogue)

    @classmethod
    def _build(cls, table: "pa.Table", catalogue: Catalogue) -> "Histories":
        if missing := [name for name in REQUIRED_COLUMNS if name not in table.column_names]:
            raise ValueError(
                f"the interactions table has no column {', '.join(map(repr, missing))}; it has "
                f"{', '.join(table.column_names) or 'none'}. Rename the columns; without times, write the row number."
            )
        if len(table) == 0:
            raise ValueError("the interactions table is empty. Expected at least one row.")
        user_ids = ids_as_text(table["user_id"], "user_id")
        names = pc.unique(user_ids.drop_null())
        user_of = pc.index_in(user_ids, value_set=names).fill_null(-1).to_numpy()
        item_ids = ids_as_text(table["item_id"], "item_id")
        known = pa.array(catalogue.item_ids, pa.string())
        items = pc.index_in(item_ids, value_set=known).fill_null(-1).to_numpy()
        times, strange = seconds_of(table["timestamp"], "timestamp")
        stray, what = _among_others(table["timestamp"], np.isfinite(times))

        has_user, has_time = user_of >= 0, np.isfinite(times) & ~stray
        keep = has_user & has_time & (items >= 0)
        removed = {  # each row counts once, under the first reason that holds
            "interactions without user_id": ~has_user,
            "interactions without timestamp": has_user & ~has_time & ~strange & ~stray,
            f"interactions with a timestamp that cannot be read{_such_as(table['timestamp'], strange)}": has_user
            & strange,
            f"interactions with a timestamp that is {what}{_such_as(table['timestamp'], stray)}": has_user & stray,
            "interactions with an item that is not in the catalogue": has_user & has_time & (items < 0),
        }
        if not keep.any():
            counts = ", ".join(f"{int(mask.sum())} {reason}" for reason, mask in removed.items())
            raise ValueError(
                f"no interaction is usable: {counts}. The table names items such as "
                f"{pc.unique(item_ids.drop_null())[:3].to_pylist()}, the catalogue {catalogue.item_ids[:3]}; "
                "ids must be equal as text, leading zeros included."
            )
        ratings = np.full(len(table), np.nan)
        if "rating" in table.column_names:
            ratings, strange = numbers_of(table["rating"], "rating")
            removed[f"ratings that are no number{_such_as(table['rating'], strange)} ({KEPT})"] = keep & strange
        outside = keep & ~np.isnan(ratings) & ~((ratings >= 1) & (ratings <= 5))
        ratings[outside] = np.nan
        removed[f"ratings outside 1-5 ({KEPT})"] = outside
        counted = {reason: int(mask.sum()) for reason, mask in removed.items() if mask.any()}
        for reason, count in counted.items():
            logger.info("histories: removed %d %s", count, reason)

        rows = np.flatnonzero(keep)
        rows = rows[np.lexsort((times[rows], user_of[rows]))]  # a stable sort: ties stay in file order
        lengths = np.bincount(user_of[rows], minlength=len(names))
        present = lengths > 0
        texts = {name: text_column(table[name], name) for name in ("explanation",) if name in table.column_names}
        return cls(
            catalogue,
            users=names.filter(pa.array(present)).to_pylist(),
            starts=np.concatenate([[0], np.cumsum(lengths[present])]),
            item_numbers=items[rows].astype(np.int64),
            timestamps=times[rows],
            ratings=ratings[rows],
            rows=rows,
            texts=texts,
            has_text={name: has_text(column) for name, column in texts.items()},
            removed=counted,
        )

    def to_dataset(self) -> "Dataset":
        """Returns the interactions as a table that [`Histories.from_dataset`] takes: user by user, in time order.

        Columns of which nothing is filled are left out, and so are users without any interaction.
        """
        from datasets import Dataset

        columns = {
            "user_id": pa.array(self.users, pa.string()).take(pa.array(self.user_numbers)),
            "item_id": pa.array(self.catalogue.item_ids, pa.string()).take(pa.array(self.item_numbers)),
            "timestamp": pa.array(self.timestamps),
        }
        if self.has_ratings:
            columns["rating"] = pa.array(self.ratings, from_pandas=True)  # NaN becomes null
        for name, column in self._texts.items():
            filled = self._has_text[name][self._rows]
            if filled.any():
                texts = column.cast(pa.large_string()).take(pa.array(self._rows))
                columns[name] = pc.if_else(pa.array(filled), texts, pa.scalar(None, pa.large_string()))
        return Dataset(pa.table(columns))

    def __len__(self) -> int:
        return len(self.users)

    def __iter__(self) -> Iterator[str]:
        return iter(self.users)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._user_index()

    def __getitem__(self, user_id: str) -> list[Interaction]:
        index = self._user_index().get(user_id)
        if index is None:
            raise ValueError(
                f"user {short_repr(user_id)} is not among the {len(self)} users, for example {self.users[:3]}. "
                "User ids are text; use histories.of(u) for the u-th user."
            )
        return self.of(index)

    def __repr__(self) -> str:
        return f"Histories({len(self)} users, {self.num_interactions} interactions, {len(self.catalogue)} items)"

    def _user_index(self) -> dict[str, int]:
        if self._index is None:
            self._index = {user_id: u for u, user_id in enumerate(self.users)}
        return self._index

    @property
    def num_interactions(self) -> int:
        """Number of interactions of all users."""
        return len(self.item_numbers)

    @property
    def lengths(self) -> np.ndarray:
        """Number of interactions of each user, shape `(num_users,)`."""
        return np.diff(self.starts)

    @property
    def user_numbers(self) -> np.ndarray:
        """Index of the user of each interaction, shape `(num_interactions,)`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def has_ratings(self) -> bool:
        """Whether any interaction has a rating."""
        return bool(np.isfinite(self.ratings).any())

    def of(self, u: int, start: int = 0, stop: int | None = None) -> list[Interaction]:
        """Returns the interactions of the `u`-th user, oldest first; `start` and `stop` cut like a slice."""
        first, last = self._bounds(u)
        return self.events(np.arange(first, last)[start:stop])

    def rows_of(self, u: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Returns the rows of the `u`-th user, for `events`, oldest first, shape `(length,)`.

        Args:
            u (`int`): the user's number.
            rng (`np.random.Generator`, *optional*): draws the order of interactions of one timestamp, such as those of
                one basket, which have none; without it they come as in the table.
        """
        first, last = self._bounds(u)
        times = self.timestamps[first:last]
        if rng is None or not (times[1:] == times[:-1]).any():
            return np.arange(first, last)
        return first + np.lexsort((rng.random(last - first), times))

    def events(self, chosen: np.ndarray) -> list[Interaction]:
        """Returns the interactions of these rows, in their order."""
        texts = {name: self._text(name, chosen) for name in self._texts}
        nothing: list[str | None] = [None] * len(chosen)
        return [
            Interaction(
                item_id=self.catalogue.item_id(self.item_numbers[row]),
                timestamp=float(self.timestamps[row]),
                rating=None if np.isnan(self.ratings[row]) else float(self.ratings[row]),
                explanation=texts.get("explanation", nothing)[position],
            )
            for position, row in enumerate(chosen)
        ]

    def items_of(self, u: int) -> np.ndarray:
        """Returns the item numbers of the `u`-th user, oldest first, shape `(length,)`."""
        first, last = self._bounds(u)
        return self.item_numbers[first:last]

    def length_of(self, u: int) -> int:
        """Returns the number of interactions of the `u`-th user."""
        first, last = self._bounds(u)
        return last - first

    def item_counts(self) -> np.ndarray:
        """Returns how many interactions each item of the catalogue has, shape `(num_items,)`: its popularity."""
        return np.bincount(self.item_numbers, minlength=len(self.catalogue))

    def share_again(self) -> float:
        """Returns the share of the interactions, but for the first of each user, whose item the user had before."""
        # Sorted, not np.unique, which hashes integers: ten times slower at 1e7 interactions.
        pairs = np.sort(self.user_numbers * len(self.catalogue) + self.item_numbers)
        num_following = self.num_interactions - int((self.lengths > 0).sum())
        return int((pairs[1:] == pairs[:-1]).sum()) / max(num_following, 1)

    @property
    def are_explained(self) -> np.ndarray:
        """Whether each interaction has an explanation that is not blank, shape `(num_interactions,)`."""
        if "explanation" not in self._texts:
            return np.zeros(self.num_interactions, dtype=bool)
        found: np.ndarray = self._has_text["explanation"][self._rows]
        return found

    def explanations(self) -> list[str]:
        """Returns all explanations that are not blank, user by user, oldest first."""
        if "explanation" not in self._texts:
            return []
        rows = self._rows[self.are_explained]
        found: list[str] = self._texts["explanation"].take(pa.array(rows)).to_pylist()
        return found

    def truncate(self, ends: np.ndarray) -> "Histories":
        """Keeps the first `ends[u]` interactions of each user `u` (all if there are fewer); users stay, even empty."""
        ends = np.asarray(ends)
        if ends.shape != (len(self),) or (len(ends) and ends.min() < 0):
            raise ValueError(f"ends has shape {ends.shape}. Expected {len(self)} counts of 0 or more, one a user.")
        position = np.arange(self.num_interactions) - np.repeat(self.starts[:-1], self.lengths)
        return self.where(position < np.repeat(ends, self.lengths))

    def where(self, keep: np.ndarray) -> "Histories":
        """Keeps the interactions where the mask `keep` of shape `(num_interactions,)` is True; users stay."""
        if keep.shape != (self.num_interactions,):
            raise ValueError(f"keep has shape {keep.shape}. Expected one truth value an interaction.")
        lengths = np.bincount(self.user_numbers[keep], minlength=len(self))
        return self._take(np.flatnonzero(keep), self.users, lengths)

    def select_users(self, indices: Iterable[int] | np.ndarray) -> "Histories":
        """Keeps the users with these indices, in the order given."""
        chosen = np.asarray(list(indices) if not isinstance(indices, np.ndarray) else indices, dtype=np.int64)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise ValueError(
                f"user indices reach from {chosen.min()} to {chosen.max()}. Expected 0 to {len(self) - 1}."
            )
        if len(chosen) and np.bincount(chosen).max() > 1:
            raise ValueError("a user index is given twice. Expected each user once.")
        lengths = self.lengths[chosen]
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = np.repeat(self.starts[:-1][chosen], lengths) + offsets
        return self._take(rows, [self.users[u] for u in chosen], lengths)

    def _take(self, rows: np.ndarray, users: list[str], lengths: np.ndarray) -> "Histories":
        return Histories(
            self.catalogue,
            users=users,
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            item_numbers=self.item_numbers[rows],
            timestamps=self.timestamps[rows],
            ratings=self.ratings[rows],
            rows=self._rows[rows],
            texts=self._texts,
            has_text=self._has_text,
            removed=dict(self.removed),
        )

    def _bounds(self, u: int) -> tuple[int, int]:
        u = operator.index(u)
        if not 0 <= u < len(self):
            raise ValueError(f"user index {u} is out of range. Expected 0 to {len(self) - 1}.")
        return int(self.starts[u]), int(self.starts[u + 1])

    def _text(self, name: str, chosen: np.ndarray) -> list[str | None]:
        column, has_text = self._texts[name], self._has_text[name]
        rows = self._rows[chosen]
        return [column[int(row)].as_py() if has_text[row] else None for row in rows]


def _among_others(column: "pa.ChunkedArray", is_time: np.ndarray) -> tuple[np.ndarray, str]:
    """Plain numbers among dates, or dates among plain numbers, whichever are fewer; and what to call them."""
    numbers = are_plain_numbers(column) & is_time
    dates = is_time & ~numbers
    if not numbers.any() or not dates.any():
        return np.zeros(len(column), dtype=bool), "of another kind"
    if numbers.sum() <= dates.sum():
        return numbers, "a plain number among dates"
    return dates, "a date among plain numbers"


def _such_as(column: "pa.ChunkedArray", strange: np.ndarray) -> str:
    """The first of the values that cannot be read, to be named."""
    return f", such as {short_repr(unwrapped(column)[int(strange.argmax())].as_py())}" if strange.any() else ""
