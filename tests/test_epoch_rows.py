"""Rows of an epoch: every row once, by seed and epoch alone, and fillers that no loss knows."""

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from shop import make_histories, make_model, make_model_processor

from modeling_unimp.training.epoch_rows import EpochIndex, EpochRows, EpochSampler, RandomOrder
from processing_unimp import TaskMixture, UniMPCollator


class Numbers(torch.utils.data.Dataset):
    """Row r of epoch e is {"at": (e, r)}."""

    def __init__(self, num_rows):
        self.num_rows, self.epoch = num_rows, None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.num_rows

    def __getitem__(self, row):
        return {"at": (self.epoch, row)}


def test_every_row_comes_once_in_an_order_of_the_epoch():
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        order = RandomOrder(40, seed)
        order.set_epoch(epoch)
        orders.append(list(order))
        assert sorted(orders[-1]) == list(range(40)) and len(order) == 40
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] and orders[0] != orders[2] and orders[1] != orders[2]


def test_an_index_brings_its_epoch_along():
    """Also to a copy of the data set that nobody told: a worker's."""
    rows = EpochRows(Numbers(5))
    assert rows[EpochIndex(3, 2, False)] == {"at": (3, 2)}
    assert rows[EpochIndex(1, 0, False)] == {"at": (1, 0)}
    assert rows[EpochIndex(1, 0, True)] == {"at": (1, 0), "is_filler": True}
    assert EpochRows([{"a": 1}])[EpochIndex(7, 0, False)] == {"a": 1}


@pytest.mark.parametrize("num_rows", [1, 5, 6, 7, 12, 13])
@pytest.mark.parametrize("processes, batch_size", [(2, 3), (3, 2), (4, 1)])
def test_fillers_make_the_batches_of_all_processes_even(num_rows, processes, batch_size):
    sampler = EpochSampler(Numbers(num_rows), RandomOrder(num_rows, 0), processes * batch_size)
    sampler.epoch = 2
    batches = torch.utils.data.BatchSampler(sampler, batch_size, drop_last=False)
    shares = [list(BatchSamplerShard(batches, processes, rank)) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert all(len(batch) == batch_size for share in shares for batch in share)
    read = [index for share in shares for batch in share for index in batch]
    assert sorted(index.row for index in read if not index.is_filler) == list(range(num_rows))
    assert {index.epoch for index in read} == {2} and len(read) == len(sampler)
    assert sum(index.is_filler for index in read) == sampler.num_fillers < processes * batch_size


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_that_live_on_read_the_epoch_at_hand(persistent):
    dataset = Numbers(6)
    sampler = EpochSampler(dataset, RandomOrder(6, 0))
    loader = torch.utils.data.DataLoader(
        EpochRows(dataset), 2, sampler=sampler, num_workers=2, persistent_workers=persistent, collate_fn=list
    )
    for epoch in (0, 1, 2):
        sampler.epoch = epoch
        read = [row["at"] for batch in loader for row in batch]
        assert sorted(read) == [(epoch, row) for row in range(6)]


def test_a_filler_has_no_label_and_its_batch_still_a_graph():
    processor = make_model_processor()
    mixture = TaskMixture(make_histories(processor.catalogue), processor.catalogue, ["recommend", "rate"], repeats=3)
    rows, collate = EpochRows(mixture), UniMPCollator(processor, context="attributes", next_item=True)
    whole = collate([rows[EpochIndex(0, row, False)] for row in (1, 2)])
    filled = collate([rows[EpochIndex(0, row, filler)] for row, filler in ((1, False), (2, False), (0, True))])
    length = whole["labels"].shape[1]
    for name in ("labels", "label_kinds"):
        assert torch.equal(filled[name][:2, -length:], whole[name])
    assert filled["labels"][2].eq(-100).all() and filled["label_kinds"][2].eq(0).all()
    nothing = collate([rows[EpochIndex(0, row, True)] for row in (0, 1)])
    model = make_model(processor).train()
    kept = {name: tensor for name, tensor in nothing.items() if name not in ("task_ids", "label_kinds")}
    output = model(**kept)
    output.loss.backward()
    assert output.loss == 0 and len(output.nll) == 0
    assert all(each.grad.abs().sum() == 0 for each in model.parameters() if each.grad is not None)
