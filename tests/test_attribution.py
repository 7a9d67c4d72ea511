"""Why an item is ranked where it is: parts by hand, and parts that are the whole."""

import math
import re

import numpy as np
import pytest
import torch
from shop import make_model, make_model_processor

from modeling_unimp import PersonalizationPipeline
from modeling_unimp.attribution import NETWORK, POPULARITY, QUERY, REST, SOURCES, because
from modeling_unimp.hybrid_scores import HybridScores, Score, numbers_of
from modeling_unimp.term_index import TermIndex
from modeling_unimp.training.closed_form import closed_form_scores
from processing_unimp import Catalogue, Histories

CATALOGUE = Catalogue.from_items([{"item_id": item_id} for item_id in "abcd"])
# With item c go a (1.0) and b (3.0); in words b is like c (2.0).
NEIGHBOURS = {
    "EASE 100": (torch.tensor([[2], [2], [0], [0]]), torch.tensor([[1.0], [3.0], [0.0], [0.0]])),
    "text": (torch.tensor([[0], [2], [0], [0]]), torch.tensor([[0.0], [2.0], [0.0], [0.0]])),
}
WORDS = TermIndex(
    {"red": 0},
    starts=np.array([0, 1]),
    items=np.array([2], dtype=np.int32),
    weights=np.array([1.0], dtype=np.float32),
    idf=np.ones(1, dtype=np.float32),
    mean_length=1.0,
)
SHARES = torch.tensor([0.125, 0.125, 0.5, 0.25]).log()


def make(**changes) -> HybridScores:
    parts = {
        "neighbours": NEIGHBOURS,
        "terms": {"query words": WORDS},
        "popularity": SHARES,
        "scores": [
            Score("EASE 100", 1.0, 3.0),
            Score("text", math.inf, 3.0),
            Score("popularity"),
            Score("query words", scale=1.0),
        ],
        "weights": {"recommend": [0.5, 1.0, 2.0, 0.5, 0.0], "search": [0.0, 1.0, 0.0, 0.0, 4.0]},
    }
    return HybridScores(**(parts | changes))


def told(hybrid, request, item, logits, most=3, catalogue=CATALOGUE):
    history = numbers_of(request["history"], catalogue)
    scores = hybrid.add(request["task"], logits[None], [history], [request.get("query")])[0]
    return because(hybrid, request, scores, [catalogue.number(item)], catalogue, most)[0], scores


def test_parts_by_hand():
    logits = torch.tensor([0.0, 0.0, math.log(5), 0.0])  # of which c has 5/8, against the even 1/4
    request = {"task": "recommend", "history": ["a", {"item_id": "b", "rating": 2}, {"title": "unknown"}]}
    found, _ = told(make(), request, "c", logits)
    # b is one place old, a two: q = 3/2 + 1/4 of EASE, r = 3; of the words q = 2.
    ease, words = math.log1p(3 * 1.75 / 3), 2 * math.log1p(3 * 2 / 3)
    parts = {
        "a": ease * (0.25 / 1.75),
        "b": ease * (1.5 / 1.75) + words,
        POPULARITY: 0.5 * math.log(0.5 * 4),
        NETWORK: 0.5 * math.log(5 / 8 * 4),
    }
    total = sum(parts.values())
    assert [each.get("item_id", each["source"]) for each in found] == ["b", NETWORK, POPULARITY, "a"]
    assert {each.get("item_id", each["source"]): each["share"] for each in found} == pytest.approx(
        {name: part / total for name, part in parts.items()}, abs=1e-6
    )
    assert [each["source"] for each in found if "item_id" in each] == [
        "alike in words",
        "taken by the same shoppers, or alike",
    ]


def test_fewer_reasons_leave_a_rest_and_what_speaks_against_is_below_zero():
    logits = torch.tensor([math.log(13), 0.0, 0.0, 0.0])  # c has 1/16
    request = {"task": "recommend", "history": ["a", "b"]}
    most, few = (told(make(), request, "c", logits, most)[0] for most in (2, 1))
    share = {each.get("item_id", each["source"]): each["share"] for each in most}
    rest = {each.get("item_id", each["source"]): each["share"] for each in few}
    assert rest == pytest.approx({REST: share.pop("a"), **share})
    assert rest[NETWORK] < 0 and few[-1]["source"] == NETWORK
    assert sum(map(abs, rest.values())) == pytest.approx(1)


def test_a_query_has_its_part():
    found, scores = told(make(), {"task": "search", "history": ["b"], "query": "red"}, "c", torch.zeros(4))
    query, ease = 4 * math.log1p(3), math.log1p(3 * 3 / 3)
    assert scores[2] == pytest.approx(query + ease)
    assert found == [
        {"source": QUERY, "share": pytest.approx(query / (query + ease))},
        {
            "item_id": "b",
            "source": "taken by the same shoppers, or alike",
            "share": pytest.approx(ease / (query + ease)),
        },
    ]
    nobody, _ = told(make(), {"task": "search", "history": [], "query": "red"}, "c", torch.zeros(4))
    assert nobody == [{"source": QUERY, "share": 1.0}]


def test_an_item_added_since_has_the_parts_of_its_like():
    catalogue = Catalogue.from_items([{"item_id": item_id} for item_id in "abcde"])
    grown = make(stand_ins={4: 2}, catalogue_size=5)
    request = {"task": "search", "history": ["b", "e"]}
    of_new, of_old = (told(grown, request, item, torch.zeros(5), catalogue=catalogue)[0] for item in "ec")
    (ease,) = of_old
    assert ease["item_id"] == "b" and ease["source"] == SOURCES["EASE"]
    assert of_new == [ease | {"source": "goes with what is like it"}]  # nobody took it yet


