"""Tuned baselines of stars: means, biases, biased matrix factorisation.

Shapes: N items, U users, R ratings.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from modeling_unimp.training.rating_factors import biases, factorise
from processing_unimp import EvaluationCases, Histories

from .ranking_baselines import Scorer, Variant, constant

RATING_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
RANKS = (2, 4, 8, 16)


def constant_stars(train: Histories, of: Callable[[np.ndarray], Any]) -> Iterator[Variant]:
    yield {}, constant(np.array([of(train.ratings[np.isfinite(train.ratings)])], dtype=np.float64))


def shoppers_mean(train: Histories) -> Iterator[Variant]:
    """The shopper's earlier mean, drawn to everybody's as if that were `strength` more ratings."""
    mean = float(np.nanmean(train.ratings))
    no_biases, no_factors = np.zeros(len(train.catalogue)), np.zeros((len(train.catalogue), 0))
    for strength in RATING_PENALTIES:
        yield {"strength": strength}, stars_of_factors(mean, no_biases, no_factors, strength, 0.0)


def user_and_item(train: Histories) -> Iterator[Variant]:
    """Mean + the shopper's bias + the item's bias, each with its ridge penalty."""
    for item_penalty in RATING_PENALTIES:
        for user_penalty in RATING_PENALTIES:
            mean, _, of_items = biases(train, user_penalty, item_penalty)
            parameters = {"user_penalty": user_penalty, "item_penalty": item_penalty}
            no_factors = np.zeros((len(of_items), 0))
            yield parameters, stars_of_factors(mean, of_items, no_factors, user_penalty, 0.0)


def matrix_factorisation(train: Histories, user_penalty: float, item_penalty: float) -> Iterator[Variant]:
    """`mu + b_u + b_i + p_u . q_i` by alternating least squares, the biases with the penalties given."""
    for rank in RANKS:
        for penalty in RATING_PENALTIES:
            mean, of_items, factors = factorise(train, user_penalty, item_penalty, rank, penalty)
            parameters = {"rank": rank, "penalty": penalty, "user_penalty": user_penalty, "item_penalty": item_penalty}
            yield parameters, stars_of_factors(mean, of_items, factors, user_penalty, penalty)


def stars_of_factors(
    mean: float, of_items: np.ndarray, factors: np.ndarray, user_penalty: float, penalty: float
) -> Scorer:
    """The shopper's bias and factors come from the case's history, so that new shoppers have them too."""
    ridge = np.diag([user_penalty, *[penalty] * factors.shape[1]])
    described = np.concatenate([np.ones((len(of_items), 1)), factors], axis=1)

    def scores(cases: EvaluationCases) -> Iterator[np.ndarray]:
        histories = cases.cases.histories
        targets = histories.item_numbers[cases.cases.rows]
        for user, position, target in zip(cases.cases.users, cases.cases.positions, targets, strict=True):
            before = slice(histories.starts[user], histories.starts[user] + position)
            given = np.isfinite(histories.ratings[before])
            items = histories.item_numbers[before][given]
            residual = histories.ratings[before][given] - mean - of_items[items]
            x = described[items]
            of_user = np.linalg.solve(x.T @ x + ridge, x.T @ residual)
            yield np.array([mean + of_items[target] + described[target] @ of_user])

    return scores
