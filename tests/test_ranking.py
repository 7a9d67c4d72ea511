"""Exact ranking: the argsort of the full softmax, ties by number, never an item that is not allowed."""

import pytest
import torch

from modeling_unimp.ranking import rank_items


def test_is_the_argsort_of_the_full_softmax():
    torch.manual_seed(0)
    logits = torch.randn(4, 100)
    scores, numbers = rank_items(logits, 100)
    probabilities = logits.softmax(-1)
    assert torch.equal(numbers, probabilities.argsort(-1, descending=True))
    torch.testing.assert_close(scores, probabilities.sort(-1, descending=True).values)
    some_scores, some_numbers = rank_items(logits, 7)
    assert torch.equal(some_numbers, numbers[:, :7]) and torch.equal(some_scores, scores[:, :7])


def test_by_hand_among_the_allowed():
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0]]).log()
    scores, numbers = rank_items(logits, 3, torch.tensor([True, True, False, True]))
    assert numbers.tolist() == [[1, 3, 0]]
    torch.testing.assert_close(scores, torch.tensor([[3 / 7, 3 / 7, 1 / 7]]))


def test_ties_go_by_number():
    _, numbers = rank_items(torch.zeros(2, 1000), 5)
    assert numbers.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_never_more_than_allowed():
    allowed = torch.tensor([[False, True, False, True], [True, False, False, False], [False] * 4])
    scores, numbers = rank_items(torch.arange(12.0).view(3, 4), 10, allowed)
    assert numbers.tolist() == [[3, 1], [0, -1], [-1, -1]]
    assert scores[1].tolist() == [1.0, 0.0] and scores[2].tolist() == [0.0, 0.0]


def test_an_allowed_item_without_any_chance_comes_before_one_that_is_not_allowed():
    logits = torch.tensor([[float("-inf"), 5.0, float("-inf")]])
    _, numbers = rank_items(logits, 3, torch.tensor([False, True, True]))
    assert numbers.tolist() == [[1, 2]]


def test_no_items():
    scores, numbers = rank_items(torch.zeros(2, 0), 5)
    assert scores.shape == numbers.shape == (2, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    scores, numbers = rank_items(torch.tensor([[1.0, 2.0]], dtype=dtype), 2)
    assert numbers.tolist() == [[1, 0]] and scores.dtype == torch.float32


@pytest.mark.parametrize(
    "top_k, allowed, message",
    [
        (0, None, "top_k=0"),
        (1, torch.ones(4), "allowed is torch.float32"),
        (1, torch.ones(3, dtype=torch.bool), r"shape \(3,\): expected torch.bool of shape \(4,\)"),
    ],
)
def test_errors(top_k, allowed, message):
    with pytest.raises(ValueError, match=message):
        rank_items(torch.zeros(2, 4), top_k, allowed)
