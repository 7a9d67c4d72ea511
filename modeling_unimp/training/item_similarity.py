"""Which items go with which, in closed form, of the training part alone: each item's nearest, sparse from the start.

Shapes: N items, U users, k neighbours kept a row, D width of a picture's vector.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.linalg import get_lapack_funcs

from processing_unimp import Catalogue, Histories, ItemTerms

NUM_NEIGHBOURS = 200  # of EASE this loses nothing; at 50 it loses 1 to 4 %
MOST_DENSE_ITEMS = 20_000  # EASE inverts a dense matrix of N x N
EASE_PENALTY = 100.0
CONTENT_SHARE = 1 / 3  # of the penalty of EASE: what one more user in common counts that content stands for
KNN_SHRINKAGE = 10.0
WINDOW, WINDOW_DECAY, WINDOW_SHRINKAGE = 10, 0.8, 3.0
BLOCK_BYTES = 2**26
ROWS_AT_ONCE = 1_000


class Neighbours(NamedTuple):
    """The largest entries of each row of a matrix `(N, N)`, the largest first; what is left over is 0 at item 0."""

    items: np.ndarray  # (N, k), int32
    values: np.ndarray  # (N, k), float32


def users_by_items(train: Histories) -> sparse.csr_matrix:
    """1 where a user has an item, `(U, N)`."""
    shape = (len(train), len(train.catalogue))
    ones = np.ones(train.num_interactions, dtype=np.float32)
    counted = sparse.csr_matrix((ones, (train.user_numbers, train.item_numbers)), shape=shape)
    counted.data[:] = 1.0
    return counted


def ease(
    train: Histories,
    penalty: float = EASE_PENALTY,
    k: int = NUM_NEIGHBOURS,
    *,
    terms: sparse.csr_matrix | None = None,
    pictures: np.ndarray | None = None,
) -> Neighbours | None:
    """EASE, the linear item-to-item model (https://huggingface.co/papers/1905.03375); `None` for more than 20,000
    items, whose dense inverse takes minutes and gigabytes.

    Args:
        train (`Histories`)
        penalty (`float`, *optional*, defaults to 100)
        k (`int`, *optional*, defaults to 200): neighbours an item.
        terms (`csr_matrix` of shape `(N, T)`, *optional*), pictures (`np.ndarray` of shape `(N, D)`, *optional*):
            content, as in CEASE (https://doi.org/10.1145/3383313.3418480): how like items are in it, the cosine of
            their terms and the square of that of their pictures, counts like a third of the penalty in users who have
            both.
    """
    if len(train.catalogue) > MOST_DENSE_ITEMS:
        return None
    x = users_by_items(train)
    gram = (x.T @ x).toarray()
    centred = None if pictures is None else _centred(pictures)
    for start in range(0, len(gram), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        if terms is not None:
            gram[rows] += CONTENT_SHARE * penalty * (terms[rows] @ terms.T).toarray()
        if centred is not None:
            gram[rows] += CONTENT_SHARE * penalty * np.square(centred[rows] @ centred.T)
    gram[np.diag_indices_from(gram)] += penalty
    inverse = _inverse_in_place(gram)
    diagonal = inverse.diagonal().copy()
    return _largest_of_blocks(lambda start, stop: inverse[start:stop] / -diagonal, len(diagonal), k)


def _inverse_in_place(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a symmetric, positive definite matrix in its own memory, by Cholesky: half the work of a general
    one and no second matrix, of which there would be three."""
    potrf, potri = get_lapack_funcs(("potrf", "potri"), (matrix,))
    # LAPACK reads by columns, to which a symmetric matrix is its own transpose.
    factor, failed = potrf(matrix.T, lower=1, clean=0, overwrite_a=1)
    inverse, failed_too = potri(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise ValueError(f"the co-occurrences of {len(matrix)} items cannot be inverted: is a penalty above 0?")
    rows: np.ndarray = inverse.T  # of which only what is right of the diagonal is set
    for start in range(0, len(rows), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(rows))
        lower = np.tril_indices(stop - start, -1)
        square = rows[start:stop, start:stop]
        square[lower] = square.T[lower]
        rows[start:stop, :start] = rows[:start, start:stop].T
    return rows


def item_knn(train: Histories, shrinkage: float = KNN_SHRINKAGE, k: int = NUM_NEIGHBOURS) -> Neighbours:
    """`c_ij / (sqrt(c_ii c_jj) + shrinkage)`, where `c` counts the users that have both items."""
    x = users_by_items(train)
    norm = np.sqrt(np.asarray(x.sum(axis=0)).ravel())

    def block(start: int, stop: int) -> np.ndarray:
        counts = (x[:, start:stop].T @ x).toarray()
        # Without shrinkage an item that nobody has would be divided by 0.
        return counts / np.maximum(norm[start:stop, None] * norm[None] + shrinkage, 1e-9)

    return _largest_of_blocks(block, len(norm), k)


def windowed_transitions(train: Histories, k: int = NUM_NEIGHBOURS) -> Neighbours:
    """Items that follow one another at a small distance in a history, in either direction: each pair counts `.8` to
    the power of the places between, in parts of `sqrt(n_i n_j) + 3`."""
    num_items = len(train.catalogue)
    counts = sparse.csr_matrix((num_items, num_items), dtype=np.float32)
    for gap in range(1, WINDOW + 1):
        same_user = train.user_numbers[gap:] == train.user_numbers[:-gap]
        before, after = train.item_numbers[:-gap][same_user], train.item_numbers[gap:][same_user]
        weights = np.full(len(before), WINDOW_DECAY ** (gap - 1), dtype=np.float32)
        counts = counts + sparse.csr_matrix((weights, (before, after)), shape=counts.shape)
    counts = (counts + counts.T).tocsr()
    times = np.sqrt(np.bincount(train.item_numbers, minlength=num_items).astype(np.float32))

    def block(start: int, stop: int) -> np.ndarray:
        return counts[start:stop].toarray() / (times[start:stop, None] * times[None] + WINDOW_SHRINKAGE)

    return _largest_of_blocks(block, num_items, k)


def rated_alike(
    train: Histories, strength: float, mean: float, biases: np.ndarray, k: int = NUM_NEIGHBOURS
) -> Neighbours:
    """Cosine of what users gave to items beyond the biases of both, drawn to 0 where few gave stars to both."""
    rated = np.isfinite(train.ratings)
    users, items = train.user_numbers[rated], train.item_numbers[rated]
    residuals = train.ratings[rated] - mean - biases[items]
    of_users = np.bincount(users, residuals, minlength=len(train))
    of_users = of_users / (np.bincount(users, minlength=len(train)) + strength)
    shape = (len(train), len(train.catalogue))
    given = sparse.csr_matrix(((residuals - of_users[users]).astype(np.float32), (users, items)), shape=shape)
    ones = sparse.csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)), shape=shape)
    norm = np.sqrt(np.asarray(given.multiply(given).sum(axis=0)).ravel()) + 1e-9

    def block(start: int, stop: int) -> np.ndarray:
        together = (ones[:, start:stop].T @ ones).toarray()
        cosine = (given[:, start:stop].T @ given).toarray() / (norm[start:stop, None] * norm[None])
        return cosine * together / (together + KNN_SHRINKAGE)

    return _largest_of_blocks(block, len(norm), k)


