"""Columns of a table: Python's values to Arrow, and the many Arrow types to the few kinds that we use.

Text, whole numbers, numbers, truth values, lists of text; ids as text; times as seconds; pictures as bytes or path.
"""

import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .bounds import check_columns, short_repr
from .cell_values import LARGEST_WHOLE_FLOAT, as_seconds, id_as_text, number_of, picture_source, plain_value

try:  # comes with datasets; inside `try` so that Hub export does not list it as a requirement of its own
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError as error:
    raise ImportError("UniMP reads its tables with pyarrow; pip install datasets brings it") from error

ID_COLUMNS = ("item_id", "user_id", "domain")
# Where a number or a time is expected, these words say that there is none.
NULL_WORDS = frozenset({"", "null", "none", "nan", "nat", "na", "n/a", "<na>", "\\n", "-"})
# The index of a data frame, under the names it gets.
_UNNAMED = re.compile(r"|Unnamed: [0-9]+(?:\.[0-9]+)?|__index_level_[0-9]+__")
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
ROWS_AT_ONCE = 10_000
BYTES_AT_ONCE = 64 * 2**20  # of the values of Python that become columns together; an Arrow column holds 2 GB a chunk


# ----------------------------------------------------------------------------------------------------------- names


def has_name(column: str) -> bool:
    """Whether somebody has named a column: others, such as the index of a data frame, are not used."""
    return not _UNNAMED.fullmatch(column)


def misspelt(columns: Iterable[str], known: Collection[str]) -> list[str]:
    """Columns that differ from a known one in capitals or blanks alone, and so are taken for another."""
    return [name for name in columns if name not in known and name.strip().lower() in known]


# ----------------------------------------------------------------------------------------------------- from Python


def checked_rows(rows: Any, what: str) -> list[dict[str, Any]]:
    """Rows given in Python, as a list of dicts; anything else, such as a data frame, is a `ValueError`."""
    if isinstance(rows, Mapping | str | bytes) or hasattr(rows, "iloc") or not isinstance(rows, Iterable):
        hint = " Of a data frame pass frame.to_dict('records')." if hasattr(rows, "iloc") else ""
        raise ValueError(f"{what} came as {type(rows).__name__}. Expected a list of dicts, one a row.{hint}")
    found = list(rows)
    for number, row in enumerate(found):
        if not isinstance(row, Mapping):
            raise ValueError(f"{what}: row {number} is {type(row).__name__}: {short_repr(row)}. Expected a dict.")
        if strange := [name for name in row if not isinstance(name, str)]:
            raise ValueError(f"{what}: a column is called {short_repr(strange[0])}. Expected text.")
    return found


def table_of(rows: Iterable[Mapping[str, Any]], kinds: Mapping[str, "pa.DataType"] | None = None) -> "pa.Table":
    """Makes columns of dicts: ids as text, all else of the narrowest kind that holds every value of a column as it is.

    Args:
        rows (`Iterable[Mapping]`): keys that a row lacks are missing values; read as it is needed.
        kinds (`Mapping[str, pa.DataType]`, *optional*): of columns that exist already. They are kept, but for whole
            numbers that fractions join.

    Raises:
        ValueError: a value of no usable kind, one that a column of a given kind does not hold, or too many columns.
    """
    parts: dict[str, list[Any]] = {}
    lengths: list[int] = []
    for some in _some_rows(rows):
        for name in dict.fromkeys(name for row in some for name in row):
            parts.setdefault(name, [pa.nulls(length) for length in lengths])
        check_columns(parts, "the table")
        for name, chunks in parts.items():
            chunks.append(_chunk([row.get(name) for row in some], name))
        lengths.append(len(some))
    columns = {name: _joined(chunks, name, (kinds or {}).get(name)) for name, chunks in parts.items()}
    return pa.table(columns)


