"""Reads a picture of the made-up shop back into what it shows, by its pixels alone, to evaluate imagined pictures.

Works on 64 x 64 pixels less the colour of their rim. Each category is the subspace that its 48 drawings, sharp and
blurred, span in any colour; the one that explains most of a picture is what it shows.
"""

import functools
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from processing_unimp.demo_shop import CATEGORIES, COLOURS, PATTERNS, draw_item

SIDE = 64  # pixels
CELL = 4  # pixels a side of the squares in which colours are averaged before they vote, for noise has a hue too
RIM = 2  # pixels
BLURS = (1.0, 2.0, 4.0)  # sigma in pixels; every picture is blurred by the first before it is read
NUM_COMPONENTS = 12  # of a category; they hold 99.9 % of its drawings
NUM_SHADES = 4  # of a category's plain cloth: its light, its seams, its edges when blurred
FAINTEST = 0.04  # root mean square of a picture less its background; drawings have 0.2 to 0.4
ALWAYS_LEFT = 0.01  # of a picture, when testing whether a second category explains what is left
VISIBLE = 0.03  # in units of OKLab

LEAST_CATEGORY = 0.35
LEAST_COLOUR = 0.55
LEAST_PATTERN = 0.4
LEAST_CHROMA = 0.4  # of the palest drawing of the colour; below it a body is grey
FAINTEST_PATTERN = 0.2  # contrast of a pattern, in that of the drawings; below it cloth is plain

PATTERNED = [number for number, pattern in enumerate(PATTERNS) if pattern != "plain"]
DARK_INKED = np.array([sum(colour) > 400 for colour in COLOURS.values()])  # see `demo_shop._pattern`

# https://bottosson.github.io/posts/oklab: its hues are those that people see.
_TO_CONES = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]], dtype=np.float32)
_TO_LAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]], dtype=np.float32)


@dataclass(frozen=True)
class Drawing:
    """What a picture shows, `None` where that is not clear. Without a category nothing else is read.

    Attributes:
        category, colour, pattern (`str`, *optional*): in the words of `draw_item`.
        category_confidence (`float`): 0 to 1, a product of three shares: of the picture, what the category explains;
            of what the second best category leaves unexplained, what the best explains; of what the best leaves, what
            no second category could add (of an average of two nothing is left then). Below 0.35 there is no category.
        colour_confidence (`float`): 0 to 1, the share of the colour's hue in the chroma of the item's body; 0 where
            the body is grey. Below 0.55 there is no colour.
        pattern_confidence (`float`): 0 to 1, correlation of the cloth with the pattern; of plain cloth, how far its
            texture is fainter than any pattern. Below 0.4 there is no pattern.
    """

    category: str | None
    colour: str | None
    pattern: str | None
    category_confidence: float
    colour_confidence: float
    pattern_confidence: float


@dataclass(frozen=True)
class _References:
    """What is known of the drawings of C categories. P pixels of a picture, Q of a category's cloth, K components."""

    components: np.ndarray  # (C, K, P), orthonormal in each category
    beyond: np.ndarray  # (C, C, K, P): what the second category has that the first has not; of itself, 0
    body: np.ndarray  # (C, SIDE, SIDE), 0 to 1: how far a pixel has the colour of the item
    palest: np.ndarray  # (C, colours): chroma of the body under the pattern that hides most of it
    cloth: list[np.ndarray]  # (Q,) each: numbers of the pixels that differ between patterns
    plain: list[np.ndarray]  # (1 + NUM_SHADES, Q) each, orthonormal: lightness that is no pattern
    textures: list[np.ndarray]  # (blurs * inks * patterns, Q) each: lightness of the patterns, less plain


