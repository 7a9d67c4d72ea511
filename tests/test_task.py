"""The tasks: examples from cases, answers as plain dicts, metrics and baselines worked out by hand."""

import tracemalloc

import numpy as np
import pytest
from shop import make_catalogue, make_histories

from processing_unimp import TASKS, Case, Catalogue, EvaluationCases, ExampleSource, Histories, Targets
from processing_unimp.metrics.summary import summarise
from processing_unimp.task import stacked
from processing_unimp.task_select import choose

CATALOGUE = make_catalogue()
HISTORIES = make_histories(CATALOGUE)


def source(**kwargs) -> ExampleSource:
    return ExampleSource(CATALOGUE, np.random.default_rng(0), query_attribute="category", **kwargs)


def case(user="bob", position=3) -> Case:
    events = HISTORIES[user]
    return Case(user, events[:position], events[position])


def example(name, **kwargs):
    return TASKS[name].example(case(**kwargs), source(num_candidates=4))


def test_examples_say_what_the_case_says():
    history = [{"item_id": "m2", "rating": 5}, {"item_id": "s2", "rating": 5}, {"item_id": "h2", "rating": 1}]
    assert example("recommend") == {"task": "recommend", "history": history, "answer": "m1"}
    assert example("search") == {"task": "search", "history": history, "query": "mug", "answer": "m1"}
    assert example("rate") == {"task": "rate", "history": history, "item": "m1", "answer": 2}
    assert example("explain")["answer"] == "bob does not like it"


def test_a_history_is_cut_to_its_latest():
    request = TASKS["recommend"].example(case(position=3), source(history_length=2))
    assert [entry["item_id"] for entry in request["history"]] == ["s2", "h2"]
    assert TASKS["recommend"].example(case(position=3), source(history_length=0))["history"] == []


def test_a_selection_has_its_positives_among_untouched_negatives():
    events = HISTORIES["bob"]
    for seed in range(30):
        drawn = ExampleSource(CATALOGUE, np.random.default_rng(seed), num_candidates=3)
        request = TASKS["select"].example(Case("bob", events[:3], events[3]), drawn, events[4:])
        positives = {item for item, chosen in zip(request["candidates"], request["answer"], strict=True) if chosen}
        negatives = set(request["candidates"]) - positives
        assert positives in ({"m1"}, {"m1", "s1"})
        assert negatives == {"h1"}  # all else bob has touched
        assert len(set(request["candidates"])) == len(request["candidates"])


def test_what_the_data_lacks_is_no_example():
    bare = make_histories(CATALOGUE)
    bare.ratings[:] = np.nan
    events = bare["ada"]
    assert TASKS["rate"].example(Case("ada", events[:2], events[2]), source()) is None
    assert TASKS["search"].example(case(), ExampleSource(CATALOGUE, np.random.default_rng(0))) is None


def test_ranking_is_scored_by_hand():
    task = TASKS["recommend"]
    request = example("recommend")  # true item m1 = row 0, history m2, s2, h2 = rows 1, 3, 5
    scores = np.array([2.0, 9.0, 1.0, 8.0, 3.0, 7.0])
    seen_too = task.score(request, scores, CATALOGUE, [])
    unseen = task.score(request, scores, CATALOGUE, ["m2", "s2", "h2"])
    assert (seen_too["rank"], unseen["rank"]) == (5, 2)
    # The best of six are all of them; m1 has exp(2) of what is left when m2, s2 and h2 are out: m1, s1, h1.
    assert sorted(seen_too["best"].tolist()) == [-1] * 4 + [0, 1, 2, 3, 4, 5]
    assert sorted(unseen["best"].tolist()) == [-1] * 7 + [0, 2, 4] and unseen["num_items"] == 6
    assert unseen["confidence"] == pytest.approx(np.exp(3) / (np.exp(2) + np.exp(1) + np.exp(3)))
    assert not unseen["is_right"] and task.score(request, -scores, CATALOGUE, ["m2", "s2", "h2"])["rank"] == 2
    lists = np.array([[0, 1, -1], [0, 2, -1]])
    metrics = summarise(task, {"rank": np.array([5, 2]), "best": lists, "num_items": np.array([6, 6])})
    assert metrics["coverage@10"] == 3 / 6
    assert metrics["hr@5"] == 1.0 and metrics["hr@10"] == 1.0
    assert metrics["ndcg@5"] == pytest.approx((1 / np.log2(6) + 1 / np.log2(3)) / 2)
    assert metrics["mrr@5"] == pytest.approx((1 / 5 + 1 / 2) / 2)


