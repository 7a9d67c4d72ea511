"""Stars of a shop by biases and factors, fitted on the training part by alternating least squares.

Shapes: N items, U users, R ratings.
"""

import math

import numpy as np
from scipy import sparse

from processing_unimp import Histories
from processing_unimp.control_tokens import NUM_STARS

SWEEPS = 30


def star_shares(train: Histories) -> np.ndarray:
    """How often each number of stars was given `(5,)`, each once more than it was, so that none is impossible."""
    given = train.ratings[np.isfinite(train.ratings)]
    counts = np.bincount(np.rint(given).astype(np.int64), minlength=NUM_STARS + 1)[1:] + 1.0
    return np.asarray(counts / counts.sum())


def biases(train: Histories, user_penalty: float, item_penalty: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Mean of the stars, and biases of users `(U,)` and items `(N,)` that minimise the squared error and penalties."""
    rated = np.isfinite(train.ratings)
    users, items = train.user_numbers[rated], train.item_numbers[rated]
    mean = float(train.ratings[rated].mean())
    residual = train.ratings[rated] - mean
    of_users, of_items = np.zeros(len(train)), np.zeros(len(train.catalogue))
    user_sizes = np.bincount(users, minlength=len(of_users)) + user_penalty
    item_sizes = np.bincount(items, minlength=len(of_items)) + item_penalty
    change = math.inf
    while change > 1e-6:
        before = of_items
        of_items = np.bincount(items, residual - of_users[users], minlength=len(of_items)) / item_sizes
        of_users = np.bincount(users, residual - of_items[items], minlength=len(of_users)) / user_sizes
        change = float(np.abs(of_items - before).max())
    return mean, of_users, of_items


def factorise(
    train: Histories, user_penalty: float, item_penalty: float, rank: int, penalty: float, sweeps: int = SWEEPS
) -> tuple[float, np.ndarray, np.ndarray]:
    """Mean, biases of items `(N,)` and their factors `(N, rank)`, for the least squared error with ridge penalties.

    Least squares for one factor of all users, then of all items, and so on: no more than R numbers at once.
    """
    mean, of_users, of_items = biases(train, user_penalty, item_penalty)
    rated = np.isfinite(train.ratings)
    users, items = train.user_numbers[rated], train.item_numbers[rated]
    # A row a factor: the numbers of all users or items that one factor has lie together.
    p = np.zeros((rank, len(train)))
    q = np.random.default_rng(0).normal(0, 0.1, size=(len(of_items), rank)).T.copy()
    # What a rating has beyond biases and factors, by user and item; kept up to date in place.
    residual = train.ratings[rated] - mean - of_users[users] - of_items[items]
    starts = np.searchsorted(users, np.arange(len(train) + 1))  # ratings are in the order of users
    of_ratings = sparse.csr_array((residual, items, starts), shape=(len(train), len(of_items)))
    of_ratings.data = residual
    is_rated = sparse.csr_array((np.ones_like(residual), of_ratings.indices, starts), shape=of_ratings.shape)

    def least_squares(values: sparse.sparray, present: sparse.sparray, other: np.ndarray, ridge: float) -> np.ndarray:
        return np.asarray((values @ other) / (present @ np.square(other) + ridge))

    for _ in range(sweeps):
        residual += of_users[users]
        of_users = least_squares(of_ratings, is_rated, np.ones(len(of_items)), user_penalty)
        residual += of_items[items] - of_users[users]
        of_items = least_squares(of_ratings.T, is_rated.T, np.ones(len(train)), item_penalty)
        residual -= of_items[items]
        for factor in range(rank):
            residual += p[factor][users] * q[factor][items]
            p[factor] = least_squares(of_ratings, is_rated, q[factor], penalty)
            q[factor] = least_squares(of_ratings.T, is_rated.T, p[factor], penalty)
            residual -= p[factor][users] * q[factor][items]
    return mean, of_items, q.T
