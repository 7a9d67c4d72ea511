"""Texts of others as explanations, by hand."""

import numpy as np
import pytest
from shop import make_catalogue

from benchmarks.baselines import choose_all, evaluate
from benchmarks.text_baselines import central, of_everybody, of_the_item, of_the_shopper
from processing_unimp import EvaluationCases, ExampleSource, Histories, Targets

WRITTEN = [  # shopper, item, time, text
    ("ada", "m1", 1, "a red mug"),
    ("ada", "s1", 2, None),
    ("bob", "m1", 3, "a red mug to keep"),
    ("cyd", "m1", 0, "broken"),
    ("bob", "h1", 4, "it is fine"),
    ("cyd", "h1", 5, "a red mug"),
]
ASKED = [  # of a new shopper: what she wrote before, of what she is asked, what she writes of it
    ("dan", [("s2", "so so"), ("h1", None), ("h2", "so so and dear")], "m1", "a red mug to keep"),
    ("eve", [("s2", None)], "s1", "so so"),
]


@pytest.fixture
def train():
    rows = [
        {"user_id": user, "item_id": item, "timestamp": time, "explanation": text}
        for user, item, time, text in WRITTEN
    ]
    return Histories.from_interactions(rows, make_catalogue())


@pytest.fixture
def cases(train):
    rows = [
        {"user_id": user, "item_id": item, "timestamp": time, "explanation": text}
        for user, before, item, text in ASKED
        for time, (item, text) in enumerate([*before, (item, text)])
    ]
    histories = Histories.from_interactions(rows, train.catalogue)
    targets = Targets(histories, np.arange(2), histories.lengths - 1)
    source = ExampleSource(train.catalogue, np.random.default_rng(0))
    return EvaluationCases.of("explain", targets, source, exclude_seen=True)


def texts_of(variants, cases):
    return {parameters["text"]: list(scorer(cases)) for parameters, scorer in variants}


def test_the_central_text_is_most_like_the_others():
    assert central(["broken", "a red mug", "red mug", "a mug to keep"]) == "a red mug"
    assert central(["one"]) == "one" and central(["b c", "d e"]) == "b c"
    many = ["a red mug"] * 400 + ["broken"]
    assert central(many) == "a red mug"


def test_whose_texts_are_given(train, cases):
    assert texts_of(of_everybody(train), cases) == {"commonest": ["a red mug"] * 2, "central": ["a red mug"] * 2}
    # Of m1 the latest is bob's, whichever shopper comes first in the table; of s1 nobody wrote.
    assert texts_of(of_the_item(train), cases) == {
        "latest": ["a red mug to keep", "a red mug"],
        "central": ["a red mug", "a red mug"],
    }
    # dan wrote twice before; eve never did, and what she writes now is not looked at.
    assert texts_of(of_the_shopper(train), cases) == {
        "latest": ["so so and dear", "a red mug"],
        "central": ["so so", "a red mug"],
    }


def test_validation_chooses_by_rouge(train, cases):
    chosen = choose_all(train, [cases], [], None, None)["explain"]
    assert set(chosen) == {"random text", "text for everybody", "text of the item", "text of the shopper"}
    # "a red mug to keep" is said as it is, "so so" is not: latest, (1 + 0) / 2; central has (2 * .6 / 1.6 + 0) / 2.
    assert chosen["text of the item"].parameters == {"text": "latest"}
    assert chosen["text of the item"].validation == pytest.approx(0.5)
    found = evaluate(cases, chosen)
    assert found["cases"] == 2 and found["baselines"]["text of the item"]["interval"] is None
    metrics = found["baselines"]["text of the item"]["metrics"]
    assert metrics["rougeL"] == pytest.approx(0.5)
    assert metrics["distinct1"] == pytest.approx(5 / 8)