def test_what_is_hidden_is_in_no_list():
    """Of 14 items nine were seen and one is no longer sold: four are left to be shown, fewer than ten."""
    catalogue = Catalogue.from_items([{"item_id": f"i{number}"} for number in range(14)])
    catalogue.retire(["i13"])
    scores = TASKS["recommend"].score({"answer": "i9"}, np.arange(14.0), catalogue, [f"i{n}" for n in range(9)])
    assert sorted(scores["best"].tolist()) == [-1] * 6 + [9, 10, 11, 12]
    assert summarise(TASKS["recommend"], stacked([scores]))["coverage@10"] == 4 / 14
    # The true item competes although it is no longer sold, and is shown to nobody.
    retired = TASKS["recommend"].score({"answer": "i13"}, np.arange(14.0), catalogue, [])
    assert retired["rank"] == 1 and sorted(retired["best"].tolist()) == [-1, *range(4, 13)]


def test_stars_are_scored_by_their_expectation():
    task = TASKS["rate"]
    scores = task.score({"answer": 2}, np.array([0.5, 0, 0, 0.5, 0]), CATALOGUE, [])
    assert scores == {"predicted": 2.5, "true": 2.0, "confidence": 0.5, "is_right": False}
    assert summarise(task, stacked([scores, scores | {"predicted": 4.5, "true": 3.0}])) == pytest.approx(
        {"mae": 1.0, "rmse": np.sqrt((0.25 + 2.25) / 2)}
    )


@pytest.mark.parametrize(
    ("probabilities", "chosen"),
    [
        # 2 * .9 / (1 + 1.8) = .64, 2 * 1.5 / (2 + 1.8) = .79, 2 * 1.7 / (3 + 1.8) = .71
        ([0.9, 0.2, 0.6, 0.1], [1, 0, 1, 0]),
        # 2 * .3 / (1 + .5) = .40, 2 * .4 / (2 + .5) = .32: one of many, though unlikelier than not
        ([0.1, 0.3, 0.1], [0, 1, 0]),
        ([0.5, 0.5], [1, 1]),
        ([0.0, 0.0], [1, 0]),
    ],
)
def test_the_set_with_the_best_expected_f1_is_chosen(probabilities, chosen):
    assert choose(probabilities).astype(int).tolist() == chosen


def test_the_expected_f1_is_close_to_the_mean_over_all_outcomes():
    """Against brute force: no other set has a better mean F1 over independent outcomes, but for the approximation."""
    from itertools import product

    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.random(5)

        def mean_f1(picked, p=p):
            total = 0.0
            for outcome in product([0, 1], repeat=5):
                true, picks = np.array(outcome), np.array(picked)
                share = np.prod(np.where(true == 1, p, 1 - p))
                total += share * 2 * (true & picks).sum() / max(true.sum() + picks.sum(), 1)
            return total

        best = max(mean_f1(picked) for picked in product([0, 1], repeat=5))
        assert mean_f1(choose(p).astype(int)) > best - 0.02


def test_a_selection_is_scored_by_its_choice():
    task = TASKS["select"]
    request = {"candidates": ["m1", "m2", "s1", "h1"], "answer": [True, True, False, False]}
    scores = task.score(request, np.array([0.9, 0.2, 0.6, 0.1]), CATALOGUE, [])
    assert scores == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "confidence": 0.9, "is_right": True}


