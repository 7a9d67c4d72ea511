"""Known answers worked out by hand, and the traps: ties, seen items, the target among the excluded, nothing chosen."""

import math

import numpy as np
import pytest

from processing_unimp.case_metrics import cosine_similarity, precision_recall_f1, rank_of_target


def test_rank_counts_the_better_ones():
    scores = np.array([0.1, 0.9, 0.5, 0.7])
    assert [rank_of_target(scores, target) for target in range(4)] == [4, 1, 3, 2]


def test_ties_count_against_us():
    assert rank_of_target(np.zeros(5), 2) == 5
    assert rank_of_target(np.array([1.0, 2.0, 2.0, 0.0]), 1) == 2
    assert rank_of_target(np.full(3, -np.inf), 0) == 3


def test_excluded_items_do_not_compete():
    scores = np.array([0.4, 0.9, 0.8, 0.7])
    assert rank_of_target(scores, 3, np.array([1])) == 2
    assert rank_of_target(scores, 3, np.array([1, 2, 1])) == 1
    assert rank_of_target(scores, 3, np.array([False, True, True, False])) == 1
    assert rank_of_target(scores, 3, np.array([], dtype=int)) == 3
    assert rank_of_target(scores, 0, []) == 4


def test_the_target_competes_even_when_it_was_seen():
    scores = np.array([0.4, 0.9, 0.8])
    assert rank_of_target(scores, 2, np.array([1, 2])) == 1
    assert rank_of_target(scores, 0, np.array([0])) == 3
    assert scores.tolist() == [0.4, 0.9, 0.8]


@pytest.mark.parametrize(
    ("scores", "target", "words"),
    [([0.0, np.nan], 0, "NaN"), ([0.0, 1.0], 2, "target 2"), ([0.0, 1.0], -1, "target -1"), ([[0.0]], 0, "shape")],
)
def test_rank_refuses_what_it_cannot_rank(scores, target, words):
    with pytest.raises(ValueError, match=words):
        rank_of_target(np.array(scores), target)


def test_rank_equals_the_place_in_a_full_sort():
    rng = np.random.default_rng(0)
    scores = rng.permutation(50).astype(float)
    order = np.argsort(-scores)
    assert all(order[rank_of_target(scores, target) - 1] == target for target in range(50))


def test_precision_recall_f1_by_hand():
    chosen = np.array([True, True, True, False, False])
    relevant = np.array([True, False, False, True, False])
    assert precision_recall_f1(chosen, relevant) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert precision_recall_f1(relevant, relevant) == (1.0, 1.0, 1.0)


def test_precision_recall_f1_where_something_is_empty():
    none, one = np.array([False, False]), np.array([True, False])
    assert precision_recall_f1(none, one) == (0.0, 0.0, 0.0)
    assert precision_recall_f1(one, none) == (0.0, 0.0, 0.0)
    assert precision_recall_f1(none, none) == (1.0, 1.0, 1.0)
    assert precision_recall_f1(one, ~one) == (0.0, 0.0, 0.0)


def test_precision_recall_f1_refuses_item_numbers():
    with pytest.raises(ValueError, match="boolean"):
        precision_recall_f1(np.array([3, 5]), np.array([3, 7]))
    with pytest.raises(ValueError, match="boolean"):
        precision_recall_f1(np.array([True]), np.array([True, False]))


def test_cosine_similarity_by_hand():
    a, b = np.array([[3, 4], [1, 0], [2, 2]]), np.array([[6, 8], [0, 5], [-1, -1]])
    np.testing.assert_allclose(cosine_similarity(a, b), [1, 0, -1], atol=1e-12)
    root = math.sqrt(2)
    np.testing.assert_allclose(cosine_similarity(a[:1], b), [1, 4 / 5, -7 / (5 * root)])
    np.testing.assert_allclose(cosine_similarity(a, b[1:2]), [4 / 5, 0, 1 / root], atol=1e-12)
    assert cosine_similarity(a, np.zeros((1, 2))).tolist() == [0, 0, 0]


def test_features_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="row beside row"):
        cosine_similarity(np.ones((3, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="row beside row"):
        cosine_similarity(np.ones((1, 3)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="at least 1 picture"):
        cosine_similarity(np.ones((0, 3)), np.ones((0, 3)))
