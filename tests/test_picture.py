import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from processing_unimp.picture import MIN_SIDE, UnreadablePicture, open_picture


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_all_kinds_of_source_give_the_same_picture(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8))
    data, path = encoded(image), tmp_path / "a.png"
    path.write_bytes(data)
    for source in (
        data,
        path,
        str(path),
        {"bytes": data, "path": "gone.png"},
        {"bytes": None, "path": str(path)},
        image,
    ):
        opened = open_picture(source)
        assert opened.mode == "RGB" and opened is not image
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(image))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("LA", (100, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 40, (40, 40, 40)),
        ("I", 257 * 40, (40, 40, 40)),
        ("F", 0.0, (0, 0, 0)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
    ],
)
def test_modes_become_rgb(mode, colour, expected):
    kind = "TIFF" if mode in ("CMYK", "F", "I") else "PNG"
    assert open_picture(encoded(Image.new(mode, (16, 16), colour), kind)).getpixel((8, 8)) == expected
    assert open_picture(Image.new(mode, (16, 16), colour)).getpixel((8, 8)) == expected


def test_cmyk_jpeg_keeps_its_colours():
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    np.testing.assert_allclose(open_picture(data).getpixel((8, 8)), (255, 0, 0), atol=4)


def test_palette_with_a_transparent_colour_is_shown_on_white():
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.paste(1, (0, 0, 8, 16))
    opened = open_picture(encoded(image, transparency=0))
    assert opened.getpixel((2, 2)) == (200, 0, 0)
    assert opened.getpixel((12, 2)) == (255, 255, 255)
    assert open_picture(encoded(image)).getpixel((12, 2)) == (10, 20, 30)


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (32, 16), "black")
    image.paste((255, 255, 255), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to look at it
    opened = open_picture(encoded(image, "JPEG", quality=95, exif=exif))
    assert opened.size == (16, 32)
    assert opened.getpixel((8, 4))[0] > 200 and opened.getpixel((8, 28))[0] < 50


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_lose_the_picture():
    data = encoded(Image.new("RGB", (16, 16), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x01\x02\x03")
    assert open_picture(data).size == (16, 16)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_picture(data).getpixel((3, 3)) == (255, 0, 0)


def test_tiny_pictures_are_enlarged():
    opened = open_picture(encoded(Image.new("RGB", (1, 1), (1, 2, 3))))
    assert opened.size == (MIN_SIDE, MIN_SIDE) and opened.getpixel((7, 0)) == (1, 2, 3)
    assert open_picture(Image.new("RGB", (3, 6))).size == (9, 18)
    assert open_picture(Image.new("RGB", (8, 9))).size == (8, 9)


def test_strips_are_cropped_in_the_middle():
    strip = Image.new("RGB", (2000, 10), "black")
    strip.paste((255, 0, 0), (960, 0, 1040, 10))
    opened = open_picture(strip)
    assert opened.size == (80, 10) and np.all(np.asarray(opened)[..., 0] == 255)
    assert open_picture(Image.new("RGB", (1, 5000))).size == (8, 64)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_000, 11_000, 20_000])
def test_huge_png_is_refused_without_decoding(side):
    with pytest.raises(UnreadablePicture, match=r"pixels|DecompressionBomb"):
        open_picture(png_header(side, side))


def test_huge_jpeg_is_read_small():
    wide = encoded(Image.new("L", (20_000, 20_000), 90), "JPEG", quality=10)
    opened = open_picture(wide)
    assert opened.size == (2500, 2500) and abs(opened.getpixel((5, 5))[0] - 90) < 8


def test_huge_progressive_jpeg_is_refused():
    data = encoded(Image.new("L", (8_000, 8_000), 90), "JPEG", quality=10, progressive=True)
    with pytest.raises(UnreadablePicture, match="8000 x 8000, 64 megapixels"):
        open_picture(data)


def test_missing_broken_and_empty_sources_say_what_to_do(tmp_path):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)), "JPEG")
    with pytest.raises(UnreadablePicture, match="no picture file at .*gone.jpg.*correct the path"):
        open_picture(tmp_path / "gone.jpg")
    for broken in (
        whole[: len(whole) // 2],
        b"",
        b"not a picture",
        b"\xff\xd8\xff",
        encoded(Image.new("L", (9, 9)))[:40],
    ):
        with pytest.raises(UnreadablePicture, match="cannot read the picture given as .* bytes.*Expected a whole"):
            open_picture(broken)
    (tmp_path / "cut.jpg").write_bytes(whole[:300])
    with pytest.raises(UnreadablePicture, match="cut.jpg"):
        open_picture(str(tmp_path / "cut.jpg"))
    with pytest.raises(UnreadablePicture, match="cannot read"):
        open_picture(tmp_path)
    with pytest.raises(UnreadablePicture, match="download it first"):
        open_picture("https://example.org/a.jpg")
    with pytest.raises(UnreadablePicture, match='without "bytes" and without "path"'):
        open_picture({"bytes": None, "path": None})
    with pytest.raises(UnreadablePicture, match="came as int"):
        open_picture(3)
    with pytest.raises(UnreadablePicture, match="no pixels"):
        open_picture(Image.new("RGB", (0, 4)))


@pytest.mark.real_data
def test_real_posters_open(data_dir: Path):
    for path in sorted((data_dir / "ml-100k-posters" / "images").iterdir())[:100]:
        opened = open_picture(path)
        assert opened.mode == "RGB" and min(opened.size) >= MIN_SIDE
