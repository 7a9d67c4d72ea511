"""The metric modules load without a network and give the project's own numbers."""

import itertools
import json
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import SpaceCard
from shop import make_catalogue, make_histories

from processing_unimp import EvaluationCases, ExampleSource, leave_last_out
from processing_unimp.metrics.summary import summarise

evaluate = pytest.importorskip("evaluate")
FOLDER = Path(__file__).resolve().parent.parent / "hub_cards" / "evaluate_modules"
NAMES = ("ranking", "rating", "selection")
EXPERIMENTS = itertools.count()
BIAS = """
import datasets
import evaluate
import numpy as np


class Bias(evaluate.Metric):
    def _info(self):
        numbers = {name: datasets.Value("float64") for name in ("predictions", "references")}
        return evaluate.MetricInfo("", citation="", features=datasets.Features(numbers))

    def _compute(self, predictions, references):
        return {"bias": float(np.mean(np.subtract(predictions, references)))}
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """No network, and nothing left in the home of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
        patch.setattr(socket.socket, "connect", lambda *args: pytest.fail(f"connects to {args[1:]}"))
        patch.setattr(sys, "path", [*sys.path])
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


def load(name: str, config_name: str | None = None):
    # An id of its own: a module whose computation failed keeps the lock of its file, and the next would wait a second.
    return evaluate.load(str(FOLDER / name), config_name, experiment_id=f"experiment-{next(EXPERIMENTS)}")


def cases_of(name: str) -> EvaluationCases:
    """Each of the shop's three shoppers asked about the last item."""
    catalogue = make_catalogue()
    targets = leave_last_out(make_histories(catalogue), new_users=0).test
    source = ExampleSource(catalogue, np.random.default_rng(0), query_attribute="category", num_candidates=4)
    return EvaluationCases.of(name, targets, source, exclude_seen=True)


def answers_of(cases: EvaluationCases, outputs) -> list[dict]:
    """What the pipeline would give for these outputs of a model."""
    catalogue = make_catalogue()
    return [cases.task.answer(*each, catalogue) for each in zip(cases.requests, outputs, strict=True)]


# --- the project's own numbers ---


@pytest.mark.parametrize("seed", range(3))
def test_ranking_is_recommend(seed):
    cases, catalogue = cases_of("recommend"), make_catalogue()
    outputs = np.random.default_rng(seed).normal(size=(len(cases), len(catalogue)))
    expected = summarise(cases.task, cases.scores(outputs))

    truth = [catalogue.number(request["answer"]) for request in cases.requests]
    for case, output in zip(cases.cases, outputs, strict=True):
        output[[catalogue.number(event.item_id) for event in case.history]] = -np.inf
    by_score = load("ranking", "scores").compute(predictions=outputs, references=truth)
    assert {name: by_score[name] for name in expected if name in by_score} == {
        name: value for name, value in expected.items() if name != "coverage@10"
    }
    assert list(by_score) == ["hr@5", "ndcg@5", "mrr@5", "hr@10", "ndcg@10", "mrr@10"]

    lists = [[catalogue.item_ids[number] for number in np.argsort(-output)] for output in outputs]
    by_list = load("ranking").compute(predictions=lists, references=[request["answer"] for request in cases.requests])
    assert by_list == by_score


@pytest.mark.parametrize("seed", range(3))
def test_rating_is_rate(seed):
    cases = cases_of("rate")
    outputs = np.random.default_rng(seed).dirichlet(np.ones(5), size=len(cases))
    expected = summarise(cases.task, cases.scores(outputs))
    answers = answers_of(cases, outputs)
    stars = [request["answer"] for request in cases.requests]
    found = load("rating").compute(predictions=[answer["stars"] for answer in answers], references=stars)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("seed", range(3))
def test_selection_is_select(seed):
    cases, rng = cases_of("select"), np.random.default_rng(seed)
    outputs = [rng.random(len(request["candidates"])) for request in cases.requests]
    expected = summarise(cases.task, cases.scores(outputs))
    truth = [request["answer"] for request in cases.requests]
    assert load("selection", "probabilities").compute(predictions=outputs, references=truth) == expected
    chosen = [[item["selected"] for item in answer["items"]] for answer in answers_of(cases, outputs)]
    assert load("selection").compute(predictions=chosen, references=truth) == expected


# --- by hand ---


@pytest.mark.parametrize("k", [5.0, "5", 0, True, None, [5, 2.5]])
def test_a_length_that_is_no_whole_number(k):
    with pytest.raises(ValueError, match=r"k=.*: expected a whole number of at least 1"):
        load("ranking").compute(predictions=[["a"]], references=["a"], k=k)


def test_ranking_by_hand():
    ranking = load("ranking")
    lists, truth = [["a", "b", "c"], ["b", "a", "c"], ["c"], []], ["a", "a", "a", "a"]
    assert ranking.compute(predictions=lists, references=truth, k=2) == {
        "hr@2": 0.5,
        "ndcg@2": (1 + 1 / np.log2(3)) / 4,
        "mrr@2": 0.375,
    }
    assert ranking.compute(predictions=lists, references=truth, k=[3, 1, 1])["hr@1"] == 0.25
    for k in (np.int64(3), np.array([1, 3])):
        assert ranking.compute(predictions=lists, references=truth, k=k)["hr@3"] == 0.5
    # Items of equal score, and one that does not compete.
    tied = load("ranking", "scores").compute(predictions=[[1, 1, 1], [0, 5, -np.inf]], references=[0, 0], k=2)
    assert tied == {"hr@2": 0.5, "ndcg@2": 0.5 / np.log2(3), "mrr@2": 0.25}


