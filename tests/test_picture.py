import base64
import contextlib
import io
import json
import os
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from processes import start

from processing_unimp import Catalogue
from processing_unimp.picture import (
    MAX_FILE_BYTES,
    MAX_SIDE,
    MIN_SIDE,
    UnreadablePicture,
    bytes_of_data_uri,
    open_picture,
)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + png_chunk(b"IEND", b"")
    )


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


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


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to look at it
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "xmp"])
@pytest.mark.parametrize("door", ["bytes", "lazy", "decoded"])
def test_rotation_is_applied(kind, door):
    image = Image.new("RGB", (32, 16), "black")
    image.paste((255, 255, 255), (0, 0, 16, 16))
    if kind == "xmp":
        data = encoded(image, "JPEG", quality=95, xmp=b'<rdf tiff:Orientation="6"/>')
    else:
        data = encoded(image, kind, exif=turned(), **({} if kind in ("PNG", "TIFF") else {"quality": 95}))
    source = data if door == "bytes" else Image.open(io.BytesIO(data))
    if door == "decoded":
        source.load()
    for _ in range(2):  # a PIL picture stays as it was
        opened = open_picture(source)
        assert opened.size == (16, 32)
        assert opened.getpixel((8, 4))[0] > 200 and opened.getpixel((8, 28))[0] < 50


def test_the_hexadecimal_exif_of_a_png_is_read():
    profile = turned().tobytes().hex()
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n  {len(profile) // 2}\n{profile}\n")
    assert open_picture(encoded(Image.new("RGB", (32, 16)), "PNG", pnginfo=info)).size == (16, 32)


def test_a_picture_of_the_caller_is_not_made_smaller():
    image = Image.open(io.BytesIO(encoded(Image.new("L", (9000, 3000)), "JPEG", quality=1)))
    assert open_picture(image).size == (3000, 1000) and image.size == (9000, 3000)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def endless(kind: str, number: int) -> bytes:
    """A picture of 16 x 16 with so many parts that say nothing."""
    image = Image.new("P", (16, 16))
    if kind in ("comments of a JPEG", "Exif of a JPEG", "junk of a JPEG"):
        data = encoded(image.convert("RGB"), "JPEG")
        parts = {
            "comments of a JPEG": segment(0xFE, b"") * number,
            "Exif of a JPEG": segment(0xE1, b"Exif\0\0MM\0*") * number,
            "junk of a JPEG": bytes(number * 4),
        }
        return data[:20] + parts[kind] + data[20:]
    if kind == "comments of a GIF":
        data = encoded(image, "GIF")
        return data[: data.index(b",")] + b"\x21\xfe\x08abcdefgh\0" * number + data[data.index(b",") :]
    data = encoded(image)
    place = data.index(b"IDAT") - 4 if kind == "chunks of a PNG" else len(data) - 12
    return data[:place] + png_chunk(b"prVt", b"") * number + data[place:]


@pytest.mark.parametrize(
    "kind",
    [
        "comments of a JPEG",
        "Exif of a JPEG",
        "junk of a JPEG",
        "comments of a GIF",
        "chunks of a PNG",
        "its last chunks",
    ],
)
def test_parts_without_end_are_not_read(kind):
    assert open_picture(endless(kind, 100)).size == (16, 16)
    with pytest.raises(UnreadablePicture, match="it has more parts than are read"):
        open_picture(endless(kind, 150_000))


def test_a_png_of_many_small_chunks_is_read():
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)))
    begin = data.index(b"IDAT") - 4
    body = data[begin + 8 : begin + 8 + int.from_bytes(data[begin : begin + 4], "big")]
    chunks = b"".join(png_chunk(b"IDAT", body[n : n + 1]) for n in range(len(body)))
    assert len(body) > 10_000
    np.testing.assert_array_equal(open_picture(data[:begin] + chunks + data[-12:]), open_picture(data))


@pytest.mark.parametrize(("width", "height"), [(4_000_000, 1), (7_000, 7_000)])
def test_a_compressed_bmp_that_leaves_out_rows_is_refused(width, height):
    def bmp(width, height, codes):
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 2835, 2835, 256, 0)
        colours = b"".join(bytes([n, n, n, 0]) for n in range(256))
        return b"BM" + struct.pack("<IHHI", 1078 + len(codes), 0, 0, 1078) + head + colours + codes

    with pytest.raises(UnreadablePicture, match=f"a compressed BMP of {width} x {height}"):
        open_picture(bmp(width, height, b"\0\2\0\xff"))
    assert open_picture(bmp(8, 8, b"\x08\x07\0\0" * 8)).getpixel((0, 0)) == (7, 7, 7)


