"""What explanations claim, by hand; and that the checker believes nobody."""

import numpy as np
import pytest

from benchmarks.explanation_truth import (
    ITEM,
    SHOPPER,
    Claim,
    claims_of,
    contradicts_itself,
    evaluate,
    format_table,
    is_so,
)
from processing_unimp import Catalogue, ExampleSource, Histories, leave_last_out
from processing_unimp.demo_shop import make_demo_shop, true_looks, true_tastes

MUG = {"category": "mug", "colour": "teal"}
HISTORY = [
    ({"category": "lamp", "colour": "teal"}, 5.0),
    ({"category": "lamp", "colour": "teal"}, 2.0),
    ({"category": "mug", "colour": "red"}, 3.0),
    ({"category": "bag", "colour": None}, 5.0),
]


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        (
            "This mug is teal. You liked 2 teal things. You took no mug.",
            [
                Claim("category", "mug"),
                Claim("colour", "teal"),
                Claim("colour", "teal", liked=2),
                Claim("category", "mug", 0),
            ],
        ),
        (" You took 1 red thing. ", [Claim("colour", "red", 1)]),
        ("This mug is mauve. You took no mug.", None),
        ("This mug is teal. You liked 2 teal", None),
        ("", None),
    ],
)
def test_claims_by_hand(text, claims):
    assert claims_of(text) == claims


@pytest.mark.parametrize(
    ("text", "does"),
    [
        ("This mug is teal. You took no mug. You liked 1 teal thing.", False),
        ("This mug is teal. This mug is red.", True),
        ("You liked 1 mug. You took no mug.", True),
        ("You liked 1 mug. You liked 2 mugs.", True),
        ("You liked 1 mug. You liked 2 hats.", False),
    ],
)
def test_who_contradicts_herself(text, does):
    assert contradicts_itself(claims_of(text)) is does


def test_what_is_so_by_hand():
    so = {
        Claim("colour", "teal"): True,
        Claim("colour", "red"): False,
        Claim("colour", "teal", liked=1): True,
        Claim("colour", "teal", liked=2): False,  # two were taken, one was liked
        Claim("colour", "teal", 2, 0): False,
        Claim("colour", "red", 1, 0): True,
        Claim("category", "mug", 1, 0): True,
        Claim("category", "mug", 0): False,
        Claim("category", "hat", 0, 0): True,
    }
    assert {claim: is_so(claim, MUG, HISTORY) for claim in so} == so
    assert {claim.about for claim in list(so)[:2]} == {ITEM} and {claim.about for claim in list(so)[2:]} == {SHOPPER}


def test_the_shop_by_hand():
    items, interactions = make_demo_shop(num_items=24, num_shoppers=30)
    catalogue = Catalogue.from_items(items)
    split = leave_last_out(Histories.from_interactions(interactions, catalogue), seed=42)
    source = ExampleSource(catalogue, np.random.default_rng(0), history_length=6)
    true, tastes = true_looks(num_items=24), true_tastes(num_items=24, num_shoppers=30)
    asked = []

    def explain(requests):
        asked.extend(requests)
        return ["I do not know."] + ["This mug is pink. You liked 9 pink things. You took no pink thing."] * 9

    found = evaluate(split, source, explain, true, tastes, number=10)
    assert all(set(request) == {"task", "history", "item"} for request in asked), "and not the answer"
    mine = found["UniMP"]
    assert (mine["texts"], mine["read"], mine["contradictions"]) == (10, 9, 9)
    own = [true[request["item"]] for request in asked[1:]]
    assert mine[ITEM] == [sum((each["category"] == "mug") + (each["colour"] == "pink") for each in own), 18]
    without = sum(
        all(true[entry["item_id"]]["colour"] != "pink" for entry in request["history"]) for request in asked[1:]
    )
    assert mine[SHOPPER] == [without, 18] and mine["taste"][1] == 9
    written = found["written by the shop"]
    assert (written["read"], written["contradictions"], written[ITEM]) == (10, 0, [20, 20])
    # Of what a model of the recipe is shown; the table lacks some colours.
    assert 10 <= written[SHOPPER][0] <= written[SHOPPER][1] <= 20
    assert "I do not know." in format_table(found)