def text_similarity(
    catalogue: Catalogue, attributes: Sequence[str] | None = None, k: int = NUM_NEIGHBOURS
) -> Neighbours | None:
    """Cosine of TF-IDF-weighted terms of the attributes; `None` where items have none in common."""
    vectors = term_vectors(catalogue, attributes)
    if vectors is None:
        return None
    return _largest_of_blocks(lambda start, stop: (vectors[start:stop] @ vectors.T).toarray(), vectors.shape[0], k)


def picture_similarity(vectors: np.ndarray, k: int = NUM_NEIGHBOURS) -> Neighbours:
    """Squared cosine of centred vectors of pictures `(N, D)`; rows of zeros are items without one."""
    centred = _centred(vectors)
    return _largest_of_blocks(
        lambda start, stop: np.square(np.maximum(centred[start:stop] @ centred.T, 0)), len(centred), k
    )


def _centred(vectors: np.ndarray) -> np.ndarray:
    """Vectors less their mean, of length 1; rows of zeros stay."""
    has = np.abs(vectors).sum(axis=1) > 0
    centred = np.where(has[:, None], vectors - vectors[has].mean(axis=0), 0).astype(np.float32)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    return np.asarray(centred)


def term_vectors(catalogue: Catalogue, attributes: Sequence[str] | None = None) -> sparse.csr_matrix | None:
    """A row an item, of length 1, in the terms of [`ItemTerms`]; `None` where items have none in common."""
    terms = ItemTerms.of(catalogue, attributes)
    if not len(terms):
        return None
    rows = [terms.weights_of(catalogue.item(item_id)) for item_id in catalogue.item_ids]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.array([number for row in rows for number in row], dtype=np.int32)
    data = np.array([weight for row in rows for weight in row.values()], dtype=np.float32)
    return sparse.csr_matrix((data, columns, starts), shape=(len(rows), len(terms)))


def _largest_of_blocks(block: Callable[[int, int], np.ndarray], num_items: int, k: int) -> Neighbours:
    """Rows `start` to `stop` at a time, so that no more than some 64 MB of a dense matrix exist at once."""
    size = max(1, BLOCK_BYTES // (4 * num_items))
    parts = []
    for start in range(0, num_items, size):
        stop = min(start + size, num_items)
        rows = block(start, stop)
        rows[np.arange(stop - start), np.arange(start, stop)] = 0  # an item is not its own neighbour
        parts.append(_largest(rows, k))
    return _trimmed(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _largest(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    k = min(k, rows.shape[1])
    columns = np.argpartition(-rows, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(rows, columns, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    values = np.maximum(np.take_along_axis(values, order, axis=1), 0).astype(np.float32)
    items = np.where(values > 0, np.take_along_axis(columns, order, axis=1), 0)
    return items.astype(np.int32), values


def _trimmed(items: np.ndarray, values: np.ndarray) -> Neighbours:
    """Without columns that no row needs."""
    width = max(1, int((values > 0).sum(axis=1).max()))
    return Neighbours(items[:, :width].copy(), values[:, :width].copy())
