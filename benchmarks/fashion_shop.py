"""A made-up shop in which things go out of fashion: what is popular changes within weeks.

python -m benchmarks.fashion_shop --output_dir runs/fashion
python train.py --items runs/fashion/items.csv --interactions runs/fashion/interactions.csv --use_cpu true
python -m benchmarks.baselines --items runs/fashion/items.csv --interactions runs/fashion/interactions.csv

An item comes at some moment of two years and is taken less and less from then on. Shoppers take what is in fashion by
their taste, to which items of a category are alike, and four times as likely of one of their four brands. Price says
nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .walking_shop import make, write_tables

CATEGORIES, BRANDS, TASTES = 30, 60, 4
LASTS = 0.08  # in parts of the two years: after it an item is taken e times less
OF_ITEM, OF_SHOPPER, OF_BRAND = 0.7, 0.8, 4
OUT_OF_FASHION = 1e-4  # how much any item is still taken


def write_shop(folder: Path, num_users: int, num_items: int, seed: int = 22) -> int:
    """items.csv and interactions.csv; returns how many interactions there are."""
    rng = np.random.default_rng(seed)
    categories, brands = rng.integers(0, CATEGORIES, num_items), rng.integers(0, BRANDS, num_items)
    comes = rng.random(num_items)
    popularity = rng.gamma(1.2, 1, num_items)
    points = OF_ITEM * rng.normal(size=(num_items, TASTES))
    prices = np.exp(rng.normal(3, 0.6, num_items)).round(2).tolist()
    points += rng.normal(size=(CATEGORIES, TASTES))[categories]

    def interactions() -> Iterator[tuple[int, int, int]]:
        for user in range(num_users):
            taste, own = OF_SHOPPER * rng.normal(size=TASTES), rng.choice(BRANDS, 4, replace=False)
            likes = np.exp(points @ taste) * np.where(np.isin(brands, own), OF_BRAND, 1)
            now = 0.8 * rng.random()
            for _ in range(5 + int(rng.poisson(4))):
                now = min(now + rng.exponential(0.03), 1.0)
                age = now - comes
                shares = likes * (np.where(age >= 0, np.exp(-age / LASTS) * popularity, 0) + OUT_OF_FASHION)
                item = int(rng.choice(num_items, p=shares / shares.sum()))
                likes[item] = 0
                yield user, item, int(1_600_000_000 + 6e7 * now)

    return write_tables(folder, brands, categories, prices, interactions())


if __name__ == "__main__":
    make(write_shop, __doc__, users=11_000, items=2_000, seed=22)
