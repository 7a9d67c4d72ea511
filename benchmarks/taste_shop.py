"""A made-up shop in which all that counts is who likes what: what linear models such as EASE are made for.

python -m benchmarks.taste_shop --output_dir runs/tastes
python train.py --items runs/tastes/items.csv --interactions runs/tastes/interactions.csv --use_cpu true
python -m benchmarks.baselines --items runs/tastes/items.csv --interactions runs/tastes/interactions.csv

Items and shoppers are points of a space of tastes; items of a category are near to one another. A shopper takes items
by their popularity and by how near they are, in an order that says nothing. There are four times as many interactions
an item as in the walking shop. Brand and price say nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .walking_shop import make, write_tables

CATEGORIES, BRANDS, TASTES = 12, 40, 6
OF_ITEM = 0.8  # how far items of a category are from one another, where categories are at a distance of 1


class TasteShop(NamedTuple):
    """N items, and what shoppers took."""

    brands: np.ndarray  # (N,)
    categories: np.ndarray  # (N,)
    prices: list[float]
    log_popularity: np.ndarray  # (N,)
    points: np.ndarray  # (N, TASTES)
    interactions: Iterator[tuple[int, int, int]]  # numbers of shopper and item, second; one shopper after the other


def draw_shop(num_users: int, num_items: int, seed: int) -> TasteShop:
    rng = np.random.default_rng(seed)
    categories, brands = rng.integers(0, CATEGORIES, num_items), rng.integers(0, BRANDS, num_items)
    prices = np.exp(rng.normal(3, 0.7, num_items)).round(2).tolist()
    log_popularity = -np.log(rng.permutation(num_items) + 5.0)
    points = rng.normal(size=(CATEGORIES, TASTES))[categories] + OF_ITEM * rng.normal(size=(num_items, TASTES))

    def interactions() -> Iterator[tuple[int, int, int]]:
        for user in range(num_users):
            likes = log_popularity + points @ rng.normal(size=TASTES)
            size = 5 + int(rng.poisson(4))
            # The largest of scores with Gumbel noise are a draw without replacement (https://huggingface.co/papers/1903.06059).
            taken = np.argsort(-(likes + rng.gumbel(size=num_items)))[:size]
            second = int(rng.integers(1_600_000_000, 1_700_000_000))
            for item in rng.permutation(taken).tolist():
                second += 1 + int(rng.exponential(86_400))
                yield user, item, second

    return TasteShop(brands, categories, prices, log_popularity, points, interactions())


def write_shop(folder: Path, num_users: int, num_items: int, seed: int = 12) -> int:
    """items.csv and interactions.csv; returns how many interactions there are."""
    shop = draw_shop(num_users, num_items, seed)
    return write_tables(folder, shop.brands, shop.categories, shop.prices, shop.interactions)


if __name__ == "__main__":
    make(write_shop, __doc__, users=12_000, items=1_000, seed=12)
