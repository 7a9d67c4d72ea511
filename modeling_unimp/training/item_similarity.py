"""Which items go with which, in closed form, of the training part alone: each item's nearest, sparse from the start.

Shapes: N items, U users, k neighbours kept a row, D width of a picture's vector.
"""

import logging
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from processing_unimp import Catalogue, Histories, ItemTerms

logger = logging.getLogger("train")

NUM_NEIGHBOURS, FEWEST_NEIGHBOURS = 200, 50  # of EASE 200 lose nothing; at 50 it loses 1 to 4 %
MOST_NEIGHBOURS = 10_000_000  # of all items together, of one kind: N * k, where that leaves 50 an item
MOST_PICTURES = 50_000  # each is compared with each
MOST_PAIRS = 2_000_000_000  # of items that one user has, or that have one term: about a minute
KNN_SHRINKAGE = 10.0
WINDOW, WINDOW_DECAY, WINDOW_SHRINKAGE = 10, 0.8, 3.0
BLOCK_BYTES = 2**26
BLOCK_PAIRS = 2**23


class Neighbours(NamedTuple):
    """The entries of each row of a matrix `(N, N)` that are largest by absolute value, the largest first; what is left
    over is 0 at item 0."""

    items: np.ndarray  # (N, k), int32
    values: np.ndarray  # (N, k), float32


def num_neighbours(num_items: int) -> int:
    """k of a catalogue: 200 up to 50,000 items, and from 200,000 on 50."""
    return int(np.clip(MOST_NEIGHBOURS // num_items, FEWEST_NEIGHBOURS, NUM_NEIGHBOURS))


def users_by_items(train: Histories) -> sparse.csr_matrix:
    """1 where a user has an item, `(U, N)`."""
    shape = (len(train), len(train.catalogue))
    ones = np.ones(train.num_interactions, dtype=np.float32)
    counted = sparse.csr_matrix((ones, (train.user_numbers, train.item_numbers)), shape=shape)
    counted.data[:] = 1.0
    return counted


def item_knn(train: Histories, shrinkage: float = KNN_SHRINKAGE, k: int | None = None) -> Neighbours:
    """`c_ij / (sqrt(c_ii c_jj) + shrinkage)`, where `c` counts the users that have both items."""
    norm = np.sqrt(np.asarray(users_by_items(train).sum(axis=0)).ravel())
    x = users_by_items(_latest(train))
    by_item = x.T.tocsr()

    def block(start: int, stop: int) -> sparse.csr_matrix:
        counts = by_item[start:stop] @ x
        # An item that nobody has is in no pair: nothing is divided by 0.
        counts.data /= norm[start:stop][_rows_of(counts)] * norm[counts.indices] + shrinkage
        return counts

    return _largest_of_sparse_blocks(block, by_item @ np.diff(x.indptr), k)


def windowed_transitions(train: Histories, k: int | None = None) -> Neighbours:
    """Items that follow one another at a small distance in a history, in either direction: each pair counts `.8` to
    the power of the places between, in parts of `sqrt(n_i n_j) + 3`."""
    items, users = train.item_numbers, train.user_numbers
    times = train.item_counts()
    at = np.argsort(items, kind="stable")  # the places of each item, one item after the other
    first = np.concatenate([[0], np.cumsum(times)])
    gaps = np.concatenate([np.arange(-WINDOW, 0), np.arange(1, WINDOW + 1)])
    decays = (WINDOW_DECAY ** (np.abs(gaps) - 1)).astype(np.float32)
    roots = np.sqrt(times.astype(np.float32))

    def block(start: int, stop: int) -> sparse.csr_matrix:
        places = at[first[start] : first[stop]]
        near = places[:, None] + gaps
        inside = (near >= 0) & (near < len(items))
        near = np.where(inside, near, 0)
        inside &= users[near] == users[places][:, None]
        rows = np.broadcast_to((items[places] - start)[:, None], near.shape)[inside]
        weights = np.broadcast_to(decays, near.shape)[inside]
        counts = sparse.csr_matrix((weights, (rows, items[near[inside]])), shape=(stop - start, len(times)))
        counts.data /= roots[start:stop][_rows_of(counts)] * roots[counts.indices] + WINDOW_SHRINKAGE
        return counts

    return _largest_of_sparse_blocks(block, times * len(gaps), k)


def rated_alike(
    train: Histories, strength: float, mean: float, biases: np.ndarray, k: int | None = None
) -> Neighbours:
    """Cosine of what users gave to items beyond the biases of both, drawn to 0 where few gave stars to both."""
    train = _latest(train.where(np.isfinite(train.ratings)))
    users, items = train.user_numbers, train.item_numbers
    residuals = train.ratings - mean - biases[items]
    of_users = np.bincount(users, residuals, minlength=len(train))
    of_users = of_users / (np.bincount(users, minlength=len(train)) + strength)
    shape = (len(train), len(train.catalogue))
    given = sparse.csr_matrix(((residuals - of_users[users]).astype(np.float32), (users, items)), shape=shape)
    ones = sparse.csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)), shape=shape)
    norm = np.sqrt(np.asarray(given.multiply(given).sum(axis=0)).ravel()) + 1e-9
    given_by_item, ones_by_item = given.T.tocsr(), ones.T.tocsr()

    def block(start: int, stop: int) -> sparse.csr_matrix:
        together = ones_by_item[start:stop] @ ones
        together.data /= together.data + KNN_SHRINKAGE
        cosine = given_by_item[start:stop] @ given
        cosine.data /= norm[start:stop][_rows_of(cosine)] * norm[cosine.indices]
        return cosine.multiply(together).tocsr()

    return _largest_of_sparse_blocks(block, ones_by_item @ np.diff(ones.indptr), k)


