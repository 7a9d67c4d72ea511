"""imagine: whose picture is asked for, what is shown with the question, and what an answer is worth."""

from dataclasses import replace

import numpy as np
import pytest
from shop import make_catalogue, make_histories

from processing_unimp import TASKS, Case, Catalogue, EvaluationCases, ExampleSource, Targets, TaskMixture
from processing_unimp.control_tokens import ControlTokens
from processing_unimp.metrics.summary import headline_of, summarise
from processing_unimp.task import ItemSlot, ShopperText, stacked
from processing_unimp.task_imagine import REPLACED_CODES, expand_query

TASK = TASKS["imagine"]


@pytest.fixture
def catalogue():
    """All have codes but s2, which has no picture."""
    catalogue = make_catalogue()
    codes = np.arange(24).reshape(6, 4) % 16
    codes[catalogue.number("s2")] = -1
    catalogue.set_picture_codes(codes)
    return catalogue


def source(catalogue, seed=0, **kwargs):
    return ExampleSource(catalogue, np.random.default_rng(seed), query_attribute="category", **kwargs)


def case(catalogue, user="bob", position=3, rating=5.0):
    events = make_histories(catalogue)[user]
    return Case(user, events[:position], replace(events[position], rating=rating))


def test_an_example_asks_for_the_next_items_picture(catalogue):
    request = TASK.example(case(catalogue), source(catalogue, is_training=True, num_retrieved=1))
    history = [{"item_id": "m2", "rating": 5}, {"item_id": "s2", "rating": 5}, {"item_id": "h2", "rating": 1}]
    assert len(request.pop("noisy_codes")) == 4
    assert request == {"task": "imagine", "history": history, "query": "mug", "answer": "m1", "retrieved": ["m2"]}
    assert TASK.target(request, ControlTokens(100, num_codes=16), catalogue) == [
        112,
        113,
        114,
        115,
    ]  # codes 0..3 of m1


def test_what_has_no_picture_codes_is_no_example(catalogue):
    assert TASK.example(case(catalogue, "bob", 1), source(catalogue)) is None  # s2
    assert TASK.example(case(catalogue), ExampleSource(catalogue, np.random.default_rng(0))) is None
    assert TASK.example(case(make_catalogue()), source(make_catalogue())) is None
    assert TASK.example(case(catalogue, rating=3.0), source(catalogue)) is None  # nothing the shopper liked
    assert TASK.example(case(catalogue, rating=None), source(catalogue)) is not None
    with pytest.raises(ValueError, match="'s2' has no picture codes"):
        TASK.target({"answer": "s2"}, ControlTokens(100, num_codes=16), catalogue)


def test_training_never_shows_the_target(catalogue):
    for seed in range(40):
        for user, position in (("bob", 3), ("bob", 4), ("ada", 1), ("cyd", 1), ("ada", 3)):
            asked = case(catalogue, user, position)
            request = TASK.example(asked, source(catalogue, seed, is_training=True, num_retrieved=3))
            assert asked.target.item_id not in request["retrieved"]
            assert len(set(request["retrieved"])) == 3 and "s2" not in request["retrieved"]


def test_what_is_shown_fits_the_query_first_and_then_the_history():
    rows = [("a", "mug", "red"), ("b", "mug", "blue"), ("c", "mug", "red"), ("d", "mug", "red"), ("e", "hat", "red")]
    catalogue = Catalogue.from_items([{"item_id": i, "category": c, "colour": k} for i, c, k in rows])
    catalogue.set_picture_codes(np.zeros((5, 1), dtype=int))
    histories = make_histories_of(catalogue, ["e", "a"])
    asked = Case("u", histories[:1], histories[1])  # saw the red hat, then took the mug a
    for seed in range(20):
        found = TASK.example(asked, source(catalogue, seed, is_training=True, num_retrieved=2))["retrieved"]
        assert sorted(found) == ["c", "d"]  # red mugs, not the blue one
        filled = TASK.example(asked, source(catalogue, seed, is_training=True, num_retrieved=4))["retrieved"]
        assert sorted(filled[:2]) == ["c", "d"] and filled[2:] == ["b", "e"]
    catalogue.retire(["c"])
    assert TASK.example(asked, source(catalogue, is_training=True, num_retrieved=2))["retrieved"] == ["d", "b"]


def test_what_is_shown_has_first_what_the_wish_says():
    rows = [("a", "mug", "red"), ("b", "mug", "blue"), ("c", "mug", "red"), ("d", "mug", "blue"), ("e", "hat", "blue")]
    catalogue = Catalogue.from_items([{"item_id": i, "category": c, "colour": k} for i, c, k in rows])
    catalogue.set_picture_codes(np.zeros((5, 1), dtype=int))
    events = make_histories_of(catalogue, ["b", "e", "a"])  # saw blue things, then took the red mug a
    shown = {}
    for seed in range(40):
        drawn = source(catalogue, seed, is_training=True, num_retrieved=2, wish_attributes=["colour"])
        request = TASK.example(Case("u", events[:2], events[2]), drawn)
        shown.setdefault(request["query"], set()).add(tuple(request["retrieved"]))
    # The other red mug first, where the wish says red; else blue mugs, as the history.
    assert shown == {"red mug": {("c", "b"), ("c", "d")}, "mug": {("b", "d"), ("d", "b")}}


