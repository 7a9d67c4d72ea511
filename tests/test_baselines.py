"""Tuned baselines: known by hand, fitted on training alone, evaluated on the cases of train.py."""

import json
import sys
from itertools import islice

import numpy as np
import pytest
from shop import INTERACTIONS, make_catalogue, make_histories, save_demo_shop

from benchmarks import baselines
from modeling_unimp.training.experiment import evaluation_cases_of, load_shop, split_histories
from modeling_unimp.training.recipe import parse_recipe
from processing_unimp import (
    Case,
    EvaluationCases,
    ExampleSource,
    Histories,
    Interaction,
    Targets,
    leave_last_out,
)
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


def test_co_occurrence_counts_users_not_repeats():
    catalogue = make_catalogue()
    rows = [{"user_id": "ada", "item_id": item, "timestamp": t} for t, item in enumerate(["m1", "s1", "m1"])]
    together = baselines.co_occurrence(Histories.from_interactions(rows, catalogue))
    assert together[M1, M1] == together[M1, S1] == together[S1, M1] == 1 and together.sum() == 4


def test_item_knn_by_hand(split):
    together = baselines.co_occurrence(split.train)
    similarity = baselines.cosine(together, shrinkage=0)
    root = 1 / np.sqrt(2)  # h2 has two users
    assert similarity[M1, S1] == similarity[M2, S2] == 1
    assert similarity[H1, H2] == pytest.approx(root) and similarity[H1, M2] == 0 and not np.diag(similarity).any()
    assert baselines.cosine(together, shrinkage=1)[M2, H2] == pytest.approx(1 / (np.sqrt(2) + 1))
    np.testing.assert_array_equal(np.flatnonzero(baselines.nearest_only(similarity, 1)[M2]), [S2])

    bob = split.test[1]
    assert [event.item_id for event in bob.history] == ["m2", "s2", "h2", "m1"]
    scores = baselines.from_history(similarity, 1.0, split.train.catalogue, NO_TIE_BREAK)(bob)
    # weights 1/8, 1/4, 1/2, 1 of m2, s2, h2, m1
    expected = [0, 1 / 4 + root / 2, 1, 1 / 8 + root / 2, root / 2, root / 8 + root / 4]
    np.testing.assert_allclose(scores, expected)
    forever = baselines.from_history(similarity, np.inf, split.train.catalogue, NO_TIE_BREAK)(bob)
    np.testing.assert_allclose(forever, similarity[[M2, S2, H2, M1]].sum(axis=0))


def test_ease_is_ridge_regression_of_each_item_on_the_others():
    has = np.random.default_rng(0).integers(0, 2, size=(20, 5)).astype(float)
    weights = baselines.ease_weights(has.T @ has, penalty=2.0)
    for j in range(5):
        others = [i for i in range(5) if i != j]
        x = has[:, others]
        direct = np.linalg.solve(x.T @ x + 2.0 * np.eye(4), x.T @ has[:, j])
        np.testing.assert_allclose(weights[others, j], direct)
        assert weights[j, j] == 0


def test_shared_values_of_texts_lists_and_gaps():
    alike = baselines.shared_values([["a", "b"], ["b"], [], None, "a", "a", ""])
    expected = np.zeros((7, 7))
    for i, j, value in [(0, 1, 1 / 2), (0, 4, 1 / 2), (0, 5, 1 / 2), (4, 5, 1)]:
        expected[i, j] = expected[j, i] = value
    np.testing.assert_allclose(alike, expected)


def test_ties_are_broken_by_popularity_and_nothing_else_is(split):
    history = [Interaction("s1", 0.0)]
    case = Case("new", history, Interaction("s2", 1.0))
    alike = baselines.shared_values(split.train.catalogue.column("category"))
    scores = baselines.from_history(alike, 1.0, split.train.catalogue, np.array([1, 0.5, 0, 0.1, 0, 0.2]))(case)
    np.testing.assert_array_equal(np.argsort(-scores, kind="stable")[:4], [S2, M1, M2, H2])


def test_recent_popularity_forgets(split):
    # Ages at the end of training (time 2): s1, s2 and cyd's h2 are 1 old, bob's h2 is 0, the rest 2.
    parameters, score = next(islice(baselines.recent_popularity(split.train), 1, None))
    assert parameters == {"half_life_of_training_time": 0.3}
    old, new = 0.5 ** (2 / 0.6), 0.5 ** (1 / 0.6)
    np.testing.assert_allclose(score(split.test[0]), [old, old, new, new, old, 1 + new])
    assert next(baselines.popularity(split.train))[1](split.test[0]).tolist() == [1, 1, 1, 1, 1, 2]


def test_shoppers_mean_by_hand(split):
    # Training ratings 5 4, 5 5 1, 4 4 have the mean 4; cyd gave 4, 4 and 2 before the test.
    parameters, score = list(baselines.shoppers_mean(split.train))[2]
    assert parameters == {"strength": 3.0}
    assert score(split.test[2])[0] == pytest.approx((10 + 3 * 4) / 6)
    stars = baselines.star_probabilities(cases_of(split, "rate").source)
    np.testing.assert_allclose(stars({}, np.array([3.25])), [0, 0, 0.75, 0.25, 0])
    np.testing.assert_allclose(stars({}, np.array([7.0])), [0, 0, 0, 0, 1])


