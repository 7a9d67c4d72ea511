"""Stars from closed forms: biases, what the shopper gave to items rated alike, and factors.

Shapes: N items, k neighbours a row, R factors.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

STAR_ARRAYS = ("biases", "neighbours", "similarities", "factors", "log_shares", "intercepts")
# How far a distribution is tilted at most: by its share each star is then seven times as likely as the one before it,
# or after it. What is expected beyond that, such as 5.4 stars, is no certainty.
TILTS = np.linspace(-2, 2, 401)


class StarScores(NamedTuple):
    """Stars from the mean, the biases of item and shopper, what the shopper gave to items rated alike, and factors.

    What is expected becomes a distribution by tilting how often each star is given in the shop: `p(s)` in proportion
    to `shares[s] exp(s t)`, where `t(m)` is the tilt with the mean `m`, from -2 to 2. Few shops give their stars as a
    normal distribution would: in many, most ratings are 5. With `e`, `c` and `f` of [`StarScores.estimate`],
    `log p(s)` is, up to a constant, `network log p_network(s) + s (expected t(e) + alike c + factored (t(e + f) -
    t(e))) + log_shares[s] + intercepts[s]`; with `expected = factored = 1` and all else 0 its mean is `e + f`.

    Args:
        mean (`float`): of all stars.
        biases (`np.ndarray` of shape `(N,)`): of each item.
        strength (`float`): the shopper's bias is drawn to 0 as if by so many more ratings; `item_strength` the item's.
        neighbours (`np.ndarray` of shape `(N, k)`), similarities (`np.ndarray` of shape `(N, k)`): items rated alike.
        factors (`np.ndarray` of shape `(N, R)`): of a matrix factorisation; a shopper's are fitted to the history.
        penalty (`float`): of the squares of a shopper's factors.
        log_shares (`np.ndarray` of shape `(5,)`): logarithms of how often each star is given.
        intercepts (`np.ndarray` of shape `(5,)`)
        network, expected, alike, factored (`float`): weights.
    """

    mean: float
    biases: np.ndarray
    strength: float
    neighbours: np.ndarray
    similarities: np.ndarray
    factors: np.ndarray
    penalty: float
    log_shares: np.ndarray
    intercepts: np.ndarray
    network: float = 1.0
    expected: float = 0.0
    alike: float = 0.0
    factored: float = 0.0
    item_strength: float = 0.0

    def estimate(self, history: Sequence[tuple[int, float | None]], item: int) -> tuple[float, float, float]:
        """Expected stars `e` of an item (-1: none of the catalogue) by the biases, and what is to be added to them by
        items rated alike, `c`, and by factors, `f`."""
        # An item of no catalogue tells of the shopper alone; each has a number of its own here.
        residuals = {
            number if number >= 0 else -1 - place: stars - self.mean - self._bias(number)
            for place, (number, stars) in enumerate(history)
            if stars is not None
        }
        of_shopper = sum(residuals.values()) / (len(residuals) + self.strength)
        estimate = self.mean + of_shopper + self._bias(item)
        if not 0 <= item < len(self.neighbours):
            return estimate, 0.0, 0.0
        near = zip(self.neighbours[item].tolist(), self.similarities[item].tolist(), strict=True)
        found = [(similarity, residuals[number] - of_shopper) for number, similarity in near if number in residuals]
        total = 1.0 + sum(similarity for similarity, _ in found)
        alike = sum(similarity * residual for similarity, residual in found) / total
        return estimate, alike, self._by_factors(residuals, item) - of_shopper

    def _by_factors(self, residuals: Mapping[int, float], item: int) -> float:
        """Bias and factors of a shopper by ridge regression on what the history has beyond the items' biases."""
        numbers = np.array([*residuals, item])
        is_known = (numbers >= 0) & (numbers < len(self.factors))
        of_items = np.where(is_known[:, None], self.factors[np.where(is_known, numbers, 0)], 0.0)
        described = np.concatenate([np.ones((len(of_items), 1)), of_items], axis=1)
        x, y = described[:-1], np.array([*residuals.values()])
        ridge = np.diag([self.strength] + [self.penalty] * self.factors.shape[1])
        return float(described[-1] @ np.linalg.solve(x.T @ x + ridge, x.T @ y))

    def tilts(self, estimates: np.ndarray) -> np.ndarray:
        """Of `e`, `c` and `f` of some cases `(C, 3)` what the weights are of: `t(e)`, `c` and `t(e + f) - t(e)`."""
        stars = np.arange(1, len(self.log_shares) + 1)
        means = _softmax(self.log_shares + TILTS[:, None] * stars) @ stars
        by_biases, by_factors = np.interp([estimates[:, 0], estimates[:, 0] + estimates[:, 2]], means, TILTS)
        return np.stack([by_biases, estimates[:, 1], by_factors - by_biases], axis=1)

    def probabilities(self, network: np.ndarray, estimate: tuple[float, float, float]) -> np.ndarray:
        """The distribution `(5,)`, from the network's own and what [`StarScores.estimate`] found."""
        stars = np.arange(1, len(network) + 1)
        slope = self.tilts(np.array([estimate]))[0] @ [self.expected, self.alike, self.factored]
        logits = (
            self.network * np.log(np.clip(network, 1e-6, None)) + slope * stars + self.log_shares + self.intercepts
        )
        return _softmax(logits).astype(np.float32)

    def _bias(self, number: int) -> float:
        return float(self.biases[number]) if 0 <= number < len(self.biases) else 0.0


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last dimension; that of scipy is no library that every user has."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
