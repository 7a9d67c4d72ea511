"""A small made-up shop with drawn pictures and shoppers with tastes: the data that needs no download.

An item's pattern is seen in its picture and written nowhere in its text, so a model must look to learn who likes
stripes; colour and category are in both. Everything follows from one seed.
"""

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFilter

from .grounds import LIKED

Colour = tuple[int, int, int]
Point = tuple[float, float]

SIZE = 96  # pixels a side; also the units in which every shape below is written
SCALE = 4  # drawn this much larger and scaled down, which smooths the edges

COLOURS: dict[str, Colour] = {
    "red": (200, 58, 54),
    "orange": (222, 118, 44),
    "yellow": (230, 180, 56),
    "green": (82, 136, 78),
    "teal": (34, 138, 140),
    "blue": (54, 92, 166),
    "purple": (124, 84, 156),
    "pink": (224, 128, 156),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag", "starry")
BRANDS = {"Nordlys": 1.1, "Casa Olmo": 1.3, "Haru": 1.0, "Bramble": 0.8, "Tidewater": 0.9, "Marlow": 1.5}
MATERIALS = {
    "mug": ("stoneware", "porcelain", "enamel"),
    "lamp": ("linen", "paper", "cotton"),
    "bag": ("canvas", "felt", "leather"),
    "shoe": ("canvas", "suede", "knit"),
    "chair": ("velvet", "wool", "linen"),
    "hat": ("wool", "cashmere", "cotton"),
    "vase": ("glass", "stoneware", "porcelain"),
    "shirt": ("cotton", "linen", "jersey"),
}
PRICES = {"mug": 14, "lamp": 59, "bag": 45, "shoe": 70, "chair": 130, "hat": 24, "vase": 32, "shirt": 28}
CATEGORIES = tuple(MATERIALS)
# What tends to be bought after what, in the colour of the first.
GOES_WITH = {
    "chair": "lamp",
    "lamp": "vase",
    "vase": "mug",
    "mug": "chair",
    "shirt": "shoe",
    "shoe": "bag",
    "bag": "hat",
    "hat": "shirt",
}
NAMES = (
    "Alba Anker Birch Bellis Cove Clover Dune Dovre Elm Ember Fjord Fennel Gale Grove Heath Halden Iris Islay Juniper "
    "Kelda Koto Lark Linden Mira Moss Nest Nola Oslo Otto Pebble Piko Quill Rowan Runa Saga Sorrel Tarn Tilda Umber "
    "Vela Vik Willow Wren Yarrow Zephyr"
).split()

INK_LIGHT: Colour = (255, 247, 230)
WOOD: Colour = (150, 104, 66)
BRASS: Colour = (196, 160, 92)
LEAF: Colour = (96, 138, 84)
BACKGROUNDS: tuple[Colour, ...] = ((246, 240, 230), (236, 240, 241), (243, 236, 238), (238, 242, 232))
YEAR_START = 1_735_689_600  # 2025-01-01 00:00 UTC, in seconds
YEAR_SECONDS = 365 * 24 * 3600
MIN_HISTORY, MAX_HISTORY = 6, 14
MOST_SHOWN = 6  # items that explanations look back on, as many as recipes/demo.yaml shows a model


# --- pictures ---


class _Pen:
    """Draws on one layer in units of the final picture."""

    def __init__(self, mode: str) -> None:
        side = SIZE * SCALE
        self.layer = PILImage.new(mode, (side, side), 0 if mode == "L" else (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.layer)

    def polygon(self, points: Sequence[Point], fill: Any) -> None:
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=fill)

    def blob(self, points: Sequence[Point], fill: Any) -> None:
        """A closed Catmull-Rom curve through the points; a point given twice is a corner."""
        self.polygon(_smooth(points), fill)

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: Any) -> None:
        self._draw.ellipse((x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE), fill=fill)

    def ring(self, x0: float, y0: float, x1: float, y1: float, fill: Any, width: float) -> None:
        self._draw.ellipse((x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE), outline=fill, width=round(width * SCALE))

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Any, radius: float = 0) -> None:
        self._draw.rounded_rectangle(
            (x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE), radius=radius * SCALE, fill=fill
        )

    def line(self, points: Sequence[Point], fill: Any, width: float) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, fill=fill, width=round(width * SCALE), joint="curve")
        for x, y in (scaled[0], scaled[-1]):
            half = width * SCALE / 2
            self._draw.ellipse((x - half, y - half, x + half, y + half), fill=fill)


