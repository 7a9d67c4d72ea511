"""Arguments of `UniMPProcessor`: none is passed over in silence."""

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .bounds import short_repr

# What a batch consists of anyway.
FIXED = {"return_tensors": ("pt", None), "padding": (True, "longest", None)}
# Of the tokenizer, where texts have pictures.
WITH_PICTURES = ("add_special_tokens", "split_special_tokens", "truncation", "max_length", "padding", "return_tensors")


def check_arguments(
    kwargs: Mapping[str, Any], known: Iterable[str], fixed: Mapping[str, tuple[Any, ...]] = FIXED
) -> None:
    """Refuse arguments that do not exist, and values that nothing would come of.

    Raises:
        ValueError: the message names the nearest argument that exists, or the only value.
    """
    names = [*fixed, *known]
    for name, value in kwargs.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}."
            raise ValueError(f"there is no argument {short_repr(name)}: {hint}")
        if name in fixed and value not in fixed[name]:
            raise ValueError(f"{name}={short_repr(value)}: expected {fixed[name][0]!r}; leave it out.")


def check_spelling(kwargs: Iterable[str], settings: Sequence[str]) -> None:
    """Refuse a name that is nearly a setting and none. Any other may be of the tokenizer, of the image processor or of
    transformers.

    Raises:
        ValueError: the message names the setting.
    """
    for name in kwargs:
        near = difflib.get_close_matches(name, settings, n=1, cutoff=0.85)
        if near and name not in settings:
            raise ValueError(f"the processor has no setting {short_repr(name)}: did you mean {near[0]}?")


def sorted_arguments(
    kwargs: Mapping[str, Any], tokenizer: Any, image_processor: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments for the tokenizer and those for the image processor, given in any form that transformers knows.

    Args:
        kwargs: flat, or in `text_kwargs`, `images_kwargs` and `common_kwargs`. Flat ones go to what accepts them.

    Raises:
        ValueError: an argument that neither takes, or that comes twice.
    """
    takers = [
        ("text_kwargs", [name for name in inspect.signature(type(tokenizer).__call__).parameters if name != "self"]),
        ("images_kwargs", list(type(image_processor).valid_kwargs.__annotations__)),
    ]
    nested = {name: dict(kwargs.get(name) or {}) for name in ("text_kwargs", "images_kwargs", "common_kwargs")}
    flat = {name: value for name, value in kwargs.items() if name not in nested}
    check_arguments({**flat, **nested["common_kwargs"]}, [*nested, *takers[0][1], *takers[1][1]], fixed={})
    both = []
    for kind, names in takers:
        check_arguments(nested[kind], names, fixed={})
        if twice := set(nested[kind]) & set(flat):
            raise ValueError(f"{', '.join(sorted(twice))} came both by itself and in {kind}: expected it once.")
        own = {name: value for name, value in {**nested["common_kwargs"], **flat}.items() if name in names}
        both.append(own | nested[kind])
    return both[0], both[1]