def _some_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows of plain values, as many as are turned into columns at once."""
    some: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        read = {}
        for name, value in row.items():
            read[name] = value = _value_of(row, name, value)
            size += _size_of(value)
        some.append(read)
        if len(some) == ROWS_AT_ONCE or size > BYTES_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _value_of(row: Mapping[str, Any], name: str, value: Any) -> Any:
    if name in ID_COLUMNS:
        return id_as_text(value, name)
    if name == "image":
        return picture_source(value, f"item {short_repr(row.get('item_id'))}")
    try:
        return plain_value(value, "")
    except ValueError:  # whose words take longer than the value
        what = f"attribute {short_repr(name)} of item {short_repr(row.get('item_id'))}"
        return plain_value(value, what)


def _size_of(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(len, value)) + 16 * len(value)
    if isinstance(value, dict):
        return len(value["bytes"] or "")
    return len(value) if isinstance(value, str) else 0


def _chunk(values: list[Any], name: str) -> "pa.Array":
    if name in ID_COLUMNS or name == "image":
        return pa.array(values, IMAGE if name == "image" else pa.string())
    return _as_kind(values, _narrowest({_kind_of(value) for value in values if value is not None}, values))


def _kind_of(value: Any) -> "pa.DataType":
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if abs(value) < 2**63 else pa.float64()
    if isinstance(value, float):
        return pa.float64()
    return pa.list_(pa.string()) if isinstance(value, list) else pa.string()


def _narrowest(kinds: set[Any], values: Iterable[Any]) -> "pa.DataType":
    """One kind for values of several; `values` are looked at where whole numbers would become fractions."""
    if any(is_list(kind) for kind in kinds):
        return pa.list_(pa.string())
    if len(kinds) == 1 and kinds != {pa.float64()}:
        return next(iter(kinds))
    if kinds and kinds <= {pa.int64(), pa.float64()}:
        exact = all(float(value) == value for value in values if isinstance(value, int))
        return pa.float64() if exact else pa.string()
    return pa.string() if kinds else pa.null()


def _joined(chunks: list[Any], name: str, given: "pa.DataType | None") -> "pa.ChunkedArray":
    """The chunks of one column, brought to one kind."""
    if name in ID_COLUMNS or name == "image":
        kind = IMAGE if name == "image" else pa.string()
    else:
        kinds = {chunk.type for chunk in chunks} - {pa.null()}
        kind = _narrowest(kinds, (value for chunk in chunks for value in chunk.to_pylist()))
        if given is not None:
            kind = _kept(given, kind, chunks, name)
        kind = pa.string() if pa.types.is_null(kind) else kind
    return pa.chunked_array([_recast(chunk, kind) for chunk in chunks], kind)


def _recast(chunk: "pa.Array", kind: "pa.DataType") -> "pa.Array":
    if chunk.type == kind:
        return chunk
    return pa.nulls(len(chunk), kind) if pa.types.is_null(chunk.type) else _as_kind(chunk.to_pylist(), kind)


def _kept(given: "pa.DataType", new: "pa.DataType", chunks: list[Any], name: str) -> "pa.DataType":
    """The kind of a column that new values join: its own, or fractions where it held whole numbers."""
    if new in (given, pa.null()) or is_text(given) or is_list(given):
        return given
    values = [value for chunk in chunks for value in chunk.to_pylist() if value is not None]
    if (given, new) == (pa.int64(), pa.float64()):
        # 21.0 fits into a column of whole numbers; 21.5 makes it one of fractions.
        whole = all(float(value).is_integer() and abs(value) <= LARGEST_WHOLE_FLOAT for value in values)
        return given if whole else pa.float64()
    if (given, new) == (pa.float64(), pa.int64()) and all(abs(value) <= LARGEST_WHOLE_FLOAT for value in values):
        return given
    raise ValueError(
        f"attribute {name!r} holds {given} in this catalogue, but a new item brings {short_repr(values[0])}. "
        "Give it in the same type."
    )


def _as_kind(values: list[Any], kind: "pa.DataType") -> "pa.Array":
    if is_text(kind):
        values = [None if value is None else _as_text(value) for value in values]
    elif is_list(kind):
        values = [value if value is None or isinstance(value, list) else [_as_text(value)] for value in values]
    elif pa.types.is_floating(kind):  # Arrow refuses whole numbers of more than 53 bits here
        values = [float(value) if isinstance(value, int) else value for value in values]
    elif pa.types.is_integer(kind):
        values = [int(value) if isinstance(value, float) else value for value in values]
    return pa.array(values, kind)


def _as_text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


# ------------------------------------------------------------------------------------------------------- from Arrow


def is_text(kind: "pa.DataType") -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: "pa.DataType") -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def unwrapped(column: "pa.ChunkedArray", errors: str = "replace") -> "pa.ChunkedArray":
    """The same values without Arrow's other ways to store them: dictionaries, runs, views, extensions.

    Args:
        column (`pa.ChunkedArray`)
        errors (`str`, *optional*, defaults to `"replace"`): what becomes of text that some writers store without it
            being UTF-8, as of `bytes.decode`.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return pa.chunked_array([pa.array([_text_or_none(each) for each in column.to_pylist()], pa.string())])
        chunks = [chunk.storage for chunk in column.chunks]
        return unwrapped(pa.chunked_array(chunks, kind.storage_type), errors)
    if pa.types.is_dictionary(kind):
        return unwrapped(column.cast(kind.value_type), errors)
    if pa.types.is_run_end_encoded(kind):
        decoded = [pc.run_end_decode(chunk) for chunk in column.chunks]
        return unwrapped(pa.chunked_array(decoded, kind.value_type), errors)
    if pa.types.is_string_view(kind):
        column = column.cast(pa.large_string())
    elif pa.types.is_binary_view(kind):
        column = column.cast(pa.large_binary())
    elif pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        column = pa.chunked_array(
            [with_entries(chunk, chunk.flatten()) for chunk in column.chunks], pa.large_list(kind.value_type)
        )
    return _in_utf8(column, errors) if is_text(column.type) or is_list(column.type) else column


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value if isinstance(value, uuid.UUID) else uuid.UUID(bytes=value))


