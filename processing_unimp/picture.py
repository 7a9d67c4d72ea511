"""Opens every picture: the result is an upright RGB picture, or `UnreadablePicture`.

Broken files, huge files and unusual colour modes are common in a catalogue, and files may be untrusted:
nothing else opens pictures. Only raster formats are decoded (Pillow would hand PostScript to another program), only
regular files are read, and opening one takes less than 400 MB and some seconds, whatever it holds.
"""

import base64
import binascii
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from .avif_sizes import coded_pixels_of_avif
from .bounds import MAX_DATA_URI, short_repr
from .counted_file import CountedFile
from .tiff_tags import LONG, SHORT, tags_of
from .upright import upright, without_exif

# By content: Pillow looks at the first bytes of a file and not at its name.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MAX_DECODED_BYTES = 200_000_000
# Bytes that Pillow and its libraries take for a pixel while they decode; others take a byte for each of its channels.
BYTES_A_PIXEL = {"WEBP": 16, "AVIF": 12}
MAX_SIDE = 4096  # pixels; larger pictures are reduced
MAX_ASPECT_RATIO = 8
MIN_SIDE = 8  # pixels; image processors take a 1- or 3-pixel side for the colour channels
MAX_JPEG_SCANS = 200  # a progressive picture has some ten; each goes over all pixels
MAX_HEADER_READS = 20_000  # by which Pillow parses a file; some dozens for most
MAX_READS = 300_000  # by which it decodes one; of a PNG in chunks of one kilobyte some 200,000
MAX_RLE_PIXELS = 10_000_000  # of a compressed BMP, which is decoded in Python, byte by byte
MAX_TILE_SIDE = 1024  # pixels of a TIFF's tile; in a picture that is longer a tile may be as long as the picture

_STRIP_PIXELS = 4_000_000
# Of a TIFF: what says how large it is. Rows of a strip are none of it: the decoder takes no more than the picture has.
_TIFF_SIZES = {256: "ImageWidth", 257: "ImageLength", 258: "BitsPerSample", 277: "SamplesPerPixel"}
_TIFF_SIZES |= {322: "TileWidth", 323: "TileLength"}

PictureSource = str | os.PathLike[str] | bytes | dict[str, Any] | Image.Image


class UnreadablePicture(ValueError):
    """A picture that cannot be shown to the model: what came, what was expected and what to do."""


def open_picture(source: PictureSource) -> Image.Image:
    """Opens a picture as RGB, turned upright and without transparency.

    Args:
        source (`str`, `Path`, `bytes`, `dict` or `PIL.Image.Image`): a path, the bytes of a picture file, a dict with
            `"bytes"` and `"path"` (the form of datasets; bytes are used where both are given) or a PIL picture.

    Returns:
        `PIL.Image.Image`: mode RGB, EXIF rotation applied, transparent parts white, 16-bit grey scaled to 8 bits.
        Strips are centre-cropped to an aspect ratio of at most 8, the shorter side has at least 8 pixels, the longer
        one at most 4096 (pictures above it are reduced by a whole factor).

    Raises:
        UnreadablePicture: the file is missing, broken, no regular file, larger than 64 MiB, or of none of `FORMATS`;
            or the picture has more than 50 megapixels or takes more than 200 MB to decode (JPEGs of one scan are
            decoded at up to an eighth of their size first), or tiles that are larger than it needs.
    """
    name = _name_of(source)
    try:
        if isinstance(source, Image.Image):
            return _prepare(source, name, _file_behind(source), is_ours=False)
        data = _file_bytes(source, name)
        with _parse_header(data) as image:
            return _prepare(image, name, data)
    except UnreadablePicture:
        raise
    except FileNotFoundError as error:
        raise UnreadablePicture(
            f"no picture file at {name}. Expected a readable file; correct the path (relative paths start at the "
            "folder of the items table) or leave the item's image empty."
        ) from error
    except Exception as error:  # decoders raise nearly anything: OSError, SyntaxError, struct.error, MemoryError
        raise UnreadablePicture(
            f"cannot read the picture {name}: {type(error).__name__}: {str(error)[:200]}. Expected a whole picture "
            f"file ({', '.join(FORMATS)}); save it again or leave the item's image empty."
        ) from error


