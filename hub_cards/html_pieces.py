"""What report and Space share: the environment of their templates, which cleans and escapes every text that it is
given, the small pieces of pieces.html, and items as both show them."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
from markupsafe import Markup
from PIL import Image

from .untrusted_text import one_line

MAX_TEXT = 1000  # characters of any text on a page
TITLES = ("title", "name")


def percent(share: float) -> str:
    """A probability with two digits that count."""
    if share < 0.0001:
        return "<0.01%"
    digits = 0 if share >= 0.0995 else 1 if share >= 0.00995 else 2
    return f"{100 * share:.{digits}f}%"


def counted(grounds: Sequence[Mapping[str, Any]]) -> str:
    """What an explained item has in common with the history, see `processing_unimp/grounds.py`; empty for nothing."""
    words = [
        f'{each["attribute"]} "{each["value"]}" {len(each["items"])} times, {each["liked"]} with 4 or 5 stars'
        for each in grounds
    ]
    return f"Counted in the history: {'; '.join(words)}." if words else ""


def title_of(item: Mapping[str, Any], attributes: Sequence[str], max_characters: int) -> str:
    """The attribute called title or name, else the first text in the order of the shop's columns, else the id."""
    for name in (*TITLES, *attributes):
        value = item.get(name)
        if isinstance(value, str) and (title := one_line(value, max_characters)):
            return title
    return one_line(item.get("item_id"), max_characters) or "item without a title"


def thumbnail(picture: Image.Image, side: int) -> str:
    """A picture as the address of an `img`, at most `side` pixels large."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return data_uri(small, "jpeg", quality=88)


def exact_uri(picture: Image.Image, side: int) -> str:
    """A picture as the address of an `img`, at most `side` pixels large, with every pixel as it is."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return data_uri(small, "png")


def data_uri(picture: Image.Image, form: str, **options: Any) -> str:
    """A picture as the address of an `img`; `form` is `"png"` or `"jpeg"`, `options` are those of Pillow's `save`."""
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return Markup(f"data:image/{form};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}")


class _WithoutLines(jinja2.ext.Extension):
    """Lines of a template that end between elements or tags are layout of the template, no spaces of the page."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return re.sub(r"(?<=[>}])\s*\n\s*(?=[<{])", "", source)


def _cleaned(value: Any) -> Any:
    """What a template prints: text on one line and cut, unless it is HTML of our own; it is escaped afterwards."""
    return one_line(value, MAX_TEXT) if isinstance(value, str) and not isinstance(value, Markup) else value


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    finalize=_cleaned,
    undefined=jinja2.StrictUndefined,
    extensions=[_WithoutLines],
)
TEMPLATES.filters["percent"] = percent
