"""Metrics over all cases: known answers worked out by hand, and what is refused."""

import math

import numpy as np
import pytest
from scipy import sparse

from processing_unimp.case_metrics import cosine_similarity
from processing_unimp.metrics.calibration import reliability
from processing_unimp.metrics.lists import ListMeasures
from processing_unimp.metrics.pictures import diversity, frechet_distance
from processing_unimp.metrics.ranking import hit_rate, mrr, ndcg
from processing_unimp.metrics.stars import mae, rmse

LOG3 = math.log2(3)


def test_hit_rate_ndcg_and_mrr_by_hand():
    ranks = np.array([1, 2, 3, 11])
    assert hit_rate(ranks, 1) == 0.25
    assert hit_rate(ranks, 2) == 0.5
    assert hit_rate(ranks, 10) == 0.75
    assert ndcg(ranks, 10) == pytest.approx((1 + 1 / LOG3 + 0.5 + 0) / 4)
    assert ndcg(ranks, 1) == 0.25
    assert mrr(ranks, 10) == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    assert mrr(ranks, 11) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 11) / 4)


@pytest.mark.parametrize("metric", [hit_rate, ndcg, mrr])
def test_ranking_metrics_refuse_empty_and_zero_based_ranks(metric):
    with pytest.raises(ValueError, match="no ranks"):
        metric(np.array([]), 10)
    with pytest.raises(ValueError, match="do not start at 0"):
        metric(np.array([0, 1]), 10)
    with pytest.raises(ValueError, match="k = 0"):
        metric(np.array([1]), 0)


def test_mae_and_rmse_by_hand():
    predicted, true = np.array([1.0, 3.5, 5.0, 2.0]), np.array([2, 3, 5, 5])
    assert mae(predicted, true) == pytest.approx((1 + 0.5 + 0 + 3) / 4)
    assert rmse(predicted, true) == pytest.approx(math.sqrt((1 + 0.25 + 0 + 9) / 4))


@pytest.mark.parametrize("metric", [mae, rmse])
def test_errors_refuse_shapes_that_would_broadcast(metric):
    with pytest.raises(ValueError, match="shape"):
        metric(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="shape"):
        metric(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="NaN"):
        metric(np.array([1.0, 2.0]), np.array([1.0, np.nan]))


