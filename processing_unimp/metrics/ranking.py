"""How far up their rankings the true items of all cases are; ranks start at 1."""

import numpy as np


def hit_rate(ranks: np.ndarray, k: int) -> float:
    """HR@k: the share of requests whose one target is among the first `k`, `mean(rank <= k)`.

    Args:
        ranks (`np.ndarray` of shape `(num_requests,)`): from [`rank_of_target`].
        k (`int`): length of the list.

    Returns:
        `float`: 0 to 1.

    Raises:
        `ValueError`: without ranks, with a rank below 1, or with `k` below 1.
    """
    return float((_checked_ranks(ranks, k) <= k).mean())


def ndcg(ranks: np.ndarray, k: int) -> float:
    """NDCG@k with one target a request: the mean of `1 / log2(1 + rank)` where `rank <= k`, else 0. The ideal is 1.

    Args:
        ranks (`np.ndarray` of shape `(num_requests,)`): from [`rank_of_target`].
        k (`int`): length of the list.

    Returns:
        `float`: 0 to 1.

    Raises:
        `ValueError`: without ranks, with a rank below 1, or with `k` below 1.
    """
    checked = _checked_ranks(ranks, k)
    return float(np.where(checked <= k, 1 / np.log2(1 + checked), 0.0).mean())


def mrr(ranks: np.ndarray, k: int) -> float:
    """MRR@k: the mean of `1 / rank` where `rank <= k`, else 0.

    Args:
        ranks (`np.ndarray` of shape `(num_requests,)`): from [`rank_of_target`].
        k (`int`): length of the list; pass the number of items for the uncut mean.

    Returns:
        `float`: 0 to 1.

    Raises:
        `ValueError`: without ranks, with a rank below 1, or with `k` below 1.
    """
    checked = _checked_ranks(ranks, k)
    return float(np.where(checked <= k, 1 / checked, 0.0).mean())


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k = {k}: expected the length of a list, 1 or more.")


def _checked_ranks(ranks: np.ndarray, k: int) -> np.ndarray:
    _check_k(k)
    checked = np.asarray(ranks, dtype=np.float64)
    if not checked.size:
        raise ValueError("no ranks: expected one a request. Is the evaluated split empty?")
    if not (checked >= 1).all():
        raise ValueError(f"a rank of {checked.min()}: expected 1 (best) or more; ranks do not start at 0 here.")
    return checked
