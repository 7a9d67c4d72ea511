"""A request as anybody may send it, to the form that the tasks read: bounded, ids as text, and no file opened.

A request may come over the network from anybody. Nothing in JSON names a file: pictures come as data URIs, or in
Python as bytes, PIL pictures and `pathlib.Path`s.
"""

import difflib
import numbers
from collections.abc import Mapping
from typing import Any

from .all_tasks import TASKS
from .bounds import (
    MAX_ATTRIBUTES,
    MAX_CANDIDATES,
    MAX_HISTORY,
    MAX_PICTURES,
    MAX_PIXELS_OF_REQUEST,
    check_length,
    check_value,
    short_repr,
)
from .cell_values import id_as_text, is_missing, plain_value
from .item_text import stars_of
from .picture import bytes_of_data_uri, coded_pixels

KEYS = ("task", "history", "answer", "next")  # of every task, the last two for training and evaluation
CALL_ARGUMENTS = ("top_k", "exclude_seen", "allowed", "because", "batch_size", "vision_features", "seed")
LISTS = {"history": MAX_HISTORY, "candidates": MAX_CANDIDATES, "retrieved": MAX_CANDIDATES}
ENTRIES = {"history": "history item", "candidates": "candidate", "retrieved": "retrieved item", "item": "the item"}


def read_request(request: Any) -> dict[str, Any]:
    """Brings a request to plain Python, as a copy; what a task needs of it is checked where it is read.

    Args:
        request (`Mapping`): as `UniMPProcessor.__call__` takes it. Lists may be arrays of numpy or columns of pandas,
            and values what a data frame or a database holds; missing ones are left out.

    Raises:
        ValueError: no dict, or one that goes over a bound (see `bounds.py`), or with a key that its task does not
            read, or an item with an unusable id or image.
    """
    if not isinstance(request, Mapping):
        raise ValueError(
            f"a request of type {type(request).__name__}: expected a dict such as "
            "{'task': 'recommend', 'history': [...]}."
        )
    check_length(request, MAX_ATTRIBUTES, "a request")
    read = {name: value for name, value in request.items() if not (is_missing(value) and name != "task")}
    _check_keys(read)
    for name, most in LISTS.items():
        if name in read:
            values = read[name].tolist() if hasattr(read[name], "tolist") else read[name]
            if not isinstance(values, list | tuple):
                raise ValueError(f"a request with the {name} {_in_a_line(values)}: expected a list of items.")
            check_length(values, most, f"the list {name!r}")
            read[name] = [_entry(entry, f"{ENTRIES[name]} {place}") for place, entry in enumerate(values)]
    if "item" in read:
        read["item"] = _entry(read["item"], ENTRIES["item"])
    for name in ("query", "wish"):
        check_value(read.get(name), f"the {name}")
    if not isinstance(read.get("wish", ""), str):
        raise ValueError(f"a request with the wish {_in_a_line(read['wish'])}: expected a text such as 'red shoes'.")
    _check_pictures(read)
    return read


def _in_a_line(value: Any) -> str:
    return " ".join(short_repr(value).split())  # of a table there are several


def _check_keys(request: Mapping[Any, Any]) -> None:
    """Refuse what the task would not look at: its answer would be another than was asked for."""
    task = request.get("task")
    if not isinstance(task, str) or task not in TASKS:
        return  # which is refused by that
    known = [*KEYS, *TASKS[task].keys]
    for name in request:
        if name in known:
            continue
        where = f"a request to {task} has the key {short_repr(name)}"
        if name in CALL_ARGUMENTS:
            raise ValueError(f"{where}, which is an argument of the call: unimp(request, {name}=...).")
        near = [*difflib.get_close_matches(str(name)[:40], [*known, *CALL_ARGUMENTS], n=1), ""][0]
        if near in CALL_ARGUMENTS:
            raise ValueError(f"{where}: did you mean {near}, an argument of the call, unimp(request, {near}=...)?")
        expected = (
            f"did you mean {near}?"
            if near
            else f"expected {', '.join(['history', *TASKS[task].keys])}, and nothing else."
        )
        raise ValueError(f"{where}: {expected}")


def _check_pictures(request: Mapping[str, Any]) -> None:
    """Refuse more pictures, or more of them, than are opened for one request, before any is."""
    named = [entry for name in ENTRIES for entry in _listed(request.get(name))]
    images = [entry["image"] for entry in named if isinstance(entry, dict) and "image" in entry]
    distinct = {image if isinstance(image, bytes) else id(image): image for image in images}
    if len(distinct) > MAX_PICTURES:
        raise ValueError(
            f"the items of a request have {len(distinct)} pictures of their own: at most {MAX_PICTURES} are opened. "
            "Leave some out, such as those of the oldest items."
        )
    if (pixels := sum(map(coded_pixels, distinct.values()))) > MAX_PIXELS_OF_REQUEST:
        raise ValueError(
            f"the {len(distinct)} pictures of a request have {pixels / 1e6:.0f} megapixels together: at most "
            f"{MAX_PIXELS_OF_REQUEST // 10**6} are opened. Send smaller versions."
        )


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _entry(entry: Any, where: str) -> Any:
    """An item as a request names it: an id, or a dict with an id, attributes, or both."""
    if not isinstance(entry, dict | Mapping):  # a dict is known at once, an abstract class is looked up
        return None if is_missing(entry) else _id(entry, where)
    check_length(entry, MAX_ATTRIBUTES, where)
    read: dict[str, Any] = {}
    for name, value in entry.items():
        if not isinstance(name, str):
            raise ValueError(f"{where} has the key {short_repr(name)}: expected names of attributes that are text.")
        if name == "item_id":
            value = id_as_text(value, f"{where}: item_id")
        elif name == "image":
            value = picture_of_request(value, where)
        else:
            check_value(name, f"{where}: the name of an attribute")
            check_value(value, f"{where}: attribute {short_repr(name)}")
            value = _plain(value, f"{where}: attribute {short_repr(name)}")
            if name == "rating":
                stars_of(value)  # also of an item that is too old for the network to read
        if value is not None:
            read[name] = value
    return read


def _id(entry: Any, where: str) -> Any:
    """A bare id as text; what is no number is left as it is, for the task to refuse where it needs an item."""
    try:
        return id_as_text(entry, where)
    except ValueError:
        if isinstance(entry, numbers.Number):
            raise
        return entry


def _plain(value: Any, what: str) -> Any:
    if isinstance(value, Mapping):
        return {str(plain_value(key, what)): _plain(inner, what) for key, inner in value.items()}
    if isinstance(value, list | tuple) and any(isinstance(part, Mapping | list | tuple) for part in value):
        return [_plain(part, what) for part in value]
    return plain_value(value, what)


def picture_of_request(value: Any, where: str) -> Any:
    """A picture in a request: bytes, PIL pictures and `Path`s as they are, a data URI as its bytes; no other text."""
    if is_missing(value) or (isinstance(value, str) and not value):
        return None
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    try:
        value = bytes_of_data_uri(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return bytes(value) if isinstance(value, bytearray | memoryview) else value
