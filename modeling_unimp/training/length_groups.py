"""Batches of requests that are about equally long: less padding, and as random as that allows."""

from collections.abc import Iterator

import numpy as np
import torch

BATCHES_A_GROUP = 8


class LengthGroups(torch.utils.data.Sampler[int]):
    """Eight batches' worth of random rows are sorted by size and cut into batches, which come in random order.

    transformers' `LengthGroupedSampler` measures every row once and serves 50 batches from the longest to the
    shortest; here what a row is changes with the epoch, and a step has no size that its neighbours tell.

    Args:
        dataset (`TaskMixture`): `sizes()` are the sizes of its rows in the epoch at hand.
        batch_size (`int`): rows of a batch, over all processes.
        seed (`int`): with the epoch the only source of chance.
    """

    def __init__(self, dataset: torch.utils.data.Dataset, batch_size: int, seed: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        sizes = self.dataset.sizes()  # type: ignore[attr-defined]
        group = BATCHES_A_GROUP * self.batch_size
        order = rng.permutation(len(sizes))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), group):
            rows = order[start : start + group]
            rows = rows[np.argsort(sizes[rows], kind="stable")]
            batches += [rows[first : first + self.batch_size] for first in range(0, len(rows), self.batch_size)]
        # A batch that is not full would shift all that come after it.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]
        for position in rng.permutation(len(full)):
            yield from full[position].tolist()
        for batch in rest:
            yield from batch.tolist()
