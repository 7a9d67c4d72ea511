"""How far predicted stars are from given ones, over all cases."""

import numpy as np


def mae(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute error, `mean(|predicted - true|)`, in stars.

    Args:
        predicted (`np.ndarray` of shape `(num_requests,)`): any real numbers; expectations are not rounded first.
        true (`np.ndarray` of shape `(num_requests,)`): given stars.

    Returns:
        `float`: 0 or more.

    Raises:
        `ValueError`: when the two differ in shape, are empty or hold NaN.
    """
    return float(np.abs(_errors(predicted, true)).mean())


def rmse(predicted: np.ndarray, true: np.ndarray) -> float:
    """Root mean squared error, `sqrt(mean((predicted - true)**2))`, in stars, over all requests at once.

    Args:
        predicted (`np.ndarray` of shape `(num_requests,)`): any real numbers; expectations are not rounded first.
        true (`np.ndarray` of shape `(num_requests,)`): given stars.

    Returns:
        `float`: 0 or more.

    Raises:
        `ValueError`: when the two differ in shape, are empty or hold NaN.
    """
    return float(np.sqrt((_errors(predicted, true) ** 2).mean()))


def _errors(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    a, b = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if a.shape != b.shape or not a.size:
        raise ValueError(
            f"predictions of shape {a.shape} for true values of shape {b.shape}: expected two equal shapes and at "
            "least one request."
        )
    difference = a - b
    if np.isnan(difference).any():
        raise ValueError(
            f"{int(np.isnan(difference).sum())} of {difference.size} pairs hold NaN: expected numbers. Leave requests "
            "without a true rating out before."
        )
    return difference
