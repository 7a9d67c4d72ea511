"""What a shop asks of lists beside whether they are right: whether they show what is not known anyway, and variety.

Lists are rows `(C, K)` of item numbers; a shorter one is filled with -1.
"""

from typing import Any

import numpy as np


class ListMeasures:
    """Novelty and diversity of lists of items.

    Args:
        counts (`np.ndarray` of shape `(N,)`): how often each item was taken in the training part.
        terms (`csr_matrix` of shape `(N, T)`, *optional*): rows of length 1, in which items are compared; without them
            diversity is NaN.
    """

    def __init__(self, counts: np.ndarray, terms: Any = None) -> None:
        # One more of each: an item that nobody took is new, and not infinitely so.
        shares = (counts + 1) / (counts + 1).sum()
        self.information = -np.log2(shares)
        self.terms = terms

    def novelty(self, lists: np.ndarray) -> float:
        """Mean self-information of what is listed `(C, K)`, in bits: `-log2` of an item's share of what was taken
        (https://doi.org/10.1145/1963192.1963283)."""
        return float(self.information[lists[lists >= 0]].mean())

    def diversity(self, lists: np.ndarray) -> float:
        """Mean of 1 - cosine over all pairs of a list `(C, K)`, mean over lists: intra-list distance
        (https://doi.org/10.1145/1060745.1060754)."""
        lengths = (lists >= 0).sum(axis=1)
        lists, lengths = lists[lengths > 1], lengths[lengths > 1]  # one item alone has no pair
        if self.terms is None or not len(lists):
            return float("nan")
        # The sum over all pairs is the square of the sum, less what each item has with itself.
        total = np.zeros(len(lists))
        for place, numbers in enumerate(lists):
            rows = self.terms[numbers[numbers >= 0]]
            total[place] = (np.square(np.asarray(rows.sum(axis=0))).sum() - rows.multiply(rows).sum()) / 2
        return float(1 - (total / (lengths * (lengths - 1) / 2)).mean())