def read_drawing(picture: Image.Image) -> Drawing:
    """Says which item of the made-up shop a picture shows.

    Nothing but pixels is looked at, and nothing is named where nothing fits: noise, a blank or an average of
    two categories shows nothing. The first call draws the shop's items, which takes some seconds.

    Args:
        picture (`PIL.Image.Image`): of any size and mode, with a background of one colour and the item where
            `draw_item` puts it; compressed, blurred, noisy or wrong in places.

    Returns:
        `Drawing`: what it shows, and how clearly.
    """
    known = _references()
    pixels = _pixels(picture)
    category, category_confidence = _category(pixels, known)
    if category_confidence < LEAST_CATEGORY:
        return Drawing(None, None, None, category_confidence, 0.0, 0.0)
    lab = _oklab(pixels)
    colour, colour_confidence = _colour(lab, category, known)
    pattern, pattern_confidence = _pattern(lab[..., 0], category, known)
    return Drawing(
        CATEGORIES[category],
        list(COLOURS)[colour] if colour_confidence >= LEAST_COLOUR else None,
        PATTERNS[pattern] if pattern_confidence >= LEAST_PATTERN else None,
        category_confidence,
        colour_confidence,
        pattern_confidence,
    )


def _category(pixels: np.ndarray, known: _References) -> tuple[int, float]:
    """The category that explains most, and its confidence."""
    item = _less_background(pixels)
    total = float((item**2).sum())
    if total < FAINTEST**2 * item.size:
        return 0, 0.0
    explained = ((known.components @ item.T) ** 2).sum(axis=(1, 2)) / total
    second, best = np.argsort(explained)[-2:]
    left = 1 - explained
    added = ((known.beyond[best] @ item.T) ** 2).sum(axis=(1, 2)).max() / total
    lead = 1 - left[best] / left[second]
    alone = 1 - added / (left[best] + ALWAYS_LEFT)
    return int(best), float(np.clip(explained[best] * lead * alone, 0, 1))


def _colour(lab: np.ndarray, category: int, known: _References) -> tuple[int, float]:
    """Squares of the body vote with their chroma for the colour of the nearest hue."""
    weights, chroma, hues = _squares(lab, known.body[category])
    of_colours = _oklab(np.array(list(COLOURS.values())) / 255)
    nearest = np.cos(hues[:, None] - np.arctan2(of_colours[:, 2], of_colours[:, 1])).argmax(axis=1)
    votes = np.bincount(nearest, weights * chroma, minlength=len(COLOURS))
    best = int(votes.argmax())
    if votes.sum() < LEAST_CHROMA * known.palest[category, best]:
        return best, 0.0
    return best, float(votes[best] / votes.sum())