def _smooth(points: Sequence[Point]) -> list[Point]:
    count, result = len(points), []
    for i in range(count):
        p0, p1, p2, p3 = (np.array(points[(i + k) % count]) for k in (-1, 0, 1, 2))
        if (p1 == p2).all():  # a corner; the formula would draw a little loop here
            continue
        for t in np.arange(12) / 12:
            value = 0.5 * (
                2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
            )
            result.append((float(value[0]), float(value[1])))
    return result


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with `share` of `b` in it."""
    red, green, blue = (round(x * (1 - share) + y * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _dark(colour: Colour, share: float = 0.35) -> Colour:
    return _mix(colour, (30, 22, 30), share)


# Each silhouette draws what lies behind the patterned body, the body itself (a mask), and what lies in front.
Silhouette = Callable[[_Pen, _Pen, _Pen, Colour], None]


def _mug(back: _Pen, body: _Pen, front: _Pen, colour: Colour) -> None:
    back.ring(54, 38, 84, 70, _dark(colour, 0.18), 7)
    for x in (34, 47):
        back.line([(x + 2.5 * math.sin(k / 2.2), 24 - k) for k in range(15)], (205, 198, 192), 2)
    body.box(18, 28, 68, 82, 255, 9)
    body.box(18, 28, 68, 50, 255)
    front.ellipse(18, 23, 68, 35, _mix(colour, (255, 255, 255), 0.35))
    front.ellipse(21, 25, 65, 34, (92, 62, 44))


def _lamp(back: _Pen, body: _Pen, front: _Pen, colour: Colour) -> None:
    back.ellipse(16, 44, 80, 70, (255, 240, 190))
    back.box(45.5, 50, 50.5, 80, BRASS, 2)
    back.ellipse(31, 76, 65, 86, _dark(BRASS, 0.2))
    back.ellipse(31, 74, 65, 83, BRASS)
    back.ellipse(42, 52, 54, 63, (255, 250, 225))
    body.polygon([(31, 11), (65, 11), (82, 57), (14, 57)], 255)
    front.line([(15, 56.5), (81, 56.5)], _dark(colour, 0.25), 2)
    front.line([(32, 11.5), (64, 11.5)], _dark(colour, 0.25), 2)


def _bag(back: _Pen, body: _Pen, front: _Pen, colour: Colour) -> None:
    back.ring(32, 10, 64, 62, _dark(WOOD, 0.15), 4)
    body.blob(
        [(20, 38), (20, 38), (48, 36), (76, 38), (76, 38), (83, 80), (78, 85), (48, 86), (18, 85), (13, 80)], 255
    )
    for x in (34, 62):
        front.box(x - 3, 34, x + 3, 46, _dark(WOOD, 0.15), 2)
        front.ellipse(x - 1.4, 41, x + 1.4, 43.8, BRASS)


def _shoe(back: _Pen, body: _Pen, front: _Pen, colour: Colour) -> None:
    back.blob([(36, 28), (43, 24), (50, 30), (56, 48), (40, 50)], _dark(colour, 0.3))
    outline = [(11, 32), (11, 32), (24, 37), (38, 31), (38, 31), (52, 46), (66, 53), (84, 57), (90, 68), (88, 76)]
    body.blob([*outline, (50, 78), (12, 78), (9, 70), (12, 50)], 255)
    front.box(7, 73, 91, 83, (252, 249, 243), 5)
    front.line([(10, 79.5), (88, 79.5)], _dark(colour, 0.1), 1.6)
    for k in range(3):
        x, y = 42 + 7 * k, 35 + 6.2 * k
        front.line([(x - 4, y + 7), (x + 4.5, y + 1)], (255, 253, 248), 2.4)


def _chair(back: _Pen, body: _Pen, front: _Pen, colour: Colour) -> None:
    for x0, x1 in ((28, 22), (68, 74)):
        back.line([(x0, 70), (x1, 89)], WOOD, 4.5)
    for x0, x1 in ((36, 35), (60, 61)):
        back.line([(x0, 70), (x1, 84)], _dark(WOOD, 0.25), 3.5)
    body.blob([(22, 12), (48, 8), (74, 12), (76, 32), (71, 56), (48, 57), (25, 56), (20, 32)], 255)
    body.box(14, 54, 82, 73, 255, 8)
    front.line([(18, 55.5), (78, 55.5)], _dark(colour, 0.3), 1.8)


def _hat(back: _Pen, body: _Pen, front: _Pen, colour: Colour) -> None:
    back.ellipse(38, 5, 58, 25, _mix(colour, INK_LIGHT, 0.72))
    body.blob([(15, 70), (15, 70), (17, 46), (30, 25), (48, 19), (66, 25), (79, 46), (81, 70), (81, 70)], 255)
    front.box(11, 65, 85, 83, _dark(colour, 0.22), 6)
    for x in range(18, 84, 7):
        front.line([(x, 68), (x, 80)], _dark(colour, 0.36), 1.4)


def _vase(back: _Pen, body: _Pen, front: _Pen, colour: Colour) -> None:
    for x, y, petal in ((33, 13, (238, 190, 98)), (49, 8, (236, 138, 130)), (64, 15, (214, 160, 206))):
        back.line([(48, 42), ((48 + x) / 2 + (x - 48) * 0.15, 28), (x, y)], LEAF, 1.8)
        for k in range(5):
            angle = 2 * math.pi * k / 5
            cx, cy = x + 4.2 * math.cos(angle), y + 4.2 * math.sin(angle)
            back.ellipse(cx - 3.4, cy - 3.4, cx + 3.4, cy + 3.4, petal)
        back.ellipse(x - 2.4, y - 2.4, x + 2.4, y + 2.4, (255, 246, 214))
    body.blob(
        [(37, 35), (37, 35), (59, 35), (59, 35), (60, 42), (78, 62), (66, 86), (48, 88), (30, 86), (18, 62), (36, 42)],
        255,
    )
    front.box(35, 32, 61, 37, _mix(colour, (255, 255, 255), 0.3), 2.5)


def _shirt(back: _Pen, body: _Pen, front: _Pen, colour: Colour) -> None:
    back.ellipse(37, 10, 59, 25, _dark(colour, 0.45))
    left = [(34, 13), (24, 17), (5, 36), (17, 51), (25, 45), (25, 86)]
    neck = [(58, 18), (53, 22.5), (48, 24), (43, 22.5), (38, 18)]
    body.polygon([*left, *[(SIZE - x, y) for x, y in reversed(left)], *neck], 255)
    front.line([(36.5, 15.5), (38.5, 19), (43, 23), (48, 24.4), (53, 23), (57.5, 19), (59.5, 15.5)], _dark(colour), 2)
    for x0, x1 in ((25, 27), (71, 69)):
        front.line([(x0, 46), (x1, 37)], _dark(colour, 0.3), 1.4)


SILHOUETTES: dict[str, Silhouette] = {
    "mug": _mug,
    "lamp": _lamp,
    "bag": _bag,
    "shoe": _shoe,
    "chair": _chair,
    "hat": _hat,
    "vase": _vase,
    "shirt": _shirt,
}


def _pattern(pattern: str, colour: Colour) -> PILImage.Image:
    """The cloth of an item, to be cut out along its body."""
    pen = _Pen("RGBA")
    pen.box(0, 0, SIZE, SIZE, colour)
    # Light ink would drown on the light colours.
    ink = _dark(colour, 0.62) if sum(colour) > 400 else INK_LIGHT
    if pattern == "striped":
        for y in range(-2, SIZE, 13):
            pen.box(0, y, SIZE, y + 5.5, ink)
    elif pattern == "dotted":
        for row, y in enumerate(range(0, SIZE + 12, 12)):
            for x in range(0, SIZE + 14, 14):
                cx = x + 7 * (row % 2)
                pen.ellipse(cx - 3.3, y - 3.3, cx + 3.3, y + 3.3, ink)
    elif pattern == "checked":
        for y in range(0, SIZE, 16):
            pen.box(0, y, SIZE, y + 8, _mix(colour, ink, 0.45))
        for x in range(0, SIZE, 16):
            for y in range(0, SIZE, 8):
                pen.box(x, y, x + 8, y + 8, _mix(colour, ink, 0.45 if y % 16 else 0.95))
    elif pattern == "zigzag":
        for y in range(-6, SIZE + 8, 15):
            pen.line([(x, y + 8 * ((x // 8) % 2)) for x in range(-8, SIZE + 9, 8)], ink, 3.6)
    elif pattern == "starry":
        for row, y in enumerate(range(4, SIZE + 18, 18)):
            for x in range(2, SIZE + 20, 20):
                pen.polygon(_star(x + 10 * (row % 2), y, 7.2), ink)
    return pen.layer


def _star(x: float, y: float, radius: float) -> list[Point]:
    points = []
    for k in range(10):
        reach, angle = radius * (0.44 if k % 2 else 1.0), math.pi * (k / 5 - 0.5)
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return points


@functools.cache
def _shading(colour: Colour) -> PILImage.Image:
    """Light from the upper left: a transparent layer that darkens towards the right and the bottom."""
    side = SIZE * SCALE
    x = np.linspace(-1, 1, side)[None, :]
    y = np.linspace(-1, 1, side)[:, None]
    depth = np.clip(0.55 * x + 0.25 * y, -1, 1)
    layer = np.empty((side, side, 4), dtype=np.uint8)
    layer[..., :3] = np.where(depth[..., None] > 0, np.array(_dark(colour, 0.75)), 255)
    layer[..., 3] = (np.abs(depth) ** 1.3 * 105).astype(np.uint8)
    return PILImage.fromarray(layer, "RGBA")


def draw_item(category: str, colour: str, pattern: str, background: int = 0) -> bytes:
    """Draws one item.

    Args:
        category (`str`): one of `CATEGORIES`.
        colour (`str`): one of `COLOURS`.
        pattern (`str`): one of `PATTERNS`.
        background (`int`, *optional*, defaults to `0`): which of the four backgrounds.

    Returns:
        `bytes`: a PNG, 96 x 96 pixels, RGB.
    """
    rgb = COLOURS[colour]
    back, body, front = _Pen("RGBA"), _Pen("L"), _Pen("RGBA")
    SILHOUETTES[category](back, body, front, rgb)
    paper = BACKGROUNDS[background % len(BACKGROUNDS)]
    canvas = PILImage.new("RGBA", body.layer.size, (*paper, 255))
    shadow = _Pen("RGBA")
    for k in range(6):
        shadow.ellipse(12 + k, 80 + k * 0.6, 84 - k, 92 - k * 0.6, _dark(paper, 0.04 + 0.03 * k))
    cloth = PILImage.alpha_composite(_pattern(pattern, rgb), _shading(rgb))
    for layer in (shadow.layer, back.layer):
        canvas = PILImage.alpha_composite(canvas, layer)
    # A thin darker edge, else light patterns fray into the background. (MaxFilter does this twenty times slower.)
    edge = body.layer.filter(ImageFilter.BoxBlur(SCALE - 1)).point([0] * 16 + [255] * 240)
    canvas.paste((*_dark(rgb, 0.3), 255), mask=edge)
    canvas.paste(cloth, mask=body.layer)
    canvas = PILImage.alpha_composite(canvas, front.layer)
    buffer = io.BytesIO()
    small = canvas.convert("RGB").resize((SIZE, SIZE), PILImage.Resampling.LANCZOS)
    small.save(buffer, format="PNG")
    return buffer.getvalue()


# --- items and shoppers ---


@dataclass(frozen=True)
class _Looks:
    """What an item truly is, row for row; `None` in its text does not change how it looks."""

    category: np.ndarray
    colour: np.ndarray
    pattern: np.ndarray
    price_level: np.ndarray  # -1 cheap .. 1 expensive, among items of the same category


@dataclass
class _Taste:
    colours: list[int]
    categories: list[int]
    pattern: int
    price_level: float


def make_demo_shop(
    num_items: int = 240, num_shoppers: int = 2000, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Makes up a shop and a year of what its shoppers did.

    Args:
        num_items (`int`, *optional*, defaults to 240): items; at least 24, so that every category has some.
        num_shoppers (`int`, *optional*, defaults to 2000): shoppers, each with 6 to 14 interactions.
        seed (`int`, *optional*, defaults to 0): the same seed gives the same shop, pictures included.

    Returns:
        `tuple[list[dict], list[dict]]`: rows of the items table (`item_id`, `title`, `category`, `colour`,
        `material`, `brand`, `price`, `image` as PNG bytes; about 5 % have no image, a few lack an attribute) and of
        the interactions table (`user_id`, `item_id`, `timestamp` in unix seconds, `rating` 1-5,
        `explanation`), the latter in time order.

    Raises:
        `ValueError`: with fewer than 24 items or without shoppers.
    """
    items, interactions, _ = _make_shop(num_items, num_shoppers, seed)
    return items, interactions


