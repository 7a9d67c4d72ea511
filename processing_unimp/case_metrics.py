"""How good one answer is: the rank of a true item, a selection, and how alike two pictures are."""

import numpy as np


def rank_of_target(scores: np.ndarray, target: int, excluded: np.ndarray | None = None) -> int:
    """The place of the target among all items: 1 + the number of competitors that score at least as much.

    Ties count against us: a model that gives every item the same score ranks its target last, not first.

    Args:
        scores (`np.ndarray` of shape `(num_items,)`): higher is better; `-inf` is allowed, NaN is not.
        target (`int`): row of the true item.
        excluded (`np.ndarray`, *optional*): rows that do not compete (seen or retired items), as row numbers or as a
            boolean mask `(num_items,)`. The target competes even when it is among them: a purchase may be repeated.

    Returns:
        `int`: 1 (best) to `num_items`.

    Raises:
        `ValueError`: when scores are not one row, hold NaN, or the target is not a row of theirs.
    """
    scores = np.asarray(scores)
    if scores.ndim != 1:
        raise ValueError(
            f"scores of shape {scores.shape}: expected one score per item, (num_items,). Rank row by row."
        )
    if not 0 <= target < len(scores):
        raise ValueError(f"target {target} among {len(scores)} scores: expected a row from 0 to {len(scores) - 1}.")
    if np.isnan(scores).any():
        raise ValueError(
            f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN: expected numbers. A NaN never compares "
            "as greater, so it would flatter the rank; look for an overflow in the model."
        )
    competes = np.ones(len(scores), dtype=bool)
    if excluded is not None and len(excluded):
        competes[np.asarray(excluded)] = False
    competes[target] = False
    return 1 + int((scores[competes] >= scores[target]).sum())


def precision_recall_f1(chosen: np.ndarray, relevant: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 of one request; a table averages each of the three over requests.

    `precision = hits / chosen`, `recall = hits / relevant`, `F1 = 2 * hits / (chosen + relevant)`. Empty cases:
    nothing chosen although something was relevant gives 0, 0, 0; something chosen although nothing was relevant gives
    0, 0, 0; nothing chosen and nothing relevant is the right answer and gives 1, 1, 1.
    The mean of F1 is not the F1 of mean precision and mean recall.

    Args:
        chosen (`np.ndarray` of `bool`, shape `(num_candidates,)`): what the model selected.
        relevant (`np.ndarray` of `bool`, shape `(num_candidates,)`): what it should have selected.

    Returns:
        `tuple[float, float, float]`: precision, recall, F1, each 0 to 1.

    Raises:
        `ValueError`: when the two are not boolean arrays of one shape (lists of item numbers are not accepted).
    """
    a, b = np.asarray(chosen), np.asarray(relevant)
    if a.dtype != bool or b.dtype != bool or a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"chosen is {a.dtype} of shape {a.shape}, relevant is {b.dtype} of shape {b.shape}: expected two boolean "
            "arrays of shape (num_candidates,)."
        )
    hits, num_chosen, num_relevant = int((a & b).sum()), int(a.sum()), int(b.sum())
    if num_chosen + num_relevant == 0:
        return 1.0, 1.0, 1.0
    return (
        hits / num_chosen if num_chosen else 0.0,
        hits / num_relevant if num_relevant else 0.0,
        2 * hits / (num_chosen + num_relevant),
    )


def cosine_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of each row of `a` with the same row of `b`; with one row on either side, of this with all others.

    Args:
        a (`np.ndarray` of shape `(n, G)` or `(1, G)`): features; a row of zeros, which has no direction, is similar
            to nothing: 0.
        b (`np.ndarray` of shape `(n, G)` or `(1, G)`): features.

    Returns:
        `np.ndarray` of shape `(n,)`: -1 to 1.

    Raises:
        `ValueError`: when the shapes do not fit, or with NaN or infinity.
    """
    first, second = checked_features(a, "first", 1), checked_features(b, "second", 1)
    if first.shape[1] != second.shape[1] or (len(first) != len(second) and 1 not in (len(first), len(second))):
        raise ValueError(
            f"features of shape {first.shape} and {second.shape}: expected two equal shapes, row beside row, or one "
            "row for all."
        )
    cosines: np.ndarray = (unit_rows(first) * unit_rows(second)).sum(axis=1)
    return cosines.clip(-1, 1)


def checked_features(features: np.ndarray, which: str, least: int = 2) -> np.ndarray:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < least or not rows.shape[1]:
        raise ValueError(
            f"{which} features of shape {rows.shape}: expected (pictures, width) with at least {least} "
            f"{'picture' if least == 1 else 'pictures'}."
        )
    if not np.isfinite(rows).all():
        raise ValueError(
            f"{int((~np.isfinite(rows).all(axis=1)).sum())} of {len(rows)} rows of the {which} features hold NaN or "
            "infinity: expected numbers. Look for an overflow in the model."
        )
    return rows


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; of zeros where there were zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: np.ndarray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return scaled