def _squares(lab: np.ndarray, body: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of the body, chroma, and hue in radians of each square."""
    side = SIDE // CELL
    sizes = body.reshape(side, CELL, side, CELL).sum(axis=(1, 3)).ravel()
    sums = (lab[..., 1:] * body[..., None]).reshape(side, CELL, side, CELL, 2).sum(axis=(1, 3)).reshape(-1, 2)
    a, b = (sums / np.maximum(sizes, 1e-6)[:, None]).T
    return sizes / sizes.sum(), np.hypot(a, b), np.arctan2(b, a)


def _pattern(lightness: np.ndarray, category: int, known: _References) -> tuple[int, float]:
    """The texture of the cloth against every pattern, in dark and in light ink, sharp and blurred."""
    textures = known.textures[category]
    texture = _without(lightness.ravel()[None, known.cloth[category]], known.plain[category])[0]
    products, sizes, size = textures @ texture, (textures**2).sum(axis=1), (texture**2).sum()
    correlations = products / np.sqrt(np.maximum(sizes * size, 1e-12))
    best = int(correlations.argmax())
    if products[best] < FAINTEST_PATTERN * sizes[best]:
        return PATTERNS.index("plain"), float(max(0, 1 - np.sqrt(size / sizes.max())))
    return PATTERNED[best % len(PATTERNED)], float(correlations[best])


@functools.cache
def _references() -> _References:
    shape = (len(BLURS), len(CATEGORIES), len(COLOURS), len(PATTERNS), SIDE, SIDE, 3)
    pixels = np.empty(shape, dtype=np.float32)
    for c, category in enumerate(CATEGORIES):
        for k, colour in enumerate(COLOURS):
            for p, pattern in enumerate(PATTERNS):
                with Image.open(io.BytesIO(draw_item(category, colour, pattern))) as drawing:
                    for level, blur in enumerate(BLURS):
                        pixels[level, c, k, p] = _pixels(drawing, blur)

    components = np.stack(
        [
            _principal(np.concatenate([_less_background(drawing) for drawing in drawings]), NUM_COMPONENTS)
            for drawings in pixels.swapaxes(0, 1).reshape(len(CATEGORIES), -1, SIDE, SIDE, 3)
        ]
    )
    beyond = np.zeros((len(CATEGORIES), *components.shape), dtype=np.float32)
    for first, own in enumerate(components):
        for second, other in enumerate(components):
            if first != second:
                beyond[first, second] = np.linalg.qr(_without(other, own).T)[0].T

    lab = _oklab(pixels[0])
    # The body is what differs between colours, whatever the pattern.
    body = np.clip(lab.std(axis=1).mean(axis=(1, -1)) / VISIBLE - 1, 0, 1)
    palest = np.empty((len(CATEGORIES), len(COLOURS)))
    for c, k in np.ndindex(*palest.shape):
        palest[c, k] = min(weights @ chroma for weights, chroma, _ in (_squares(one, body[c]) for one in lab[c, k]))

    cloth, plain, textures = [], [], []
    for lightness in _oklab(pixels)[..., 0].swapaxes(0, 1).reshape(len(CATEGORIES), *shape[:1], *shape[2:4], -1):
        cloth.append(np.flatnonzero(lightness[0].std(axis=1).mean(axis=0) > VISIBLE))
        of_cloth = lightness[..., cloth[-1]]  # (blurs, colours, patterns, Q)
        unpatterned = of_cloth[:, :, PATTERNS.index("plain")]
        even = np.full((1, len(cloth[-1])), len(cloth[-1]) ** -0.5, dtype=np.float32)
        shades = _principal(_without(unpatterned.reshape(-1, len(cloth[-1])), even), NUM_SHADES)
        plain.append(np.concatenate([even, shades]))
        # Blurred by 4 pixels a pattern is gone.
        patterned = (of_cloth[:, :, PATTERNED] - unpatterned[:, :, None])[:2]
        inks = [patterned[:, DARK_INKED].mean(axis=1), patterned[:, ~DARK_INKED].mean(axis=1)]
        textures.append(_without(np.concatenate(inks).reshape(-1, len(cloth[-1])), plain[-1]))
    return _References(components, beyond, body, palest, cloth, plain, textures)


def _pixels(picture: Image.Image, blur: float = BLURS[0]) -> np.ndarray:
    """`(SIDE, SIDE, 3)` of sRGB from 0 to 1."""
    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(small.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float32) / 255


def _less_background(pixels: np.ndarray) -> np.ndarray:
    """`(3, P)`: the picture less the median of its rim. In sRGB, where an average of pictures is one of numbers."""
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[RIM:-RIM, RIM:-RIM] = True
    difference: np.ndarray = (pixels - np.median(pixels[~inside], axis=0)).reshape(-1, 3).T
    return difference


def _oklab(pixels: np.ndarray) -> np.ndarray:
    """sRGB from 0 to 1 as lightness, green to red and blue to yellow, on the last axis."""
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    lab: np.ndarray = np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
    return lab


def _principal(rows: np.ndarray, number: int) -> np.ndarray:
    """So many orthonormal rows that hold most of `rows`, which are fewer than their columns."""
    _, vectors = np.linalg.eigh(rows @ rows.T)
    directions: np.ndarray = np.linalg.qr((vectors[:, -number:].T @ rows).T)[0].T
    return directions


def _without(rows: np.ndarray, orthonormal: np.ndarray) -> np.ndarray:
    remaining: np.ndarray = rows - (rows @ orthonormal.T) @ orthonormal
    return remaining
