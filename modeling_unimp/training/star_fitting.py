"""The stars that a shopper will give, fitted: biases, factors and what items rated alike got, beside the network.

Shapes: C cases, N items.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from processing_unimp import Catalogue, Histories

from ..hybrid_scores import numbers_of, stars_of_history
from ..star_scores import StarScores
from .item_similarity import rated_alike
from .ranking_weights import fit_softmax
from .rating_factors import biases, factorise, star_shares

RIDGE = 30.0  # as by so many cases
MOST_UNITS = 100.0  # what is smaller, such as factors that a shop has none of, stays small
BIAS_PENALTIES = (1.0, 3.0, 10.0, 30.0)
RANKS, FACTOR_PENALTIES = (4, 8), (3.0, 10.0)
FEWEST_CASES = 20  # of validation; with fewer nothing is chosen


def fit_stars(train: Histories, requests: Sequence[Any], network: np.ndarray, catalogue: Catalogue) -> StarScores:
    """Biases and factors by ridge regression, whose penalties and blend with the network validation chooses.

    The blend has nine numbers, each drawn to where the mean is that of biases and factors, as by so many cases that
    few of validation change nothing. Where the network by itself is ahead of that by more than a standard error, it is
    taken alone.

    Args:
        train (`Histories`): the training part, with ratings.
        requests (`Sequence[dict]`): of rate, from validation, with whole histories and the true `"answer"`.
        network (`np.ndarray` of shape `(C, 5)`): the network's distribution over the stars of each request.
        catalogue (`Catalogue`)
    """
    histories = [stars_of_history(request["history"], catalogue) for request in requests]
    items = numbers_of([request["item"] for request in requests], catalogue)
    truth = np.array([int(request["answer"]) - 1 for request in requests])
    stars = np.arange(1, network.shape[1] + 1)
    log_shares = np.log(star_shares(train))
    has_many = len(truth) >= FEWEST_CASES

    def with_penalties(of_users: float, of_items: float) -> tuple[float, StarScores]:
        mean, _, of_item = biases(train, of_users, of_items)
        nothing = np.zeros((len(catalogue), 0), dtype=np.int32), np.zeros((len(catalogue), 0), dtype=np.float32)
        found = StarScores(mean, of_item, of_users, *nothing, nothing[1], 1.0, log_shares, np.zeros(len(stars)))
        return squared_error(found, (0,)), found._replace(item_strength=of_items)

    def with_factors(rank: int, penalty: float) -> tuple[float, StarScores]:
        *_, factors = factorise(train, biased.strength, biased.item_strength, rank, penalty)
        found = biased._replace(factors=factors.astype(np.float32), penalty=penalty)
        return squared_error(found, (0, 2)), found

    def squared_error(found: StarScores, parts: tuple[int, ...]) -> float:
        expected = [sum(found.estimate(*each)[part] for part in parts) for each in zip(histories, items, strict=True)]
        return float(np.square(np.array(expected) - truth - 1).mean())

    penalties = BIAS_PENALTIES if has_many else BIAS_PENALTIES[1:2]
    _, biased = min((with_penalties(u, i) for u in penalties for i in penalties), key=lambda each: each[0])
    ranks, of_factors = (RANKS, FACTOR_PENALTIES) if has_many else (RANKS[:1], FACTOR_PENALTIES[-1:])
    _, found = min((with_factors(r, p) for r in ranks for p in of_factors), key=lambda each: each[0])
    near = rated_alike(train, found.strength, found.mean, found.biases)
    found = found._replace(neighbours=near.items, similarities=near.values)
    tilts = found.tilts(np.array([found.estimate(*each) for each in zip(histories, items, strict=True)]))
    # What items rated alike tell comes in small numbers, whose weight is large: all are drawn as if they were as large
    # as the first.
    spread = tilts.std(axis=0)
    units = np.ones(4 + len(stars))
    units[1:4] = np.clip(spread[0] / np.maximum(spread, 1e-9), 1.0, MOST_UNITS)
    features = np.stack(
        [np.log(np.clip(network, 1e-6, None)), *(stars * tilts[:, part : part + 1] for part in range(3))]
        + [np.broadcast_to(stars == star, network.shape).astype(np.float64) for star in stars],
        axis=1,
    )

    def errors(weights: np.ndarray) -> np.ndarray:
        return np.square(softmax(np.matmul(weights, features) + log_shares, axis=1) @ stars - truth - 1)

    start = np.array([0.0, 1.0, 0.0, 1.0] + [0.0] * len(stars))
    bounds = [(-least, None) for least in (start / units)[:4]] + [(None, None)] * len(stars)
    at_start = np.matmul(start, features) + log_shares
    pull = RIDGE / len(truth)
    weights = start + units * fit_softmax(units[:, None] * features, truth, at_start, bounds, ridge=pull)
    if has_many:
        own = np.array([1.0, 0.0, 0.0, 0.0, *-log_shares])  # the network as it is
        gains = errors(weights) - errors(own)
        if gains.mean() > gains.std() / math.sqrt(len(gains)):
            weights = own
    of_network, expected, alike, factored = map(float, weights[:4])
    return found._replace(
        network=of_network, expected=expected, alike=alike, factored=factored, intercepts=weights[4:]
    )


def refit_stars(fitted: StarScores, train: Histories) -> StarScores:
    """The same of other interactions, with the strengths and weights that were chosen."""
    mean, _, of_item = biases(train, fitted.strength, fitted.item_strength)
    *_, factors = factorise(train, fitted.strength, fitted.item_strength, fitted.factors.shape[1], fitted.penalty)
    near = rated_alike(train, fitted.strength, mean, of_item)
    return fitted._replace(
        mean=mean,
        log_shares=np.log(star_shares(train)),
        biases=of_item,
        factors=factors.astype(np.float32),
        neighbours=near.items,
        similarities=near.values,
    )
