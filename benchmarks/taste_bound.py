"""What can be known in the shop of tastes: NDCG@10 of who knows its items and reads the history of a shopper.

python -m benchmarks.taste_bound
python -m benchmarks.taste_bound --users 1000 --items 400 --seed 13

Where every item stands in the space of tastes, and how popular it is, is taken as known; a model has to learn it from
what others took. The taste of a shopper is drawn from a normal distribution, so that after a history each taste has a
probability, and each item the mean of what it has under all tastes, here of many drawn ones. But for the approximation
in `posterior_shares` (LOG says what it costs) no ranking by the history is better on average. The last item of each
shopper is asked for, as in the test of a training.
"""

import argparse
import itertools
from collections.abc import Iterator

import numpy as np

from .cold_items import mean_and_interval
from .taste_shop import TASTES, TasteShop, draw_shop

LEAST_LEFT = 0.05  # of the probability of all items, after those that were taken


def ranks(shop: TasteShop, num_tastes: int = 40_000, most: int | None = None) -> Iterator[int]:
    """Where the last item of each of the first `most` shoppers stands, among those that they do not have yet."""
    tastes_KT = np.random.default_rng(0).normal(size=(num_tastes, TASTES)).astype(np.float32)
    log_shares_KN = (shop.log_popularity + tastes_KT @ shop.points.T).astype(np.float32)
    log_shares_KN -= np.log(np.exp(log_shares_KN).sum(axis=1, keepdims=True))
    shares_KN = np.exp(log_shares_KN)
    users = itertools.groupby(shop.interactions, key=lambda row: row[0])
    for _, rows in itertools.islice(users, most):
        *history, last = (item for _, item, _ in rows)
        shares_N = posterior_shares(log_shares_KN, shares_KN, history)
        shares_N[history] = -1
        yield 1 + int((shares_N > shares_N[last]).sum())


def posterior_shares(log_shares_KN: np.ndarray, shares_KN: np.ndarray, history: list[int]) -> np.ndarray:
    """The mean share of each item `(N,)` over K tastes, weighted by how likely each made this history.

    Items are drawn without replacement, in an order that nobody knows: of what is left when an item is drawn, the mean
    is taken to be half of what the history takes away.
    """
    taken_K = shares_KN[:, history].sum(axis=1)
    left_K = np.log(np.maximum(1 - taken_K, LEAST_LEFT))
    log_weights_K = log_shares_KN[:, history].sum(axis=1) - len(history) / 2 * left_K
    weights_K = np.exp(log_weights_K - log_weights_K.max())
    shares: np.ndarray = weights_K @ shares_KN / weights_K.sum()
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=12_000)
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--most", type=int, default=5_000, help="Shoppers that are asked for, the first.")
    chosen = parser.parse_args()
    found = np.array(list(ranks(draw_shop(chosen.users, chosen.items, chosen.seed), most=chosen.most)))
    print(f"{len(found):,} shoppers: NDCG@10 {mean_and_interval(found)}")


if __name__ == "__main__":
    main()