def exif_bomb() -> bytes:
    """Tags of which each has all of the data as its value: together 240 MB, of 60 kB."""
    entries = b"".join(struct.pack(">HHII", 50_000 + n, 1, 60_000, 8) for n in range(4_000))
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 4_000) + entries + bytes(12_000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_no_tag_of_exif_data_is_kept_beside_the_one_that_counts(kind):
    image = Image.new("RGB", (16, 16), "red")
    bomb = exif_bomb()
    if kind == "AVIF":  # whose writer looks at it
        plain = b"Exif\0\0MM\0*" + struct.pack(">IHHHII", 8, 1, 50_000, 7, len(bomb) - 32, 26) + bytes(len(bomb) - 28)
        data = encoded(image, "AVIF", exif=plain)
        data = data.replace(plain[6:], bomb[6:])
        assert bomb[6:] in data
    else:
        data = encoded(image, kind, exif=bomb)
    open_picture(data)
    tracemalloc.start()
    for _ in range(2):
        assert open_picture(data).getpixel((3, 3))[0] > 200
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20_000_000


@pytest.mark.parametrize(
    ("tag", "kind", "count", "message"),
    [
        (273, 4, 150_000, "tag 273 has 150000 values"),
        (50_000, 1, 2**31, "its tags come to 2147483"),
    ],
)
def test_tags_of_a_tiff_that_say_more_than_it_holds_are_refused(tag, kind, count, message):
    strip = tiff((273, 4, -1), (278, 4, 16), (279, 4, 17))
    place = strip.find(struct.pack("<HHI", 273, 4, 1))
    data = strip[:place] + struct.pack("<HHII", tag, kind, count, 8) + strip[place + 12 :] + bytes(4 * 150_000)
    with pytest.raises(UnreadablePicture, match=message):
        open_picture(data)


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


# ---------------------------------------------------------------------------------------------------- hostile pictures

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 40
%%EndComments
(MARK) (w) file (ran) writestring
showpage
"""


def open_all(folder):
    """Opens hostile pictures by every door, and writes down what a catalogue makes of them and what was started."""
    started = []
    kinds = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
    sys.addaudithook(lambda event, args: started.append((event, args[:1])) if event in kinds else None)
    catalogue = Catalogue.load(folder)
    pictures = [catalogue.picture(item_id) for item_id in catalogue.item_ids]
    catalogue.save(folder / "saved")
    opened = []
    for file in folder.glob("p*"):
        for source in (file, file.read_bytes()):
            with contextlib.suppress(UnreadablePicture):
                open_picture(source)
                opened.append(str(file))
    is_saved = Catalogue.load(folder / "saved").has_picture("0")
    (folder / "found.json").write_text(json.dumps([pictures, started, is_saved, opened], default=str))


def test_no_picture_starts_a_program(tmp_path):
    """Pillow would hand PostScript under any name to Ghostscript: one is on the PATH here, and is not asked."""
    shop = tmp_path / "shop"
    shop.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\nsleep 60\n")
    (programs / "gs").chmod(0o755)
    names = ["p.jpg", "p.png", "p.eps", "p"]
    for name in names:
        (shop / name).write_bytes(POSTSCRIPT.replace(b"MARK", str(tmp_path / "ran").encode()))
    # The same bytes, as DOS stores them: behind a header that names where the PostScript begins.
    binary = struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, len(POSTSCRIPT), 0, 0, 0, 0, 0xFFFF) + POSTSCRIPT
    (shop / "p.dos").write_bytes(binary)
    items = [{"item_id": str(n), "image": name} for n, name in enumerate([*names, "p.dos"])]
    (shop / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    path = f"{programs}:{os.environ['PATH']}"
    start(open_all, shop, output=tmp_path / "said", PATH=path).join(100)
    assert (shop / "found.json").exists(), (tmp_path / "said").read_text()
    assert json.loads((shop / "found.json").read_text()) == [[None] * 5, [], False, []]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PCX", "SGI", "EPS", "PDF", "ICNS", "DDS", "IM", "JPEG2000"])
def test_other_kinds_of_picture_are_refused_whatever_they_are_called(tmp_path, kind):
    file = tmp_path / "a.png"
    Image.new("RGB", (32, 32), "red").save(file, kind)
    for source in (file, file.read_bytes()):
        with pytest.raises(UnreadablePicture, match="cannot read the picture.*AVIF, BMP, GIF, JPEG, PNG, TIFF, WEBP"):
            open_picture(source)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_the_usual_kinds_are_read_whatever_they_are_called(tmp_path, kind):
    file = tmp_path / "a.eps"
    Image.new("RGB", (32, 32), (200, 30, 40)).save(file, kind)
    np.testing.assert_allclose(open_picture(file).getpixel((16, 16)), (200, 30, 40), atol=8)


def test_only_regular_files_are_opened_and_nothing_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero", "/dev/stdin", tmp_path):
        with pytest.raises(UnreadablePicture, match="no regular file"):
            open_picture(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.write(encoded(Image.new("RGB", (16, 16))))
        file.truncate(20 * 2**30)  # which takes no room on the disk
    with pytest.raises(UnreadablePicture, match="21474836480 bytes or more; at most 67108864"):
        open_picture(huge)
    with pytest.raises(UnreadablePicture, match="too large"):
        open_picture(bytes(MAX_FILE_BYTES + 1))


def test_a_jpeg_of_endless_scans_is_refused():
    data = encoded(Image.new("L", (64, 64), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 300 + data[-2:]
    assert open_picture(data).size == (64, 64)
    with pytest.raises(UnreadablePicture, match="JPEG of 3.. scans; at most 200"):
        open_picture(bomb)


def tiff(*tags: tuple[int, int, int], data: bytes = zlib.compress(bytes(1000))) -> bytes:
    """A grey picture of 16 x 16 with these tags (number, kind, value) beside its own; -1 is where the data is."""
    own = [(256, 4, 16), (257, 4, 16), (258, 4, 8), (259, 4, 8), (262, 4, 1), (277, 4, 1)]
    entries = sorted([*own, *tags])
    end = 14 + 12 * len(entries)
    body = b"".join(struct.pack("<HHII", tag, kind, 1, end if value < 0 else value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + data


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ([(322, 4, 45_984), (323, 4, 45_984)], "16 x 16 in tiles of 45984 x 45984"),
        ([(322, 4, 16), (323, 4, 2**30)], "in tiles of 16 x 1073741824"),
        # The decoder takes the first of two numbers, Pillow the last; and of some kinds Pillow sees none.
        ([(322, 4, 45_984), (322, 4, 45_985), (323, 4, 16)], "TIFF with its TileWidth twice"),
        ([(322, 17, 45_984), (323, 4, 16)], "TIFF with its TileWidth twice, or as no whole number"),
        ([(256, 4, 17), (322, 4, 16), (323, 4, 16)], "TIFF with its ImageWidth twice"),
    ],
)
def test_tiles_larger_than_their_picture_needs_are_refused(tiles, message):
    with pytest.raises(UnreadablePicture, match=message):
        open_picture(tiff(*tiles, (324, 4, -1), (325, 4, 17)))


def test_tiles_and_strips_of_the_usual_sizes_are_read():
    tiles = tiff((322, 4, 256), (323, 4, 256), (324, 4, -1), (325, 4, 82), data=zlib.compress(bytes(256 * 256)))
    # Rows of a strip may be more than there are.
    strip = tiff((273, 4, -1), (278, 4, 2**31 - 1), (279, 4, 17))
    assert open_picture(tiles).size == open_picture(strip).size == (16, 16)


def test_a_jpeg_of_one_scan_a_colour_is_counted_whole_though_it_is_not_progressive():
    data = encoded(Image.new("RGB", (64, 64), "red"), "JPEG")
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    for side, message in ((16_000, "16000 x 16000, 256 megapixels"), (6_000, "takes 252 MB to decode")):
        large = data[: frame + 5] + struct.pack(">HH", side, side) + data[frame + 9 : scan]
        with pytest.raises(UnreadablePicture, match=message):
            open_picture(large + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + bytes(1000))
    assert open_picture(large + data[scan:]).size == (3000, 3000)


def peaks(folder):
    """Megabytes that opening each picture takes at most, and what came of it."""

    def most():
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1000

    found = {}
    for name in LARGE:
        Path("/proc/self/clear_refs").write_text("5")  # counts the most anew
        before = most()
        try:
            said = str(open_picture(folder / name).size)
        except UnreadablePicture as error:
            said = str(error)
        found[name] = (round(most() - before), said)
    (folder / "found.json").write_text(json.dumps(found))


LARGE = {
    "rgba.png": ("RGBA", 7071, {"compress_level": 1}),
    "one_strip.tiff": ("CMYK", 7071, {"compression": "tiff_lzw", "strip_size": 2**30}),
    "float.tiff": ("F", 7071, {"compression": "tiff_lzw"}),
    "lossy.webp": ("RGBA", 3535, {"quality": 1, "method": 0}),
    "wide.webp": ("RGB", 7071, {"quality": 1, "method": 0}),
    "progressive.jpg": ("RGB", 5000, {"progressive": True}),
    "baseline.jpg": ("L", 20_000, {"quality": 1}),
}


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="this system does not tell the most memory used"
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_opening_a_picture_takes_less_than_400_megabytes(tmp_path):
    for name, (mode, side, options) in LARGE.items():
        Image.new(mode, (side, side)).save(tmp_path / name, **options)
    start(peaks, tmp_path, output=tmp_path / "said").join(200)
    found = json.loads((tmp_path / "found.json").read_text())
    assert all(megabytes < 400 for megabytes, _ in found.values()), found
    assert [name for name, (_, said) in found.items() if not said.startswith("(")] == ["wide.webp"], found


@pytest.mark.parametrize("size", [(4097, 900), (9000, 4000), (1200, 9001)])
def test_large_pictures_are_reduced_by_a_whole_factor(size):
    factor = -(-max(size) // MAX_SIDE)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    opened = open_picture(Image.fromarray(noise))
    assert opened.size == (-(-size[0] // factor), -(-size[1] // factor))
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(Image.fromarray(noise).reduce(factor)))


def test_data_uris_and_no_other_text():
    data = encoded(Image.new("RGB", (16, 16), "red"))
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    assert bytes_of_data_uri(uri) == data
    for text in (
        "a.png",
        "/etc/passwd",
        "http://127.0.0.1/a.png",
        "data:text/html;base64,AAAA",
        "data:image/png,AAAA",
    ):
        with pytest.raises(ValueError, match="no data URI.*never opened"):
            bytes_of_data_uri(text)
    with pytest.raises(ValueError, match="not base64"):
        bytes_of_data_uri("data:image/png;base64,!!!")
    with pytest.raises(ValueError, match="at most 12000000"):
        bytes_of_data_uri(uri + "A" * 12_000_000)


@pytest.mark.parametrize("tag", [34665, 34853])
def test_no_directory_within_a_tiff_says_more_than_it_holds(tag):
    """Pillow reads those of Exif data and of the place on earth as soon as the picture is decoded."""
    picture = tiff((273, 4, -1), (278, 4, 16), (279, 4, 17), (tag, 4, 1_000)).ljust(1_000, b"\0")
    bomb = struct.pack("<H", 4_000) + b"".join(struct.pack("<HHII", 50_000 + n, 1, 60_000, 0) for n in range(4_000))
    fair = struct.pack("<HHHII", 1, 50_000, 1, 60_000, 0)
    assert open_picture(picture + fair + bytes(60_000)).size == (16, 16)
    for source in (picture + bomb + bytes(60_000), Image.open(io.BytesIO(picture + bomb + bytes(60_000)))):
        with pytest.raises(UnreadablePicture, match="its tags come to .* bytes and more"):
            open_picture(source)
    circle = tiff((273, 4, -1), (278, 4, 16), (279, 4, 17), (tag, 4, 8)).ljust(100_000, b"\0")
    with pytest.raises(UnreadablePicture, match="tags and more; at most 4096 are read"):
        open_picture(circle)
    for pointer in ((tag, 16, 1_000), (tag, 9, 1_000)):
        with pytest.raises(UnreadablePicture, match=f"its tag {tag} names no place in the file"):
            open_picture(tiff((273, 4, -1), (278, 4, 16), (279, 4, 17), pointer).ljust(100_000, b"\0"))


def test_a_bigtiff_is_read_in_the_order_in_which_all_see_the_same_file():
    data = encoded(Image.new("L", (16, 16), 7), "TIFF", big_tiff=True)
    assert open_picture(data).getpixel((0, 0)) == (7, 7, 7)
    with pytest.raises(UnreadablePicture, match="it is a BigTIFF that begins with the high bytes"):
        open_picture(b"MM\0+" + data[4:])
