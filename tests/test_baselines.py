"""Tuned baselines: known by hand, fitted on training alone, evaluated on the cases of train.py."""

import json
import sys
from itertools import islice

import numpy as np
import pytest
from scipy import sparse
from shop import INTERACTIONS, make_catalogue, make_histories, make_model, make_processor, save_demo_shop

from benchmarks import baselines, ranking_baselines, rating_baselines
from modeling_unimp.backbones import load_image_processor, load_vision_tower
from modeling_unimp.training.closed_form import closed_form_scores
from modeling_unimp.training.defaults import fill_from_data
from modeling_unimp.training.experiment import evaluation_cases_of, load_shop, split_histories
from modeling_unimp.training.feature_store import FeatureStore
from modeling_unimp.training.hybrid_fitting import fit_hybrid
from modeling_unimp.training.item_similarity import item_knn, picture_similarity, windowed_transitions
from modeling_unimp.training.rating_factors import biases, factorise
from modeling_unimp.training.recipe import (
    ModelArguments,
    UniMPTrainingArguments,
    given_on_command_line,
    parse_recipe,
)
from processing_unimp import Catalogue, EvaluationCases, ExampleSource, Histories, Targets, leave_last_out
from processing_unimp.metrics.summary import summarise

M1, M2, S1, S2, H1, H2 = range(6)
NO_TIE_BREAK = np.zeros(6)


@pytest.fixture
def split():
    """Training is ada: m1 s1, bob: m2 s2 h2, cyd: h1 h2."""
    return leave_last_out(make_histories(make_catalogue()), new_users=0)


def cases_of(split, name, targets=None, exclude_seen=True, **kwargs):
    source = ExampleSource(split.train.catalogue, np.random.default_rng(0), query_attribute="category", **kwargs)
    return EvaluationCases.of(name, split.test if targets is None else targets, source, exclude_seen=exclude_seen)


def scores_on(scorer, cases):
    """All scores of a baseline, a row a case."""
    return np.stack(list(scorer(cases)))


def case_of(history, target, catalogue, name="recommend"):
    """One shopper's question, with or without stars."""
    rows = [
        {"user_id": "eve", "item_id": item, "timestamp": time, "rating": stars}
        for time, (item, stars) in enumerate([*history, target])
    ]
    histories = Histories.from_interactions(rows, catalogue)
    source = ExampleSource(catalogue, np.random.default_rng(0), query_attribute="category", num_candidates=3)
    targets = Targets(histories, np.array([0]), np.array([len(history)]))
    return EvaluationCases.of(name, targets, source, exclude_seen=False)


def test_a_history_weighs_its_latest_items_most(split):
    # Before the test: ada m1 s1 h1, bob m2 s2 h2 m1, cyd h1 h2 s2.
    weights = ranking_baselines.history_weights(split.test, 1.0).toarray()
    expected = np.zeros((3, 6))
    expected[0, [M1, S1, H1]] = 1 / 4, 1 / 2, 1
    expected[1, [M2, S2, H2, M1]] = 1 / 8, 1 / 4, 1 / 2, 1
    expected[2, [H1, H2, S2]] = 1 / 4, 1 / 2, 1
    np.testing.assert_array_equal(weights, expected)
    np.testing.assert_array_equal(ranking_baselines.history_weights(split.test, np.inf).toarray(), expected > 0)


def test_an_item_taken_twice_weighs_twice(split):
    case = case_of([("m1", 4), ("s1", 4), ("m1", 4)], ("h1", 4), split.train.catalogue)
    weights = ranking_baselines.history_weights(case.cases, 1.0).toarray()
    np.testing.assert_array_equal(weights, [[1.25, 0, 0.5, 0, 0, 0]])


