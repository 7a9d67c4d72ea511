"""Parquet files of anybody's making: exactly the file that is named, some rows at a time, and bounded.

A page of a few bytes may stand for millions of equal values. So few rows are read at a time where a value may be
large, texts in lists are written out once it is known what they come to, and what a file comes to has a limit.
"""

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from .bounds import MAX_UNPACKED, most_unpacked, short_repr, too_much_unpacked
from .parquet_pages import DELTA_BYTE_ARRAY, DICTIONARY_PAGE, pages_of
from .table_columns import ROWS_AT_ONCE, is_list

try:  # comes with datasets; inside `try` so that Hub export does not list it as a requirement of its own
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError("UniMP reads its tables with pyarrow; pip install datasets brings it") from error

BYTES_AT_ONCE = 64 * 2**20  # that the rows come to at most which are read together, but for a single row


def mapped_parquet(path: Path, columns: Sequence[str]) -> "pa.Table":
    """A table whose rows lie unpacked on disk, memory-mapped: in a file of TMPDIR that has no name, and goes with it.

    Args:
        path (`Path`): the file.
        columns (`Sequence[str]`): those that are wanted, in their order.
    """
    schema, batches = parquet_batches(path, columns)
    with tempfile.TemporaryFile() as file:
        with pa.ipc.new_stream(file, schema) as writer:
            for table in of_many_rows(batches):
                writer.write_table(table)
        file.flush()
        unpacked = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_stream(pa.py_buffer(unpacked)).read_all()


def parquet_batches(path: Path, columns: Sequence[str]) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    """Some columns, in their order: their kinds, and the rows, about `BYTES_AT_ONCE` of them at a time.

    Raises:
        ValueError: a file whose pages cannot be told; also while reading, one that grows to more than `MAX_UNPACKED`
            times its size.
    """
    # Not by its name, in which Arrow and datasets look for patterns and protocols.
    source, wanted = pa.OSFile(str(path)), set(columns)
    metadata = pq.read_metadata(source)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    told, largest, listed = 0, 0, []
    for number in range(metadata.num_columns):
        column = metadata.schema.column(number)
        if column.path not in wanted and column.path.partition(".")[0] not in wanted:
            continue
        parts = [_Part.of(group.column(number), column.length, source) for group in groups]
        told += sum(part.unpacked_bytes + part.num_values * max(part.width, 8) for part in parts)
        if told > most_unpacked(path):
            raise too_much_unpacked(path)
        if column.max_repetition_level == 0:
            largest += max((part.largest_value for part in parts), default=0)
        elif any(_may_be_a_bomb(part, column.path, source, group, path) for group, part in enumerate(parts)):
            listed.append(column.path)
    rows = min(BYTES_AT_ONCE * metadata.num_rows // max(told, 1), BYTES_AT_ONCE // max(largest, 1))
    rows = min(max(rows, 1), ROWS_AT_ONCE)
    # Buffered: row groups written elsewhere may be larger than memory. Arrow joins no lists of two groups.
    file = pq.ParquetFile(source, read_dictionary=listed, buffer_size=2**20, pre_buffer=False)
    fields = [file.schema_arrow.field(name) for name in columns]
    schema = pa.schema([field.with_type(_plain(field.type)) for field in fields], file.schema_arrow.metadata)
    batches = (file.iter_batches(rows, [group], list(columns)) for group in range(len(groups)))
    return schema, _bounded(chain.from_iterable(batches), schema, path)


class _Part(NamedTuple):
    """A column in one group of rows, as its pages tell.

    Args:
        num_values (`int`)
        unpacked_bytes (`int`)
        width (`int`): bytes of each value, 0 for texts.
        largest_value (`int`): bytes that a value which is stored once, or in parts, may have at most.
        has_shared_parts (`bool`): whether texts are stored as what differs from the one before.
    """

    num_values: int
    unpacked_bytes: int
    width: int
    largest_value: int
    has_shared_parts: bool

    @classmethod
    def of(cls, chunk: Any, length: int, source: Any) -> "_Part":
        start = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)), default=0)
        num_values = unpacked = largest = 0
        is_shared = False
        for page in pages_of(source, start, start + chunk.total_compressed_size, chunk.num_values):
            unpacked += page.unpacked_bytes
            if page.kind == DICTIONARY_PAGE:
                largest = max(largest, page.unpacked_bytes)
            else:
                num_values += page.num_values
                is_shared |= page.encoding == DELTA_BYTE_ARRAY
        is_text = chunk.physical_type == "BYTE_ARRAY"
        width = 0 if is_text else length if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY" else 8
        return cls(num_values, unpacked, width, width or (unpacked if is_shared else largest), is_text and is_shared)