def true_tastes(num_items: int = 240, num_shoppers: int = 2000, seed: int = 0) -> dict[str, dict[str, frozenset[str]]]:
    """What each shopper of the same [`make_demo_shop`] likes at the end of the year: the truth behind what they did,
    which no table holds.

    Returns:
        `dict[str, dict[str, frozenset[str]]]`: by `user_id` the two `"colour"`s, two or three values of `"category"`,
        and one `"pattern"`.
    """
    _, _, tastes = _make_shop(num_items, num_shoppers, seed)
    colours = list(COLOURS)
    return {
        user_id: {
            "colour": frozenset(colours[colour] for colour in taste.colours),
            "category": frozenset(CATEGORIES[category] for category in taste.categories),
            "pattern": frozenset({PATTERNS[taste.pattern]}),
        }
        for user_id, taste in tastes.items()
    }


def true_looks(num_items: int = 240, seed: int = 0) -> dict[str, dict[str, str]]:
    """What each item of the same [`make_demo_shop`] is, pictures or text aside.

    Returns:
        `dict[str, dict[str, str]]`: by `item_id` its `"category"`, `"colour"` and `"pattern"`.
    """
    items, looks = _make_items(num_items, np.random.default_rng(seed))
    colours = list(COLOURS)
    rows = zip(looks.category, looks.colour, looks.pattern, strict=True)
    return {
        item["item_id"]: {"category": CATEGORIES[a], "colour": colours[b], "pattern": PATTERNS[c]}
        for item, (a, b, c) in zip(items, rows, strict=True)
    }


