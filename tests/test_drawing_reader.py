"""The reader of imagined pictures: right on every drawing however badly kept, silent where nothing is shown."""

import io
import itertools
import time

import numpy as np
import pytest
from PIL import Image, ImageFilter

from benchmarks.drawing_reader import read_drawing
from processing_unimp.demo_shop import BACKGROUNDS, CATEGORIES, COLOURS, PATTERNS, draw_item

LOOKS = list(itertools.product(CATEGORIES, COLOURS, PATTERNS))


def drawn(category, colour, pattern, background=0, side=64):
    with Image.open(io.BytesIO(draw_item(category, colour, pattern, background))) as picture:
        return picture.resize((side, side), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def drawings():
    """Every combination of looks once, at 64 pixels, on the four backgrounds in turn."""
    return {looks: drawn(*looks, background=i % len(BACKGROUNDS)) for i, looks in enumerate(LOOKS)}


@pytest.fixture(scope="module")
def some(drawings):
    """A sixth of them, with each category, colour and pattern."""
    chosen = [LOOKS[i] for i in np.random.default_rng(0).permutation(len(LOOKS))[:64]]
    assert [len(set(words)) for words in zip(*chosen, strict=True)] == [len(CATEGORIES), len(COLOURS), len(PATTERNS)]
    return {looks: drawings[looks] for looks in chosen}


def noisy(picture, sigma, seed=0):
    pixels = np.asarray(picture, dtype=float)
    pixels = pixels + np.random.default_rng(seed).normal(0, sigma, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def compressed(picture, quality):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def coarse(picture, side=8):
    return picture.resize((side, side), Image.Resampling.BOX).resize(picture.size, Image.Resampling.BICUBIC)


def shares_right(pictures):
    """Shares of pictures whose category, colour and pattern are read as they were drawn."""
    read = [read_drawing(picture) for picture in pictures.values()]
    found = [(one.category, one.colour, one.pattern) for one in read]
    return (np.array(found) == np.array(list(pictures))).mean(axis=0)


def pairs_of_two_categories(pictures, number, seed=1):
    rng = np.random.default_rng(seed)
    looks = list(pictures)
    while number:
        a, b = (looks[i] for i in rng.integers(len(looks), size=2))
        if a[0] != b[0]:
            number -= 1
            yield np.asarray(pictures[a], dtype=float), np.asarray(pictures[b], dtype=float)


def as_picture(pixels):
    return Image.fromarray(np.asarray(pixels).round().astype(np.uint8))


def test_every_clean_drawing_is_read(drawings):
    assert shares_right(drawings).tolist() == [1, 1, 1]
    confidences = [read_drawing(picture).category_confidence for picture in drawings.values()]
    assert min(confidences) > 0.9


def test_drawings_are_read_on_every_background_at_their_own_size(some):
    for background in range(len(BACKGROUNDS)):
        pictures = {looks: drawn(*looks, background, side=96) for looks in list(some)[background::4]}
        assert shares_right(pictures).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda picture: compressed(picture, 30),
        lambda picture: compressed(picture, 20),
        lambda picture: picture.filter(ImageFilter.GaussianBlur(1)),
        lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
        lambda picture: noisy(picture, 15),
        lambda picture: noisy(picture, 30),
        lambda picture: noisy(picture.filter(ImageFilter.GaussianBlur(2)), 30),
    ],
    ids=["JPEG 30", "JPEG 20", "blur 1", "blur 2", "noise 15", "noise 30", "blur 2 and noise 30"],
)
def test_spoilt_drawings_are_read(some, spoil):
    assert shares_right({looks: spoil(picture) for looks, picture in some.items()}).tolist() == [1, 1, 1]


def test_of_eight_by_eight_pixels_category_and_colour_are_left(some):
    category, colour, _ = shares_right({looks: coarse(picture) for looks, picture in some.items()})
    assert (category, colour) == (1, 1)


def test_a_pixel_beside_its_place_is_no_matter_for_category_and_colour(some):
    moved = {looks: as_picture(np.roll(np.asarray(picture), (1, -1), axis=(0, 1))) for looks, picture in some.items()}
    assert shares_right(moved)[:2].tolist() == [1, 1]


def test_worse_pictures_are_read_with_less_confidence(some):
    means = [
        np.mean([read_drawing(noisy(picture, sigma)).category_confidence for picture in some.values()])
        for sigma in (0, 20, 40, 80)
    ]
    assert means == sorted(means, reverse=True) and means[0] > 0.95