def with_entries(lists: "pa.Array", entries: "pa.Array") -> "pa.Array":
    """Lists of the lengths of others, of any kind, with other entries in the same order."""
    # No view of lists by a cast, which of pyarrow 26 gives empty ones.
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pa.LargeListArray.from_arrays(ends, entries, mask=lists.is_null())


def _in_utf8(column: "pa.ChunkedArray", errors: str) -> "pa.ChunkedArray":
    """Text, also in lists, that some writers store without it being UTF-8."""
    if _is_utf8(column):
        return column
    kind = column.type
    values = _decoded(column.cast(_with_texts_as(pa.large_binary(), kind)).to_pylist(), kind, errors)
    return pa.chunked_array([pa.array(values, _with_texts_as(pa.large_string(), kind))])


def _is_utf8(column: "pa.ChunkedArray") -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _with_texts_as(text: "pa.DataType", kind: "pa.DataType") -> "pa.DataType":
    if pa.types.is_dictionary(kind):
        return _with_texts_as(text, kind.value_type)
    if is_list(kind):
        inner = _with_texts_as(text, kind.value_type)
        return (
            pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner, getattr(kind, "list_size", -1))
        )
    return text if is_text(kind) or pa.types.is_string_view(kind) else kind


def _decoded(values: list[Any], kind: "pa.DataType", errors: str) -> list[Any]:
    """Values of a column whose texts are bytes."""
    if pa.types.is_dictionary(kind):
        return _decoded(values, kind.value_type, errors)
    if is_list(kind):
        return [each and _decoded(each, kind.value_type, errors) for each in values]
    is_words = is_text(kind) or pa.types.is_string_view(kind)
    return [each.decode("utf-8", errors) if is_words and each is not None else each for each in values]


