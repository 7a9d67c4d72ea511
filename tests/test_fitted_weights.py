"""Weights of the scores, by validation: known answers."""

import numpy as np
import pytest
import torch

from modeling_unimp.hybrid_scores import numbers_of
from modeling_unimp.training.closed_form import closed_form_scores
from modeling_unimp.training.hybrid_fitting import fit_closed_form
from modeling_unimp.training.ranking_weights import fit_closed, fit_ranking, fit_softmax
from processing_unimp import Catalogue, EvaluationCases, ExampleSource, Histories, leave_last_out


def test_softmax_weights_find_what_predicts():
    rng = np.random.default_rng(0)
    useful, noise = rng.normal(size=(2, 400, 10)).astype(np.float32)
    truth = np.array([rng.choice(10, p=np.exp(2 * row) / np.exp(2 * row).sum()) for row in useful])
    features = np.stack([useful, noise, -useful], axis=1)
    weights = fit_softmax(features, truth, np.zeros((400, 10)))
    assert weights[0] == pytest.approx(2, abs=0.4) and weights[1] < 0.3 and weights[2] == 0


def test_hidden_items_take_no_part():
    features = np.array([[[0.0, 1.0, 9.0]], [[0.0, 1.0, 9.0]]], dtype=np.float32)
    added = np.array([[0, 0, -np.inf]] * 2)
    assert fit_softmax(features, np.array([1, 1]), added)[0] > 3


def test_a_network_that_is_better_than_any_blend_ranks_alone():
    """By cross-entropy the second score is worth something: of item 2, which it is right about, the network knows
    nothing. But it puts a wrong item first in the other cases, where the network is right."""
    features = np.zeros((4, 2, 12), dtype=np.float32)
    features[:3, 0, 0], features[:3, 0, 1] = 1.0, 0.9
    features[:3, 1, 1] = 1.0
    features[3, 0, 0], features[3, 1, 0] = -9.0, 9.0
    added = np.zeros((4, 12), dtype=np.float32)
    truth = np.zeros(4, dtype=np.int64)
    assert fit_softmax(features, truth, added)[1] > 0
    assert fit_ranking(features, truth, added) == [1.0, 0.0]


def test_a_network_that_ranks_alone_is_as_sure_as_it_is_right():
    """It is three times as sure as it should be, and the other score knows nothing, or puts a wrong item first."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(600, 10))
    truth = np.array([rng.choice(10, p=np.exp(each) / np.exp(each).sum()) for each in logits])
    added = np.zeros((600, 10))
    for other in (0 * logits, rng.normal(size=(600, 10))):
        network, weight = fit_ranking(np.stack([3 * logits, other], axis=1), truth, added)
        assert network == pytest.approx(1 / 3, abs=0.04) and weight == pytest.approx(0, abs=0.1)


def test_a_blend_that_is_behind_its_best_score_gives_way_to_it():
    """The first score finds 12 of 20 and is surer where it is wrong; the second leaves out half of the items, and puts
    others first. For the mean over all items they are best together; for the first ten the first is, alone."""
    features = np.zeros((20, 2, 40), dtype=np.float32)
    features[:12, 0, 0], features[12:, 0, 1] = 0.1, 1.0
    features[:, 1, :20], features[:, 1, 2:14] = 1.0, 1.5
    cases = features, np.zeros(20, dtype=np.int64), np.zeros((20, 40), dtype=np.float32)
    first, second = fit_softmax(*cases)
    assert 0.5 * second > 0.1 * first  # so that the right item is not the first
    first, second = fit_closed(*cases)
    assert first > 0 and second == 0


def test_what_was_just_taken_may_be_what_comes_last():
    """Each shopper needs three things again and again, in turn: what comes next is what they took longest ago."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(120):
        own = rng.choice(30, 3, replace=False)
        rows += [{"user_id": str(user), "item_id": f"i{own[time % 3]}", "timestamp": time} for time in range(8)]
    catalogue = Catalogue.from_items([{"item_id": f"i{number}"} for number in range(30)])
    split = leave_last_out(Histories.from_interactions(rows, catalogue), new_users=0.1)
    (validation, test) = (
        EvaluationCases.of("recommend", targets, ExampleSource(catalogue, rng, history_length=200), exclude_seen=False)
        for targets in (split.validation, split.new_users)
    )
    fitted = fit_closed_form(closed_form_scores(split.train, None, None, False), [validation], split.train)
    first = [
        int(fitted.add("recommend", torch.zeros(1, 30), [numbers_of(request["history"], catalogue)])[0].argmax())
        for request in test.requests
    ]
    assert first == [catalogue.number(request["answer"]) for request in test.requests]
