"""Stars of a shop by biases and factors, fitted on the training part by alternating least squares.

Shapes: N items, U users, R ratings.
"""

import math

import numpy as np

from processing_unimp import Histories

SWEEPS = 30


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
    p = np.zeros((len(train), rank))
    q = np.random.default_rng(0).normal(0, 0.1, size=(len(of_items), rank))
    residual = train.ratings[rated] - mean - of_users[users] - of_items[items]

    def solved(rows: np.ndarray, size: int, other: np.ndarray | float, ridge: float) -> np.ndarray:
        weights = np.broadcast_to(np.square(other), residual.shape)
        return np.bincount(rows, residual * other, size) / (np.bincount(rows, weights, size) + ridge)

    for _ in range(sweeps):
        residual += of_users[users]
        of_users = solved(users, len(p), 1.0, user_penalty)
        residual += of_items[items] - of_users[users]
        of_items = solved(items, len(q), 1.0, item_penalty)
        residual -= of_items[items]
        for factor in range(rank):
            residual += p[users, factor] * q[items, factor]
            p[:, factor] = solved(users, len(p), q[items, factor], penalty)
            q[:, factor] = solved(items, len(q), p[users, factor], penalty)
            residual -= p[users, factor] * q[items, factor]
    return mean, of_items, q
