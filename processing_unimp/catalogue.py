"""The items of a shop: attributes, picture and token number (the row in this table, which only grows).

Tables stay in Arrow columns (memory-mapped those of parquet); rows that were added or changed since are dicts.
"""

import contextlib
import difflib
import hashlib
import itertools
import logging
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from .bounds import short_repr
from .catalogue_file import CATALOGUE_FILE, write_catalogue
from .cell_values import id_as_text
from .item_pictures import ItemPictures, Source
from .processor_manifest import check_hash
from .shop_lock import ShopLock
from .table_columns import (
    ROWS_AT_ONCE,
    attribute_column,
    checked_rows,
    has_name,
    ids_as_text,
    image_column,
    is_text,
    misspelt,
    numbers_where_lossless,
    table_of,
    unwrapped,
)
from .tables import arrow_table, find_table, kind_of, read_table, say_unused

try:  # comes with datasets; inside `try` so that Hub export does not list it as a requirement of its own
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError as error:
    raise ImportError("UniMP reads its tables with pyarrow; pip install datasets brings it") from error

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SPECIAL_COLUMNS = ("item_id", "image", "domain", "retired", "picture_codes")
NO_CODE = -1  # in the codes of an item without a picture
# An id that is not known is compared with so many known ones at most.
_NUM_LOOKED_AT, _NUM_COMPARED = 50_000, 200


def _retired_column(column: "pa.ChunkedArray") -> np.ndarray:
    flags = {None: False, "true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    words = [None if value is None else str(value).lower() for value in unwrapped(column).to_pylist()]
    if strange := sorted({word for word in words if word not in flags}, key=str)[:3]:
        raise ValueError(f"column 'retired' holds {strange}. Expected true or false.")
    return np.array([flags[word] for word in words], dtype=bool)


def _codes_column(column: "pa.ChunkedArray") -> np.ndarray | None:
    if not column.null_count < len(column):
        return None
    column = unwrapped(column)
    try:
        # Lists in a table of items are lists of text.
        codes = pc.list_flatten(column).cast(pa.int64())
        fits = codes.null_count == 0 and pc.all(pc.and_(pc.less_equal(NO_CODE, codes), pc.less(codes, 2**31))).as_py()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # no lists, or not of numbers
        fits = False
    if fits is False:
        one = short_repr(column.drop_null()[0].as_py())
        raise ValueError(
            f"column 'picture_codes' holds {one} and the like. Expected lists of whole numbers from 0, the codes of a "
            "picture; rename the column if it says something else."
        )
    has_codes = column.is_valid().to_numpy()
    lengths = pc.unique(pc.list_value_length(column).drop_null()).to_pylist()
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            f"column 'picture_codes' holds {sorted(lengths)} codes a picture. Expected one number of them."
        )
    found = np.full((len(column), lengths[0]), NO_CODE, dtype=np.int32)
    found[has_codes] = codes.to_numpy().reshape(-1, lengths[0])
    return found


class Changes(NamedTuple):
    """What an update comes to: numbers of items, their rows as they will be, and the pictures that are exchanged."""

    numbers: list[int]
    rows: list[dict[str, Any]]
    sources: dict[int, Source]
    kinds: dict[str, Any]