def numbers_where_lossless(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Turns a CSV column of text into numbers if all of it is plainly numeric ('007' and '1e5' stay text)."""
    nothing = pc.is_in(pc.utf8_lower(column), value_set=pa.array(sorted(NULL_WORDS)))
    values = column.filter(pc.invert(nothing)).drop_null()
    if (
        len(values) == 0
        or not pc.all(pc.match_substring_regex(values, r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?$")).as_py()
    ):
        return column
    has_point = pc.any(pc.match_substring(values, ".")).as_py()
    return pc.if_else(nothing, pa.scalar(None, pa.string()), column).cast(pa.float64() if has_point else pa.int64())


def ids_as_text(column: "pa.ChunkedArray", name: str) -> "pa.ChunkedArray":
    """Returns a column of ids as text, with null where there is none (null, NaN or blank text)."""
    column = unwrapped(column, "backslashreplace")  # different ids stay different
    kind = column.type
    if pa.types.is_floating(kind):  # whole numbers with gaps, as pandas stores them
        column = column.cast(pa.float32()) if pa.types.is_float16(kind) else column
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        if not pc.all(pc.equal(pc.floor(column), column)).as_py() and column.null_count < len(column):
            raise ValueError(f"column {name!r} holds fractions. Expected ids as text or whole numbers.")
        # From 2 ** 24 and 2 ** 11 on, floats of fewer bits are those of several whole numbers.
        largest = min(LARGEST_WHOLE_FLOAT, {32: 2**24 - 1, 16: 2**11 - 1}.get(kind.bit_width, LARGEST_WHOLE_FLOAT))
        if pc.any(pc.greater(pc.abs(column), float(largest))).as_py():
            raise ValueError(f"column {name!r} holds floats that have lost digits. Expected ids as text.")
        column = column.cast(pa.int64())
    elif pa.types.is_decimal(kind):
        return pa.chunked_array([[id_as_text(value, name) for value in column.to_pylist()]], pa.string())
    elif not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise ValueError(f"column {name!r} holds {kind}. Expected ids as text or whole numbers; convert it to text.")
    text = column.cast(pa.string())
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(text), ""), pa.scalar(None, pa.string()), text)


def attribute_column(column: "pa.ChunkedArray", name: str) -> "pa.ChunkedArray":
    """Reduces the many Arrow types to text, whole numbers, numbers, truth values and lists of text."""
    column = unwrapped(column)
    kind = column.type
    if is_text(kind) or pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_boolean(kind):
        return column
    if pa.types.is_integer(kind):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:  # of 64 bits without a sign
            return column.cast(pa.string())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        column = _as_floats(column)
        return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        if pa.types.is_timestamp(kind) and kind.unit == "ns":  # which Python does not have
            column = column.cast(pa.timestamp("us", tz=kind.tz), safe=False)
        return _of_values(column, name)
    if is_list(kind):
        inner = kind.value_type
        if is_text(inner) and not pc.list_flatten(column).null_count:
            return column.cast(pa.list_(pa.string()))
        if is_text(inner) or pa.types.is_primitive(inner) or pa.types.is_decimal(inner) or pa.types.is_null(inner):
            return _of_values(column, name)
        if pa.types.is_string_view(inner) or pa.types.is_dictionary(inner):
            return _of_values(column, name)
    raise ValueError(
        f"column {name!r} holds {kind}. Expected text, numbers, truth values or lists of text; "
        "make one column of each part, or drop it."
    )


def _as_floats(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    # Arrow makes 19.900000000000002 of the decimal 19.90, and the nearest float of its text.
    column = column.cast(pa.string()) if pa.types.is_decimal(column.type) else column
    return column.cast(pa.float64(), safe=False)


def _of_values(column: "pa.ChunkedArray", name: str) -> "pa.ChunkedArray":
    """Value by value, by the rules of Python's."""
    try:
        found = column.to_pylist()
    except Exception:  # of years beyond 9999 and of unknown zones, for which there is an error of pytz
        if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
            raise
        return times_as_text(column)
    values = [plain_value(value, f"a value of column {name!r}") for value in found]
    return pa.chunked_array([pa.array(values, pa.list_(pa.string()) if is_list(column.type) else pa.string())])


def image_column(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """A column of pictures as dicts of bytes and path."""
    column = unwrapped(column)
    kind = column.type
    if kind == IMAGE and _is_utf8(pc.struct_field(column, "path")):
        return column
    if is_text(kind):
        paths = pc.if_else(pc.equal(column, ""), pa.scalar(None, kind), column).cast(pa.string())
        data = pa.chunked_array([pa.nulls(len(column), pa.binary())])
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        data, paths = column.cast(pa.binary()), pa.chunked_array([pa.nulls(len(column), pa.string())])
    elif pa.types.is_struct(kind) and {field.name for field in kind} & {"bytes", "path"}:
        names = {field.name for field in kind}
        nothing = pa.chunked_array([pa.nulls(len(column))])
        data = (pc.struct_field(column, "bytes") if "bytes" in names else nothing).cast(pa.binary())
        paths = unwrapped(pc.struct_field(column, "path") if "path" in names else nothing).cast(pa.string())
    elif pa.types.is_null(kind):
        return pa.chunked_array([pa.nulls(len(column), IMAGE)])
    else:
        raise ValueError(
            f"column 'image' holds {kind}. Expected one picture an item: a path, bytes, or a datasets Image column."
        )
    parts = pa.table({"bytes": data, "path": paths}).to_batches()
    return pa.chunked_array([batch.to_struct_array() for batch in parts], IMAGE)


def numbers_of(column: "pa.ChunkedArray", name: str, is_whole: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A column of numbers, or of text of numbers.

    Args:
        column (`pa.ChunkedArray`)
        name (`str`): what to call it in an error.
        is_whole (`bool`, *optional*, defaults to `True`): whether this is the column and not some rows of it. That
            nothing in a whole column can be read is no accident of one row, and an error.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: float64, NaN where there is none, and which of them are text that is no
        number.

    Raises:
        ValueError: a column of another type, or a whole one of text of which nothing is a number.
    """
    column = unwrapped(column)
    kind = column.type
    if is_text(kind):
        return _read_texts(
            column,
            number_of,
            lambda text: (
                f"column {name!r} holds text that is no number: {text}. Expected a number, or nothing, as "
                f"{name!r} of an interaction."
            ),
            is_whole,
        )
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or kind == pa.null()):
        raise ValueError(f"column {name!r} holds {kind}. Expected numbers.")
    values: np.ndarray = _as_floats(column).to_numpy().astype(np.float64)
    return values, np.zeros(len(values), dtype=bool)


def seconds_of(column: "pa.ChunkedArray", name: str, is_whole: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A column of times in seconds since 1970 (UTC), or of plain numbers; all else is as of `numbers_of`."""
    column = unwrapped(column)
    kind = column.type
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.timestamp("s")), pa.timestamp("s")
    if pa.types.is_timestamp(kind):
        if kind.unit == "ns":
            column, kind = column.cast(pa.timestamp("us", tz=kind.tz), safe=False), pa.timestamp("us")
        counts, unreadable = numbers_of(column.cast(pa.int64()), name)  # to another unit those of far years would wrap
        return counts / {"s": 1, "ms": 1e3, "us": 1e6}[kind.unit], unreadable
    if is_text(kind):
        return _read_texts(
            column,
            as_seconds,
            lambda text: f"{name} {text} cannot be read. Expected a number or an ISO date such as 2020-09-22.",
            is_whole,
        )
    return numbers_of(column, name)


def are_plain_numbers(column: "pa.ChunkedArray") -> np.ndarray:
    """Which of a column of times are numbers and no dates, such as 20200101 and `"20200101"`.

    A date comes to seconds, and what a number counts nobody says: beside dates it stands anywhere in time.
    """
    column = unwrapped(column)
    if not is_text(column.type):
        return np.full(len(column), not (pa.types.is_date(column.type) or pa.types.is_timestamp(column.type)))
    number = r"^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"
    mask: np.ndarray = pc.match_substring_regex(column, number).fill_null(False).to_numpy()
    return mask


def times_as_text(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Times, dates or what else stands in their place, as text; of far years and unknown zones, too, which Python has
    no value for."""
    column = unwrapped(column)
    if pa.types.is_timestamp(column.type):  # that of its zone is not asked for
        column = column.cast(pa.timestamp(column.type.unit))
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        texts = [None if value is None else str(value) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])


def _read_texts(
    column: "pa.ChunkedArray", read: Callable[[str], float], complaint: Callable[[str], str], is_whole: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Each distinct text is read once."""
    encoded = column.dictionary_encode().combine_chunks()
    texts = encoded.dictionary.to_pylist()
    values, unreadable = np.full(len(texts) + 1, np.nan), np.zeros(len(texts) + 1, dtype=bool)
    for row, text in enumerate(texts):
        if text.strip().lower() in NULL_WORDS:
            continue
        try:
            values[row] = read(text)
        except (ValueError, OverflowError):
            unreadable[row] = True
    if is_whole and unreadable.any() and not np.isfinite(values).any():
        raise ValueError(complaint(short_repr(texts[int(unreadable.argmax())])))
    rows = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    return values[rows], unreadable[rows]


def text_column(column: "pa.ChunkedArray", name: str) -> "pa.ChunkedArray":
    """A column of words, as it is stored: nothing is copied of what may be far larger than memory."""
    column = unwrapped(column)
    kind = column.type
    if not (is_text(kind) or pa.types.is_null(kind)):
        raise ValueError(f"column {name!r} holds {kind}. Expected text.")
    return column.cast(pa.string()) if pa.types.is_null(kind) else column


def has_text(column: "pa.ChunkedArray") -> np.ndarray:
    """Which rows of a column of words hold more than blanks."""
    filled = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0).fill_null(False)
    mask: np.ndarray = filled.to_numpy()
    return mask