def test_item_knn_by_hand(split, monkeypatch):
    parameters, score = next(ranking_baselines.tuned_knn(split.train, NO_TIE_BREAK))
    assert parameters == {"shrinkage": 0.0, "k": 3, "half_life": 0.5}, "h2 has three neighbours, no item more"
    monkeypatch.setattr(ranking_baselines, "HALF_LIVES", (1.0,))
    found = [score for parameters, score in ranking_baselines.tuned_knn(split.train, NO_TIE_BREAK)]
    cases = cases_of(split, "recommend", exclude_seen=False)
    root = 1 / np.sqrt(2)  # h2 has two users
    # Bob: weights 1/8, 1/4, 1/2, 1 of m2, s2, h2, m1.
    expected = [0, 1 / 4 + root / 2, 1, 1 / 8 + root / 2, root / 2, root / 8 + root / 4]
    np.testing.assert_allclose(scores_on(found[0], cases)[1], expected, rtol=1e-6)
    shrunk = [weight / (norm + 10) for weight, norm in [(1 / 4, 1), (1 / 2, 2**0.5)]]
    assert scores_on(found[1], cases)[1, M2] == pytest.approx(sum(shrunk))


def test_the_nearest_alone_count(split):
    neighbours = item_knn(split.train, 0.0, 6)
    only = ranking_baselines.matrix_of(neighbours, 1).toarray()
    assert only[M2].tolist() == [0, 0, 0, 1, 0, 0] and (np.count_nonzero(only, axis=1) == 1).all()
    assert ranking_baselines.matrix_of(neighbours, 2).toarray()[M2, H2] == pytest.approx(1 / np.sqrt(2))


def test_variants_of_ease_leave_one_another_alone(split):
    """All weights, and those above 0, of the same neighbours: each scores the same whichever was made before."""
    cases = cases_of(split, "recommend", exclude_seen=False)
    tie_break = np.arange(6) / 6
    alone = [scores_on(score, cases) for _, score in ranking_baselines.tuned_ease(split.train, tie_break)]
    together = [scores_on(score, cases) for _, score in [*ranking_baselines.tuned_ease(split.train, tie_break)]]
    np.testing.assert_array_equal(together, alone)
    assert not np.array_equal(alone[0], alone[len(ranking_baselines.HALF_LIVES)])  # some weights are below 0


def test_blocks_of_cases_change_nothing(split, monkeypatch):
    cases = cases_of(split, "recommend", exclude_seen=False)
    *_, (_, score) = ranking_baselines.tuned_ease(split.train, np.arange(6) / 6)
    whole = scores_on(score, cases)
    monkeypatch.setattr(ranking_baselines, "BLOCK_BYTES", 8 * 6 * 2)  # two cases
    np.testing.assert_array_equal(scores_on(score, cases), whole)


def test_values_in_common_of_texts_lists_and_gaps():
    values = ranking_baselines.unit_values([["a", "b"], ["b"], [], None, "a", "a", ""])
    alike = ranking_baselines.shared_with(values, sparse.identity(7, format="csr")).toarray()
    expected = np.zeros((7, 7))
    for i, j, value in [(0, 1, 2**-0.5), (0, 4, 2**-0.5), (0, 5, 2**-0.5), (4, 5, 1)]:
        expected[i, j] = expected[j, i] = value
    np.testing.assert_allclose(alike, expected, atol=1e-12)


def test_ties_are_broken_by_popularity_and_nothing_else_is(split, monkeypatch):
    monkeypatch.setattr(ranking_baselines, "HALF_LIVES", (1.0,))
    case = case_of([("s1", None)], ("s2", None), split.train.catalogue)
    tie_break = np.array([1, 0.5, 0, 0.1, 0, 0.2])
    ((_, score),) = ranking_baselines.same_attribute(split.train.catalogue, ["category"], tie_break)
    np.testing.assert_array_equal(np.argsort(-scores_on(score, case)[0], kind="stable")[:4], [S2, M1, M2, H2])


def test_an_attribute_that_no_two_items_share_is_no_baseline(split):
    assert not list(ranking_baselines.same_attribute(split.train.catalogue, ["title"], NO_TIE_BREAK))


