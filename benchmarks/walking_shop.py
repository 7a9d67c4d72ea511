"""A made-up shop to try a run without a recipe on: nothing in the defaults was chosen on it.

python -m benchmarks.walking_shop --output_dir runs/walking
python train.py --items runs/walking/items.csv --interactions runs/walking/interactions.csv --use_cpu true
python -m benchmarks.baselines --items runs/walking/items.csv --interactions runs/walking/interactions.csv

Shoppers walk from category to category: to one of three that follow it, to one of the three they like, or they stay.
There they take an item by its popularity, eight times as likely one of their six brands. Items have no title: a brand,
a category and a price, which says nothing.
"""

import argparse
import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

CATEGORIES, BRANDS = 60, 150
FOLLOWS, LIKES = 0.45, 0.85  # below which a draw is a step to what follows, and to what is liked
OF_BRAND = 8


def write_shop(folder: Path, num_users: int, num_items: int, seed: int = 11) -> int:
    """items.csv and interactions.csv; returns how many interactions there are."""
    rng = np.random.default_rng(seed)
    brands, categories = rng.integers(0, BRANDS, num_items), rng.integers(0, CATEGORIES, num_items)
    popularity = 1 / (np.arange(num_items) + 20.0) ** 0.8
    rng.shuffle(popularity)
    following = rng.integers(0, CATEGORIES, (CATEGORIES, 3))
    of_category = [np.flatnonzero(categories == category) for category in range(CATEGORIES)]
    prices = [round(float(np.exp(rng.normal(3, 0.7))), 2) for _ in range(num_items)]

    def interactions() -> Iterator[tuple[int, int, int]]:
        for user in range(num_users):
            liked, own = rng.choice(CATEGORIES, 3, replace=False), rng.choice(BRANDS, 6, replace=False)
            category, second, seen = rng.choice(liked), int(rng.integers(1_600_000_000, 1_700_000_000)), set()
            for _ in range(5 + int(rng.poisson(4))):
                draw = rng.random()
                if draw < FOLLOWS:
                    category = rng.choice(following[category])
                elif draw < LIKES:
                    category = rng.choice(liked)
                there = of_category[category]
                shares = popularity[there] * np.where(np.isin(brands[there], own), OF_BRAND, 1)
                item = int(rng.choice(there, p=shares / shares.sum()))
                if item in seen:
                    continue
                seen.add(item)
                second += int(rng.exponential(86_400))
                yield user, item, second

    return write_tables(folder, brands, categories, prices, interactions())


def write_tables(
    folder: Path,
    brands: Iterable[int],
    categories: Iterable[int],
    prices: Iterable[float],
    interactions: Iterable[tuple[int, int, int]],
) -> int:
    """items.csv and interactions.csv, of the numbers of users and items and seconds; returns how many interactions
    there are."""
    described = enumerate(zip(brands, categories, prices, strict=True))
    items = ((f"A{item:05d}", f"brand {brand}", f"category {kind}", price) for item, (brand, kind, price) in described)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item_id", "brand", "category", "price"), *items])
    rows = [(f"U{user}", f"A{item:05d}", second) for user, item, second in interactions]
    with (folder / "interactions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id", "timestamp"), *rows])
    return len(rows)


def make(write: Callable[[Path, int, int, int], int], words: str | None, users: int, items: int, seed: int) -> None:
    """The command of a made-up shop: its `write` is told what these defaults, or who calls it, say."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--users", type=int, default=users)
    parser.add_argument("--items", type=int, default=items)
    parser.add_argument("--seed", type=int, default=seed)
    chosen = parser.parse_args()
    number = write(chosen.output_dir, chosen.users, chosen.items, chosen.seed)
    print(f"{chosen.users:,} shoppers, {chosen.items:,} items, {number:,} interactions in {chosen.output_dir}")


if __name__ == "__main__":
    make(write_shop, __doc__, users=12_000, items=4_000, seed=11)
