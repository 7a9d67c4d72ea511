"""Which way up a picture is, read from its Exif or XMP data.

Pillow would keep the values of all tags of the Exif data, which may come to many times the file, and some of its
formats ask for them while they are opened: from those the data is hidden, and the one tag that counts is read here.
"""

import re

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from .tiff_tags import tags_of

_ORIENTATION = 274
_IN_JPEG = b"Exif\0\0"
_IN_XMP = re.compile(r'tiff:Orientation(?:="|>)([1-8])')
_MAX_EXIF = 2**20  # bytes that are looked at
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def without_exif(data: bytes) -> bytes:
    """The file with its Exif data under another name, where it is a JPEG or an AVIF; AVIF turns by other means."""
    if data[:3] == b"\xff\xd8\xff":
        return data.replace(_IN_JPEG, b"Exif\0\1")
    if data[4:8] != b"ftyp":
        return data
    parts, place = [], 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        size = size if size >= 8 else len(data)
        box = data[place : place + size]
        parts.append(box if box[4:8] == b"mdat" else box.replace(b"Exif", b"Exi\0"))
        place += size
    return b"".join(parts)


def upright(small: Image.Image, image: Image.Image, data: bytes) -> Image.Image:
    """Turns a picture as its file says.

    Args:
        small (`PIL.Image.Image`): what is turned.
        image (`PIL.Image.Image`): of which it is made, decoded.
        data (`bytes`): the file of that; empty where there is none.
    """
    turn = _UPRIGHT.get(_orientation(image, data) or 1)
    return small if turn is None else small.transpose(turn)


def _orientation(image: Image.Image, data: bytes) -> int | None:
    if isinstance(image, TiffImageFile):  # gone once Pillow has turned it
        told = image.tag_v2.get(_ORIENTATION)
        return told if isinstance(told, int) else None
    try:
        exif = _exif(image, data)[:_MAX_EXIF]
        found = next((tag.value for tag in tags_of(exif) if tag.number == _ORIENTATION), None)
    except ValueError:  # broken Exif data does not make the picture itself unreadable
        found = None
    if found is not None:
        return found
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or ""
    match = _IN_XMP.search(xmp.decode("latin-1") if isinstance(xmp, bytes) else xmp)
    return int(match[1]) if match else None


def _exif(image: Image.Image, data: bytes) -> bytes:
    exif = image.info.get("exif", b"")
    if not exif and data[:3] == b"\xff\xd8\xff" and (place := data.find(_IN_JPEG)) >= 0:
        exif = data[place : place + _MAX_EXIF]
    elif not exif and (text := image.info.get("Raw profile type exif")):  # as ImageMagick writes it into a PNG
        exif = bytes.fromhex("".join(text.split("\n")[3:]))
    return bytes(exif).removeprefix(_IN_JPEG)