def test_rating_by_hand():
    found = load("rating").compute(predictions=[4.5, 2.0, 1.0, 3.0], references=[5, 2, 3, 3])
    assert found == {"mae": 0.625, "rmse": pytest.approx(np.sqrt(4.25 / 4)), "accuracy": 0.75}


def test_selection_by_hand():
    selection = load("selection")
    chosen, truth = [[True, False, True], [True, True, True]], [[True, False, False], [False, False, True]]
    expected = {
        "precision": pytest.approx((1 / 2 + 1 / 3) / 2),
        "recall": 1.0,
        "f1": pytest.approx((2 / 3 + 1 / 2) / 2),
    }
    assert selection.compute(predictions=chosen, references=truth) == expected
    assert selection.compute(predictions=np.array(chosen), references=np.array(truth, dtype=int)) == expected
    # Nothing chosen: right where nothing is right, else worth nothing.
    nothing = {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert selection.compute(predictions=[[0, 0], [0, 0]], references=[[0, 0], [1, 0]]) == nothing


# --- what evaluate does with a module ---


def test_batches_add_up():
    ranking, rng = load("ranking", "scores"), np.random.default_rng(0)
    scores, truth = rng.normal(size=(10, 6)), rng.integers(0, 6, size=10)
    for start in range(0, 10, 4):
        ranking.add_batch(predictions=scores[start : start + 4], references=truth[start : start + 4])
    whole = ranking.compute(k=(1, 5))
    assert whole == ranking.compute(predictions=scores, references=truth, k=(1, 5))
    for row, true in zip(scores, truth, strict=True):
        ranking.add(prediction=row, reference=true)
    assert whole == ranking.compute(k=(1, 5))


def test_two_metrics_in_one(tmp_path):
    (tmp_path / "bias").mkdir()
    (tmp_path / "bias" / "bias.py").write_text(BIAS)
    both = evaluate.combine([str(FOLDER / "rating"), str(tmp_path / "bias")])
    both.add_batch(predictions=[1.0, 2.0], references=[2.0, 4.0])
    assert both.compute() == {"mae": 1.5, "rmse": pytest.approx(np.sqrt(2.5)), "accuracy": 0.0, "bias": -1.5}
    named = evaluate.combine({"first": load("rating"), "second": load("rating")})
    assert named.compute(predictions=[1], references=[3])["second_mae"] == 2


def test_results_are_saved(tmp_path):
    found = load("ranking").compute(predictions=[["a"]], references=["a"], k=5)
    file = evaluate.save(tmp_path / "results", recipe="demo.yaml", **found)
    saved = json.loads(Path(file).read_text())
    assert saved["ndcg@5"] == 1.0 and saved["recipe"] == "demo.yaml"


def test_the_script_runs_from_a_cache(cache):
    """So it cannot import what lies beside it, only what is installed."""
    script = Path(sys.modules[type(load("rating")).__module__].__file__)
    assert script.is_relative_to(cache) and script.read_bytes() == (FOLDER / "rating" / "rating.py").read_bytes()


# --- what is refused ---


@pytest.mark.parametrize(
    ("name", "config_name", "predictions", "references", "message"),
    [
        ("ranking", None, [["a"], ["b", "b"]], ["a", "b"], "case 1: a list of 2 items names only 1 different"),
        ("ranking", None, [], [], "no ranks: expected one a request"),
        ("ranking", "scores", [[0.5, np.nan]], [0], "case 0: 1 of 2 scores are NaN"),
        ("ranking", "scores", [[0.5, 0.1]], [2], "case 0: target 2 among 2 scores"),
        ("rating", None, [np.nan], [3], "1 of 1 pairs hold NaN"),
        ("rating", None, [], [], "at least one request"),
        ("selection", None, [[0.3, 1]], [[0, 1]], "case 0: predictions of .0.3, 1.0.: .* true and false .* 'prob"),
        ("selection", None, [[1, 0]], [[2, 0]], "case 0: references of .2.0, 0.0.: expected true and false"),
        ("selection", None, [[1, 0], [1, 0]], [[1, 0], [1]], r"case 1: chosen is bool of shape \(2,\)"),
        ("selection", "probabilities", [[1.5]], [[1]], "case 0: predictions of .1.5.: expected probabilities"),
        ("selection", "probabilities", [[]], [[]], "expected probabilities from 0 to 1, one a candidate"),
        ("selection", None, [], [], "no cases"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(name, config_name, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        load(name, config_name).compute(predictions=predictions, references=references)


@pytest.mark.parametrize("name", ["ranking", "selection"])
def test_unknown_configurations_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} has no configuration 'score': expected none"):
        load(name, "score")


# --- their cards ---


@pytest.mark.parametrize("name", NAMES)
def test_the_card_shows_what_comes_out(name, monkeypatch):
    monkeypatch.chdir(FOLDER.parent.parent)
    card = SpaceCard.load(FOLDER / name / "README.md")
    assert {"evaluate", "metric"} <= set(card.data.tags) and len(card.data.to_dict()["short_description"]) <= 60
    known: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.S)
    assert blocks
    for block in blocks:
        *lines, result = block.strip().split("\n")
        call = re.search(r"^\w+\.compute\(", block, re.M)
        code = "\n".join(lines)
        exec(code[: call.start()] + "answer = " + code[call.start() :], known)
        assert known["answer"] == pytest.approx(yaml.safe_load(result.removeprefix("# ")))