def test_the_mode_of_a_picture_does_not_matter():
    picture = drawn("mug", "teal", "striped")
    first = read_drawing(picture)
    assert read_drawing(picture.convert("RGBA")) == first
    paletted = read_drawing(picture.quantize(64))
    assert (paletted.category, paletted.colour, paletted.pattern) == ("mug", "teal", "striped")


def nothing():
    rng = np.random.default_rng(2)
    for colour in ((246, 240, 230), (0, 0, 0), (200, 58, 54)):
        blank = Image.new("RGB", (64, 64), colour)
        yield from (blank, noisy(blank, 10), noisy(blank, 60))
    for side in (64, 16, 8, 4):
        for _ in range(10):
            yield as_picture(rng.integers(0, 256, (side, side, 3))).resize((64, 64), Image.Resampling.BICUBIC)


def test_noise_and_blanks_show_nothing():
    for picture in nothing():
        found = read_drawing(picture)
        assert (found.category, found.colour, found.pattern) == (None, None, None)
        assert found.category_confidence < 0.1 and found.colour_confidence == found.pattern_confidence == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda picture: picture,
        lambda picture: compressed(picture, 20),
        lambda picture: noisy(picture, 30),
        lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
    ],
    ids=["clean", "JPEG 20", "noise 30", "blur 2"],
)
def test_an_average_of_two_categories_is_neither(drawings, spoil):
    for a, b in pairs_of_two_categories(drawings, 60):
        assert read_drawing(spoil(as_picture((a + b) / 2))).category is None


def test_halves_of_two_categories_are_hardly_ever_read(drawings):
    read = 0
    for a, b in pairs_of_two_categories(drawings, 100):
        for part in (np.s_[:, 32:], np.s_[32:]):
            joined = a.copy()
            joined[part] = b[part]
            read += read_drawing(as_picture(joined)).category is not None
    assert read <= 8  # of 200: where most of the one is in its half


def test_a_patchwork_of_drawings_shows_nothing(drawings):
    """What a generator that knows how codes look, but not how they go together, would make."""
    rng = np.random.default_rng(3)
    stock = np.stack([np.asarray(picture) for picture in drawings.values()])
    for _ in range(40):
        rows, columns = np.divmod(np.arange(64), 8)
        patches = [
            stock[i, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            for i, y, x in zip(rng.integers(len(stock), size=64), rows, columns, strict=True)
        ]
        patchwork = np.block([[[patches[8 * y + x]] for x in range(8)] for y in range(8)])
        assert read_drawing(as_picture(patchwork)).category is None


def test_too_faint_to_see_is_nothing():
    paper = Image.new("RGB", (64, 64), BACKGROUNDS[0])
    assert read_drawing(Image.blend(paper, drawn("hat", "red", "plain"), 0.05)) == read_drawing(paper)
    assert read_drawing(Image.blend(paper, drawn("hat", "red", "plain"), 0.5)).category == "hat"


def test_a_grey_drawing_has_no_colour(some):
    for (category, _, pattern), picture in some.items():
        found = read_drawing(picture.convert("L"))
        assert (found.category, found.colour, found.pattern) == (category, None, pattern)
        assert found.colour_confidence == 0


def test_a_body_of_two_colours_has_neither():
    # The halves of a shirt are alike, so each colour has half of the votes.
    left, right = (np.asarray(drawn("shirt", colour, "plain")) for colour in ("blue", "green"))
    found = read_drawing(as_picture(np.concatenate([left[:, :32], right[:, 32:]], axis=1)))
    assert found.category == "shirt" and found.colour is None
    assert 0.5 <= found.colour_confidence < 0.55


def test_blotches_are_no_pattern_and_no_plain_cloth(drawings):
    rng = np.random.default_rng(4)
    for category in CATEGORIES:
        plain, *patterned = (np.asarray(drawn(category, "blue", pattern), dtype=float) for pattern in PATTERNS)
        cloth = np.abs(np.array(patterned) - plain).max(axis=(0, 3)) > 20
        blotches = np.kron(rng.random((16, 16)) < 0.4, np.ones((4, 4), dtype=bool))
        found = read_drawing(as_picture(np.where((cloth & blotches)[..., None], (plain + 255) / 2, plain)))
        assert (found.category, found.colour, found.pattern) == (category, "blue", None)


def test_a_picture_takes_less_than_20_milliseconds(some):
    read_drawing(next(iter(some.values())))
    started = time.process_time()
    for picture in some.values():
        read_drawing(picture)
    assert (time.process_time() - started) / len(some) < 0.02