def test_search_keeps_the_category_and_select_takes_the_best_candidate(split):
    scores = np.array([6.0, 5, 4, 3, 2, 1])
    search = baselines.ranking_in_query(cases_of(split, "search").source)({"query": "shoe"}, scores)
    assert np.isfinite(search).tolist() == [False, False, True, True, False, False]
    candidate = baselines.best_candidate(cases_of(split, "select").source)
    assert candidate({"candidates": ["h2", "s1", "h1"]}, scores).tolist() == [0, 1, 0]
    assert candidate({"candidates": ["h2", "s1", "h1"]}, np.ones(6)).tolist() == [1, 1, 1]


def test_trivial_baselines_are_those_of_the_tasks(split):
    select = cases_of(split, "select", num_candidates=3)
    everything = baselines.scores_of(select, lambda case: np.ones(6))
    assert summarise(select.task, everything) == select.baselines(split.train)["choose all"]
    for name, theirs in [("recommend", "popularity"), ("search", "popularity in query")]:
        cases = cases_of(split, name)
        scores = baselines.scores_of(cases, next(baselines.popularity(split.train))[1])
        assert summarise(cases.task, scores) == cases.baselines(split.train)[theirs]


def test_seen_again_wins_a_repeated_purchase(split):
    """Where seen items stay in the ranking; elsewhere such a case is not asked."""
    rows = [{"user_id": "ada", "item_id": item, "timestamp": t} for t, item in enumerate(["m1", "s1", "h1", "m1"])]
    histories = Histories.from_interactions(rows, split.train.catalogue)
    repeated = cases_of(split, "recommend", Targets(histories, np.array([0]), np.array([3])), exclude_seen=False)
    for _, score in baselines.seen_again(split.train.catalogue, NO_TIE_BREAK):
        assert baselines.scores_of(repeated, score)["rank"][0] <= 3
    _, score = next(baselines.seen_again(split.train.catalogue, NO_TIE_BREAK))
    found = baselines.evaluate(repeated, {"seen again": baselines.Chosen({"half_life": np.inf}, score, 1.0)})
    assert found["cases"] == 1
    assert found["baselines"]["seen again"]["parameters"] == {"half_life": "infinite"}


def test_choose_takes_the_best_of_validation_in_the_right_direction(split):
    ratings = cases_of(split, "rate", split.validation)
    truth = float(np.mean([request["answer"] for request in ratings.requests]))
    variants = [({"stars": value}, lambda case, value=value: np.array([value])) for value in (1.0, truth, 5.0)]
    assert baselines.choose(variants, [ratings])["rate"].parameters == {"stars": truth}
    recommend = cases_of(split, "recommend", split.validation)
    target = recommend.cases[0].target.item_id
    knows = np.arange(6) == split.train.catalogue.number(target)
    variants = [({"knows": value}, lambda case, value=value: value * knows.astype(float)) for value in (-1, 1)]
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
    case = Case("new", [Interaction("m2", 0.0, 4.0), Interaction("h1", 1.0, 2.0)], Interaction("s1", 2.0))
    tie_break = np.arange(6) / 6
    families = [
        baselines.popularity,
        baselines.recent_popularity,
        lambda part: baselines.item_knn(part, tie_break),
        lambda part: baselines.ease(part, tie_break),
        lambda part: baselines.constant_stars(part, np.median),
        baselines.shoppers_mean,
        baselines.user_and_item,
    ]
    for family in families:
        for (ours, score), (theirs, other_score) in zip(family(split.train), family(other.train), strict=True):
            assert ours == theirs
            np.testing.assert_array_equal(score(case), other_score(case))


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
    arguments += ["--k_core", "2", "--seed", "7", "--output_dir", str(tmp_path / "out"), "--tasks", *tasks]
    arguments += ["--attributes", "title", "category"]  # others are kept from the baselines as from UniMP
    monkeypatch.setattr(sys, "argv", arguments)
    for name in ("HALF_LIVES", "NEIGHBOURS", "KNN_SHRINKAGES", "EASE_PENALTIES", "BLEND_WEIGHTS", "RATING_PENALTIES"):
        monkeypatch.setattr(baselines, name, getattr(baselines, name)[-2:])
    baselines.main()
    record = json.loads((tmp_path / "out/baselines.json").read_text())
    assert (tmp_path / "out/baselines.md").read_text() in capsys.readouterr().out
    assert record["seed"] == 7 and set(record["results"]) == {"test", "new users"}

    same_attribute = record["results"]["test"]["select"]["baselines"]["same attribute as in the history"]
    assert same_attribute["parameters"]["attribute"] in ("title", "category")

    data_args, _, args = parse_recipe()
    catalogue, histories = load_shop(data_args)
    split = split_histories(histories, catalogue, data_args, args.seed)
    for cases in evaluation_cases_of(split.test, data_args, catalogue, args.seed, data_args.max_test_cases):
        if cases.task.name == "explain":
            assert "explain" not in record["results"]["test"]
            continue
        found = record["results"]["test"][cases.task.name]
        assert found["cases"] == len(cases)
        trivial = cases.baselines(split.train)
        same = {
            "recommend": ("popularity", "popularity"),
            "search": ("popularity", "popularity in query"),
            "rate": ("mean", "constant (training mean)"),
            "select": ("choose all", "choose all"),
        }
        ours, theirs = same[cases.task.name]
        row = found["baselines"][ours]
        assert row["metrics"] == pytest.approx(trivial[theirs])
        assert row["interval"][0] <= row["metrics"][found["headline"]] <= row["interval"][1]
