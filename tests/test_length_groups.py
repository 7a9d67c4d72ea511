"""Length groups: every row once, batches of equals, no order in time."""

import numpy as np
import pytest
from shop import make_histories, make_model_processor

from modeling_unimp.training.length_groups import BATCHES_A_GROUP, LengthGroups
from processing_unimp import TaskMixture


class Sized:
    def __init__(self, sizes):
        self.all = np.array(sizes)

    def __len__(self):
        return len(self.all)

    def sizes(self):
        return self.all


def padding(order, sizes, batch_size):
    batches = [sizes[order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    return sum(int((batch.max() - batch).sum()) for batch in batches)


@pytest.mark.parametrize("rows", [1, 3, 4, 64, 67])
def test_every_row_comes_once(rows):
    dataset = Sized(np.random.default_rng(0).integers(1, 50, rows))
    sampler = LengthGroups(dataset, 4, seed=1)
    assert sorted(sampler) == list(range(rows)) and len(sampler) == rows


def test_batches_are_of_like_sizes_and_in_no_order_of_size():
    sizes = np.random.default_rng(0).integers(1, 100, 40 * BATCHES_A_GROUP * 4)
    order = np.array(list(LengthGroups(Sized(sizes), 4, seed=1)))
    assert padding(order, sizes, 4) < 0.25 * padding(np.arange(len(sizes)), sizes, 4)
    of_batch = sizes[order].reshape(-1, 4).mean(axis=1)
    assert abs(np.corrcoef(of_batch, np.arange(len(of_batch)))[0, 1]) < 0.1
    assert abs(np.corrcoef(of_batch[1:], of_batch[:-1])[0, 1]) < 0.1


def test_the_order_follows_seed_and_epoch_alone():
    sampler = LengthGroups(Sized(np.arange(200) % 17), 4, seed=1)
    first = list(sampler)
    assert list(sampler) == first == list(LengthGroups(Sized(np.arange(200) % 17), 4, seed=1))
    sampler.set_epoch(1)
    assert list(sampler) != first != list(LengthGroups(Sized(np.arange(200) % 17), 4, seed=2))


@pytest.mark.parametrize("windows", ["random", "all"])
def test_sizes_of_the_mixture_tell_how_long_its_rows_are(windows):
    processor = make_model_processor()
    mixture = TaskMixture(
        make_histories(processor.catalogue),
        processor.catalogue,
        ["recommend", "rate", "explain"],
        windows=windows,
        repeats=40,
    )
    mixture.set_epoch(2)
    requests = [mixture[row] for row in range(len(mixture))]
    extra = {"recommend": 1, "rate": 2, "explain": 3}
    expected = [len(request["history"]) + extra[request["task"]] for request in requests]
    # Which few rows have no history is drawn when they are made.
    known = [row for row, request in enumerate(requests) if request["history"]]
    assert 0.9 * len(requests) < len(known)
    assert mixture.sizes()[known].tolist() == [expected[row] for row in known]
