"""The items of a shop: attributes, picture and token number (the row in this table, which only grows).

Tables come through 🤗 datasets and stay in Arrow columns (memory-mapped where datasets maps them).
"""

import csv
import difflib
import gzip
import hashlib
import io
import logging
import math
import operator
import os
import tempfile
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from .picture import UnreadablePicture, open_picture

try:  # comes with datasets; inside `try` so that Hub export does not list it as a requirement of its own
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError("UniMP reads its tables with pyarrow; pip install datasets brings it") from error

logger = logging.getLogger(__name__)

SPECIAL_COLUMNS = ("item_id", "image", "domain", "retired", "picture_codes")
NO_CODE = -1  # in the codes of an item without a picture
TABLE_KINDS = ("parquet", "jsonl", "json", "csv")
_NUM_PICTURE_WARNINGS = 5
_IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def find_table(path: str | os.PathLike[str], stem: str, also: Sequence[str] = ()) -> Path:
    """Returns the table file at `path`: the file itself, or `<stem>.<kind>` (or one of `also`) in that folder."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"there is no file or folder at {str(path)!r}. Expected the {stem} table or its folder.")
    names = [f"{stem}.{kind}{packed}" for kind in TABLE_KINDS for packed in ("", ".gz")] + list(also)
    found = [name for name in names if (path / name).is_file()]
    if len(found) != 1:
        what = f"holds {' and '.join(found)}" if found else f"holds no {stem} table"
        raise ValueError(
            f"the folder {str(path)!r} {what}. Expected exactly one of {', '.join(names)}; pass the file."
        )
    return path / found[0]


def read_table(path: Path) -> Dataset:
    """Reads parquet, JSON (lines) or CSV, also gzipped, into a memory-mapped `datasets.Dataset`.

    CSV cells are read as text, so that ids keep their leading zeros; see `numbers_where_lossless`.
    """
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind not in TABLE_KINDS:
        raise ValueError(f"{str(path)!r} is of an unknown kind. Expected a file ending in {', '.join(TABLE_KINDS)}.")
    try:
        if kind == "parquet":
            return Dataset.from_parquet(str(path))
        if kind == "csv":
            # Only an empty cell is missing: an item called "NA" or "None" keeps its name.
            text = Features({name: Value("string") for name in _csv_header(path)})
            return Dataset.from_csv(str(path), features=text, keep_default_na=False, na_values=[""])
        return Dataset.from_json(str(path))
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(
            f"cannot read the table {str(path)!r} as {kind}: {type(cause).__name__}: {cause}. "
            "Expected one row an item or interaction with the same type in all rows of a column."
        ) from error


def _csv_header(path: Path) -> list[str]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def arrow_table(dataset: Any) -> "pa.Table":
    """Returns the rows of a `datasets.Dataset` as an Arrow table (class labels by name, pictures undecoded)."""
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"a table came as {type(dataset).__name__}. Expected a datasets.Dataset; "
            "choose one split of a DatasetDict, and load without streaming."
        )
    table = dataset.with_format("arrow")[:] if dataset._indices is not None else dataset.data.table
    for name, feature in dataset.features.items():
        if isinstance(feature, ClassLabel):
            labels = pa.chunked_array([pa.array(feature.names, pa.string())])
            column = labels.take(table[name].combine_chunks())
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def numbers_where_lossless(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Turns a CSV column of text into numbers if all of it is plainly numeric ('007' and '1e5' stay text)."""
    values = column.drop_null()
    if (
        len(values) == 0
        or not pc.all(pc.match_substring_regex(values, r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?$")).as_py()
    ):
        return column
    has_point = pc.any(pc.match_substring(values, ".")).as_py()
    return column.cast(pa.float64() if has_point else pa.int64())


def ids_as_text(column: "pa.ChunkedArray", name: str) -> "pa.ChunkedArray":
    """Returns a column of ids as text, with null where there is none (null, NaN or empty text)."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type
    if pa.types.is_floating(kind):  # whole numbers with gaps, as pandas stores them
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
        if not pc.all(pc.equal(pc.floor(column), column)).as_py() and column.null_count < len(column):
            raise ValueError(f"column {name!r} holds fractions. Expected ids as text or whole numbers.")
        column = column.cast(pa.int64())
    elif not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise ValueError(f"column {name!r} holds {kind}. Expected ids as text or whole numbers; convert it to text.")
    text = column.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def id_as_text(value: Any, name: str) -> str | None:
    """Returns one id as text, None where there is none; the rules of `ids_as_text` for a single value."""
    if isinstance(value, np.generic):
        value = value.item()
    if _is_missing(value) or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{name} {value!r} is {type(value).__name__}. Expected text or a whole number.")


def _is_text(kind: "pa.DataType") -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: "pa.DataType") -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _attribute_column(column: "pa.ChunkedArray", name: str) -> "pa.ChunkedArray":
    """Reduces the many Arrow types to text, whole numbers, numbers, truth values and lists of text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type
    if _is_text(kind) or pa.types.is_null(kind) or pa.types.is_temporal(kind):
        return column.cast(pa.string())
    if pa.types.is_boolean(kind):
        return column
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
        return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    if _is_list(kind):
        inner = kind.value_type
        if _is_text(inner) or pa.types.is_primitive(inner) or pa.types.is_null(inner):
            return column.cast(pa.list_(pa.string()))
    raise ValueError(
        f"column {name!r} holds {kind}. Expected text, numbers, truth values or lists of text; "
        "make one column of each part, or drop it."
    )


def _image_column(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    kind = column.type
    if kind == _IMAGE_TYPE:
        return column
    data, paths = pa.nulls(len(column), pa.binary()), pa.nulls(len(column), pa.string())
    if _is_text(kind):
        paths = pc.if_else(pc.equal(column, ""), pa.scalar(None, kind), column).cast(pa.string())
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        data = column
    elif pa.types.is_struct(kind) and {field.name for field in kind} & {"bytes", "path"}:
        names = {field.name for field in kind}
        data = pc.struct_field(column, "bytes") if "bytes" in names else data
        paths = pc.struct_field(column, "path") if "path" in names else paths
    elif not pa.types.is_null(kind):
        raise ValueError(
            f"column 'image' holds {kind}. Expected one picture an item: a path, bytes, or a datasets Image column."
        )
    data, paths = data.cast(pa.binary()), paths.cast(pa.string())
    if isinstance(data, pa.ChunkedArray) and not isinstance(paths, pa.ChunkedArray):
        paths = pa.chunked_array([paths])
    if isinstance(paths, pa.ChunkedArray) and not isinstance(data, pa.ChunkedArray):
        data = pa.chunked_array([data])
    if not isinstance(data, pa.ChunkedArray):
        return pa.chunked_array([pa.StructArray.from_arrays([data, paths], ["bytes", "path"])], _IMAGE_TYPE)
    parts = pa.table({"bytes": data, "path": paths}).to_batches()
    return pa.chunked_array([batch.to_struct_array() for batch in parts], _IMAGE_TYPE)


def _retired_column(column: "pa.ChunkedArray") -> np.ndarray:
    flags = {None: False, "true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    words = [None if value is None else str(value).lower() for value in column.to_pylist()]
    if strange := sorted({word for word in words if word not in flags}, key=str)[:3]:
        raise ValueError(f"column 'retired' holds {strange}. Expected true or false.")
    return np.array([flags[word] for word in words], dtype=bool)


def _codes_column(column: "pa.ChunkedArray") -> np.ndarray | None:
    rows = column.to_pylist()
    lengths = {len(row) for row in rows if row is not None}
    if not lengths:
        return None
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            f"column 'picture_codes' holds {sorted(lengths)} codes a picture. Expected one number of them."
        )
    missing = [NO_CODE] * lengths.pop()
    return np.array([missing if row is None else row for row in rows], dtype=np.int32)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any, name: str, item: str) -> Any:
    """Brings one attribute value of an item dict to None, bool, int, float, str or list of str."""
    if isinstance(value, np.generic):
        value = value.item()
    if _is_missing(value):
        return None
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        parts = [_plain(part, name, item) for part in (sorted(value) if isinstance(value, set | frozenset) else value)]
        if not any(isinstance(part, list) for part in parts):
            return [str(part) for part in parts if part is not None]
    raise ValueError(
        f"attribute {name!r} of item {item!r} is {type(value).__name__}: {str(value)[:60]}. "
        "Expected text, a number, a truth value or a list of those; split it into several attributes."
    )


def _column_of(values: list[Any], kind: "pa.DataType | None", name: str) -> "pa.Array":
    """An Arrow column of plain values; of `kind`, or of the narrowest type that holds all of them."""
    present = [value for value in values if value is not None]
    if kind is None:
        if any(isinstance(value, list) for value in present):
            kind = pa.list_(pa.string())
        elif present and all(isinstance(value, bool) for value in present):
            kind = pa.bool_()
        elif present and all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
            whole = all(isinstance(value, int) and abs(value) < 2**63 for value in present)
            kind = pa.int64() if whole else pa.float64()
        else:
            kind = pa.string()
    if _is_text(kind):
        values = [None if value is None else _as_text(value) for value in values]
    elif _is_list(kind):
        values = [value if value is None or isinstance(value, list) else [_as_text(value)] for value in values]
    elif pa.types.is_floating(kind):  # Arrow refuses whole numbers of more than 53 bits here
        values = [float(value) if isinstance(value, int) else value for value in values]
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(
            f"attribute {name!r} holds {kind} in this catalogue, but a new item brings something else: {error}. "
            "Give it in the same type."
        ) from error


def _as_text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _picture_source(value: Any, item: str) -> dict[str, Any] | None:
    if _is_missing(value) or value == "":
        return None
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, str | os.PathLike):
        return {"bytes": None, "path": os.fspath(value)}
    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        (value if value.mode in ("RGB", "RGBA", "L", "LA", "P", "1") else value.convert("RGB")).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}
    if isinstance(value, dict) and set(value) <= {"bytes", "path"}:
        return {"bytes": value.get("bytes"), "path": value.get("path")} if any(value.values()) else None
    raise ValueError(
        f"the image of item {item!r} came as {type(value).__name__}. "
        "Expected a path, bytes, a dict with bytes or path, or a PIL picture."
    )