def test_recent_popularity_forgets(split):
    # Ages at the end of training (time 2): s1, s2 and cyd's h2 are 1 old, bob's h2 is 0, the rest 2.
    parameters, score = next(islice(ranking_baselines.recent_popularity(split.train), 1, None))
    assert parameters == {"half_life_of_training_time": 0.3}
    old, new = 0.5 ** (2 / 0.6), 0.5 ** (1 / 0.6)
    cases = cases_of(split, "recommend")
    np.testing.assert_allclose(scores_on(score, cases)[0], [old, old, new, new, old, 1 + new])
    assert scores_on(next(ranking_baselines.popularity(split.train))[1], cases)[0].tolist() == [1, 1, 1, 1, 1, 2]


def test_bm25_reads_the_query_and_popularity_orders_what_it_leaves_equal(split):
    case = case_of([("s1", 4)], ("h2", 4), split.train.catalogue, "search")  # asks for a hat
    found = {
        parameters["weight_of_popularity"]: scores_on(score, case)[0]
        for parameters, score in ranking_baselines.bm25(split.train, ["title", "category"])
    }
    # Each item has three words, "hat" twice in two of six items.
    by_words = np.log(1 + (6 - 2 + 0.5) / (2 + 0.5)) * 2 / (2 + 1.5)
    np.testing.assert_allclose(found[0.0], [0, 0, 0, 0, by_words, by_words], rtol=1e-6)
    # h2 was bought twice, the others once.
    popular = 3.0 * np.log([2, 2, 2, 2, 2, 3])
    np.testing.assert_allclose(found[3.0], found[0.0] + popular)
    ((_, of_prices), *_) = ranking_baselines.bm25(split.train, ["price"])
    assert not scores_on(of_prices, case).any(), "numbers have no words"


def test_shoppers_mean_by_hand(split):
    # Training ratings 5 4, 5 5 1, 4 4 have the mean 4; cyd gave 4, 4 and 2 before the test.
    parameters, score = list(rating_baselines.shoppers_mean(split.train))[2]
    assert parameters == {"strength": 3.0}
    assert scores_on(score, cases_of(split, "rate"))[2] == pytest.approx((10 + 3 * 4) / 6)
    stars = baselines.star_probabilities(cases_of(split, "rate").source)
    np.testing.assert_allclose(stars({}, np.array([3.25])), [0, 0, 0.75, 0.25, 0])
    np.testing.assert_allclose(stars({}, np.array([7.0])), [0, 0, 0, 0, 1])


def test_factors_of_rank_0_are_the_biases(split):
    mean, of_items, factors = factorise(split.train, 2.0, 1.0, rank=0, penalty=1.0)
    expected_mean, _, expected = biases(split.train, 2.0, 1.0)
    assert mean == expected_mean and factors.shape == (6, 0)
    np.testing.assert_allclose(of_items, expected, atol=1e-5)


@pytest.fixture(scope="module")
def two_tastes():
    """Half of the shoppers give 5 to the first half of the items and 1 to the second, the others the reverse."""
    catalogue = Catalogue.from_items([{"item_id": str(number)} for number in range(20)])
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": str(user), "item_id": str(item), "timestamp": time, "rating": 1 + 4 * ((item < 10) == user % 2)}
        for user in range(40)
        for time, item in enumerate(rng.choice(20, size=12, replace=False))
    ]
    return Histories.from_interactions(rows, catalogue)


def test_a_factor_finds_tastes_that_biases_cannot(two_tastes):
    mean, of_items, factors = factorise(two_tastes, 1.0, 1.0, rank=1, penalty=0.1)
    assert (factors[:10, 0] > 0).all() != (factors[10:, 0] > 0).all(), "one sign a half"
    score = rating_baselines.stars_of_factors(mean, of_items, factors, 1.0, 0.1)
    for likes, likes_not in ((range(10), range(10, 20)), (range(10, 20), range(10))):
        history = [(str(item), 5.0) for item in likes[:3]] + [(str(item), 1.0) for item in likes_not[:3]]
        liked, hated = (
            scores_on(score, case_of(history, (str(half[5]), 3.0), two_tastes.catalogue, "rate"))[0, 0]
            for half in (likes, likes_not)
        )
        assert liked > 4.5 and hated < 1.5
    flat = next(rating_baselines.user_and_item(two_tastes))[1]
    assert abs(scores_on(flat, case_of([("0", 5.0)], ("5", 3.0), two_tastes.catalogue, "rate"))[0, 0] - mean) < 1.6


