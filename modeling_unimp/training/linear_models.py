"""Linear models from item to item in closed form: what goes with an item, and what is taken after it.

Both are ridge regressions of the training part alone. They share a dense inverse of M x M, which is what they cost.

Shapes: N items, M of them in the models, U users, k neighbours kept a row, T terms, D width of a picture's vector.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.linalg import get_lapack_funcs

from processing_unimp import Histories

from .item_similarity import Neighbours, centred_vectors, largest_of_blocks, num_neighbours, users_by_items

MOST_DENSE_ITEMS = 20_000
PENALTY = 100.0
CONTENT_SHARE = 1 / 3  # of the penalty: as how many users with both items the same content counts
# An item counts for those that were taken up to so many places after it; most for the sixth, and half of that for the
# sixteenth.
LATER, LATER_HALF_LIFE = 30, 4.0
DENSE_FROM = 0.02  # share of entries that are not 0; from .02 (two threads) to .05 (one) a dense product is faster
ROWS_AT_ONCE = 1_000


class InverseOfUsers(NamedTuple):
    """`(X^T X + penalty I)^-1` of the items that linear models are made of."""

    matrix: np.ndarray  # (M, M), float32
    items: np.ndarray  # (M,), their numbers in the catalogue, in order
    num_items: int  # N

    def largest_of_blocks(self, block: Callable[[int, int], np.ndarray], k: int | None) -> Neighbours:
        """Neighbours in the catalogue, of a matrix `(M, M)` in blocks of rows; an item without a model has none."""
        found = largest_of_blocks(block, len(self.items), k or num_neighbours(self.num_items))
        if len(self.items) == self.num_items:
            return found
        shape = (self.num_items, found.items.shape[1])
        items, values = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.float32)
        items[self.items] = np.where(found.values == 0, 0, self.items[found.items])
        values[self.items] = found.values
        return Neighbours(items, values)


def items_of_linear_models(train: Histories) -> np.ndarray:
    """The numbers of all items of a catalogue of up to 20,000; of a larger one those of the 20,000 that were taken
    oftenest, as far as anybody took them: an item that nobody took changes nothing of the others, but by content."""
    counts = train.item_counts()
    if len(counts) <= MOST_DENSE_ITEMS:
        return np.arange(len(counts))
    most = np.argsort(-counts, kind="stable")[:MOST_DENSE_ITEMS]
    return np.sort(most[counts[most] > 0])


def inverse_of_users(
    train: Histories,
    penalty: float = PENALTY,
    *,
    terms: sparse.csr_matrix | None = None,
    pictures: np.ndarray | None = None,
) -> InverseOfUsers:
    """`(X^T X + penalty I)^-1`, `(M, M)`, where X `(U, M)` is 1 for what a user has.

    Args:
        train (`Histories`)
        penalty (`float`, *optional*, defaults to 100)
        terms (`csr_matrix` of shape `(N, T)`, *optional*), pictures (`np.ndarray` of shape `(N, D)`, *optional*):
            content, as in CEASE (https://doi.org/10.1145/3383313.3418480): how like items are in it, the cosine of
            their terms and the square of that of their pictures, counts like a third of the penalty in users who have
            both.

    Raises:
        ValueError: a penalty that is not above 0.
    """
    items = items_of_linear_models(train)
    x = users_by_items(train)[:, items]
    gram = (x.T @ x).toarray()
    terms = None if terms is None else terms[items]
    centred = None if pictures is None else centred_vectors(pictures[items])
    for start in range(0, len(gram), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        if terms is not None:
            gram[rows] += CONTENT_SHARE * penalty * (terms[rows] @ terms.T).toarray()
        if centred is not None:
            gram[rows] += CONTENT_SHARE * penalty * np.square(centred[rows] @ centred.T)
    gram[np.diag_indices_from(gram)] += penalty
    return InverseOfUsers(_inverse_in_place(gram), items, len(train.catalogue))


def ease(inverse: InverseOfUsers, k: int | None = None) -> Neighbours:
    """EASE, which items the same users have (https://huggingface.co/papers/1905.03375).

    Args:
        inverse (`InverseOfUsers`)
        k (`int`, *optional*): neighbours an item; by default of [`num_neighbours`].
    """
    diagonal = inverse.matrix.diagonal().copy()
    return inverse.largest_of_blocks(lambda start, stop: inverse.matrix[start:stop] / -diagonal, k)


def taken_after(train: Histories, inverse: InverseOfUsers, k: int | None = None) -> Neighbours:
    """What users take after an item: a regression of later items on earlier ones, as the transition model of SLIST
    (https://huggingface.co/papers/2103.16104) is.

    `P C`, where P is the inverse that EASE has, in place of one of earlier items alone, which would be another of
    M x M, and `C` `(M, M)` counts who took the column's item after the row's, by [`pairs_in_order`].

    Args:
        train (`Histories`)
        inverse (`InverseOfUsers`)
        k (`int`, *optional*): neighbours an item; by default of [`num_neighbours`].
    """
    matrix = inverse.matrix
    pairs = pairs_in_order(train)[inverse.items][:, inverse.items]
    after = pairs.toarray() if pairs.nnz > DENSE_FROM * len(matrix) ** 2 else pairs
    # A sparse matrix is multiplied from the left.
    return inverse.largest_of_blocks(lambda start, stop: np.asarray((after.T @ matrix[start:stop].T).T), k)


def pairs_in_order(train: Histories) -> sparse.csr_matrix:
    """How much of the column's item was taken after the row's, `(N, N)`.

    Over all places between the two where a history may be cut, the item before the cut counts by `2^(-age / 4)` and
    that after it by `2^(-delay / 4)`: of a pair that is d places apart the sum is `d * 2^(-(d - 1) / 4)`. Two of one
    timestamp, such as those of a basket, have no order, and count half in either direction.
    """
    items, users, times = train.item_numbers, train.user_numbers, train.timestamps
    counted = sparse.csr_matrix((len(train.catalogue),) * 2, dtype=np.float32)
    for distance in range(1, LATER + 1):
        first = np.flatnonzero(users[:-distance] == users[distance:])
        if not len(first):
            break
        second = first + distance
        unordered = times[first] == times[second]
        weights = np.where(unordered, 0.5, 1.0) * distance * 0.5 ** ((distance - 1) / LATER_HALF_LIFE)
        before = np.concatenate([first, second[unordered]])
        after = np.concatenate([second, first[unordered]])
        weights = np.concatenate([weights, weights[unordered]]).astype(np.float32)
        counted = counted + sparse.csr_matrix((weights, (items[before], items[after])), shape=counted.shape)
    return counted


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
