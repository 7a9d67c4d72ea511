"""How a set of generated pictures compares with real ones, and how varied it is, by the features of the pictures."""

import numpy as np

from ..case_metrics import checked_features, unit_rows


def frechet_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """How far the generated pictures are from the real ones as a whole: FID, on the features that are given.

    The squared 2-Wasserstein distance of the two normal distributions with the means and covariances (divided by
    `n - 1`) of the rows, `|m1 - m2|**2 + tr(S1) + tr(S2) - 2 * tr(sqrt(S1 @ S2))`
    (https://huggingface.co/papers/1706.08500). Numbers of other features, or of fewer pictures, must not be compared:
    of few pictures a distance is too large.

    Args:
        generated (`np.ndarray` of shape `(n, G)`): features of generated pictures; order does not matter.
        real (`np.ndarray` of shape `(m, G)`): features of real pictures.

    Returns:
        `float`: 0 (same mean and covariance) or more.

    Raises:
        `ValueError`: with fewer than 2 rows of either, with unequal widths, or with NaN or infinity.
    """
    a, b = checked_features(generated, "generated"), checked_features(real, "real")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"generated features of shape {a.shape} and real ones of shape {b.shape}: expected the same width. "
            "Take both from one model."
        )
    shift = a.mean(axis=0) - b.mean(axis=0)
    a, b = (rows - rows.mean(axis=0) for rows in (a, b))
    a, b = a / np.sqrt(len(a) - 1), b / np.sqrt(len(b) - 1)  # S1 = a.T @ a, S2 = b.T @ b
    # The eigenvalues of S1 @ S2 that are not 0 are those of (a @ b.T) @ (a @ b.T).T, so the trace of its root is the
    # nuclear norm of a @ b.T: exact, and without a G x G matrix. The orthonormal Q of a = Q @ R does not change it,
    # and R has at most G rows.
    small_a, small_b = (np.asarray(np.linalg.qr(rows, mode="r")) for rows in (a, b))
    root = np.linalg.svd(small_a @ small_b.T, compute_uv=False).sum()
    distance = float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * root)
    return max(distance, 0.0)  # rounding leaves some -1e-15 where the sets are equal


def diversity(features: np.ndarray) -> float:
    """How much pictures differ from one another: the mean of `1 - cosine` over all pairs of two of them.

    Args:
        features (`np.ndarray` of shape `(n, G)`): a row a picture; order does not matter.

    Returns:
        `float`: 0 when all point the same way, 1 when pairs are orthogonal, at most `n / (n - 1)`.

    Raises:
        `ValueError`: with fewer than 2 rows, with NaN or infinity, or with a row of zeros.
    """
    rows = checked_features(features, "generated")
    if not rows.any(axis=1).all():
        raise ValueError(
            f"row {int(np.flatnonzero(~rows.any(axis=1))[0])} of the generated features is all zeros, so it differs "
            "from nothing and from all: expected features of a picture. Leave out what has no picture."
        )
    directions, n = unit_rows(rows), len(rows)
    total = directions.sum(axis=0)
    # |sum of all|**2 holds every pair twice, and each row with itself.
    return max(float(1 - (total @ total - n) / (n * (n - 1))), 0.0)