def features(seed, n, width):
    """Rows of a mean and a covariance of their own."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def textbook_frechet_distance(a, b):
    """The root of S1 @ S2 by the eigenvalues of `sqrt(S1) @ S2 @ sqrt(S1)`, which is symmetric and has the same."""
    shift = a.mean(axis=0) - b.mean(axis=0)
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(s1)
    root = vectors @ np.diag(np.sqrt(np.clip(values, 0, None))) @ vectors.T
    eigenvalues = np.clip(np.linalg.eigvalsh(root @ s2 @ root), 0, None)
    return shift @ shift + np.trace(s1) + np.trace(s2) - 2 * np.sqrt(eigenvalues).sum()


@pytest.mark.parametrize(("n", "m", "width"), [(50, 40, 5), (7, 90, 12), (6, 5, 20), (2, 2, 3), (30, 3, 2)])
def test_frechet_distance_equals_the_textbook(n, m, width):
    a, b = features(1, n, width), features(2, m, width)
    # Fewer rows than features leave eigenvalues of 1e-16 where there should be 0, and their roots are 1e-8.
    assert frechet_distance(a, b) == pytest.approx(textbook_frechet_distance(a, b), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_frechet_distance_on_a_line_by_hand():
    # (m1 - m2)**2 + (s1 - s2)**2 with means 1 and 5, deviations sqrt(2) and sqrt(8): 16 + 2.
    assert frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [7.0]])) == pytest.approx(18)


def test_frechet_distance_of_independent_features_adds_up():
    # Corners of a rectangle: no covariance, so each axis is a line of its own.
    a = np.array([[0, 0], [0, 2], [2, 0], [2, 2]], dtype=float)
    b = a * [3, 1] + [1, 0]
    one = [frechet_distance(a[:, [k]], b[:, [k]]) for k in (0, 1)]
    assert one == [pytest.approx(9 + 4 * 4 / 3), 0]
    assert frechet_distance(a, b) == pytest.approx(sum(one))


def test_frechet_distance_ignores_order_and_a_common_shift_and_turn():
    a, b = features(3, 20, 6), features(4, 15, 6)
    distance = frechet_distance(a, b)
    rng = np.random.default_rng(5)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert frechet_distance(rng.permutation(a), rng.permutation(b)) == pytest.approx(distance)
    assert frechet_distance(a @ turn + 7, b @ turn + 7) == pytest.approx(distance)
    assert frechet_distance(a, a + 2) == pytest.approx(6 * 2**2)
    assert frechet_distance(a, rng.permutation(a)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a) >= 0


def test_frechet_distance_of_many_features_needs_no_square_of_them():
    a, b = np.random.default_rng(6).normal(size=(2, 4, 200_000))  # a covariance would take 320 GB
    # In so many directions the two share none: tr(S) is about the width for both, the cross term hardly there.
    assert frechet_distance(a, b) == pytest.approx(2 * 200_000 + 2 * 200_000 / 4, rel=0.02)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.zeros((1, 3)), np.zeros((4, 3)), "generated features of shape .1, 3.*at least 2"),
        (np.zeros((4, 3)), np.zeros((1, 3)), "real features of shape .1, 3"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "same width"),
        (np.zeros(4), np.zeros((4, 1)), "shape .4,"),
        (np.full((2, 1), np.nan), np.zeros((2, 1)), "2 of 2 rows of the generated features hold NaN"),
    ],
)
def test_frechet_distance_refuses_what_has_no_covariance(a, b, words):
    with pytest.raises(ValueError, match=words):
        frechet_distance(a, b)


def test_diversity_by_hand():
    assert diversity(np.array([[1.0, 2.0], [2.0, 4.0], [0.5, 1.0]])) == pytest.approx(0)
    assert diversity(np.eye(4)) == pytest.approx(1)
    assert diversity(np.array([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(2)
    # Pairs: alike 0, and twice 60 degrees apart 1/2.
    assert diversity(np.array([[1, 0], [5, 0], [1, math.sqrt(3)]])) == pytest.approx(1 / 3)
    assert diversity(np.full((5, 7), 0.3)) >= 0


def test_diversity_is_the_mean_over_pairs_in_any_order():
    rows = features(7, 9, 4)
    pairs = [(i, j) for i in range(9) for j in range(i)]
    cosines = cosine_similarity(rows[[i for i, _ in pairs]], rows[[j for _, j in pairs]])
    assert diversity(rows) == pytest.approx(1 - cosines.mean())
    assert diversity(rows[::-1]) == pytest.approx(diversity(rows))


def test_diversity_refuses_one_picture_and_one_without_direction():
    with pytest.raises(ValueError, match="row 1 of the generated features is all zeros"):
        diversity(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="at least 2 pictures"):
        diversity(np.ones((1, 3)))


def test_reliability_by_hand():
    confidence = np.repeat([0.2, 0.9], 10)
    is_right = np.array([True] * 3 + [False] * 7 + [True] * 8 + [False] * 2)
    found = reliability(confidence, is_right)
    # Said .2 and .9, right .3 and .8: bins of two cases each, which keep their order.
    assert sum(size for *_, size in found["bins"]) == 20 and len(found["bins"]) == 10
    shares = [1, 0.5, 0, 0, 0, 1, 1, 1, 1, 0]
    assert found["bins"] == [
        (pytest.approx(sure), share, 2) for sure, share in zip([0.2] * 5 + [0.9] * 5, shares, strict=True)
    ]
    assert found["ece"] == pytest.approx((0.8 + 0.3 + 3 * 0.2 + 4 * 0.1 + 0.9) / 10)
    # Of two cases each, said .2: none right in .64 (off by .4 cases), one in .32 (.6), both in .04 (1.6); of .9 in .01
    # none (1.8), in .18 one (.8), in .81 both (.2).
    by_chance = [0.64 * 0.4 + 0.32 * 0.6 + 0.04 * 1.6, 0.01 * 1.8 + 0.18 * 0.8 + 0.81 * 0.2]
    assert found["ece_by_chance"] == pytest.approx(sum(by_chance) / 2 / 2)
    alone = reliability(np.array([0.5]), np.array([True]))
    assert alone == {"ece": 0.5, "ece_by_chance": 0.5, "bins": [(0.5, 1.0, 1)]}
    assert reliability(np.array([1.0, 0.0]), np.array([True, False]))["ece_by_chance"] == 0


def test_lists_are_novel_and_diverse_by_hand():
    # Shares with one more of each: 4/8, 2/8, 1/8, 1/8, which are 1, 2, 3 and 3 bits.
    terms = sparse.csr_matrix(np.array([[1.0, 0], [1, 0], [0, 1], [0, 0]]))
    lists = ListMeasures(np.array([3, 1, 0, 0]), terms)
    two = np.array([[0, 1, 2], [0, 2, 3]])
    assert lists.novelty(two) == pytest.approx((1 + 2 + 3 + 1 + 3 + 3) / 6)
    # Of the first list one pair of three is alike; an item without terms is like nothing.
    assert lists.diversity(two) == pytest.approx((2 / 3 + 1) / 2)
    shorter = np.array([[0, 1, -1], [0, -1, -1], [0, 2, 3]])
    assert lists.novelty(shorter) == pytest.approx((1 + 2 + 1 + 1 + 3 + 3) / 6)
    assert lists.diversity(shorter) == pytest.approx((0 + 1) / 2)  # one item alone has no pair
    assert np.isnan(lists.diversity(two[:, :1])) and np.isnan(ListMeasures(np.ones(4)).diversity(two))
