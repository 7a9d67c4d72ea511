"""Whether probabilities are right: how often what was said with such a confidence was so."""

from typing import Any

import numpy as np
from scipy.stats import binom

NUM_BINS = 10


def reliability(confidence: np.ndarray, is_right: np.ndarray) -> dict[str, Any]:
    """Expected calibration error over bins of as many cases each (https://huggingface.co/papers/1706.04599 with equal
    widths).

    Args:
        confidence (`np.ndarray` of shape `(C,)`): the probability of the answer that was given.
        is_right (`np.ndarray` of shape `(C,)`): whether it was the right one.

    Returns:
        `dict`: `ece`; `ece_by_chance`, what probabilities that are right show on average with as many cases; and
        `bins`, a list of `(mean confidence, share that was right, cases)`, the least sure first.
    """
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, NUM_BINS) if len(part)]
    bins = [(float(confidence[part].mean()), float(is_right[part].mean()), len(part)) for part in parts]
    ece = sum(size * abs(mean - right) for mean, right, size in bins) / max(len(confidence), 1)
    by_chance = sum(_mean_deviation(size, mean) for mean, _, size in bins) / max(len(confidence), 1)
    return {"ece": float(ece), "ece_by_chance": float(by_chance), "bins": bins}


def _mean_deviation(tries: int, share: float) -> float:
    """Mean absolute deviation of a binomial number from its mean (de Moivre; Diaconis and Zabell 1991,
    https://doi.org/10.1214/ss/1177011699)."""
    above = int(np.floor(tries * share)) + 1
    return 2 * above * (1 - share) * float(binom.pmf(above, tries, share))