def _may_be_a_bomb(part: _Part, name: str, source: Any, group: int, path: Path) -> bool:
    """Whether texts in lists, of which a single row may hold any number, may come to too much."""
    most = max(most_unpacked(path), MAX_UNPACKED * part.unpacked_bytes)
    if part.width or part.num_values * part.largest_value <= most:
        return False
    if part.has_shared_parts:
        raise ValueError(
            f"column {short_repr(name)} holds lists of texts of which each is stored by what differs from the one "
            "before (DELTA_BYTE_ARRAY), and may come to too much. Save it with another encoding."
        )
    reader = pq.ParquetFile(source, read_dictionary=[name], buffer_size=2**20, pre_buffer=False)
    first = (_longest_text(batch) for batch in reader.iter_batches(100, [group], [name]))
    return bool(part.num_values * next(filter(None, first), 0) > most)


def _longest_text(values: Any) -> int:
    """Bytes of the longest entry of the dictionaries."""
    if isinstance(values, pa.RecordBatch):
        return max(map(_longest_text, values.columns), default=0)
    if pa.types.is_dictionary(values.type):
        return pc.max(pc.binary_length(values.dictionary)).as_py() or 0
    if is_list(values.type) or pa.types.is_list_view(values.type) or pa.types.is_large_list_view(values.type):
        return _longest_text(values.flatten())
    return max(map(_longest_text, values.flatten()), default=0) if pa.types.is_struct(values.type) else 0


def _bounded(batches: "Iterator[pa.RecordBatch]", schema: "pa.Schema", path: Path) -> "Iterator[pa.RecordBatch]":
    """The batches with their texts written out, as long as that is not too much."""
    left, has_dictionaries = most_unpacked(path), None
    for batch in batches:
        chosen = batch.select(schema.names)
        if has_dictionaries is None:
            has_dictionaries = any("dictionary<" in str(kind) for kind in chosen.schema.types)
        for part in _small_parts(chosen) if has_dictionaries else [chosen]:
            left -= _num_bytes(part) if has_dictionaries else part.nbytes
            if left < 0:
                raise too_much_unpacked(path)
            yield part.cast(schema) if has_dictionaries else part


def of_many_rows(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.Table]":
    """The batches, joined to larger ones: a column of many chunks is slow."""
    waiting: list[Any] = []
    rows = size = 0
    for batch in batches:
        waiting.append(batch)
        rows, size = rows + len(batch), size + batch.nbytes
        if rows >= ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
            yield pa.Table.from_batches(waiting).combine_chunks()
            waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


def _small_parts(batch: "pa.RecordBatch") -> Iterator["pa.RecordBatch"]:
    """The batch, halved until each part is small enough to be written out, or a single row."""
    if len(batch) < 2 or _num_bytes(batch) <= BYTES_AT_ONCE:
        yield batch
        return
    half = len(batch) // 2
    yield from _small_parts(batch.slice(0, half))
    yield from _small_parts(batch.slice(half))


def _num_bytes(values: Any) -> int:
    """Bytes of an array or batch once every text of it is written out."""
    if isinstance(values, pa.RecordBatch):
        return sum(map(_num_bytes, values.columns))
    kind = values.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(values.dictionary) if _is_bytes(kind.value_type) else None
        written = 8 * len(values) if lengths is None else pc.sum(lengths.take(values.indices).cast(pa.int64())).as_py()
        return 4 * len(values) + (written or 0)
    if is_list(kind) or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return 4 * len(values) + _num_bytes(values.flatten())
    if pa.types.is_struct(kind):
        return sum(map(_num_bytes, values.flatten()))
    return max(int(values.nbytes), len(values))


def _is_bytes(kind: "pa.DataType") -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _plain(kind: "pa.DataType") -> "pa.DataType":
    """The kind without dictionaries, which Arrow keeps for some writers and which `read_dictionary` makes."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if is_list(kind):
        inner = kind.value_field.with_type(_plain(kind.value_type))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(inner, kind.list_size)
        return pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner)
    return kind
