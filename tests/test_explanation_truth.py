"""What explanations claim, by hand; and that the checker believes nobody."""

import numpy as np
import pytest

from benchmarks.explanation_truth import (
    ITEM,
    SHOPPER,
    Claim,
    by_counting,
    claims_of,
    contradicts_itself,
    evaluate,
    format_table,
    is_borne_out,
)
from processing_unimp import Catalogue, ExampleSource, Histories, leave_last_out
from processing_unimp.demo_shop import make_demo_shop, true_looks, true_tastes

MUG = {"category": "mug", "colour": "teal", "pattern": "striped"}


def looks(category, colour, pattern):
    return {"category": category, "colour": colour, "pattern": pattern}


HISTORY = [
    (looks("lamp", "teal", "plain"), 3.0),
    (looks("lamp", "teal", "dotted"), 2.0),
    (looks("hat", "red", "striped"), 5.0),
    (looks("bag", "blue", "plain"), None),
]


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        (
            "You like striped things in teal; this mug is teal and striped.",
            [
                Claim(SHOPPER, "pattern", "striped"),
                Claim(SHOPPER, "colour", "teal"),
                Claim(ITEM, "category", "mug"),
                Claim(ITEM, "colour", "teal"),
                Claim(ITEM, "pattern", "striped"),
            ],
        ),
        (
            "You like dotted things; this hat is dotted, though red is not your colour.",
            [
                Claim(SHOPPER, "pattern", "dotted"),
                Claim(ITEM, "category", "hat"),
                Claim(ITEM, "pattern", "dotted"),
                Claim(ITEM, "colour", "red"),
                Claim(SHOPPER, "colour", "red", False),
            ],
        ),
        ("You like striped things in mauve; this mug is teal and striped.", None),
        ("You like striped things in teal; this mug is teal and", None),
    ],
)
def test_claims_by_hand(text, claims):
    assert claims_of(text) == claims


def test_who_contradicts_herself():
    def does(text):
        return contradicts_itself(claims_of(text))

    assert does("You like things in red; this mug is red, though dotted and not dotted.")
    assert not does("You like things in red; this mug is red, though dotted and not plain.")
    assert contradicts_itself([Claim(ITEM, "colour", "red"), Claim(ITEM, "colour", "teal")])
    assert not contradicts_itself([Claim(SHOPPER, "colour", "red"), Claim(SHOPPER, "colour", "teal")])


def test_what_is_so_by_hand():
    so = {
        Claim(ITEM, "colour", "teal"): True,
        Claim(ITEM, "colour", "red"): False,
        Claim(ITEM, "pattern", "dotted", False): True,
        Claim(SHOPPER, "colour", "teal"): True,  # twice
        Claim(SHOPPER, "colour", "red"): True,  # once, with five stars
        Claim(SHOPPER, "colour", "blue"): False,  # once, and nobody knows how it was liked
        Claim(SHOPPER, "colour", "pink", False): True,
        Claim(SHOPPER, "category", "lamp"): True,
        Claim(SHOPPER, "pattern", "dotted"): False,
    }
    assert {claim: is_borne_out(claim, MUG, HISTORY) for claim in so} == so


def test_the_shop_by_hand():
    items, interactions = make_demo_shop(num_items=24, num_shoppers=30)
    catalogue = Catalogue.from_items(items)
    split = leave_last_out(Histories.from_interactions(interactions, catalogue), seed=42)
    source = ExampleSource(catalogue, np.random.default_rng(0), history_length=6)
    true, tastes = true_looks(num_items=24), true_tastes(num_items=24, num_shoppers=30)
    asked = []

    def explain(requests):
        asked.extend(requests)
        return ["I do not know."] + ["This mug is pink and plain; you prefer plain things in pink or red."] * 9

    found = evaluate(split, source, explain, true, tastes, number=10)
    assert all(set(request) == {"task", "history", "item"} for request in asked), "and not the answer"
    mine = found["UniMP"]
    assert (mine["texts"], mine["read"], mine["contradictions"]) == (10, 9, 0)
    own = [true[request["item"]] for request in asked[1:]]
    expected = sum(sum(a == b for a, b in zip(each.values(), ("mug", "pink", "plain"), strict=True)) for each in own)
    assert mine[ITEM] == [expected, 27] and mine[SHOPPER][1] == mine["taste"][1] == 27
    written = found["written by the shop"]
    assert written["read"] == 10 and written["contradictions"] == 0
    assert written[ITEM][0] == written[ITEM][1] and written["taste"][0] == written["taste"][1]
    counted = found["by counting"]
    assert counted["read"] == 10 and counted[ITEM][0] == counted[ITEM][1]
    assert "I do not know." in format_table(found)


def test_counting_says_what_the_history_says():
    assert by_counting(MUG, HISTORY) == "You like striped things in teal; this mug is teal and striped."
    plain = MUG | {"pattern": "zigzag"}
    assert by_counting(plain, HISTORY) == "You like things in teal; this mug is teal, though zigzag and not plain."