def text_similarity(vectors: sparse.csr_matrix, k: int | None = None) -> Neighbours:
    """Cosine of the terms of items, rows of [`term_vectors`].

    Terms that very many items of a large catalogue have are left out of the product, to which they add little, and
    not of the length of the vectors.
    """
    by_term = vectors.T.tocsr()
    times = np.diff(by_term.indptr)
    common = np.flatnonzero(times > _longest_affordable(times))
    if len(common):
        logger.info(
            f"text similarity: {len(common)} of {len(times)} terms are left out, which {times[common].min()} items "
            "or more have"
        )
        vectors = vectors.copy()
        vectors.data[np.isin(vectors.indices, common)] = 0
        vectors.eliminate_zeros()
        by_term = vectors.T.tocsr()
    pairs = vectors.astype(bool).astype(np.int64) @ np.diff(by_term.indptr)
    return _largest_of_sparse_blocks(lambda start, stop: vectors[start:stop] @ by_term, pairs, k)


def picture_similarity(vectors: np.ndarray, k: int | None = None) -> Neighbours | None:
    """Squared cosine of centred vectors of pictures `(N, D)`; rows of zeros are items without one. `None` for more
    than 50,000 pictures, of which each would be compared with each."""
    num_pictures = int(np.abs(vectors).any(axis=1).sum())
    if num_pictures > MOST_PICTURES:
        logger.info(f"picture similarity: left out, for there are {num_pictures} pictures, above {MOST_PICTURES}")
        return None
    centred = centred_vectors(vectors)
    return largest_of_blocks(
        lambda start, stop: np.square(np.maximum(centred[start:stop] @ centred.T, 0)), len(centred), k
    )


def centred_vectors(vectors: np.ndarray) -> np.ndarray:
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
    lengths, columns, data = array("q"), array("i"), array("f")
    for item in catalogue.items():
        row = terms.weights_of(item)
        lengths.append(len(row))
        columns.extend(row)
        data.extend(row.values())
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_matrix((np.asarray(data), np.asarray(columns), starts), shape=(len(lengths), len(terms)))


def _longest_affordable(lengths: np.ndarray) -> int:
    """The most that lists can be cut to so that their pairs, of each entry with each of its list, are affordable."""
    ordered = np.sort(lengths).astype(np.int64)
    pairs = np.cumsum(ordered**2) + np.arange(len(ordered))[::-1] * ordered**2
    affordable = ordered[pairs <= MOST_PAIRS]
    return int(affordable[-1]) if len(affordable) else 1


