"""Pictures inside a page."""

import base64
import io
from typing import Any

from PIL import Image


def data_uri(picture: Image.Image, form: str, **options: Any) -> str:
    """A picture as the address of an `img`; `form` is `"png"` or `"jpeg"`, `options` are those of Pillow's `save`."""
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return f"data:image/{form};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