def read_picture_file(path: str | os.PathLike[str]) -> bytes:
    """Reads a picture file whole; nothing but a regular file, nothing larger than 64 MiB, and never waits.

    Raises:
        UnreadablePicture: it is no regular file, or too large.
        OSError: there is none, or it may not be read.
    """
    # A named pipe or a device would be waited for, or do something, when it is opened.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UnreadablePicture(f"cannot read the picture {short_repr(str(path))}: it is no regular file.")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UnreadablePicture(f"cannot read the picture {short_repr(str(path))}: it is no regular file.")
        # Some files have no size beforehand: what is read is counted too.
        data = b"" if found.st_size > MAX_FILE_BYTES else file.read(MAX_FILE_BYTES + 1)
    if max(found.st_size, len(data)) > MAX_FILE_BYTES:
        raise UnreadablePicture(
            f"the picture {short_repr(str(path))} has {max(found.st_size, len(data))} bytes or more; at most "
            f"{MAX_FILE_BYTES} are read. Save a smaller version."
        )
    return data


def bytes_of_data_uri(text: str) -> bytes:
    """The picture file in a `data:image/...;base64,...` address, as requests over a wire carry it.

    Raises:
        ValueError: any other text. A path or an address is not looked at.
    """
    if len(text) > MAX_DATA_URI:
        raise ValueError(f"an image of {len(text)} characters came: at most {MAX_DATA_URI} are taken.")
    kind, _, encoded = text.partition(",")
    if not (kind.startswith("data:image/") and kind.endswith(";base64")):
        raise ValueError(
            "an image came as a text that is no data URI. Expected 'data:image/png;base64,...'; in Python also bytes, "
            "a PIL picture or a pathlib.Path. A path or an address in a text is never opened."
        )
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"an image came as a data URI that is not base64: {error}.") from error


def coded_pixels(source: Any) -> int:
    """Pixels of a picture in memory, as its header tells: how long it takes to open. 0 for a path, which is not looked
    at, and for what cannot be read, which is refused where it is opened."""
    if isinstance(source, Image.Image):
        return source.width * source.height
    if not isinstance(source, bytes) or len(source) > MAX_FILE_BYTES:
        return 0
    try:
        with _parse_header(source) as image:
            return image.width * image.height
    except Exception:
        return 0


def _name_of(source: Any) -> str:
    if isinstance(source, bytes | bytearray | memoryview):
        return f"given as {len(source)} bytes"
    if isinstance(source, Image.Image):
        return f"given as a {source.mode} picture of {source.width} x {source.height}"
    if isinstance(source, dict):
        return short_repr(str(source["path"])) if source.get("path") else _name_of(source.get("bytes") or b"")
    return short_repr(str(source)) if isinstance(source, str | os.PathLike) else f"given as {type(source).__name__}"


def _file_bytes(source: Any, name: str) -> bytes:
    if isinstance(source, dict):
        if source.get("bytes") is not None:
            source = source["bytes"]
        elif source.get("path"):
            source = source["path"]
        else:
            raise UnreadablePicture('a picture came as a dict without "bytes" and without "path". Give one of them.')
    if isinstance(source, bytes | bytearray | memoryview):
        if len(source) > MAX_FILE_BYTES:
            raise UnreadablePicture(f"the picture {name} is too large: at most {MAX_FILE_BYTES} bytes are read.")
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        if str(source).startswith(("http://", "https://")):
            raise UnreadablePicture(f"the picture {name} is an address. Expected a local file; download it first.")
        return read_picture_file(Path(source))
    raise UnreadablePicture(
        f"a picture came as {type(source).__name__}. Expected a path, bytes, a dict with bytes or path, "
        "or a PIL picture."
    )


def _parse_header(data: bytes) -> Image.Image:
    tags_of(data)
    file = CountedFile(without_exif(data), MAX_HEADER_READS)
    if data[:3] == b"\xff\xd8\xff":
        # Image.open refuses 179 megapixels and more before `draft` can make them small; the class itself does not.
        image: Image.Image = JpegImageFile(file)
    else:
        image = Image.open(file, formats=FORMATS)
    file.reads_left = MAX_READS
    return image