def make_histories_of(catalogue, items):
    from processing_unimp import Histories

    events = [{"user_id": "u", "item_id": item, "timestamp": time} for time, item in enumerate(items)]
    return Histories.from_interactions(events, catalogue)["u"]


def test_an_evaluation_leaves_the_search_to_the_model(catalogue):
    request = TASK.example(case(catalogue), source(catalogue))
    assert "retrieved" not in request
    assert request["others"][0] == "m2" and request["others"][1] in ("s1", "h1", "h2")  # the only other mug, and any
    assert "m1" not in request["others"]


def test_few_pictures_cannot_be_evaluated():
    catalogue = make_catalogue()
    codes = np.full((6, 1), -1)
    codes[[0, 1]] = 3
    catalogue.set_picture_codes(codes)
    with pytest.raises(ValueError, match="at least 3"):
        TASK.example(case(catalogue), source(catalogue))


def test_the_prompt_holds_items_then_query_then_the_papers_words(catalogue):
    pieces = TASK.prompt({"task": "imagine", "query": " red\nmug ", "retrieved": ["m2", "h1"]})
    assert pieces[:3] == [ItemSlot("m2"), ItemSlot("h1"), ShopperText(" red mug")]
    assert pieces[3].strip() == "Can you generate the product figure that the user may be interested in?"
    with pytest.raises(ValueError, match="a request to imagine with the query None"):
        TASK.prompt({"task": "imagine"})


def output(features, catalogue_features, **more):
    return {
        "picture": None,
        "retrieved": [5, 4],
        "features": np.array(features, dtype=float),
        "catalogue_features": catalogue_features,
        "nll": 2.0,
    } | more


def test_scores_by_hand(catalogue):
    # The true item m1 looks like (1, 0), m2, the other mug, like (0, 1), h1 like (1, 1), the first one found (0, 2).
    shelf = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 1], [0, 2]], dtype=float)
    request = TASK.example(case(catalogue), source(catalogue)) | {"others": ["m2", "h1"]}
    good = TASK.score(request, output([3, 4], shelf), catalogue, [])
    bad = TASK.score(request, output([0, 1], shelf, nll=4.0), catalogue, [])
    metrics = summarise(TASK, stacked([good, bad]))
    assert metrics["similarity"] == pytest.approx((0.6 + 0.0) / 2)
    assert metrics["similarity_to_other"] == pytest.approx((0.8 + 1.0) / 2)
    assert (
        metrics["gain"]
        == pytest.approx(0.3 - 0.9)
        == pytest.approx(headline_of(TASK, stacked([good, bad]), np.arange(2)))
    )
    assert metrics["nll"] == 3.0
    assert metrics["diversity"] == pytest.approx(1 - 0.8)
    # Means (1.5, 2.5) and (1, 0); the true pictures are all alike, so only the trace of the other covariance counts.
    assert metrics["frechet"] == pytest.approx(0.5**2 + 2.5**2 + 1.5**2 * 2 + 1.5**2 * 2)
    shown = TASK.retrieval_baselines(stacked([good, bad]))
    first = summarise(TASK, shown["first retrieved item"])
    assert (first["similarity"], first["similarity_to_other"]) == (0.0, 1.0) and np.isnan(first["nll"])
    random = summarise(TASK, shown["random item of the query"])
    assert random["gain"] == pytest.approx(0.0)  # h1 is as like m1 as m2


def test_the_answer_is_plain(catalogue):
    similarity = np.array([0.1, 0.9, 0.5, -1, 0.2, 0.3])
    drawn = output([1], None, picture="drawn", similarity=similarity, wish="blue mug")
    answer = TASK.answer({}, (drawn, [1, 2]), catalogue)
    assert (answer["picture"], answer["wish"]) == ("drawn", "blue mug")
    assert [item["item_id"] for item in answer["retrieved"]] == ["h2", "h1"]
    assert [(item["item_id"], item["similarity"]) for item in answer["nearest"]] == [("m2", 0.9), ("s1", 0.5)]
    assert answer["nearest"][0]["title"] == "Blue mug"