def _make_shop(
    num_items: int, num_shoppers: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, _Taste]]:
    if num_items < 24 or num_shoppers < 1:
        raise ValueError(
            f"a demo shop of {num_items} items and {num_shoppers} shoppers: expected at least 24 items and 1 shopper."
        )
    rng = np.random.default_rng(seed)
    items, looks = _make_items(num_items, rng)
    appeal = rng.normal(0, 0.5, num_items)  # some items draw everybody: what popularity can know
    quality = rng.normal(0, 0.5, num_items)  # some items please everybody
    interactions = []
    tastes = {}
    for shopper in range(num_shoppers):
        user_id = f"shopper-{shopper:04d}"
        rows, tastes[user_id] = _shop(user_id, items, looks, appeal, quality, rng)
        interactions += rows
    interactions.sort(key=lambda row: (row["timestamp"], row["user_id"]))
    return items, interactions, tastes


def _make_items(num_items: int, rng: np.random.Generator) -> tuple[list[dict[str, Any]], _Looks]:
    # Every combination once before any comes twice, in chance order.
    combinations = [
        (a, b, c) for a in range(len(CATEGORIES)) for b in range(len(COLOURS)) for c in range(len(PATTERNS))
    ]
    order = np.concatenate([rng.permutation(len(combinations)) for _ in range(-(-num_items // len(combinations)))])
    chosen = np.array([combinations[i] for i in order[:num_items]])
    colours, brands = list(COLOURS), list(BRANDS)
    price_level = rng.uniform(-1, 1, num_items)
    counts = dict.fromkeys(CATEGORIES, 0)
    names = {category: rng.permutation(len(NAMES)) for category in CATEGORIES}
    items = []
    for (a, b, c), level in zip(chosen, price_level, strict=True):
        category, colour = CATEGORIES[a], colours[b]
        counts[category] += 1
        brand = brands[
            min(range(len(brands)), key=lambda k: abs(_brand_price_level(brands[k]) - level + rng.normal(0, 0.4)))
        ]
        # Each name once for a mug before any comes twice.
        title = f"{NAMES[names[category][(counts[category] - 1) % len(NAMES)]]} {category}"
        item: dict[str, Any] = {
            "item_id": f"{category}-{counts[category]:03d}",
            "title": title,
            "category": category,
            "colour": colour,
            "material": str(rng.choice(MATERIALS[category])),
            "brand": brand,
            "price": float(round(PRICES[category] * 1.6**level)),
            "image": draw_item(category, colour, PATTERNS[c], int(rng.integers(len(BACKGROUNDS)))),
        }
        # A shop's table has holes; each item has at most one, so that text or picture always tells the colour.
        hole = rng.random()
        for name, share in (("image", 0.05), ("material", 0.08), ("colour", 0.10), ("brand", 0.12)):
            if hole < share:
                item[name] = None
                break
        items.append(item)
    return items, _Looks(chosen[:, 0], chosen[:, 1], chosen[:, 2], price_level)


def _brand_price_level(brand: str) -> float:
    return (BRANDS[brand] - 1.1) / 0.4


def _shop(
    user_id: str,
    items: list[dict[str, Any]],
    looks: _Looks,
    appeal: np.ndarray,
    quality: np.ndarray,
    rng: np.random.Generator,
) -> tuple[list[dict[str, Any]], _Taste]:
    """One shopper's year: what a taste makes of the shop, and the taste as it is at the end."""
    taste = _Taste(
        colours=rng.choice(len(COLOURS), 2, replace=False).tolist(),
        categories=rng.choice(len(CATEGORIES), int(rng.integers(2, 4)), replace=False).tolist(),
        pattern=int(rng.integers(len(PATTERNS))),
        price_level=float(rng.uniform(-1, 1)),
    )
    kindness = rng.normal(0, 0.7)  # some shoppers give five stars to nearly all, some hardly ever
    length = min(int(rng.integers(MIN_HISTORY, MAX_HISTORY + 1)), len(items))
    moments = np.sort(rng.choice(YEAR_SECONDS, length, replace=False)) + YEAR_START
    turn = int(rng.integers(2, length)) if rng.random() < 0.25 else length
    free = np.ones(len(items), dtype=bool)
    previous = None
    rows: list[dict[str, Any]] = []
    shown: list[tuple[dict[str, Any], int]] = []
    for step, moment in enumerate(moments):
        if step == turn:  # tastes drift: one favourite colour gives way to another
            taste.colours[0] = int(rng.choice([c for c in range(len(COLOURS)) if c not in taste.colours]))
        if rng.random() < 0.12:  # a present, or a whim
            weight = np.ones(len(items))
        else:
            weight = np.exp(2.0 * _liking(taste, looks) + appeal)
            if previous is not None and rng.random() < 0.6:
                follows = CATEGORIES.index(GOES_WITH[CATEGORIES[looks.category[previous]]])
                fits = (looks.category == follows).astype(float)
                same = looks.colour == looks.colour[previous]
                weight = weight * np.exp(2.4 * fits + 2.0 * fits * same)
        weight = weight * free
        number = int(rng.choice(len(items), p=weight / weight.sum()))
        free[number] = False
        previous = number
        stars = _enjoyment(taste, looks)[number] + kindness + quality[number] + rng.normal(0, 0.35)
        rating = int(np.clip(np.floor(stars + 0.5), 1, 5))
        rows.append(
            {
                "user_id": user_id,
                "item_id": items[number]["item_id"],
                "timestamp": int(moment),
                "rating": float(rating),
                "explanation": explained(items[number], list(COLOURS)[looks.colour[number]], shown[-MOST_SHOWN:]),
            }
        )
        shown.append((items[number], rating))
    return rows, taste


def _matches(taste: _Taste, looks: _Looks) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.isin(np.arange(len(COLOURS)), taste.colours).astype(float)[looks.colour],
        np.isin(np.arange(len(CATEGORIES)), taste.categories).astype(float)[looks.category],
        (looks.pattern == taste.pattern).astype(float),
        1 - np.abs(looks.price_level - taste.price_level),
    )


def _liking(taste: _Taste, looks: _Looks) -> np.ndarray:
    """How strongly each item draws this shopper, `(num_items,)`."""
    colour, category, pattern, price = _matches(taste, looks)
    return 1.0 * colour + 0.8 * category + 0.9 * pattern + 0.35 * price


def _enjoyment(taste: _Taste, looks: _Looks) -> np.ndarray:
    """Stars before noise and rounding, `(num_items,)`."""
    colour, category, pattern, price = _matches(taste, looks)
    return 1.5 + 1.3 * colour + 0.7 * category + 0.9 * pattern + 0.3 * price


def explained(item: Mapping[str, Any], colour: str, shown: Sequence[tuple[Mapping[str, Any], float]]) -> str:
    """What somebody says of an item who sees it, and reads in the table what the shopper took lately.

    Nothing of tastes, which nobody is shown, nor of patterns, which the models of the demo do not read in pictures:
    they would learn to guess.

    Args:
        item (`Mapping`): its row of the table.
        colour (`str`): which it has. Where the table does not say so, nothing is said of colours of the history.
        shown (`Sequence[tuple[Mapping, float]]`): rows of the latest items, with their stars.
    """
    said = [f"This {item['category']} is {colour}."]
    for attribute, thing in (("colour", f"{colour} thing"), ("category", item["category"])):
        if item[attribute] is not None:
            said.append(_of_history([stars for other, stars in shown if other[attribute] == item[attribute]], thing))
    return " ".join(said)


def _of_history(stars: Sequence[float], thing: str) -> str:
    liked = sum(rating >= LIKED for rating in stars)
    # What got no stars, or few, was taken all the same; that it was not liked nobody knows of what got none.
    number = liked or len(stars)
    return f"You {'liked' if liked else 'took'} {number or 'no'} {thing}{'s' if number > 1 else ''}."
