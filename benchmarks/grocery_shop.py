"""A made-up shop in which most is bought again: what shoppers need, and when they need it again.

python -m benchmarks.grocery_shop --output_dir runs/groceries
python train.py --items runs/groceries/items.csv --interactions runs/groceries/interactions.csv --use_cpu true
python -m benchmarks.baselines --items runs/groceries/items.csv --interactions runs/groceries/interactions.csv

A shopper has a staple of each of eight categories, and needs each again after two to five visits. In its place they
take something else of the category one time in four; on three visits in ten they take anything besides. What is taken
on a visit has one timestamp, in an order that says nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .walking_shop import make, write_tables

CATEGORIES, BRANDS, STAPLES = 40, 80, 8
INSTEAD, BESIDES = 0.25, 0.3


def write_shop(folder: Path, num_users: int, num_items: int, seed: int = 41) -> int:
    """items.csv and interactions.csv; returns how many interactions there are."""
    rng = np.random.default_rng(seed)
    categories, brands = rng.integers(0, CATEGORIES, num_items), rng.integers(0, BRANDS, num_items)
    prices = np.exp(rng.normal(1, 0.5, num_items)).round(2).tolist()
    popularity = rng.permutation(1 / (np.arange(num_items) + 10.0) ** 0.9)
    of_category = [np.flatnonzero(categories == category) for category in range(CATEGORIES)]

    def popular(items: np.ndarray) -> int:
        return int(rng.choice(items, p=popularity[items] / popularity[items].sum()))

    def interactions() -> Iterator[tuple[int, int, int]]:
        for user in range(num_users):
            own = rng.choice(CATEGORIES, STAPLES, replace=False)
            staples = [popular(of_category[category]) for category in own]
            due = rng.integers(1, 6, STAPLES)
            second, left = int(rng.integers(1_600_000_000, 1_690_000_000)), 6 + int(rng.poisson(6))
            while left > 0:
                second += 1 + int(rng.exponential(5 * 86_400))
                due -= 1
                needed = np.flatnonzero(due == 0)
                due[needed] = rng.integers(2, 6, len(needed))
                basket = [
                    popular(of_category[own[place]]) if rng.random() < INSTEAD else staples[place] for place in needed
                ]
                if rng.random() < BESIDES:
                    basket.append(popular(np.arange(num_items)))
                for item in rng.permutation(basket).astype(int).tolist():
                    left -= 1
                    yield user, item, second

    return write_tables(folder, brands, categories, prices, interactions())


if __name__ == "__main__":
    make(write_shop, __doc__, users=10_500, items=1_500, seed=41)
