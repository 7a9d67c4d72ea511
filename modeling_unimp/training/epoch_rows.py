"""Which rows a training reads in which epoch: by seed, epoch and row alone.

A data set whose rows change from epoch to epoch has to be told the epoch, and accelerate tells it in some of its
loaders only: not in those of several processes, not when a training is resumed, not in workers that live on. Here each
index brings its epoch along, so that no loader, worker or process can have another.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import TrainerCallback

IS_FILLER = "is_filler"
ROWS_AT_ONCE = 100_000  # numbers of Python take four times the memory of numpy's


class EpochIndex(NamedTuple):
    """What the sampler asks for.

    Fillers make the last batches of all processes equally long, and have no part in loss or gradient.
    """

    epoch: int
    row: int
    is_filler: bool


class EpochRows(torch.utils.data.Dataset):
    """The rows of a data set by [`EpochIndex`].

    Args:
        dataset: of requests, by whole numbers; if it has `set_epoch`, rows depend on the epoch.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: EpochIndex) -> Any:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(index.epoch)
        request = self.dataset[index.row]
        return {**request, IS_FILLER: True} if index.is_filler else request


class RandomOrder(torch.utils.data.Sampler[int]):
    """All rows in a random order, each epoch another.

    Args:
        num_rows (`int`)
        seed (`int`): with the epoch the only source of chance.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows = num_rows
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_rows)
        for part in np.array_split(order, max(1, self.num_rows // ROWS_AT_ONCE)):
            yield from part.tolist()


class EpochSampler(torch.utils.data.Sampler[EpochIndex]):
    """The indices of an epoch.

    Args:
        dataset: of which `order` orders the rows; if it has `set_epoch`, it is told the epoch before it is ordered.
        order (`Sampler[int]`): all rows; if it has `set_epoch`, it is told the epoch.
        multiple (`int`): so many rows are filled up to, since accelerate would train on the first rows twice.
    """

    # No `set_epoch`: accelerate would call it where it can, with epochs that count from where a training was resumed.
    epoch = 0

    def __init__(self, dataset: Any, order: torch.utils.data.Sampler[int], multiple: int = 1) -> None:
        self.dataset = dataset
        self.order = order
        self.num_fillers = -len(dataset) % multiple

    def __len__(self) -> int:
        return len(self.dataset) + self.num_fillers

    def __iter__(self) -> Iterator[EpochIndex]:
        epoch = self.epoch
        for each in (self.dataset, self.order):
            if hasattr(each, "set_epoch"):
                each.set_epoch(epoch)
        for row in self.order:
            yield EpochIndex(epoch, row, False)
        for _ in range(self.num_fillers):
            yield EpochIndex(epoch, 0, True)


class EpochCallback(TrainerCallback):
    """Tells the sampler of a training its epoch, also after a resumption in the middle of one."""

    sampler: EpochSampler | None = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        if self.sampler is not None:
            # As the Trainer counts, also where a training goes on with batches of another size.
            self.sampler.epoch = state.global_step // math.ceil(
                len(train_dataloader) / args.gradient_accumulation_steps
            )