def test_candidates_no_longer_sold_are_not_selected_and_not_scored():
    catalogue = make_catalogue()
    catalogue.retire(["m1", "s1"])
    task, output = TASKS["select"], np.array([0.9, 0.2, 0.1])

    def both(candidates, answer):
        request = {"candidates": candidates, "answer": answer}
        answered = task.answer(request, output[: len(candidates)], catalogue)["items"]
        return (
            [(item["score"], item["selected"]) for item in answered],
            task.score(request, output[: len(candidates)], catalogue, []),
        )

    answered, scores = both(["m1", "m2", "h1"], [True, True, False])
    assert answered == [(0, False), (0.2, True), (0.1, False)]
    assert scores == {"precision": 1, "recall": 0.5, "f1": 2 / 3, "confidence": 0.2, "is_right": True}
    answered, scores = both(["m1", "s1"], [True, False])
    assert answered == [(0, False)] * 2
    assert scores == {"precision": 0, "recall": 0, "f1": 0, "confidence": 0, "is_right": False}
    popularity = {"candidates": ["m1", "m2", "h1"]}
    baselines = task.baselines(
        [popularity], make_histories(catalogue), ExampleSource(catalogue, np.random.default_rng(0))
    )
    assert next(iter(baselines["most popular candidate"])).tolist() == [0, 1, 0]


def test_answers_are_plain_dicts():
    items = TASKS["recommend"].answer({}, ([4, 0], {"score": [0.7, 0.3]}), CATALOGUE)["items"]
    assert items[0] == {"item_id": "h1", "title": "Green hat", "category": "hat", "price": 25, "score": 0.7}
    stars = TASKS["rate"].answer({}, np.array([0, 0, 0.5, 0.5, 0]), CATALOGUE)
    assert stars["stars"] == 3.5 and stars["most_likely"] == 3 and stars["entropy"] == pytest.approx(np.log(2))
    assert stars["probabilities"] == {1: 0, 2: 0, 3: 0.5, 4: 0.5, 5: 0}
    request = {"candidates": ["m1", {"title": "Tea pot", "image": b"..."}]}
    chosen = TASKS["select"].answer(request, np.array([0.8, 0.2]), CATALOGUE)["items"]
    assert [item["selected"] for item in chosen] == [True, False]
    assert chosen[1] == {"title": "Tea pot", "score": 0.2, "selected": False}


def cases(name: str) -> EvaluationCases:
    targets = Targets(HISTORIES, np.array([0, 1, 2]), np.array([3, 4, 3]))
    return EvaluationCases.of(name, targets, source(num_candidates=3), exclude_seen=True)


def test_baselines_are_scored_like_the_model():
    # Popularity over all interactions: m1 3, m2 2, s1 2, s2 2, h1 2, h2 2.
    found = cases("recommend").baselines(HISTORIES)
    # ada wants m2 among {m2, s2, h2}: all tied at 2, ties count against us: rank 3. bob wants s1 among {s1, h1}: 2.
    # cyd wants m1 among {m1, m2, s1}: rank 1.
    assert found["popularity"]["ndcg@5"] == pytest.approx((1 / np.log2(4) + 1 / np.log2(3) + 1) / 3)
    searched = cases("search").baselines(HISTORIES)
    # Within the query's category: ada has m2 left of the mugs, bob s1 of the shoes, cyd m1 ahead of m2.
    assert searched["popularity in query"]["ndcg@5"] == 1.0
    rated = cases("rate").baselines(HISTORIES)
    true = np.array([3, 3, 1])
    mean = np.mean([5, 4, 2, 3, 5, 5, 1, 2, 3, 4, 4, 2, 1])
    assert rated["constant (training mean)"]["mae"] == pytest.approx(np.abs(mean - true).mean())
    own = np.array([(11 + 3 * mean) / 6, (13 + 3 * mean) / 7, (10 + 3 * mean) / 6])
    assert rated["shopper's mean"]["rmse"] == pytest.approx(np.sqrt(((own - true) ** 2).mean()))
    assert cases("select").baselines(HISTORIES)["choose all"]["recall"] == 1.0
    assert cases("explain").baselines(HISTORIES).keys() == {"commonest text", "random text"}


def test_baselines_of_many_cases_hold_one_ranking_at_a_time():
    num_items, num_cases = 2_000, 200
    catalogue = Catalogue.from_items([{"item_id": str(n), "category": f"c{n % 40}"} for n in range(num_items)])
    events = [{"user_id": "u", "item_id": str(n), "timestamp": n} for n in range(num_cases + 1)]
    histories = Histories.from_interactions(events, catalogue)
    places = np.arange(1, num_cases + 1)
    targets = Targets(histories, np.zeros(num_cases, dtype=int), places)
    drawn = ExampleSource(catalogue, np.random.default_rng(0), query_attribute="category")
    for name in ("recommend", "search"):
        many = EvaluationCases.of(name, targets, drawn, exclude_seen=False)
        tracemalloc.start()
        many.baselines(histories)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        all_rankings = num_cases * num_items * 8  # bytes
        assert len(many) == num_cases and peak < all_rankings / 4