def test_the_shoppers_factors_are_those_of_the_fit(two_tastes):
    """After enough sweeps each shopper's bias and factors solve the ridge regression on the items'."""
    mean, of_items, factors = factorise(two_tastes, 1.0, 1.0, rank=2, penalty=0.5, sweeps=500)
    again = factorise(two_tastes, 1.0, 1.0, rank=2, penalty=0.5, sweeps=501)
    np.testing.assert_allclose(again[1], of_items, atol=1e-6)
    np.testing.assert_allclose(again[2], factors, atol=1e-6)
    # ... and so do the items' on the shoppers': the gradient of the whole error is nothing.
    rows = two_tastes.ratings - mean - of_items[two_tastes.item_numbers]
    described = np.concatenate([np.ones((20, 1)), factors], axis=1)
    of_users = np.zeros((40, 3))
    for user in range(40):
        own = two_tastes.user_numbers == user
        x = described[two_tastes.item_numbers[own]]
        of_users[user] = np.linalg.solve(x.T @ x + np.diag([1.0, 0.5, 0.5]), x.T @ rows[own])
    error = rows - (described[two_tastes.item_numbers] * of_users[two_tastes.user_numbers]).sum(axis=1)
    for item in range(20):
        own = two_tastes.item_numbers == item
        users = of_users[two_tastes.user_numbers[own]]
        assert error[own].sum() == pytest.approx(1.0 * of_items[item], abs=1e-4)
        np.testing.assert_allclose(users[:, 1:].T @ error[own], 0.5 * factors[item], atol=1e-4)


def test_search_keeps_the_category_and_select_takes_the_best_candidate(split):
    scores = np.array([6.0, 5, 4, 3, 2, 1])
    search = baselines.ranking_in_query(cases_of(split, "search").source)({"query": "shoe"}, scores)
    assert np.isfinite(search).tolist() == [False, False, True, True, False, False]
    candidate = baselines.best_candidate(cases_of(split, "select").source)
    assert candidate({"candidates": ["h2", "s1", "h1"]}, scores).tolist() == [0, 1, 0]
    assert candidate({"candidates": ["h2", "s1", "h1"]}, np.ones(6)).tolist() == [1, 1, 1]


def test_several_candidates_are_chosen_where_their_scores_are_close(split):
    cases = cases_of(split, "select", num_candidates=3)
    scores = np.array([4.0, 4.0, 1.0, 1.0, 0.0, 9.0])
    of_ada = [{"m1": 4, "m2": 4, "s1": 1, "s2": 1, "h1": 0, "h2": 9}[item] for item in cases.requests[0]["candidates"]]
    for power in (0.5, 2.0):
        (first, *_) = baselines.by_power(power, ranking_baselines.constant(scores), cases)
        np.testing.assert_allclose(first, np.power(of_ada, power) / np.power(of_ada, power).sum())
    (nothing_known, *_) = baselines.by_power(1.0, ranking_baselines.constant(np.zeros(6)), cases)
    np.testing.assert_allclose(nothing_known, [1 / 3] * 3)


def test_a_power_is_taken_where_validation_gains_by_it(split):
    select = cases_of(split, "select", split.validation, num_candidates=3)
    right = np.zeros(6)
    for request in select.requests:
        right[[split.train.catalogue.number(item) for item in request["candidates"]]] += request["answer"]
    for scores in (right, np.arange(6.0), np.ones(6)):
        (alone,) = baselines.choose([({}, ranking_baselines.constant(scores))], [select]).values()
        found = baselines.with_power(alone, select)
        assert found.validation == baselines.headline_on(select, found.outputs(select)) >= alone.validation
        assert ("power" in found.parameters) == (found.validation > alone.validation)


