"""What the frames of an AVIF say of their size, beside what the file says of the picture."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from processing_unimp import avif_sizes
from processing_unimp.avif_sizes import coded_pixels_of_avif
from processing_unimp.picture import UnreadablePicture, open_picture


def avif(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "AVIF", speed=10, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(16, 16), (300, 200), (1025, 33), (64, 1)])
@pytest.mark.parametrize(("mode", "planes"), [("RGB", 1), ("L", 1), ("RGBA", 2)])
def test_frames_are_as_large_as_the_picture_and_its_transparency(size, mode, planes):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 4), dtype=np.uint8)
    data = avif(Image.fromarray(noise).convert(mode), exif=Image.Exif(), xmp=b"<x>")
    assert coded_pixels_of_avif(data) == planes * size[0] * size[1]
    open_picture(data)


def test_moving_pictures_say_it_twice():
    frames = [Image.new("RGB", (64, 48), (place, 0, 0)) for place in range(10)]
    data = avif(frames[0], save_all=True, append_images=frames[1:])
    assert coded_pixels_of_avif(data) == 2 * 64 * 48
    assert open_picture(data).size == (64, 48)


def small_on_paper(side: int) -> bytes:
    """A picture of 16 x 16 pixels, made from one frame."""
    return avif(Image.new("RGB", (side, side))).replace(struct.pack(">II", side, side), struct.pack(">II", 16, 16))


def test_frames_larger_than_their_picture_are_counted():
    assert open_picture(small_on_paper(500)).size == (16, 16)
    data = small_on_paper(6_000)
    assert coded_pixels_of_avif(data) == 36_000_000
    with pytest.raises(UnreadablePicture, match="is 16 x 16 of frames that take 216 MB to decode"):
        open_picture(data)


def test_a_header_that_lets_frames_have_sizes_of_their_own_is_taken_at_its_most():
    """17 x 17 on paper, and sizes of 16 bits."""
    bits = "000" + "0" + "0" + "0" + "0" + "00000" + "0" * 12 + "00000" + "1111" + "1111" + f"{16:016b}" * 2
    header = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    data = avif(Image.new("RGB", (16, 16)))
    whole = data[: data.index(b"\x12\x00\x0a")]
    assert coded_pixels_of_avif(whole + bytes([0x0A, len(header)]) + header) == 2**32


def test_what_is_broken_is_an_error_in_words():
    data = avif(Image.new("RGB", (64, 64)))
    for place in range(0, len(data), 5):
        try:
            coded_pixels_of_avif(data[:place])
        except ValueError as error:
            assert "it" in str(error) or "box" in str(error)
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = np.frombuffer(data, dtype=np.uint8).copy()
        changed[rng.integers(len(data), size=5)] = rng.integers(256, size=5)
        try:
            coded_pixels_of_avif(changed.tobytes())
        except ValueError:
            pass
    with pytest.raises(ValueError, match="more than 100000 units"):
        avif_sizes._pixels(b"\x12\x00" * 100_001)
