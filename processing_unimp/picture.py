"""One door for pictures: whatever a shop stores comes out as an upright RGB picture, or as UnreadablePicture.

Broken files, huge files and odd colour modes are everyday business in a catalogue; nothing else opens pictures.
"""

import io
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

MAX_PIXELS = 50_000_000  # 150 MB once decoded
MAX_ASPECT_RATIO = 8
MIN_SIDE = 8  # pixels; image processors take a 1- or 3-pixel side for the colour channels

PictureSource = str | os.PathLike[str] | bytes | dict[str, Any] | Image.Image


class UnreadablePicture(ValueError):
    """A picture that cannot be shown to the model: what came, what was expected and what to do."""


def open_picture(source: PictureSource) -> Image.Image:
    """Opens a picture as RGB, turned upright and without transparency.

    Args:
        source (`str`, `Path`, `bytes`, `dict` or `PIL.Image.Image`): a path, the bytes of a picture file, a dict with
            `"bytes"` and `"path"` (the form of 🤗 datasets; bytes are used where both are given) or a PIL picture.

    Returns:
        `PIL.Image.Image`: mode RGB, EXIF rotation applied, transparent parts white, 16-bit grey scaled to 8 bits.
        Strips are centre-cropped to an aspect ratio of at most 8, and the shorter side has at least 8 pixels.

    Raises:
        UnreadablePicture: the file is missing or broken, or has more than 50 megapixels and is not a baseline JPEG
            (those are decoded at an eighth of their size).
    """
    name = _name_of(source)
    try:
        if isinstance(source, Image.Image):
            return _prepare(source, name)
        with _open_file(source, name) as file:
            with _parse_header(file) as image:
                return _prepare(image, name)
    except UnreadablePicture:
        raise
    except FileNotFoundError as error:
        raise UnreadablePicture(
            f"no picture file at {name}. Expected a readable file; correct the path (relative paths start at the "
            "folder of the items table) or leave the item's image empty."
        ) from error
    except Exception as error:  # decoders raise nearly anything: OSError, SyntaxError, struct.error, MemoryError
        raise UnreadablePicture(
            f"cannot read the picture {name}: {type(error).__name__}: {error}. Expected a whole picture file that "
            "Pillow decodes (JPEG, PNG, WebP, GIF, ...); save it again or leave the item's image empty."
        ) from error


def _name_of(source: Any) -> str:
    if isinstance(source, bytes):
        return f"given as {len(source)} bytes"
    if isinstance(source, Image.Image):
        return f"given as a {source.mode} picture of {source.width} x {source.height}"
    if isinstance(source, dict):
        return repr(str(source["path"])) if source.get("path") else _name_of(source.get("bytes") or b"")
    return repr(str(source))


def _open_file(source: Any, name: str) -> IO[bytes]:
    if isinstance(source, dict):
        if source.get("bytes") is not None:
            source = source["bytes"]
        elif source.get("path"):
            source = source["path"]
        else:
            raise UnreadablePicture('a picture came as a dict without "bytes" and without "path". Give one of them.')
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        if str(source).startswith(("http://", "https://")):
            raise UnreadablePicture(f"the picture {name} is an address. Expected a local file; download it first.")
        return Path(source).open("rb")
    raise UnreadablePicture(
        f"a picture came as {type(source).__name__}. Expected a path, bytes, a dict with bytes or path, "
        "or a PIL picture."
    )


def _parse_header(file: IO[bytes]) -> Image.Image:
    start = file.read(3)
    file.seek(0)
    if start == b"\xff\xd8\xff":
        # Image.open refuses 179 megapixels and more before `draft` can make them small; the class itself does not.
        return JpegImageFile(file)
    return Image.open(file)


def _prepare(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if min(width, height) < 1:
        raise UnreadablePicture(f"the picture {name} is {width} x {height} and so has no pixels. Leave it out.")
    if width * height > MAX_PIXELS:
        # A progressive JPEG keeps all coefficients in memory however small it is drawn (1.2 GB at 20,000 x 20,000).
        if isinstance(image, JpegImageFile) and not image.info.get("progressive"):
            image.draft(None, (width // 8, height // 8))
        if image.width * image.height > MAX_PIXELS:
            raise UnreadablePicture(
                f"the picture {name} is {width} x {height}, {width * height / 1e6:.0f} megapixels. At most "
                f"{MAX_PIXELS // 10**6} are read (baseline JPEG: any size); save a smaller version."
            )
    return _at_least(_without_strip(_as_rgb(_upright(image))))


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data does not make the picture itself unreadable
        return image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        highest = 65535.0 if image.mode != "F" else max(float(values.max()), 1.0)
        values = np.clip(values / highest, 0.0, 1.0) * 255.0
        return Image.fromarray(np.round(values).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _without_strip(image: Image.Image) -> Image.Image:
    longest = MAX_ASPECT_RATIO * min(image.size)
    width, height = min(image.width, longest), min(image.height, longest)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _at_least(image: Image.Image) -> Image.Image:
    scale = -(-MIN_SIDE // min(image.size))
    return image if scale == 1 else image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