def _file_behind(image: Image.Image) -> bytes:
    """The file of a PIL picture that was opened and is not decoded yet; empty for others."""
    file = getattr(image, "fp", None)
    if file is None or getattr(file, "closed", False):
        return b""
    place = file.tell()
    file.seek(0)
    data: bytes = file.read(MAX_FILE_BYTES + 1)
    file.seek(place)
    return data


def _prepare(image: Image.Image, name: str, data: bytes, is_ours: bool = True) -> Image.Image:
    """What is shown of a picture.

    Args:
        image (`PIL.Image.Image`): opened, and not decoded yet where it is of a file.
        name (`str`): what to call it in an error.
        data (`bytes`): its file; empty for a picture that lies decoded in memory.
        is_ours (`bool`, *optional*, defaults to `True`): whether it may be made smaller itself; no caller's.
    """
    width, height = image.size
    if min(width, height) < 1:
        raise UnreadablePicture(f"the picture {name} is {width} x {height} and so has no pixels. Leave it out.")
    has_one_scan = False
    if isinstance(image, JpegImageFile) and data:
        has_one_scan = _has_one_scan(image, data)
        if not has_one_scan:
            _check_scans(data, name)
        if is_ours:
            factor = -(-max(width, height) // MAX_SIDE)
            image.draft(None, (max(width // factor, 1), max(height // factor, 1)))
    if isinstance(image, TiffImageFile) and data:
        _check_tiles(image, name, data)
    if any(tile[0] == "bmp_rle" for tile in getattr(image, "tile", ())):
        _check_runs(width, height, name)
    pixels = image.width * image.height if has_one_scan else width * height
    if pixels > MAX_PIXELS:
        raise UnreadablePicture(
            f"the picture {name} is {width} x {height}, {width * height / 1e6:.0f} megapixels. At most "
            f"{MAX_PIXELS // 10**6} are read (JPEG of one scan: 64 times as many); save a smaller version."
        )
    if (needed := _decoded_bytes(image, 0 if has_one_scan else width * height)) > MAX_DECODED_BYTES:
        raise UnreadablePicture(
            f"the picture {name} is {width} x {height} and takes {needed / 1e6:.0f} MB to decode; at most "
            f"{MAX_DECODED_BYTES // 10**6} are given. Save a smaller version, or a baseline JPEG."
        )
    if image.format == "AVIF" and data:
        _check_frames(image, name, data)
    image.load()
    return _at_least(upright(_as_small_rgb(image), image, data))


def _has_one_scan(image: JpegImageFile, data: bytes) -> bool:
    """Whether a JPEG is decoded line by line: its first scan has all of its colours, and is the only one."""
    assert image.fp is not None
    # Pillow has read up to the end of the segment that begins the scan, which ends with two bytes for each colour.
    begin = image.fp.tell() - 8 - 2 * image.layers
    whole = struct.pack(">BBHB", 0xFF, 0xDA, 6 + 2 * image.layers, image.layers)
    return not image.info.get("progressive") and data.startswith(whole, max(begin, 0))


def _check_scans(data: bytes, name: str) -> None:
    # Inside of coded pixels 0xff is always followed by 0: the two bytes can only be the start of a scan, or part of a
    # thumbnail.
    if (scans := data.count(b"\xff\xda")) > MAX_JPEG_SCANS:
        raise UnreadablePicture(
            f"the picture {name} is a JPEG of {scans} scans; at most {MAX_JPEG_SCANS} are decoded. Save it again."
        )


def _check_tiles(image: TiffImageFile, name: str, data: bytes) -> None:
    """Refuse tiles larger than the picture needs: each is decoded whole, into memory of its own."""
    _check_size_tags(image, name, data)
    tags = image.tag_v2
    width, height = tags.get(322, 0), tags.get(323, 0)
    needed = width * height * max(tags.get(258, (1,))) * tags.get(277, 1) // 8
    if max(width, height) > max(*image.size, MAX_TILE_SIDE) or needed > MAX_DECODED_BYTES:
        raise UnreadablePicture(
            f"the picture {name} is {image.width} x {image.height} in tiles of {width} x {height}, and each takes "
            f"{needed / 1e6:.0f} MB to decode: more than it needs, or than the {MAX_DECODED_BYTES // 10**6} that are "
            "given. Save it again without tiles."
        )


def _check_runs(width: int, height: int, name: str) -> None:
    """Refuse a large compressed BMP: each of its codes leaves out up to 255 rows at once."""
    if width * height > MAX_RLE_PIXELS or 3 * (width * height + 255 * (width + 1)) > MAX_DECODED_BYTES:
        raise UnreadablePicture(
            f"the picture {name} is a compressed BMP of {width} x {height}; at most {MAX_RLE_PIXELS // 10**6} "
            "megapixels are read, and no long strips. Save it as PNG."
        )


def _check_frames(image: Image.Image, name: str, data: bytes) -> None:
    """Refuse an AVIF of larger frames than its picture: they are decoded whole, and scaled to it."""
    # Half of them are of its transparency, which is in what a pixel takes.
    needed = coded_pixels_of_avif(data) // 2 * BYTES_A_PIXEL["AVIF"]
    if needed > MAX_DECODED_BYTES:
        raise UnreadablePicture(
            f"the picture {name} is {image.width} x {image.height} of frames that take {needed / 1e6:.0f} MB to "
            f"decode; at most {MAX_DECODED_BYTES // 10**6} are given. Save a smaller version."
        )


def _check_size_tags(image: TiffImageFile, name: str, data: bytes) -> None:
    """Refuse a TIFF of whose size Pillow may see another number than the decoder."""
    sizes = [tag for tag in tags_of(data, image.tag_v2.offset) if tag.number in _TIFF_SIZES]
    numbers = [tag.number for tag in sizes]
    for tag in sizes:
        is_one = tag.num_values == 1 or tag.number == 258
        if tag.kind not in (SHORT, LONG) or not is_one or numbers.count(tag.number) > 1:
            raise UnreadablePicture(
                f"the picture {name} is a TIFF with its {_TIFF_SIZES[tag.number]} twice, or as no whole number. "
                "Expected it once; save the picture again."
            )


def _decoded_bytes(image: Image.Image, coded_pixels: int) -> int:
    """An upper bound, close to what was measured, on the memory that decoding takes; `coded_pixels` are those that are
    kept until a JPEG has come to its end."""
    channels = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}.get(image.mode, 4)
    taken = image.width * image.height * BYTES_A_PIXEL.get(image.format or "", channels)
    if isinstance(image, JpegImageFile):
        # Of several scans all coefficients stay in memory until the last, two bytes each, however small the picture is
        # drawn.
        taken += 2 * coded_pixels * image.layers
    return taken


def _as_small_rgb(image: Image.Image) -> Image.Image:
    """The middle of a picture as RGB on white, at most 8 times as long as wide and `MAX_SIDE` long.

    Strip by strip: conversions of the whole picture would take its memory several times over.
    """
    left, top, right, bottom = _middle(image.size)
    factor = -(-max(right - left, bottom - top) // MAX_SIDE)
    rows = max(_STRIP_PIXELS // ((right - left) * factor), 1) * factor
    strips = [(left, y, right, min(y + rows, bottom)) for y in range(top, bottom, rows)]
    highest = _highest_value(image, strips)
    small = Image.new("RGB", (-(-(right - left) // factor), -(-(bottom - top) // factor)))
    for box in strips:
        strip = _on_white(image.crop(box), highest)
        small.paste(strip.reduce(factor) if factor > 1 else strip, (0, (box[1] - top) // factor))
    return small


def _middle(size: tuple[int, int]) -> tuple[int, int, int, int]:
    longest = MAX_ASPECT_RATIO * min(size)
    width, height = min(size[0], longest), min(size[1], longest)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _highest_value(image: Image.Image, strips: list[tuple[int, int, int, int]]) -> float:
    """What counts as white: 65535 for whole numbers, the brightest pixel for others."""
    if image.mode != "F":
        return 65535.0
    return max(1.0, *(float(np.nan_to_num(values).max()) for values in _arrays(image, strips)))


def _arrays(image: Image.Image, strips: list[tuple[int, int, int, int]]) -> Iterator[np.ndarray]:
    return (np.asarray(image.crop(box)) for box in strips)


def _on_white(image: Image.Image, highest: float) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.clip(np.nan_to_num(np.asarray(image, dtype=np.float64)) / highest, 0.0, 1.0) * 255.0
        return Image.fromarray(np.round(values).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _at_least(image: Image.Image) -> Image.Image:
    scale = -(-MIN_SIDE // min(image.size))
    return image if scale == 1 else image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