class Catalogue:
    """The items of a shop in a fixed order: an item's row is the number of its token.

    The order is append-only: items are added at the end and retired in place, so a trained model keeps its rows.
    Make one with [`Catalogue.load`], [`Catalogue.from_items`] or [`Catalogue.from_dataset`].

    Attributes:
        attributes (`list[str]`): attribute names in schema order (all columns but item_id, image, domain, retired and
            picture_codes).
        removed (`dict[str, int]`): why rows of the source are not in the catalogue, and how many.
        num_updates (`int`): how often items were changed; caches of their words or pictures compare it.
        lock (`ShopLock`): held by a pipeline while it answers from the catalogue, or changes it.
    """

    def __init__(self, table: "pa.Table", image_root: str | os.PathLike[str] | None = None):
        if "item_id" not in table.column_names:
            raise ValueError(
                f"the items table has no column 'item_id'; it has {', '.join(table.column_names) or 'no columns'}. "
                "Rename the column that identifies an item."
            )
        self.removed: dict[str, int] = {}
        ids = ids_as_text(table["item_id"], "item_id")
        if ids.null_count:
            self.removed["rows without item_id"] = ids.null_count
            logger.info("catalogue: removed %d rows without item_id", ids.null_count)
            table, ids = table.filter(ids.is_valid()), ids.drop_null()
        if len(ids) == 0:
            raise ValueError("the items table is empty. Expected at least one row with an item_id.")
        self.item_ids: list[str] = ids.to_pylist()
        self._number = {item_id: number for number, item_id in enumerate(self.item_ids)}
        if len(self._number) < len(self.item_ids):
            self._raise_duplicates(self.item_ids)

        names = [name for name in table.column_names if name not in SPECIAL_COLUMNS and has_name(name)]
        say_unused([name for name in table.column_names if not has_name(name)], (), "catalogue")
        for name in misspelt(names, SPECIAL_COLUMNS):
            logger.warning(
                "catalogue: column %s is read as an attribute. Call it %r if it is that; names are read as they are "
                "written.",
                short_repr(name),
                name.strip().lower(),
            )
        self.attributes: list[str] = names
        columns = {"item_id": ids, **{name: attribute_column(table[name], name) for name in names}}
        if "domain" in table.column_names:
            columns["domain"] = ids_as_text(table["domain"], "domain")
        self._table = pa.table(columns)
        images = image_column(table["image"]) if "image" in table.column_names else None
        self._pictures = ItemPictures(self.item_ids, images, image_root if image_root is not None else Path())
        # Rows of items that were added or changed since, by number; they come before the table.
        self._newer: dict[int, dict[str, Any]] = {}
        self._kinds: dict[str, Any] = {field.name: field.type for field in self._table.schema}
        retired = _retired_column(table["retired"]) if "retired" in table.column_names else None
        self._retired = np.zeros(len(ids), dtype=bool) if retired is None else retired
        self._offered: np.ndarray | None = None
        self._codes = _codes_column(table["picture_codes"]) if "picture_codes" in table.column_names else None
        self._digest: Any = None
        self.num_updates = 0
        self.lock = ShopLock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_digest": None}  # which cannot be pickled, and is made again

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        image_root: str | os.PathLike[str] | None = None,
        verify: bool = True,
    ) -> "Catalogue":
        """Reads an items table.

        Args:
            path (`str` or `Path`): a .parquet, .jsonl, .json or .csv file (.gz too), or a folder that holds one
                `items.<ext>` or `catalogue.parquet`. Cells of a CSV are text unless a whole column is numeric without
                leading zeros; ids are always text.
            image_root (`str` or `Path`, *optional*, defaults to the table's folder): where relative picture paths
                start, and what no picture path may lead out of.
            verify (`bool`, *optional*, defaults to `True`): whether the catalogue of a processor has to be what was
                saved.

        Raises:
            ValueError: no such table, no item_id column, no rows, duplicate item ids, a column of an unusable type, a
                row that cannot be read, a file that was damaged or exchanged.
        """
        file = find_table(path, "items", also=[CATALOGUE_FILE])
        if verify:
            check_hash(file)
        table = read_table(file)
        if kind_of(file) == "csv":
            plain = (name not in SPECIAL_COLUMNS and is_text(table[name].type) for name in table.column_names)
            table = pa.table(
                {
                    name: numbers_where_lossless(column) if is_plain else column
                    for name, column, is_plain in zip(table.column_names, table.columns, plain, strict=True)
                }
            )
        return cls(table, image_root=file.parent if image_root is None else image_root)

    @classmethod
    def from_items(
        cls, items: Iterable[Mapping[str, Any]], image_root: str | os.PathLike[str] | None = None
    ) -> "Catalogue":
        """Makes a catalogue of item dicts.

        Args:
            items (`list[dict]`): each with `"item_id"`, any attributes, optional `"image"` (path, bytes, dict or PIL
                picture), `"domain"` and `"retired"`. Missing keys, None and NaN are missing values; a column of mixed
                kinds becomes text, or lists of text if one value is a list.
            image_root (`str` or `Path`, *optional*, defaults to the working directory): where relative picture paths
                start, and what no picture path may lead out of.
        """
        return cls(table_of(checked_rows(items, "items")), image_root=image_root)

    @classmethod
    def from_dataset(cls, dataset: "Dataset", image_root: str | os.PathLike[str] | None = None) -> "Catalogue":
        """Makes a catalogue of a `datasets.Dataset` (one split, not streamed) with the columns of an items table."""
        return cls(arrow_table(dataset), image_root=image_root)

    def save(self, folder: str | os.PathLike[str], images: bool = True) -> None:
        """Writes `catalogue.parquet` into `folder`; an interrupted save leaves the old file as it was.

        Args:
            folder (`str` or `Path`): made if it does not exist.
            images (`bool`, *optional*, defaults to `True`): embed the picture files as bytes, each once it was
                decoded. A missing or broken one is written as no picture and named in a warning. With `False` the
                column is left out.
        """
        table = self._current_table()
        if self._retired.any():
            table = table.append_column("retired", pa.array(self._retired[: len(table)]))
        if self._codes is not None:
            known: Any = self.picture_codes
            codes = [None if row[0] == NO_CODE else row for row in known[: len(table)]]
            table = table.append_column("picture_codes", pa.array(codes, pa.list_(pa.int32())))
        write_catalogue(Path(folder), table, self._pictures if images and self._pictures.has_column else None)

    def __len__(self) -> int:
        return len(self.item_ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._number

    def __repr__(self) -> str:
        return f"Catalogue({len(self)} items, attributes {self.attributes}, {int(self._retired.sum())} retired)"

    def number(self, item_id: str) -> int:
        """Returns the row of an item, the number of its token; an unknown id is a `ValueError` with close ids. A whole
        number is the id that is written so, as in tables and requests."""
        try:
            return self._number[item_id]
        except (KeyError, TypeError):
            text = short_repr(item_id)
        with contextlib.suppress(ValueError):
            text = id_as_text(item_id, "the id") or text
        if text in self._number:
            return self._number[text]
        closest = ", ".join(map(short_repr, self._close_ids(text)))
        raise ValueError(
            f"item {short_repr(item_id)} is not among the {len(self)} items of the catalogue; the closest ids are "
            f"{closest}. Ids are text and keep leading zeros; correct the id, or add the item with "
            "catalogue.add([...])."
        )

    def item_id(self, number: int) -> str:
        """Returns the id of the item with this token number."""
        number = operator.index(number)
        if not 0 <= number < len(self):
            raise ValueError(f"item number {number} is outside the catalogue. Expected 0 to {len(self) - 1}.")
        return self.item_ids[number]

    def item(self, item_id: str) -> dict[str, Any]:
        """Returns item_id, all attributes (None where missing) and, if the table has one, domain; not the picture."""
        return dict(self._row(self.number(item_id)))

    def items(self) -> Iterator[dict[str, Any]]:
        """Yields what `item` returns of each item in the order of their numbers, much faster than one by one."""
        size = len(self)
        for start in range(0, len(self._table), ROWS_AT_ONCE):
            for number, row in enumerate(self._table.slice(start, ROWS_AT_ONCE).to_pylist(), start):
                yield dict(self._newer.get(number, row))
        yield from (dict(self._newer[number]) for number in range(len(self._table), size))

    def column(self, name: str) -> list[Any]:
        """Returns one column (an attribute, item_id or domain) in catalogue order, None where a value is missing."""
        if name == "domain" and name not in self._kinds:
            return [None] * len(self)
        if name not in self._kinds:
            raise ValueError(f"the catalogue has no column {name!r}. Expected one of {', '.join(self._kinds)}.")
        values: list[Any] = self._table[name].to_pylist()
        values += [None] * (len(self) - len(values))
        for number, row in list(self._newer.items()):
            if number < len(values):  # not added this moment
                values[number] = row[name]
        return values

    def domain(self, item_id: str) -> str | None:
        """Returns the domain of an item, None if it or the whole table has none."""
        domain: str | None = self._row(self.number(item_id)).get("domain")
        return domain

    @property
    def unreadable_pictures(self) -> dict[str, str]:
        """Item id to reason, for pictures found missing or broken so far."""
        return self._pictures.unreadable

    def has_picture(self, item_id: str) -> bool:
        """Returns whether an item has a picture that exists and is not known to be broken (it is not decoded here)."""
        return self._pictures.has(self.number(item_id))

    def picture(self, item_id: str) -> Image.Image | None:
        """Returns the picture of an item as upright RGB, or None.

        None means no picture, or one that is missing or broken: then the reason is in `unreadable_pictures`, and a
        warning was given the first time.
        """
        return self._pictures.open(self.number(item_id))

    def picture_digests(self) -> np.ndarray:
        """A number for the picture of each item, `(N,)` of uint64, 0 where there is none: equal for equal files, also
        after saving, so that what was made of pictures is known to be of these. Every file is read."""
        return np.fromiter(map(self._pictures.digest, range(len(self))), np.uint64, len(self))

    def picture_of(self, source: Source) -> Image.Image | None:
        """The picture of a [`Changes`], None where there is none or it cannot be read."""
        return self._pictures.open_source(source)

    @property
    def picture_codes(self) -> np.ndarray | None:
        """Codes of all pictures, `(N, codes of a picture)` of int32, -1 where an item has none; `None` before
        [`Catalogue.set_picture_codes`]."""
        if self._codes is not None and len(self._codes) < len(self):
            missing = np.full((len(self) - len(self._codes), self._codes.shape[1]), NO_CODE, dtype=np.int32)
            self._codes = np.concatenate([self._codes, missing])
        return self._codes

    def set_picture_codes(self, codes: np.ndarray) -> None:
        """Keep the codes of all pictures, as an image codec reads them; they are saved with the catalogue.

        Args:
            codes (`np.ndarray` of shape `(N, codes of a picture)`): -1 in the rows of items without a picture.
        """
        codes = np.asarray(codes, dtype=np.int32)
        if codes.ndim != 2 or len(codes) != len(self) or codes.shape[1] < 1:
            raise ValueError(
                f"picture codes of shape {codes.shape}: expected ({len(self)}, codes of a picture), a row an item."
            )
        if ((codes < 0).any(axis=1) != (codes == NO_CODE).all(axis=1)).any():
            raise ValueError("picture codes: expected whole rows of codes from 0, or of -1 for an item without them.")
        self._codes = codes
        self.num_updates += 1

    def has_picture_codes(self, item_id: str) -> bool:
        """Returns whether the picture of an item is known as codes."""
        number, codes = self.number(item_id), self._codes
        return codes is not None and number < len(codes) and bool(codes[number, 0] != NO_CODE)

    @property
    def available(self) -> np.ndarray:
        """`np.ndarray` of `bool`, one an item: False for retired items (a copy)."""
        return ~self._retired

    @property
    def offered(self) -> np.ndarray:
        """Numbers of the available items, in their order; kept from one call to the next."""
        offered = self._offered
        if offered is None:
            self._offered = offered = np.flatnonzero(~self._retired)
        return offered

    def is_available(self, item_id: str) -> bool:
        """Returns whether an item is sold, that is, not retired."""
        return not self._retired[self.number(item_id)]

    @property
    def version(self) -> tuple[int, int]:
        """Equal as long as no item was added or changed."""
        return len(self), self.num_updates

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 over the item ids in order: equal for equal token numbers."""
        if self._digest is None:
            self._digest = _digest_of(hashlib.sha256(), self.item_ids)
        fingerprint: str = self._digest.hexdigest()[:16]
        return fingerprint

    def fingerprint_with(self, added: "Catalogue") -> str:
        """The fingerprint that the catalogue will have once these items are appended."""
        self.fingerprint  # noqa: B018  (makes the digest)
        fingerprint: str = _digest_of(self._digest.copy(), added.item_ids).hexdigest()[:16]
        return fingerprint

    def add(self, items: Iterable[Mapping[str, Any]]) -> list[int]:
        """Appends new items and returns their numbers; items already here keep theirs.

        Args:
            items (`list[dict]`): as in [`Catalogue.from_items`], with no attribute that the catalogue does not have.
                Relative image paths start where the others do. Whole numbers become fractions where one is brought.

        Raises:
            ValueError: an id is missing, known already or given twice, or an attribute is new; nothing is added then.
        """
        added = self.checked_additions(items)
        return self.append(added) if added is not None else []

    def checked_additions(self, items: Iterable[Mapping[str, Any]]) -> "Catalogue | None":
        """New items as a catalogue of their own, `None` for no items; errors are those of `add`."""
        rows = checked_rows(items, "new items")
        if not rows:
            return None
        self._check_names(rows, "new items bring")
        added = self._of_rows(rows)
        if added.removed:
            raise ValueError(f"{len(rows) - len(added)} of {len(rows)} new items have no item_id. Give each one.")
        if double := [item_id for item_id in added.item_ids if item_id in self._number]:
            raise ValueError(f"{len(double)} new items are in the catalogue already: {_some(double)}. Leave them out.")
        return added

    def append(self, added: "Catalogue") -> list[int]:
        """Takes in what [`Catalogue.checked_additions`] made; returns the new numbers. It cannot fail."""
        numbers = list(range(len(self), len(self) + len(added)))
        nothing = dict.fromkeys(self._kinds)
        self._newer.update({n: nothing | row for n, row in zip(numbers, added._table.to_pylist(), strict=True)})
        self._pictures.replace({n: added._pictures.source(place) for place, n in enumerate(numbers)})
        self._kinds |= added._kinds
        self._retired, self._offered = np.concatenate([self._retired, added._retired]), None
        if self._digest is not None:
            self._digest = _digest_of(self._digest.copy(), added.item_ids)
        self._number.update(zip(added.item_ids, numbers, strict=True))
        self.item_ids.extend(added.item_ids)  # last: a thread that reads len() meanwhile sees only complete items
        return numbers

    def update(self, items: Iterable[Mapping[str, Any]]) -> list[int]:
        """Changes attributes, prices or pictures of items, and returns their numbers.

        A pipeline whose model reads item rows from text or pictures has to know:
        [`PersonalizationPipeline.update_items`] calls this.

        Args:
            items (`list[dict]`): each with an `"item_id"` of the catalogue and what is to change; None takes a value
                or the picture away, and what is not named stays.

        Raises:
            ValueError: an id is not known or given twice, an attribute is new, or a value does not fit its column;
                nothing is changed then.
        """
        changes = self.checked_changes(items)
        return self.change(changes) if changes is not None else []

    def checked_changes(self, items: Iterable[Mapping[str, Any]]) -> Changes | None:
        """What `update` would do, `None` for no items; errors are those of `update`."""
        named = checked_rows(items, "changed items")
        if not named:
            return None
        self._check_names(named, "changed items bring")
        if any("retired" in row for row in named):
            raise ValueError("'retired' is not changed here: call catalogue.retire or catalogue.unretire.")
        changed = self._of_rows(named)
        if changed.removed:
            raise ValueError(f"{len(named) - len(changed)} of {len(named)} changed items have no item_id.")
        numbers = [self.number(item_id) for item_id in changed.item_ids]
        rows = [
            self._row(number) | {name: value for name, value in row.items() if name in own}
            for number, row, own in zip(numbers, changed._table.to_pylist(), named, strict=True)
        ]
        sources = {n: changed._pictures.source(place) for place, n in enumerate(numbers) if "image" in named[place]}
        return Changes(numbers, rows, sources, changed._kinds)

    def change(self, changes: Changes) -> list[int]:
        """Takes in what [`Catalogue.checked_changes`] made; returns the numbers. It cannot fail."""
        self._newer.update(zip(changes.numbers, changes.rows, strict=True))
        self._pictures.replace(changes.sources)
        self._kinds |= changes.kinds
        for number in changes.sources:
            if self._codes is not None and number < len(self._codes):
                self._codes[number] = NO_CODE
        self.num_updates += 1
        return changes.numbers

    def retire(self, item_ids: Iterable[str]) -> None:
        """Marks items as no longer sold: they keep their numbers, stay readable, and are not `available`."""
        self._retired[self._numbers(item_ids)] = True
        self._offered = None

    def unretire(self, item_ids: Iterable[str]) -> None:
        """Sells items again that were retired."""
        self._retired[self._numbers(item_ids)] = False
        self._offered = None

    def _numbers(self, item_ids: Iterable[str]) -> list[int]:
        if not isinstance(item_ids, Iterable):
            raise ValueError(f"item ids came as {type(item_ids).__name__}: expected a list of ids.")
        return [self.number(item_id) for item_id in ([item_ids] if isinstance(item_ids, str) else item_ids)]

    def _check_names(self, rows: list[dict[str, Any]], what: str) -> None:
        known = {*self._kinds, "item_id", "image", "retired"}
        if new := [
            name
            for name in dict.fromkeys(name for row in rows for name in row)
            if name not in known and has_name(name)
        ]:
            raise ValueError(
                f"{what} {', '.join(map(short_repr, new[:5]))}, which the catalogue does not have. Expected "
                f"{', '.join(sorted(known))}; the model has never read other attributes. Drop them, or build a new "
                "catalogue."
            )

    def _of_rows(self, rows: list[dict[str, Any]]) -> "Catalogue":
        """Rows in the kinds of this catalogue's columns, or in wider ones that its values fit into."""
        table = table_of(({"item_id": None} | dict(row) for row in rows), self._kinds)
        new = Catalogue(table, self._pictures.folder.root)
        for name, kind in new._kinds.items():
            if kind != self._kinds[name]:
                try:
                    self._table[name].cast(kind)
                except pa.ArrowInvalid as error:
                    raise ValueError(
                        f"attribute {name!r} holds whole numbers that are too large to become fractions: {error}."
                    ) from error
        return new

    def _row(self, number: int) -> dict[str, Any]:
        row = self._newer.get(number)
        if row is None:
            row = self._table.slice(number, 1).to_pylist()[0]
        return row

    def _current_table(self) -> "pa.Table":
        """The table with all that was added or changed since."""
        size = len(self)
        rows_of = {number: row for number, row in list(self._newer.items()) if number < size}  # others may come now
        if not rows_of:
            return self._table
        schema = pa.schema(list(self._kinds.items()))
        newer = table_of(rows_of.values(), self._kinds).select(schema.names).cast(schema)
        rows = np.arange(size)
        rows[list(rows_of)] = len(self._table) + np.arange(len(newer))
        return pa.concat_tables([self._table.cast(schema), newer]).take(pa.array(rows))

    def _raise_duplicates(self, item_ids: list[str]) -> None:
        seen: set[str] = set()
        double = list(dict.fromkeys(item_id for item_id in item_ids if item_id in seen or seen.add(item_id)))  # type: ignore[func-returns-value]
        raise ValueError(
            f"{len(double)} item ids occur more than once: {_some(double)}. "
            "Expected one row an item; merge or remove the duplicates."
        )

    def _close_ids(self, item_id: str) -> list[str]:
        """Ids that may have been meant; without a look at all of a large catalogue."""
        bare = item_id.strip()[:100].lstrip("0").removesuffix(".0")
        close = [
            each for each in (item_id.strip(), *("0" * zeros + bare for zeros in range(12))) if each in self._number
        ]
        first = itertools.islice(self.item_ids, _NUM_LOOKED_AT)
        alike = [known for known in first if known[:2] == item_id[:2] and len(known) <= 100][:_NUM_COMPARED]
        close += difflib.get_close_matches(item_id[:100], alike or self.item_ids[:_NUM_COMPARED], n=3, cutoff=0.3)
        return list(dict.fromkeys(close + self.item_ids[:3]))[:3]


def _digest_of(digest: Any, item_ids: Iterable[str]) -> Any:
    for item_id in item_ids:
        digest.update(item_id.encode() + b"\0")
    return digest


def _some(names: list[str]) -> str:
    return ", ".join(map(short_repr, names[:5])) + (", ..." if len(names) > 5 else "")
