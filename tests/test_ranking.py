"""Exact ranking: the argsort of the full softmax, ties by number, never an item that is not allowed."""

import pytest
import torch

from modeling_unimp.ranking import highest, rank_items


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


def stable_sort(logits, top_k, allowed):
    """The ranking by its definition: a stable sort of all items, those that are not allowed behind all others."""
    rows = []
    for row, mask in zip(logits.tolist(), allowed.tolist(), strict=True):
        numbers = [number for number, may in enumerate(mask) if may]
        rows.append(sorted(numbers, key=lambda number: -row[number])[:top_k])
    k = max(map(len, rows))
    return [row + [-1] * (k - len(row)) for row in rows]


@pytest.mark.parametrize("top_k", [1, 10, 49, 50, 500])
@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_equals_a_stable_sort_with_ties_infinities_and_masks(top_k, levels):
    generator = torch.Generator().manual_seed(levels)
    logits = torch.randint(levels, (40, 50), generator=generator).float() - levels // 2
    logits[torch.rand(logits.shape, generator=generator) < 0.2] = float("-inf")
    logits[::8] = torch.randint(2, (5, 50), generator=generator) * -0.0
    allowed = torch.rand(logits.shape, generator=generator) < torch.linspace(0, 1, 40)[:, None]
    _, numbers = rank_items(logits, top_k, allowed)
    assert numbers.tolist() == stable_sort(logits, top_k, allowed)


@pytest.mark.parametrize("k", [0, 1, 3, 4, 5])
def test_highest_has_both_infinities_in_their_places(k):
    inf, nan = float("inf"), float("nan")
    scores = torch.tensor([[-inf, 1.0, inf, -inf, inf], [nan, inf, 0.0, -0.0, nan], [-inf] * 5])
    assert highest(scores, k).tolist() == [[2, 4, 1, 0, 3][:k], [0, 1, 4, 2, 3][:k], [0, 1, 2, 3, 4][:k]]


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
