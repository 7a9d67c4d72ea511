"""Length groups: every row once, batches of equals, no order in time."""

import numpy as np
import pytest
from shop import make_histories, make_model_processor

from modeling_unimp.training.length_groups import BATCHES_A_GROUP, LengthGroups
from processing_unimp import TaskMixture, UniMPCollator


class Sized:
    def __init__(self, sizes):
        self.all = np.array(sizes)

    def __len__(self):
        return len(self.all)

    def sizes(self, tokens_of):
        return self.all


def padding(order, sizes, batch_size):
    batches = [sizes[order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    return sum(int((batch.max() - batch).sum()) for batch in batches)


@pytest.mark.parametrize("rows", [1, 3, 4, 64, 67])
def test_every_row_comes_once(rows):
    dataset = Sized(np.random.default_rng(0).integers(1, 50, rows))
    sampler = LengthGroups(dataset, 4, seed=1, tokens_of=len)
    assert sorted(sampler) == list(range(rows)) and len(sampler) == rows


def test_batches_are_of_like_sizes_and_in_no_order_of_size():
    sizes = np.random.default_rng(0).integers(1, 100, 40 * BATCHES_A_GROUP * 4)
    order = np.array(list(LengthGroups(Sized(sizes), 4, seed=1, tokens_of=len)))
    assert padding(order, sizes, 4) < 0.3 * padding(np.arange(len(sizes)), sizes, 4)
    of_batch = sizes[order].reshape(-1, 4).mean(axis=1)
    assert abs(np.corrcoef(of_batch, np.arange(len(of_batch)))[0, 1]) < 0.1
    assert abs(np.corrcoef(of_batch[1:], of_batch[:-1])[0, 1]) < 0.1


def test_the_order_follows_seed_and_epoch_alone():
    sampler = LengthGroups(Sized(np.arange(200) % 17), 4, seed=1, tokens_of=len)
    first = list(sampler)
    assert list(sampler) == first == list(LengthGroups(Sized(np.arange(200) % 17), 4, seed=1, tokens_of=len))
    sampler.set_epoch(1)
    assert list(sampler) != first != list(LengthGroups(Sized(np.arange(200) % 17), 4, seed=2, tokens_of=len))


@pytest.mark.parametrize("windows", ["random", "all"])
@pytest.mark.parametrize("history_format", ["compact", "full"])
def test_sizes_of_the_mixture_tell_how_long_its_rows_are(windows, history_format):
    """In tokens, within what items differ by: a candidate in words is as long as many events in short."""
    processor = make_model_processor(history_format=history_format)
    collator = UniMPCollator(processor)
    mixture = TaskMixture(
        make_histories(processor.catalogue),
        processor.catalogue,
        ["recommend", "rate", "explain", "select"],
        windows=windows,
        repeats=40,
        num_candidates=3,
    )
    mixture.set_epoch(2)
    requests = [mixture[row] for row in range(len(mixture))]
    sizes = mixture.sizes(lambda request: int(collator([request])["attention_mask"].sum()))
    # Which few rows have no history is drawn when they are made.
    known = [row for row, request in enumerate(requests) if request["history"]]
    assert 0.9 * len(requests) < len(known)
    # Neither is which rows are made of another interaction, for their task cannot use this one.
    real = collator([requests[row] for row in known])["attention_mask"].sum(dim=1).numpy()
    assert np.corrcoef(sizes[known], real)[0, 1] > 0.95
    for name in ("recommend", "rate", "explain", "select"):
        of_task = [place for place, row in enumerate(known) if requests[row]["task"] == name]
        assert sizes[known][of_task].mean() == pytest.approx(real[of_task].mean(), rel=0.1)