def test_mixture_and_cases_count_what_has_no_picture(catalogue):
    histories = make_histories(catalogue)
    mixture = TaskMixture(histories, catalogue, ["recommend", "imagine"], query_attribute="category", repeats=20)
    # Of 10 interactions two were liked and have a picture: ada's s1 and cyd's h2.
    assert 0 < mixture.num_cases["imagine"] < 4 and mixture.num_cases["recommend"] == 10
    assert {mixture[i]["answer"] for i in range(60) if mixture[i]["task"] == "imagine"} == {"s1", "h2"}
    asked = [mixture[i] for i in range(len(mixture))]
    pictures = [request for request in asked if request["task"] == "imagine"]
    assert pictures and all(len(request["retrieved"]) == 2 for request in pictures)
    bob, cyd = (histories.users.index(user) for user in ("bob", "cyd"))
    targets = Targets(histories, np.array([bob, cyd]), np.array([1, 1]))  # s2, h2
    cases = EvaluationCases.of("imagine", targets, source(catalogue), exclude_seen=True)
    assert (len(cases), cases.skipped) == (1, 1)
    with pytest.raises(ValueError, match="imagine a query_attribute and pictures with codes"):
        TaskMixture(make_histories(make_catalogue()), make_catalogue(), ["imagine"], query_attribute="category")


def test_wishes_of_training_say_what_is_seen():
    rows = [("a", "mug", "red"), ("b", "mug", None), ("c", "hat", "blue")]
    catalogue = Catalogue.from_items([{"item_id": i, "category": c, "colour": k} for i, c, k in rows])
    catalogue.set_picture_codes(np.zeros((3, 1), dtype=int))
    events = make_histories_of(catalogue, ["c", "a", "b"])
    said = set()
    for seed in range(40):
        drawn = source(catalogue, seed, is_training=True, num_retrieved=1, wish_attributes=["colour"])
        said.add(TASK.example(Case("u", events[:1], events[1]), drawn)["query"])
        assert TASK.example(Case("u", events[:2], events[2]), drawn)["query"] == "mug"  # its colour is not known
    assert said == {"mug", "red mug"}


WISHES = [("a", "mug", "red"), ("b", "mug", "blue"), ("c", "mug", "blue"), ("d", "hat", "green"), ("e", "hat", "red")]


def completed(query, history=(), scores=(0.3, 0.2, 0.2, 0.2, 0.1), attributes=("colour",)):
    catalogue = Catalogue.from_items([{"item_id": i, "category": c, "colour": k} for i, c, k in WISHES])
    request = {"task": "imagine", "history": list(history), "query": query}
    return expand_query(request, catalogue, np.array(scores), attributes, "category")


def test_a_bare_query_is_completed_by_what_the_search_found():
    assert completed("mug") == "blue mug"  # .4 of blue mugs, though the likeliest is red
    assert completed("hat") == "green hat"
    assert completed("Mug") == completed(" MUG ") == "blue mug"  # a telephone begins with a capital
    assert completed("yellow mug") == "yellow mug" and completed("something nice") == "something nice"
    assert completed("mug", attributes=()) == "mug"


def test_a_bare_query_is_completed_by_what_the_history_liked():
    assert completed("mug", [{"item_id": "a", "rating": 5}, {"item_id": "b", "rating": 4}]) == "red mug"  # 3 to 2
    assert completed("mug", [{"item_id": "a", "rating": 5}, "b", "c"]) == "blue mug"  # 3 to 2 + 2: as four stars
    # Two stars and fewer count nothing, and between equals the search decides.
    assert completed("mug", [{"item_id": "a", "rating": 2}]) == "blue mug"
    assert completed("mug", [{"item_id": "a", "rating": 1}, {"item_id": "b", "rating": 3}]) == "blue mug"
    assert completed("mug", ["a", "b"], scores=(0.5, 0.1, 0.1, 0.2, 0.1)) == "red mug"
    # Other kinds tell, too, and so do items that the shop does not know.
    assert completed("mug", ["e"]) == "red mug"
    assert completed("mug", [{"category": "bag", "colour": "red"}, {"title": "no colour"}]) == "red mug"
    # A colour in which nothing can be found is no wish.
    assert completed("mug", ["d", "d", "a"]) == "red mug"
    assert completed("hat", ["a", "a"], scores=(0.2, 0.2, 0.2, 0.4, 0.0)) == "green hat"


def test_shares_draw_a_task_oftener(catalogue):
    options = {"query_attribute": "category"}
    mixture = TaskMixture(
        make_histories(catalogue), catalogue, ["recommend", "search"], shares={"search": 3.0}, **options
    )
    assert mixture.probabilities["search"] == pytest.approx(3 * mixture.probabilities["recommend"])
    with pytest.raises(ValueError, match="shares {'rate': 2}"):
        TaskMixture(make_histories(catalogue), catalogue, ["recommend"], shares={"rate": 2}, **options)


def test_most_codes_are_read_wrong_in_training():
    catalogue = Catalogue.from_items([{"item_id": name, "category": "mug"} for name in "abc"])
    catalogue.set_picture_codes(np.tile(np.arange(1000), (3, 1)))
    events = make_histories_of(catalogue, ["c", "a"])
    read = [
        TASK.example(Case("u", events[:1], events[1]), source(catalogue, seed, is_training=True))["noisy_codes"]
        for seed in (0, 1)
    ]
    wrong = np.mean(np.array(read) != np.arange(1000), axis=1)
    assert wrong == pytest.approx([REPLACED_CODES] * 2, abs=0.05) and read[0] != read[1]
    assert catalogue.picture_codes[0].tolist() == list(range(1000))
