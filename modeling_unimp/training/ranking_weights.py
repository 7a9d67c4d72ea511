"""Weights of scores that rank items, from cases whose right item is known: by cross-entropy, and of a few such blends
the one with the highest NDCG@10.

Shapes: C cases, F scores, M items that compete in a case.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

RIDGE = 1e-3
Bounds = Sequence[tuple[float | None, float | None]]  # of each weight, the lowest and the highest; None: there is none


def fit_ranking(
    features: np.ndarray, truth: np.ndarray, added: np.ndarray, bounds: Bounds | None = None
) -> list[float]:
    """Weights by cross-entropy, with all of the weight that the network gets by it or half, or the network alone,
    whichever has the highest NDCG@10: most of the cross-entropy is about items far down, of which the network knows
    more than of the first ten, and in a small shop a blend may be worse than its best part.

    Args:
        features, truth, added: see [`fit_softmax`]; the network comes first.
        bounds (`list[tuple]`, *optional*): of the weights of the others; by default none is below 0.
    """
    bounds = bounds or [(0.0, None)] * (features.shape[1] - 1)
    weights = fit_softmax(features, truth, added, [(0.0, None), *bounds])
    halved = fit_softmax(features, truth, added, [(weights[0] / 2, weights[0] / 2), *bounds])
    alone = np.zeros(len(weights))
    alone[0] = fit_softmax(features[:, :1], truth, added)[0] or 1.0  # so that its probabilities are right as well
    # Of equals the first, whose probabilities are right.
    best = max((weights, alone, halved), key=lambda each: ndcg_at_10(features, truth, added, each))
    found: list[float] = best.tolist()
    return found


def fit_closed(
    features: np.ndarray, truth: np.ndarray, added: np.ndarray, bounds: Bounds | None = None
) -> list[float]:
    """Weights of the scores without a network: the best blend by cross-entropy, or the best of them alone, whichever
    has the higher NDCG@10. Arguments are those of [`fit_softmax`]."""
    weights = fit_softmax(features, truth, added, bounds)
    best = max(range(len(weights)), key=lambda place: ndcg_at_10(features[:, [place]], truth, added, [1.0]))
    single = np.zeros(len(weights))
    single[best] = fit_softmax(features[:, [best]], truth, added)[0]
    found: list[float] = max((weights, single), key=lambda each: ndcg_at_10(features, truth, added, each)).tolist()
    return found


def fit_softmax(
    features: np.ndarray, truth: np.ndarray, added: np.ndarray, bounds: Bounds | None = None, ridge: float = RIDGE
) -> np.ndarray:
    """Weights that minimise the mean cross-entropy of the softmax over items, plus a small ridge.

    Args:
        features (`np.ndarray` of shape `(C, F, M)`)
        truth (`np.ndarray` of shape `(C,)`): the place of the right item.
        added (`np.ndarray` of shape `(C, M)`): to the sums; -inf for what is left out.
        bounds (`list[tuple]`, *optional*): of each weight; by default none is below 0.
        ridge (`float`, *optional*)
    """
    rows = np.arange(len(truth))
    right = features[rows, :, truth]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = np.matmul(weights.astype(features.dtype), features) + added
        largest = scores.max(axis=1, keepdims=True)
        exponentials = np.exp(scores - largest)
        total = exponentials.sum(axis=1, keepdims=True)
        value = (np.log(total[:, 0]) + largest[:, 0] - scores[rows, truth]).mean()
        expected = np.matmul(features, (exponentials / total)[:, :, None])[:, :, 0]
        gradient = (expected - right).mean(axis=0) + 2 * ridge * weights
        return float(value + ridge * np.square(weights).sum()), gradient.astype(np.float64)

    start = np.full(features.shape[1], 0.1)
    bounds = bounds or [(0.0, None)] * features.shape[1]
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x)


def ndcg_at_10(
    features: np.ndarray, truth: np.ndarray, added: np.ndarray, weights: Sequence[float] | np.ndarray
) -> float:
    """NDCG@10 of the sum by these weights, on cases as of [`fit_softmax`]; an item counts as all it stands for."""
    scores = np.matmul(np.asarray(weights, dtype=np.float32), features)
    above = (scores >= scores[np.arange(len(truth)), truth][:, None]) * np.exp(added)
    ranks = above.sum(axis=1)
    return float(np.where(ranks < 10.5, 1 / np.log2(ranks + 1), 0).mean())