@pytest.mark.parametrize("name", ["recommend", "search", "rate", "explain", "select", "imagine"])
@pytest.mark.parametrize("max_cases", [None, 4])
def test_requests_made_on_demand_are_those_that_were_drawn(name, max_cases):
    catalogue = make_catalogue()
    catalogue.set_picture_codes(np.arange(24).reshape(6, 4))
    histories = make_histories(catalogue)
    users = np.repeat(np.arange(len(histories)), histories.lengths - 1)
    places = np.concatenate([np.arange(1, length) for length in histories.lengths])
    targets = Targets(histories, users, places)

    def drawing():
        rng = np.random.default_rng(3)
        return ExampleSource(catalogue, rng, history_length=2, query_attribute="category", num_candidates=3)

    # As `Task.example` gives them, one after the other, from one generator.
    source, expected = drawing(), []
    order = range(len(targets)) if max_cases is None else source.rng.permutation(len(targets))
    for index in order:
        if len(expected) != max_cases:
            request = TASKS[name].example(targets[index], source)
            expected += [] if request is None else [(targets[index], request)]
    found = EvaluationCases.of(name, targets, drawing(), exclude_seen=False, max_cases=max_cases)
    assert len(found) == len(expected) > 2
    for _ in range(2):  # whatever was asked for before
        assert list(zip(found.cases, found.requests, strict=True)) == expected
        assert [list(request) for request in found.requests] == [list(request) for _, request in expected]
    requests = [request for _, request in expected]
    assert found.requests[1:] == requests[1:] and found.requests[-1] == requests[-1]
    assert list(found.requests.take(range(1, len(found), 2))) == requests[1::2]


@pytest.mark.parametrize("name", ["recommend", "rate", "select"])
def test_cases_of_long_histories_do_not_hold_them(name):
    num_users, length = 100, 200
    catalogue = Catalogue.from_items([{"item_id": str(n)} for n in range(length + 20)])
    events = [
        {"user_id": str(user), "item_id": str(n), "timestamp": n, "rating": 4}
        for user in range(num_users)
        for n in range(length)
    ]
    histories = Histories.from_interactions(events, catalogue)
    targets = Targets(histories, np.arange(num_users), np.full(num_users, length - 1))
    drawn = ExampleSource(catalogue, np.random.default_rng(0), history_length=50)
    tracemalloc.start()
    many = EvaluationCases.of(name, targets, drawn, exclude_seen=False)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # An interaction alone is an object of more than 50 bytes; candidates and their answers are kept.
    assert len(many) == num_users and held / num_users < 600


def test_cases_do_not_depend_on_what_was_drawn_before():
    first, second = cases("select"), cases("select")
    assert first.requests[:] == second.requests[:]
    sample = EvaluationCases.of(
        "recommend",
        Targets(HISTORIES, np.array([0, 1, 2]), np.array([3, 4, 3])),
        source(),
        exclude_seen=True,
        max_cases=2,
    )
    assert len(sample) == 2


def test_a_target_that_was_seen_is_skipped_when_seen_items_are_left_out():
    again = Histories.from_interactions(
        [
            {"user_id": "dan", "item_id": item, "timestamp": time, "rating": 4}
            for time, item in enumerate(["m1", "m2", "m1", "s1"])
        ],
        CATALOGUE,
    )
    targets = Targets(again, np.array([0, 0]), np.array([2, 3]))
    excluded, included = (
        EvaluationCases.of("recommend", targets, source(), exclude_seen=exclude) for exclude in (True, False)
    )
    assert (len(excluded), excluded.skipped, excluded.seen) == (1, 1, 1)
    assert (len(included), included.skipped, included.seen) == (2, 0, 0)
    assert len(EvaluationCases.of("rate", targets, source(), exclude_seen=True)) == 2