def test_what_reads_no_content_does_not_say_that_it_is_alike():
    name = "EASE 100 without content"
    scores, weights = [Score(name, 1.0, 3.0), Score("popularity")], {"recommend": [0.0, 1.0, 0.0]}
    hybrid = make(neighbours={name: NEIGHBOURS["EASE 100"]}, scores=scores, weights=weights)
    found, _ = told(hybrid, {"task": "recommend", "history": ["b"]}, "c", torch.zeros(4))
    assert [each["source"] for each in found] == ["taken by the same shoppers"]


def test_what_speaks_against_an_item_counts_for_nothing():
    """a goes with c (1.0) and d does not (-3.0): of both together nothing is left, and it is no reason."""
    near = torch.tensor([[2], [0], [0], [2]]), torch.tensor([[1.0], [0.0], [0.0], [-3.0]])
    hybrid = make(neighbours=NEIGHBOURS | {"EASE 100": near})
    score = hybrid.scores[0]._replace(half_life=math.inf)
    together, alone = hybrid.squashed(score, [[0, 3], [0]])[:, 2].tolist()
    assert together == 0 and alone == pytest.approx(math.log1p(3 * 1 / 3))
    found, scores = told(hybrid, {"task": "search", "history": ["d"], "query": ""}, "c", torch.zeros(4))
    # As little is known as without a history: what is usual in the shop.
    assert found == [{"source": POPULARITY, "share": 1.0}]
    assert scores.softmax(dim=0).tolist() == pytest.approx([0.125, 0.125, 0.5, 0.25])


def test_where_nothing_is_known_popularity_is_all():
    # c, the only item of the history, has no neighbours, and "blue" finds nothing: shares of 1/8, 1/8, 1/2 and 1/4.
    for history, query in ((["c"], "blue"), ([], "blue"), ([], "")):
        request = {"task": "search", "history": history, "query": query}
        found, scores = told(make(), request, "d", torch.tensor([3.0, 0.0, 0.0, 0.0]))
        assert scores.softmax(dim=0).tolist() == pytest.approx([0.125, 0.125, 0.5, 0.25])
        assert found == []  # one in four, as it would be by chance
        assert told(make(), request, "c", torch.zeros(4))[0] == [{"source": POPULARITY, "share": 1.0}]
    found, scores = told(make(), {"task": "search", "history": ["a"], "query": ""}, "c", torch.zeros(4))
    assert scores.tolist() == pytest.approx([0, 0, math.log1p(3 * 1 / 3), 0]) and "item_id" in found[0]


def test_every_score_that_is_fitted_has_its_words():
    items = [{"item_id": str(number), "category": "abc"[number % 3]} for number in range(6)]
    catalogue = Catalogue.from_items(items)
    events = [
        {"user_id": str(user), "item_id": str((user + step) % 6), "timestamp": step}
        for user in range(6)
        for step in range(3)
    ]
    train = Histories.from_interactions(events, catalogue)
    hybrid = closed_form_scores(train, np.eye(6, dtype=np.float32), None, exclude_seen=False)
    # kNN takes the place of EASE in large shops.
    assert {re.sub(r" \d+", "", name) for name in [*hybrid.neighbours, "again"]} | {"kNN"} == set(SOURCES)


def test_the_pipeline_says_why():
    processor = make_model_processor()
    unimp = PersonalizationPipeline(model=make_model(processor), processor=processor, device="cpu")
    request = {"task": "recommend", "history": ["h1", {"item_id": "m1", "rating": 4}]}
    with pytest.raises(ValueError, match="no closed-form scores to recommend.*hybrid: fitted"):
        unimp(request, because=3)
    with pytest.raises(ValueError, match="because=0: expected a whole number of at least 1"):
        unimp(request, because=0)
    number = processor.catalogue.number
    items, values = torch.zeros(6, 1, dtype=torch.long), torch.zeros(6, 1)
    items[number("h1")], values[number("h1")] = number("s2"), 1.0
    unimp.model.hybrid_scores = HybridScores(
        {"transitions": (items, values)},
        {},
        torch.zeros(6),
        [Score("transitions", math.inf, 1.0)],
        {"recommend": [1.0, 9.0]},
    )
    plain, told = unimp(request), unimp(request, because=2)
    assert [{k: v for k, v in item.items() if k != "because"} for item in told["items"]] == plain["items"]
    best = told["items"][0]
    assert best["item_id"] == "s2"
    assert best["because"][0] == {
        "item_id": "h1",
        "source": "taken soon before or after it",
        "share": pytest.approx(9 * math.log(4) / (9 * math.log(4) + abs(_network(unimp, request, "s2"))), abs=1e-4),
    }
    assert [each["source"] for each in told["items"][1]["because"]] == [NETWORK]
    mixed = unimp([{"task": "rate", "history": ["h1"], "item": "s1"}, request], because=1)
    assert "stars" in mixed[0] and mixed[1]["items"][0]["because"][0]["item_id"] == "h1"


def _network(unimp, request, item_id) -> float:
    """Of the network alone: by how much it finds an item likelier than one of six."""
    probabilities, numbers = unimp.model.rank(top_k=6, **unimp.processor(requests=[request]))
    place = numbers[0].tolist().index(unimp.processor.catalogue.number(item_id))
    return float(probabilities[0, place].log()) + math.log(6)