def _latest(train: Histories) -> Histories:
    """As much of the end of each history as can be paired: of a shop's till or a robot that takes all, not all."""
    lengths = train.lengths
    most = _longest_affordable(lengths)
    if (longer := int((lengths > most).sum())) == 0:
        return train
    logger.info(f"what goes together: of {longer} histories the latest {most} interactions are counted")
    from_end = np.repeat(train.starts[1:], lengths) - np.arange(train.num_interactions)
    return train.where(from_end <= most)


def _rows_of(block: sparse.csr_matrix) -> np.ndarray:
    """The row of each entry."""
    return np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))


def largest_of_blocks(block: Callable[[int, int], np.ndarray], num_items: int, k: int | None) -> Neighbours:
    """Of a dense matrix, of which no more than some 64 MB exist at once: rows `start` to `stop` at a time."""
    size = max(1, BLOCK_BYTES // (4 * num_items))
    k = min(k or num_neighbours(num_items), num_items)
    parts = []
    for start in range(0, num_items, size):
        stop = min(start + size, num_items)
        rows = block(start, stop)
        rows[np.arange(stop - start), np.arange(start, stop)] = 0  # an item is not its own neighbour
        columns = np.argpartition(-np.abs(rows), k - 1, axis=1)[:, :k]
        parts.append(_in_order(columns, np.take_along_axis(rows, columns, axis=1)))
    return _trimmed(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _largest_of_sparse_blocks(
    block: Callable[[int, int], sparse.csr_matrix], pairs: np.ndarray, k: int | None
) -> Neighbours:
    """Of a sparse matrix, made in blocks of rows; `pairs` `(N,)` are what each row is the sum of, and no less than its
    entries."""
    num_items = len(pairs)
    k = min(k or num_neighbours(num_items), num_items)
    items, values = np.zeros((num_items, k), dtype=np.int32), np.zeros((num_items, k), dtype=np.float32)
    until, start = np.cumsum(pairs, dtype=np.int64), 0
    while start < num_items:
        done = until[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(until, done + BLOCK_PAIRS, side="right")))
        items[start:stop], values[start:stop] = _largest(block(start, stop), start, k)
        start = stop
    return _trimmed(items, values)


def _largest(rows: sparse.csr_matrix, start: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the k largest entries above 0 of each row, the largest first."""
    of_row = _rows_of(rows)
    kept = (rows.data > 0) & (rows.indices != of_row + start)  # an item is not its own neighbour
    of_row, columns, entries = of_row[kept], rows.indices[kept], rows.data[kept]
    ends = np.cumsum(np.bincount(of_row, minlength=rows.shape[0]))
    begins = np.concatenate([[0], ends[:-1]])
    chosen = np.ones(len(entries), dtype=bool)
    for row in np.flatnonzero(ends - begins > k):
        own = slice(begins[row], ends[row])
        chosen[own] = False
        chosen[begins[row] + np.argpartition(entries[own], -k)[-k:]] = True
    of_row, columns, entries = of_row[chosen], columns[chosen], entries[chosen]
    sizes = np.bincount(of_row, minlength=rows.shape[0])
    places = np.arange(len(entries)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    items, values = np.zeros((2, rows.shape[0], k), dtype=np.float32)
    items = items.astype(np.int32)
    items[of_row, places], values[of_row, places] = columns, entries
    return _in_order(items, values)


def _in_order(columns: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-np.abs(values), axis=1, kind="stable")
    values = np.take_along_axis(values, order, axis=1).astype(np.float32)
    items = np.where(values != 0, np.take_along_axis(columns, order, axis=1), 0)
    return items.astype(np.int32), values


def _trimmed(items: np.ndarray, values: np.ndarray) -> Neighbours:
    """Without columns that no row needs."""
    width = max(1, int((values != 0).sum(axis=1).max()))
    return Neighbours(items[:, :width].copy(), values[:, :width].copy())