def test_trivial_baselines_are_those_of_the_tasks(split):
    def metrics(cases, scorer):
        return summarise(cases.task, cases.scores(baselines.by_scores(scorer, cases)))

    select = cases_of(split, "select", num_candidates=3)
    assert metrics(select, ranking_baselines.constant(np.ones(6))) == select.baselines(split.train)["choose all"]
    for name, theirs in [("recommend", "popularity"), ("search", "popularity in query")]:
        cases = cases_of(split, name)
        assert (
            metrics(cases, next(ranking_baselines.popularity(split.train))[1]) == cases.baselines(split.train)[theirs]
        )


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_validation_compares_by_the_headline_that_the_test_reports(split, exclude_seen):
    split.train.catalogue.retire(["h2"])
    for name in ("recommend", "search", "select", "rate"):
        cases = cases_of(split, name, exclude_seen=exclude_seen)
        scorer = ranking_baselines.constant(np.random.default_rng(2).random(1 if name == "rate" else 6))
        expected = summarise(cases.task, cases.scores(baselines.by_scores(scorer, cases)))[cases.task.headline]
        assert baselines.headline_on(cases, baselines.by_scores(scorer, cases)) == expected


def test_seen_again_wins_a_repeated_purchase(split):
    """Where seen items stay in the ranking; elsewhere such a case is not asked."""
    repeated = case_of([("m1", None), ("s1", None), ("h1", None)], ("m1", None), split.train.catalogue)
    for _, score in ranking_baselines.seen_again(NO_TIE_BREAK):
        assert repeated.scores(baselines.by_scores(score, repeated))["rank"][0] <= 3
    _, score = next(ranking_baselines.seen_again(NO_TIE_BREAK))
    chosen = baselines.Chosen(({"half_life": np.inf}, score), 1.0, baselines.by_scores)
    found = baselines.evaluate(repeated, {"seen again": chosen})
    assert found["cases"] == 1
    assert found["baselines"]["seen again"]["parameters"] == {"half_life": "infinite"}


def test_choose_takes_the_best_of_validation_in_the_right_direction(split):
    ratings = cases_of(split, "rate", split.validation)
    truth = float(np.mean([request["answer"] for request in ratings.requests]))
    variants = [({"stars": value}, ranking_baselines.constant(np.array([value]))) for value in (1.0, truth, 5.0)]
    assert baselines.choose(variants, [ratings])["rate"].parameters == {"stars": truth}
    recommend = cases_of(split, "recommend", split.validation)
    target = recommend.cases[0].target.item_id
    knows = np.arange(6) == split.train.catalogue.number(target)
    variants = [({"knows": value}, ranking_baselines.constant(value * knows.astype(float))) for value in (-1, 1)]
    assert baselines.choose(variants, [recommend])["recommend"].parameters == {"knows": 1}


def test_nothing_is_learnt_from_validation_or_test(split):
    catalogue = split.train.catalogue
    last = {"ada": 2, "bob": 3, "cyd": 2}  # of leave-last-out: from here on validation and test
    changed = [
        event | {"item_id": "s2", "rating": 1, "timestamp": event["timestamp"] + 50}
        if event["timestamp"] >= last[event["user_id"]]
        else event
        for event in INTERACTIONS
    ]
    other = leave_last_out(Histories.from_interactions(changed, catalogue), new_users=0)
    assert other.test[0].target != split.test[0].target
    tie_break = np.arange(6) / 6
    families = {
        "recommend": [
            ranking_baselines.popularity,
            ranking_baselines.recent_popularity,
            lambda part: ranking_baselines.nearest(windowed_transitions(part), tie_break),
            lambda part: ranking_baselines.tuned_knn(part, tie_break),
            lambda part: ranking_baselines.tuned_ease(part, tie_break),
        ],
        "search": [lambda part: ranking_baselines.bm25(part, ["title"])],
        "rate": [
            lambda part: rating_baselines.constant_stars(part, np.median),
            rating_baselines.shoppers_mean,
            rating_baselines.user_and_item,
            lambda part: rating_baselines.matrix_factorisation(part, 1.0, 1.0),
        ],
    }
    for task, each in families.items():
        case = case_of([("m2", 4.0), ("h1", 2.0)], ("s1", 3.0), catalogue, task)
        for family in each:
            for (ours, score), (theirs, other_score) in zip(family(split.train), family(other.train), strict=True):
                assert ours == theirs
                np.testing.assert_array_equal(scores_on(score, case), scores_on(other_score, case))


