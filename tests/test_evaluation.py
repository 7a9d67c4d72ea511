"""Evaluation by answering: every case scored once, in order; intervals; one line that sums it up."""

import logging

import numpy as np
import pytest
from shop import make_histories, make_model, make_model_processor

from modeling_unimp.answering import outputs_of
from modeling_unimp.training.evaluation import bootstrap, by_case, headline, score_cases
from processing_unimp import TASKS as ALL_TASKS
from processing_unimp import EvaluationCases, ExampleSource, Histories, leave_last_out
from processing_unimp.metrics.summary import summarise

TASKS = ("recommend", "search", "rate", "select")


@pytest.fixture(scope="module")
def shop():
    processor = make_model_processor()
    split = leave_last_out(make_histories(processor.catalogue), new_users=0.0)
    cases = [cases_of(name, split.test, processor.catalogue) for name in TASKS]
    return make_model(processor), processor, cases


def cases_of(name, targets, catalogue):
    source = ExampleSource(catalogue, np.random.default_rng(0), query_attribute="category", num_candidates=3)
    return EvaluationCases.of(name, targets, source, exclude_seen=True)


def test_every_case_is_scored_in_order(shop):
    model, processor, cases_by_task = shop
    scores = score_cases(model, processor, cases_by_task, batch_size=2, show_progress=False)
    assert list(scores) == list(TASKS)
    for cases in cases_by_task:
        outputs = outputs_of(model, processor, cases.requests, cases.task.answer_group, batch_size=1)
        alone = [cases.score(index, output) for index, output in enumerate(outputs)]
        assert len(alone) == 3
        for name, column in scores[cases.task.name].items():
            assert column == pytest.approx(np.array([score[name] for score in alone]), abs=1e-5)


def test_the_true_answer_of_a_request_is_not_read(shop):
    """The history and the question alone decide: a wrong "answer" in the request changes no output."""
    model, processor, (recommend, *_) = shop
    lying = [request | {"answer": "h2"} for request in recommend.requests]
    honest = outputs_of(model, processor, recommend.requests, "items")
    for one, other in zip(honest, outputs_of(model, processor, lying, "items"), strict=True):
        assert np.array_equal(one, other)


def test_seen_items_do_not_count_and_ties_do(shop):
    _, _, (recommend, *_) = shop
    catalogue = recommend.source.catalogue
    # Equal logits everywhere: the target comes after all others that may be ranked.
    case = recommend.cases[0]
    seen = {event.item_id for event in case.history}
    equal = recommend.score(0, np.zeros(len(catalogue)))
    assert equal["rank"] == 1 / equal["confidence"] == len(catalogue) - len(seen)
    best = np.zeros(len(catalogue))
    best[catalogue.number(case.target.item_id)] = 1
    assert recommend.score(0, best)["rank"] == 1
    # Items of the history are no rivals, however high.
    best[[catalogue.number(item_id) for item_id in seen]] = 9
    assert recommend.score(0, best)["rank"] == 1


def test_a_task_without_any_case_is_said_and_left_out(shop, caplog):
    model, processor, (recommend, *_) = shop
    events = [{"user_id": "ada", "item_id": item, "timestamp": t} for t, item in enumerate(["m1", "m2", "s1", "h1"])]
    unrated = Histories.from_interactions(events, processor.catalogue)
    nothing = cases_of("rate", leave_last_out(unrated, new_users=0.0).test, processor.catalogue)
    assert nothing.skipped == 1
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        scores = score_cases(model, processor, [nothing, recommend], show_progress=False)
    finally:
        logger.removeHandler(caplog.handler)
    assert list(scores) == ["recommend"]
    assert "No case to evaluate rate on: 1 have no answer" in caplog.text


def test_a_part_without_anything_to_ask_is_not_called_unanswered(shop, caplog):
    model, processor, (recommend, *_) = shop
    nobody = cases_of("recommend", recommend.cases.take(np.array([], dtype=np.int64)), processor.catalogue)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        assert score_cases(model, processor, [nobody], show_progress=False) == {}
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.text == ""


def scores_of_chance(num_cases, width=16):
    rng = np.random.default_rng(1)
    vectors = {
        name: rng.normal(size=(num_cases, width)) for name in ("features", "true", "other", "random", "retrieved")
    }
    return {
        "recommend": {
            "rank": rng.integers(1, 30, num_cases),
            "best": rng.integers(0, 50, (num_cases, 10)),
            "num_items": np.full(num_cases, 50),
        },
        "rate": {"predicted": rng.uniform(1, 5, num_cases), "true": rng.integers(1, 6, num_cases)},
        "select": {name: rng.random(num_cases) for name in ("precision", "recall", "f1")},
        "imagine": vectors | {name: rng.random(num_cases) for name in ("similarity", "similarity_to_other", "nll")},
    }


@pytest.mark.parametrize("name", ["recommend", "rate", "select", "imagine"])
def test_an_interval_is_that_of_the_headline_over_cases_drawn_anew(name):
    task, scores = ALL_TASKS[name], scores_of_chance(40)[name]
    rng, values = np.random.default_rng(0), []
    for _ in range(500):
        drawn = rng.integers(40, size=40)
        values.append(summarise(task, {key: column[drawn] for key, column in scores.items()})[task.headline])
    assert bootstrap(task, scores) == pytest.approx(np.quantile(values, [0.025, 0.975]))
    low, high = bootstrap(task, scores)
    assert low < summarise(task, scores)[task.headline] < high
    each, mean = by_case(task, scores).astype(np.float64), summarise(task, scores)[task.headline]
    assert (np.sqrt(np.square(each).mean()) if name == "rate" else each.mean()) == pytest.approx(mean)
    few = {key: column[:29] for key, column in scores.items()}
    assert bootstrap(task, few) is None
    assert bootstrap(ALL_TASKS["explain"], {"predicted": np.array(["a"]), "true": np.array(["a"])}) is None


@pytest.mark.parametrize(
    ("before", "line"),
    [
        (None, "recommend ndcg@10 0.0453 | rate rmse 0.9412"),
        ({"recommend": {"ndcg@10": 0.0441}}, "recommend ndcg@10 0.0453 (+0.0012) | rate rmse 0.9412"),
        (
            {"recommend": {"ndcg@10": 0.0453}, "rate": {"rmse": 1.0}},
            "recommend ndcg@10 0.0453 (+0.0000) | rate rmse 0.9412 (-0.0588)",
        ),
    ],
)
def test_the_line_of_an_evaluation(before, line):
    results = {"recommend": {"hr@10": 0.1, "ndcg@10": 0.0453}, "rate": {"mae": 0.8, "rmse": 0.9412}}
    assert headline(results, {"recommend": "ndcg@10", "rate": "rmse", "explain": "rougeL"}, before) == line