class Catalogue:
    """The items of a shop in a fixed order: an item's row is the number of its token.

    The order is append-only: items are added at the end and retired in place, so a trained model keeps its rows.
    Make one with [`Catalogue.load`], [`Catalogue.from_items`] or [`Catalogue.from_dataset`].

    Attributes:
        attributes (`list[str]`): attribute names in schema order (all columns but item_id, image, domain, retired and
            picture_codes).
        removed (`dict[str, int]`): why rows of the source are not in the catalogue, and how many.
        unreadable_pictures (`dict[str, str]`): item id to reason, for pictures found missing or broken so far.
    """

    def __init__(self, table: "pa.Table", image_root: str | os.PathLike[str] | None = None):
        if "item_id" not in table.column_names:
            raise ValueError(
                f"the items table has no column 'item_id'; it has {', '.join(table.column_names) or 'no columns'}. "
                "Rename the column that identifies an item."
            )
        self.removed: dict[str, int] = {}
        self.unreadable_pictures: dict[str, str] = {}
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

        names = [name for name in table.column_names if name not in SPECIAL_COLUMNS]
        self.attributes: list[str] = names
        columns = {"item_id": ids, **{name: _attribute_column(table[name], name) for name in names}}
        if "domain" in table.column_names:
            columns["domain"] = ids_as_text(table["domain"], "domain")
        self._table = pa.table(columns)
        self._images = _image_column(table["image"]) if "image" in table.column_names else None
        self._image_root = Path(image_root) if image_root is not None else Path()
        self._has_source: np.ndarray | None = None
        retired = _retired_column(table["retired"]) if "retired" in table.column_names else None
        self._retired = np.zeros(len(ids), dtype=bool) if retired is None else retired
        self._codes = _codes_column(table["picture_codes"]) if "picture_codes" in table.column_names else None
        self._fingerprint: str | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Catalogue":
        """Reads an items table.

        Args:
            path (`str` or `Path`): a .parquet, .jsonl, .json or .csv file (.gz too), or a folder that holds one
                `items.<ext>` or `catalogue.parquet`. Relative image paths start at the table's folder. Cells of a CSV
                are text unless a whole column is numeric without leading zeros; ids are always text.

        Raises:
            ValueError: no such table, no item_id column, no rows, duplicate item ids, a column of an unusable type.
        """
        file = find_table(path, "items", also=["catalogue.parquet"])
        table = arrow_table(read_table(file))
        if ".csv" in file.suffixes:
            for position, name in enumerate(table.column_names):
                if name not in SPECIAL_COLUMNS and _is_text(table[name].type):
                    table = table.set_column(position, name, numbers_where_lossless(table[name]))
        return cls(table, image_root=file.parent)

    @classmethod
    def from_items(
        cls, items: Iterable[dict[str, Any]], image_root: str | os.PathLike[str] | None = None
    ) -> "Catalogue":
        """Makes a catalogue of item dicts.

        Args:
            items (`list[dict]`): each with `"item_id"`, any attributes, optional `"image"` (path, bytes, dict or PIL
                picture), `"domain"` and `"retired"`. Missing keys, None and NaN are missing values; a column of mixed
                kinds becomes text, or lists of text if one value is a list.
            image_root (`str` or `Path`, *optional*, defaults to the working directory): where relative paths start.
        """
        items = list(items)
        names = list(dict.fromkeys(name for item in items for name in item))
        return cls(_table_of(items, names, {}), image_root=image_root)

    @classmethod
    def from_dataset(cls, dataset: Dataset, image_root: str | os.PathLike[str] | None = None) -> "Catalogue":
        """Makes a catalogue of a `datasets.Dataset` (one split, not streamed) with the columns of an items table."""
        return cls(arrow_table(dataset), image_root=image_root)

    def save(self, folder: str | os.PathLike[str], images: bool = True) -> None:
        """Writes `catalogue.parquet` into `folder`; an interrupted save leaves the old file as it was.

        Args:
            folder (`str` or `Path`): made if it does not exist.
            images (`bool`, *optional*, defaults to `True`): embed the picture files as bytes. A missing file is
                written as no picture and named in a warning. With `False` the column is left out.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        table = self._table
        if self._retired.any():
            table = table.append_column("retired", pa.array(self._retired))
        if self._codes is not None:
            codes = [None if row[0] == NO_CODE else row for row in self._codes]
            table = table.append_column("picture_codes", pa.array(codes, pa.list_(pa.int32())))
        features = Features.from_arrow_schema(table.schema)
        with_images = images and self._images is not None
        if with_images:
            features["image"] = ImageFeature()
        rows_a_group = 100 if with_images else 10_000
        handle, name = tempfile.mkstemp(prefix=".catalogue-", suffix=".parquet", dir=folder)
        os.close(handle)
        try:
            with pq.ParquetWriter(name, features.arrow_schema) as writer:
                for start in range(0, len(self), rows_a_group):
                    part = table.slice(start, rows_a_group)
                    if with_images:
                        sources = [self._embedded(start + row) for row in range(len(part))]
                        part = part.append_column("image", pa.array(sources, _IMAGE_TYPE))
                    writer.write_table(part.cast(features.arrow_schema))
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, folder / "catalogue.parquet")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Pushes the items with their pictures to a dataset repository, as its configuration `items`.

        Args:
            repo_id (`str`): `ORG/NAME`; made if it does not exist. The interactions of [`Histories.push_to_hub`] may
                be in it. `load_dataset(repo_id, "items", split="train")` is what [`Catalogue.from_dataset`] takes.
            kwargs (*optional*): go to `Dataset.push_to_hub`, such as `private=True`; by default the repository is
                public. Codes of pictures are left out: they belong to the codec of one model.
        """
        kwargs.setdefault("config_name", "items")
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            dataset = Dataset.from_parquet(str(Path(folder) / "catalogue.parquet"), cache_dir=folder)
            if "picture_codes" in dataset.column_names:
                dataset = dataset.remove_columns("picture_codes")
            return dataset.push_to_hub(repo_id, **kwargs)

    def __len__(self) -> int:
        return len(self.item_ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._number

    def __repr__(self) -> str:
        return f"Catalogue({len(self)} items, attributes {self.attributes}, {int(self._retired.sum())} retired)"

    def number(self, item_id: str) -> int:
        """Returns the row of an item, the number of its token; an unknown id is a `ValueError` with close ids."""
        try:
            return self._number[item_id]
        except (KeyError, TypeError):
            raise ValueError(
                f"item {item_id!r} is not among the {len(self)} items of the catalogue; the closest ids are "
                f"{', '.join(map(repr, self._close_ids(str(item_id))))}. Ids are text and keep leading zeros; "
                "correct the id, or add the item with catalogue.add([...])."
            ) from None

    def item_id(self, number: int) -> str:
        """Returns the id of the item with this token number."""
        number = operator.index(number)
        if not 0 <= number < len(self):
            raise ValueError(f"item number {number} is outside the catalogue. Expected 0 to {len(self) - 1}.")
        return self.item_ids[number]

    def item(self, item_id: str) -> dict[str, Any]:
        """Returns item_id, all attributes (None where missing) and, if the table has one, domain; not the picture."""
        row: dict[str, Any] = self._table.slice(self.number(item_id), 1).to_pylist()[0]
        return row

    def column(self, name: str) -> list[Any]:
        """Returns one column (an attribute, item_id or domain) in catalogue order, None where a value is missing."""
        if name == "domain" and name not in self._table.column_names:
            return [None] * len(self)
        if name not in self._table.column_names:
            raise ValueError(
                f"the catalogue has no column {name!r}. Expected one of {', '.join(self._table.column_names)}."
            )
        values: list[Any] = self._table[name].to_pylist()
        return values

    def domain(self, item_id: str) -> str | None:
        """Returns the domain of an item, None if it or the whole table has none."""
        number = self.number(item_id)
        if "domain" not in self._table.column_names:
            return None
        domain: str | None = self._table["domain"][number].as_py()
        return domain

    def has_picture(self, item_id: str) -> bool:
        """Says whether an item has a picture that exists and is not known to be broken (it is not decoded here)."""
        number = self.number(item_id)
        if self._has_source is None or len(self._has_source) < len(self):
            self._has_source = self._find_sources()
        return bool(self._has_source[number]) and item_id not in self.unreadable_pictures

    def picture(self, item_id: str) -> Image.Image | None:
        """Returns the picture of an item as upright RGB, or None.

        None means no picture, or one that is missing or broken: then the reason is in `unreadable_pictures`, and a
        warning was given the first time.
        """
        number = self.number(item_id)
        source = self._source(number)
        if source is None or item_id in self.unreadable_pictures:
            return None
        try:
            return open_picture(source)
        except UnreadablePicture as error:
            self._record_unreadable(item_id, str(error))
            return None

    @property
    def picture_codes(self) -> np.ndarray | None:
        """Codes of all pictures, `(N, codes of a picture)` of int32, -1 where an item has none; `None` before
        [`Catalogue.set_picture_codes`]."""
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

    def has_picture_codes(self, item_id: str) -> bool:
        """Says whether the picture of an item is known as codes."""
        number = self.number(item_id)
        return self._codes is not None and bool(self._codes[number, 0] != NO_CODE)

    @property
    def available(self) -> np.ndarray:
        """`np.ndarray` of `bool`, one an item: False for retired items (a copy)."""
        return ~self._retired

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 over the item ids in order: equal for equal token numbers."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for item_id in self.item_ids:
                digest.update(item_id.encode() + b"\0")
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint

    def add(self, items: Iterable[dict[str, Any]]) -> list[int]:
        """Appends new items and returns their numbers; items already here keep theirs.

        Args:
            items (`list[dict]`): as in [`Catalogue.from_items`], with no attribute that the catalogue does not have.
                Relative image paths start where the others do.

        Raises:
            ValueError: an id is missing, known already or given twice, or an attribute is new; nothing is added then.
        """
        items = list(items)
        if not items:
            return []
        known = {*SPECIAL_COLUMNS, *self.attributes} - {"picture_codes"}
        if "domain" not in self._table.column_names:
            known.discard("domain")
        names = list(dict.fromkeys(name for item in items for name in item))
        if new := [name for name in names if name not in known]:
            raise ValueError(
                f"new items bring {', '.join(map(repr, new))}, which the catalogue does not have. Expected "
                f"{', '.join(sorted(known))}; the model has never read other attributes. Drop them, or build a new "
                "catalogue."
            )
        kinds = {field.name: field.type for field in self._table.schema}
        added = Catalogue(_table_of(items, list(dict.fromkeys(["item_id", *names])), kinds))
        if added.removed:
            raise ValueError(f"{len(items) - len(added)} of {len(items)} new items have no item_id. Give each one.")
        if double := [item_id for item_id in added.item_ids if item_id in self._number]:
            raise ValueError(f"{len(double)} new items are in the catalogue already: {_some(double)}. Leave them out.")

        missing = {name: pa.nulls(len(added), kind) for name, kind in kinds.items() if name not in names}
        columns = {name: missing[name] if name in missing else added._table[name] for name in kinds}
        start = len(self)
        self._table = pa.concat_tables([self._table, pa.table(columns, schema=self._table.schema)])
        if self._images is not None or added._images is not None:
            pictures = [_chunks(self._images, start), _chunks(added._images, len(added))]
            self._images = pa.chunked_array([chunk for part in pictures for chunk in part], _IMAGE_TYPE)
        self._retired = np.concatenate([self._retired, added._retired])
        if self._codes is not None:
            missing_codes = np.full((len(added), self._codes.shape[1]), NO_CODE, dtype=np.int32)
            self._codes = np.concatenate([self._codes, missing_codes])
        self.item_ids = self.item_ids + added.item_ids
        self._number.update({item_id: start + row for row, item_id in enumerate(added.item_ids)})
        self._fingerprint = None
        return list(range(start, len(self)))

    def retire(self, item_ids: Iterable[str]) -> None:
        """Marks items as no longer sold: they keep their numbers, stay readable, and are not `available`."""
        item_ids = [item_ids] if isinstance(item_ids, str) else item_ids
        self._retired[[self.number(item_id) for item_id in item_ids]] = True

    def _raise_duplicates(self, item_ids: list[str]) -> None:
        seen: set[str] = set()
        double = list(dict.fromkeys(item_id for item_id in item_ids if item_id in seen or seen.add(item_id)))  # type: ignore[func-returns-value]
        raise ValueError(
            f"{len(double)} item ids occur more than once: {_some(double)}. "
            "Expected one row an item; merge or remove the duplicates."
        )

    def _close_ids(self, item_id: str) -> list[str]:
        same = [known for known in (item_id.strip(), item_id.lstrip("0")) if known in self._number]
        pool = self.item_ids[:50_000]  # difflib takes seconds beyond
        same += [known for known in pool if known.lstrip("0") == item_id.lstrip("0")]
        close = difflib.get_close_matches(item_id, pool, n=3, cutoff=0.3)
        return list(dict.fromkeys(same + close + pool[:3]))[:3]

    def _source(self, number: int) -> dict[str, Any] | None:
        source = None if self._images is None else self._images[number].as_py()
        if source is None or (source["bytes"] is None and not source["path"]):
            return None
        if source["bytes"] is None and "://" not in source["path"]:
            source["path"] = str(self._image_root / source["path"])
        return {"bytes": source["bytes"], "path": source["path"]}

    def _embedded(self, number: int) -> dict[str, Any] | None:
        source = self._source(number)
        if source is None or source["bytes"] is not None:
            return source
        try:
            return {"bytes": Path(source["path"]).read_bytes(), "path": Path(source["path"]).name}
        except OSError as error:
            self._record_unreadable(self.item_ids[number], f"cannot read the file {source['path']!r}: {error}.")
            return None

    def _find_sources(self) -> np.ndarray:
        if self._images is None:
            return np.zeros(len(self), dtype=bool)
        found: np.ndarray = pc.struct_field(self._images, "bytes").is_valid().to_numpy().copy()
        listings: dict[str, set[str]] = {}
        for number, path in enumerate(pc.struct_field(self._images, "path").to_pylist()):
            if found[number] or not path:
                continue
            folder, name = os.path.split(self._image_root / path)
            if folder not in listings:  # one listing a folder instead of one question a file
                listings[folder] = _file_names(folder)
            found[number] = name in listings[folder]
            if not found[number] and self.item_ids[number] not in self.unreadable_pictures:
                place = path if "://" in path else os.path.join(folder, name)
                self._record_unreadable(self.item_ids[number], f"no picture file at {place!r}.")
        return found

    def _record_unreadable(self, item_id: str, reason: str) -> None:
        if item_id in self.unreadable_pictures:
            return
        self.unreadable_pictures[item_id] = reason
        count = len(self.unreadable_pictures)
        if count <= _NUM_PICTURE_WARNINGS:
            last = (
                " Further ones are only recorded in catalogue.unreadable_pictures."
                if count == _NUM_PICTURE_WARNINGS
                else ""
            )
            logger.warning("item %r is used without its picture: %s%s", item_id, reason, last)


def _table_of(items: list[dict[str, Any]], names: list[str], kinds: dict[str, Any]) -> "pa.Table":
    """The Arrow table of item dicts; `kinds` fixes the types of columns that exist already."""
    item_ids = [_plain(item.get("item_id"), "item_id", "without id") for item in items]
    columns: dict[str, Any] = {}
    for name in names:
        if name == "image":
            sources = [_picture_source(item.get(name), str(key)) for item, key in zip(items, item_ids, strict=True)]
            # Arrow's binary columns hold 2 GB a chunk
            chunks = [pa.array(sources[start : start + 500], _IMAGE_TYPE) for start in range(0, len(sources), 500)]
            columns[name] = pa.chunked_array(chunks, _IMAGE_TYPE)
            continue
        values = [_plain(item.get(name), name, str(key)) for item, key in zip(items, item_ids, strict=True)]
        if name in ("item_id", "domain"):
            columns[name] = pa.array([id_as_text(value, name) for value in values], pa.string())
        elif name == "retired":
            columns[name] = pa.array([None if value is None else str(value) for value in values], pa.string())
        else:
            columns[name] = _column_of(values, kinds.get(name), name)
    return pa.table(columns)


def _chunks(images: "pa.ChunkedArray | None", length: int) -> list[Any]:
    return [pa.nulls(length, _IMAGE_TYPE)] if images is None else list(images.chunks)


def _file_names(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:  # no such folder, or one that may not be read: its pictures are missing
        return set()


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