@pytest.fixture(scope="module")
def circles():
    """Shoppers go round the mugs or round the shoes, in order, and like the even ones."""
    kinds = ["mug"] * 12 + ["shoe"] * 12
    items = [{"item_id": str(n), "title": f"{kind} number {n}", "category": kind} for n, kind in enumerate(kinds)]
    rng = np.random.default_rng(0)
    rows = []
    for user in range(80):
        first, half = int(rng.integers(12)), 12 * (user % 2)
        for time in range(6):
            number = half + (first + time) % 12
            stars = 5 - 3 * (number % 2)
            rows.append({"user_id": str(user), "item_id": str(number), "timestamp": time, "rating": stars})
    return leave_last_out(Histories.from_interactions(rows, Catalogue.from_items(items)), new_users=0.1)


def test_the_best_blend_is_the_closed_form_that_stands_beside_the_network(circles):
    tasks = ("recommend", "search", "select", "rate")
    validation = [cases_of(circles, name, circles.validation, history_length=200) for name in tasks]
    chosen = baselines.choose_all(circles.train, validation, ["title", "category"], "category", None)
    for name, by_name in chosen.items():
        assert list(by_name)[-1] == "best blend", name
        cases = cases_of(circles, name, history_length=200)
        found = baselines.evaluate(cases, by_name)["baselines"]["best blend"]
        least = {"recommend": 0.8, "search": 0.8, "select": 0.9, "rate": -0.5}[name]
        assert found["metrics"][cases.task.headline] * (1 if cases.task.higher_is_better else -1) > least, name
    # Beside an untrained network, what is fitted without it is the same.
    processor = make_processor(circles.train.catalogue)
    hybrid = closed_form_scores(circles.train, None, "category", True)
    _, alone, _ = fit_hybrid(hybrid, make_model(processor), processor, validation, circles.train)
    blend = baselines.best_blend(circles.train, validation, None, "category")
    assert blend.weights == alone.weights and blend.digest() == alone.digest()
    new = np.arange(len(circles.train.catalogue)) == 3
    assert 3 in baselines.best_blend(circles.train, validation, None, "category", new_items=new).stand_ins
    described = baselines.blend_parameters(blend, "recommend")
    assert "transitions @ 1" in described and all(weight > 0 for weight in described.values())


def test_pictures_are_compared_where_there_are_some(circles):
    catalogue = circles.train.catalogue
    validation = [cases_of(circles, "recommend", circles.validation, history_length=200)]
    pictures = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
    with_pictures = baselines.choose_all(circles.train, validation, ["title"], None, pictures)["recommend"]
    without = baselines.choose_all(circles.train, validation, ["title"], None, None)["recommend"]
    assert set(with_pictures) - set(without) == {"picture cosine"}
    pictures[2] = pictures[0]
    ((_, score), *_) = ranking_baselines.nearest(picture_similarity(pictures), np.zeros(24))
    case = case_of([("0", 5.0)], ("2", 5.0), catalogue)
    assert scores_on(score, case)[0].argmax() == 2 and scores_on(score, case)[0, 2] == pytest.approx(1, abs=1e-5)


