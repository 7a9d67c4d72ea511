"""Somebody else's words and pictures in a page of ours: one line without tricks, and a picture inside the page."""

import base64
import io
import unicodedata
from typing import Any

from PIL import Image

from processing_unimp.item_text import clean_value

MAX_VALUE_WORDS = 24  # of an attribute that is a list or a number
JOINERS = "\u200c\u200d"  # without them Persian words and composed emoji fall apart


def one_line(value: Any, max_characters: int) -> str:
    """Words on one line, cut, without control characters and such as turn the direction of reading; not yet HTML."""
    text = value if isinstance(value, str) else clean_value(value, MAX_VALUE_WORDS) or ""
    text = "".join(
        " " if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in JOINERS else character
        for character in text[: 4 * max_characters]
    )
    text = " ".join(text.split())
    return text if len(text) <= max_characters else text[: max_characters - 3].rstrip() + "..."


def data_uri(picture: Image.Image, form: str, **options: Any) -> str:
    """A picture as the address of an `img`; `form` is `"png"` or `"jpeg"`, `options` are those of Pillow's `save`."""
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return f"data:image/{form};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