def test_pictures_are_those_of_a_finished_store(tmp_path, caplog):
    catalogue = make_catalogue()
    args = UniMPTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    assert baselines.pictures_of(catalogue, ModelArguments(vision_model=None), args) is None
    with caplog.at_level("INFO", logger="baselines"):
        assert baselines.pictures_of(catalogue, ModelArguments(vision_model="tiny"), args) is None
    assert "pictures are not compared" in caplog.text
    named = ModelArguments(feature_store=str(tmp_path / "store"))
    with pytest.raises(ValueError, match="no store"):
        baselines.pictures_of(catalogue, named, args)
    store = FeatureStore.build(
        load_vision_tower("tiny")[0],
        load_image_processor("tiny"),
        lambda number: catalogue.picture(catalogue.item_id(number)),
        catalogue.picture_digests(),
        tmp_path / "store",
    )
    found = baselines.pictures_of(catalogue, named, args)
    np.testing.assert_array_equal(found, store.pooled().numpy())
    assert found.shape == (6, 64) and not found[S2].any() and found[M1].any()


def test_the_command_evaluates_on_the_cases_of_train(tmp_path, monkeypatch, capsys):
    save_demo_shop(tmp_path, num_items=40, num_shoppers=40)
    tasks = ["recommend", "search", "rate", "explain", "select"]
    arguments = [
        "baselines",
        "--items",
        str(tmp_path),
        "--interactions",
        str(tmp_path),
        "--query_attribute",
        "category",
    ]
    arguments += ["--k_core", "2", "--split_seed", "7", "--output_dir", str(tmp_path / "out"), "--tasks", *tasks]
    arguments += ["--attributes", "title", "category"]  # others are kept from the baselines as from UniMP
    monkeypatch.setattr(sys, "argv", arguments)
    for name in ("HALF_LIVES", "NEIGHBOURS", "KNN_SHRINKAGES", "EASE_PENALTIES", "BLEND_WEIGHTS"):
        monkeypatch.setattr(ranking_baselines, name, getattr(ranking_baselines, name)[-2:])
    for name in ("RATING_PENALTIES", "RANKS"):
        monkeypatch.setattr(rating_baselines, name, getattr(rating_baselines, name)[-2:])
    baselines.main()
    record = json.loads((tmp_path / "out/baselines.json").read_text())
    assert (tmp_path / "out/baselines.md").read_text() in capsys.readouterr().out
    assert record["split_seed"] == 7 and set(record["results"]) == {"test", "new users"}

    same_attribute = record["results"]["test"]["select"]["baselines"]["same attribute as in the history"]
    assert same_attribute["parameters"]["attribute"] in ("title", "category")
    last = {task: list(result["baselines"])[-1] for task, result in record["results"]["test"].items()}
    blends = dict.fromkeys(("recommend", "search", "rate", "select"), "best blend")
    assert last == blends | {"explain": "text of the shopper"}

    data_args, model_args, args = parse_recipe()
    catalogue, histories = load_shop(data_args)
    given = given_on_command_line()
    data_args, _, args = fill_from_data(data_args, model_args, args, given, catalogue, histories)
    split = split_histories(histories, catalogue, data_args)
    for cases in evaluation_cases_of(split.test, data_args, catalogue, data_args.max_test_cases):
        found = record["results"]["test"][cases.task.name]
        assert found["cases"] == len(cases)
        trivial = cases.baselines(split.train)
        same = {
            "recommend": ("popularity", "popularity"),
            "search": ("popularity", "popularity in query"),
            "rate": ("mean", "constant (training mean)"),
            "select": ("choose all", "choose all"),
            "explain": ("random text", "random text"),
        }
        ours, theirs = same[cases.task.name]
        row = found["baselines"][ours]
        assert {name: row["metrics"][name] for name in trivial[theirs]} == pytest.approx(trivial[theirs])
        if cases.task.name != "explain":
            assert row["interval"][0] <= row["metrics"][found["headline"]] <= row["interval"][1]
