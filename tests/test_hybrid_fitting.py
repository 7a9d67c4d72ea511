"""Closed-form scores beside a network: what the fit finds, and a model that answers with them everywhere alike."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from shop import make_model, make_processor

from modeling_unimp import (
    PersonalizationPipeline,
    UniMPForConditionalGeneration,
    UniMPTrainer,
    UniMPTrainingArguments,
)
from modeling_unimp.answering import outputs_of
from modeling_unimp.hybrid_scores import HYBRID_FILE, Score, numbers_of, stars_of_history
from modeling_unimp.ranking import rank_items
from modeling_unimp.serving import batch_scoring
from modeling_unimp.training import hybrid_fitting
from modeling_unimp.training.closed_form import closed_form_scores, term_indices
from modeling_unimp.training.evaluation import closed_form_outputs, evaluate_model, fit_in_words, rows_of
from modeling_unimp.training.hybrid_fitting import fit_closed_form, fit_hybrid
from modeling_unimp.training.rating_factors import biases
from processing_unimp import Catalogue, EvaluationCases, ExampleSource, Histories, UniMPProcessor, leave_last_out
from processing_unimp.metrics.summary import summarise
from processing_unimp.task import stacked

TASKS = ("recommend", "search", "select", "rate")
NUM_ITEMS = 24


@pytest.fixture(scope="module")
def split():
    """Shoppers of two kinds: each takes items of the own half, in turn, and likes the even ones."""
    rng = np.random.default_rng(0)
    kinds = ["mug"] * 12 + ["shoe"] * 12
    items = [
        {"item_id": f"i{number}", "title": f"{kind} number {number}", "category": kind}
        for number, kind in enumerate(kinds)
    ]
    rows = []
    for user in range(80):
        first, half = int(rng.integers(12)), 12 * (user % 2)
        for time in range(6):
            number = half + (first + time) % 12
            stars = 5 - 3 * (number % 2)
            rows.append({"user_id": str(user), "item_id": f"i{number}", "timestamp": time, "rating": stars})
    return leave_last_out(Histories.from_interactions(rows, Catalogue.from_items(items)), new_users=0.1)


def cases_of(targets, catalogue):
    return [
        EvaluationCases.of(
            task,
            targets,
            ExampleSource(catalogue, np.random.default_rng(1), history_length=200, query_attribute="category"),
            exclude_seen=True,
        )
        for task in TASKS
    ]


@pytest.fixture(scope="module")
def fitted(split):
    """An untrained model with closed-form scores, and these without it."""
    catalogue = split.train.catalogue
    processor: UniMPProcessor = make_processor(catalogue)
    model = make_model(processor)
    validation = cases_of(split.validation, catalogue)
    hybrid = closed_form_scores(split.train, None, "category", True)
    model.hybrid_scores, alone, _ = fit_hybrid(hybrid, model, processor, validation, split.train)
    return PersonalizationPipeline(model=model, processor=processor, device="cpu"), alone


def test_biases_solve_the_ridge_equations(split):
    mean, of_users, of_items = biases(split.train, user_penalty=2.0, item_penalty=0.5)
    num_users = len(split.train)
    design = np.zeros((split.train.num_interactions, num_users + NUM_ITEMS))
    rows = np.arange(len(design))
    design[rows, split.train.user_numbers] = design[rows, num_users + split.train.item_numbers] = 1
    assert mean == split.train.ratings.mean()
    penalty = np.diag([2.0] * num_users + [0.5] * NUM_ITEMS)
    direct = np.linalg.solve(design.T @ design + penalty, design.T @ (split.train.ratings - mean))
    np.testing.assert_allclose(np.concatenate([of_users, of_items]), direct, atol=1e-4)


def test_what_a_query_is_looked_up_in(split):
    indices = term_indices(split.train.catalogue, "category")
    found = torch.zeros(NUM_ITEMS)
    indices["query words"].add_to(found, "number 13")
    assert found.argmax() == 13
    # Each item has four words, title and category; "mug" twice in 12 of 24 items.
    mug = torch.zeros(NUM_ITEMS)
    indices["query words"].add_to(mug, "mug")
    idf = math.log(1 + (24 - 12 + 0.5) / (12 + 0.5))
    torch.testing.assert_close(mug, torch.tensor([idf * 2 / (2 + 1.5)] * 12 + [0.0] * 12))
    for name in ("query value", "query attribute"):
        found = torch.zeros(NUM_ITEMS)
        indices[name].add_to(found, "Shoe")
        assert found.tolist() == [0.0] * 12 + [1.0] * 12


def test_what_is_not_to_be_read_finds_nothing(split):
    """Of items with a title and a category, the recipe names the category."""
    hybrid = closed_form_scores(split.train, None, "category", True, ["category"])
    grown = hybrid.with_items({NUM_ITEMS: {"item_id": "new", "title": "Secret", "category": "hat"}})
    for each in (hybrid, grown):
        words, values = each.terms["query words"], each.terms["query value"]
        assert not {"number", "secret"} & words.vocabulary.keys() and {"mug", "shoe"} <= words.vocabulary.keys()
        assert all(value in ("mug", "shoe", "hat") for value in values.vocabulary)
    # By its title it would be like any other item.
    assert grown.stand_ins == {} and grown.raw(Score("query words"), [[]], ["hat"])[0, NUM_ITEMS] > 0


def test_the_pattern_is_found_whatever_the_network_says(fitted, split):
    unimp, alone = fitted
    least = {"recommend": 0.8, "search": 0.8, "select": 0.9}
    for cases in cases_of(split.test, split.train.catalogue):
        outputs = outputs_of(unimp.model, unimp.processor, cases.requests, cases.task.answer_group)
        found = summarise(cases.task, stacked(cases.score(place, output) for place, output in enumerate(outputs)))
        if cases.task.name == "rate":
            assert found["rmse"] < 0.5
        else:
            assert found[cases.task.headline] > least[cases.task.name], cases.task.name
    unimp.model.hybrid_scores, hybrid = None, unimp.model.hybrid_scores
    try:
        (recommend, *_) = cases_of(split.test, split.train.catalogue)
        logits = torch.from_numpy(
            np.stack(list(outputs_of(unimp.model, unimp.processor, recommend.requests, "items")))
        )
    finally:
        unimp.model.hybrid_scores = hybrid
    ranked = alone.add_to_requests(torch.zeros_like(logits), recommend.requests, split.train.catalogue)
    truth = torch.tensor(numbers_of([request["answer"] for request in recommend.requests], split.train.catalogue))
    assert (rank_items(ranked, 10)[1] == truth[:, None]).any(dim=1).float().mean() > 0.8


def test_a_draw_of_the_items_fits_as_all_of_them_do(split, monkeypatch):
    """24 items all compete; then the best two of each score, and eight of the others that stand for them."""
    validation = [each for each in cases_of(split.validation, split.train.catalogue) if each.task.name == "recommend"]
    (test, *_) = cases_of(split.test, split.train.catalogue)
    fitted = []
    for best, drawn in ((50, 1_000), (2, 8)):
        monkeypatch.setattr(hybrid_fitting, "BEST_OF_SCORE", best)
        monkeypatch.setattr(hybrid_fitting, "NUM_DRAWN", drawn)
        hybrid = closed_form_scores(split.train, None, "category", True)
        alone = fit_closed_form(hybrid, validation, split.train)
        nothing = torch.zeros(len(test), NUM_ITEMS)
        scores = alone.add_to_requests(nothing, list(test.requests), split.train.catalogue).log_softmax(-1)
        for row, request in enumerate(test.requests):  # what a shopper has is not asked for
            scores[row, numbers_of(request["history"], split.train.catalogue)] = -math.inf
        fitted.append(scores)
    truth = torch.tensor(numbers_of([request["answer"] for request in test.requests], split.train.catalogue))
    ranks = [(each >= each.gather(1, truth[:, None])).sum(dim=1) for each in fitted]
    # Popularity may be chosen in one and not in the other; chance has a mean reciprocal rank of .16.
    reciprocal = [(1 / each).mean().item() for each in ranks]
    assert reciprocal[0] > 0.9 and reciprocal[1] == pytest.approx(reciprocal[0], abs=0.05)


def test_the_stars_follow_the_shoppers(fitted):
    unimp, _ = fitted
    history = [{"item_id": f"i{n}", "rating": 5 - 3 * (n % 2)} for n in range(4)]
    even, odd = (unimp({"task": "rate", "history": history, "item": item})["stars"] for item in ("i6", "i7"))
    assert even > 4 and odd < 3


def test_stars_of_a_few_shoppers_are_those_of_biases_and_factors():
    """Eight validation cases say little of nine numbers: no star is impossible, and the mean is that of both."""
    catalogue = Catalogue.from_items([{"item_id": f"i{number}", "category": "mug"} for number in range(12)])
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": str(user), "item_id": f"i{number}", "timestamp": time, "rating": 5 if number % 2 else 4}
        for user in range(8)
        for time, number in enumerate(rng.permutation(12)[:6])
    ]
    few = leave_last_out(Histories.from_interactions(rows, catalogue), new_users=0.0)
    validation = [each for each in cases_of(few.validation, catalogue) if each.task.name == "rate"]
    scores = fit_closed_form(closed_form_scores(few.train, None, None, True), validation, few.train).stars
    assert scores is not None
    estimate = scores.estimate([(1, 5.0), (0, 4.0)], 2)
    probabilities = scores.probabilities(np.full(5, 0.2), estimate)
    assert probabilities.min() > 0 and 4 < estimate[0] < 5
    assert probabilities @ np.arange(1, 6) == pytest.approx(estimate[0] + estimate[2], abs=0.05)


def stars_fitted_on(rows, catalogue):
    """The closed form of stars, and the requests of the test part."""
    shop = leave_last_out(Histories.from_interactions(rows, catalogue), new_users=0.0)
    (validation,), (test,) = (
        [each for each in cases_of(part, catalogue) if each.task.name == "rate"]
        for part in (shop.validation, shop.test)
    )
    hybrid = fit_closed_form(closed_form_scores(shop.train, None, None, True), [validation], shop.train)
    return hybrid.stars, test.requests


def test_what_items_rated_alike_tell_counts_though_its_numbers_are_small():
    """Everybody gives a pair of items the same stars, at random, and few have both of a pair."""
    catalogue = Catalogue.from_items([{"item_id": f"{half}{pair}"} for pair in range(100) for half in "ab"])
    rng = np.random.default_rng(0)
    rows = []
    for user in range(300):
        pairs, stars = rng.choice(100, size=3, replace=False), rng.integers(1, 6, size=3)
        taken = [(f"{half}{pair}", int(given)) for half in "ab" for pair, given in zip(pairs, stars, strict=True)]
        rows += [
            {"user_id": str(user), "item_id": taken[place][0], "timestamp": time, "rating": taken[place][1]}
            for time, place in enumerate(rng.permutation(6))
        ]
    scores, requests = stars_fitted_on(rows, catalogue)
    errors = []
    for request in requests:
        history, (item,) = stars_of_history(request["history"], catalogue), numbers_of([request["item"]], catalogue)
        estimate = scores.estimate(history, item)
        errors.append(scores.probabilities(np.full(5, 0.2), estimate) @ np.arange(1, 6) - request["answer"])
    # By chance 1.45; drawn to nothing in its own units it would be .98.
    assert np.sqrt(np.mean(np.square(errors))) < 0.9


def test_factors_of_a_shop_that_has_none_get_no_huge_weight():
    """The stars are those of the item, and a little chance: what the factors add is next to nothing."""
    catalogue = Catalogue.from_items([{"item_id": f"i{number}"} for number in range(60)])
    rng = np.random.default_rng(3)
    quality = rng.normal(size=60)
    rows = [
        {
            "user_id": str(user),
            "item_id": f"i{number}",
            "timestamp": time,
            "rating": int(np.clip(round(3 + 1.2 * quality[number] + 0.5 * rng.normal()), 1, 5)),
        }
        for user in range(200)
        for time, number in enumerate(rng.permutation(60)[:6])
    ]
    scores, _ = stars_fitted_on(rows, catalogue)
    assert scores.factored < 100  # 4,000 where it counts in units of its own spread


def test_stars_that_the_network_alone_tells_are_its_own(monkeypatch):
    """Of stars at random biases tell nothing, and a blend of nine numbers cannot be fitted on 24 cases."""
    catalogue = Catalogue.from_items([{"item_id": f"i{number}", "category": "mug"} for number in range(12)])
    rng = np.random.default_rng(1)
    rows = [
        {"user_id": str(user), "item_id": f"i{number}", "timestamp": time, "rating": int(rng.integers(1, 6))}
        for user in range(24)
        for time, number in enumerate(rng.permutation(12)[:6])
    ]
    few = leave_last_out(Histories.from_interactions(rows, catalogue), new_users=0.0)
    validation = [each for each in cases_of(few.validation, catalogue) if each.task.name == "rate"]
    truth = np.array([request["answer"] for request in validation[0].requests]) - 1
    logits = rng.normal(size=(len(truth), 5))
    network = torch.from_numpy(logits + 1.5 * np.eye(5)[truth]).softmax(dim=-1).numpy()
    monkeypatch.setattr(hybrid_fitting, "outputs_of", lambda model, processor, requests, group, **_: iter(network))
    model, processor = make_model(make_processor(catalogue)), make_processor(catalogue)
    hybrid, _, fit = fit_hybrid(
        closed_form_scores(few.train, None, None, True), model, processor, validation, few.train
    )
    assert fit["rate"]["weight"] == 1 and fit["rate"]["together"] == pytest.approx(fit["rate"]["network"], abs=1e-6)
    assert fit["rate"]["network"] < fit["rate"]["closed_form"]
    np.testing.assert_allclose(hybrid.stars.probabilities(network[0], (3.0, 0.0, 0.0)), network[0], rtol=1e-5)


def test_a_selection_never_contradicts_a_recommendation(fitted):
    unimp, _ = fitted
    history = ["i3", "i4", "i5"]
    ranking = unimp({"task": "recommend", "history": history}, top_k=NUM_ITEMS, exclude_seen=False)["items"]
    place = {item["item_id"]: number for number, item in enumerate(ranking)}
    candidates = ["i20", "i6", "i14", "i9"]
    chosen = unimp({"task": "select", "history": history, "candidates": candidates})["items"]
    assert [item["item_id"] for item in chosen] == candidates
    in_order = sorted(chosen, key=lambda item: place[item["item_id"]])
    scores = [item["score"] for item in in_order]
    assert in_order[0]["item_id"] == "i6" and scores == sorted(scores, reverse=True)
    assert sum(item["score"] for item in chosen) == pytest.approx(1)
    described = {"title": "Mug number 6", "category": "mug"}
    stranger, other = unimp({"task": "select", "history": history, "candidates": [described, "i20"]})["items"]
    assert stranger["score"] > other["score"]


def test_a_selection_that_the_fit_did_not_ask_for_follows_the_ranking_too(fitted):
    unimp, _ = fitted
    history, candidates = ["i3", "i4", "i5"], ["i20", "i6", "i14", "i9"]
    request = {"task": "select", "history": history, "candidates": candidates}
    asked = unimp(request)["items"]
    hybrid = unimp.model.hybrid_scores
    weights = {task: each for task, each in hybrid.weights.items() if task != "select"}
    try:
        unimp.model.hybrid_scores = hybrid.with_weights(weights, hybrid.stars, hybrid.search_reads)
        chosen = unimp(request)["items"]
        ranked = unimp({"task": "recommend", "history": history}, allowed=candidates, exclude_seen=False)["items"]
    finally:
        unimp.model.hybrid_scores = hybrid

    def in_order(items):
        return [item["item_id"] for item in sorted(items, key=lambda item: -item["score"])]

    assert in_order(chosen) == in_order(asked) == in_order(ranked)


def test_probabilities_are_those_among_the_candidates_still_sold(fitted, split, monkeypatch):
    unimp, alone = fitted
    catalogue = Catalogue.from_items([*split.train.catalogue.items()])
    monkeypatch.setattr(unimp.processor, "catalogue", catalogue)

    def scores_of(*candidates):
        request = {"task": "select", "history": ["i3", "i4", "i5"], "candidates": list(candidates)}
        answered = unimp([request, request | {"candidates": ["i2", *candidates]}])[0]["items"]
        return {item["item_id"]: item["score"] for item in answered}

    expected = scores_of("i20", "i14")
    catalogue.retire(["i6", "i9"])
    assert scores_of("i20", "i6", "i14") == pytest.approx(expected | {"i6": 0}, rel=1e-4)
    assert scores_of("i6", "i9") == {"i6": 0, "i9": 0}
    (cases,) = [each for each in cases_of(split.test, catalogue) if each.task.name == "select"]
    catalogue.retire(cases.requests[0]["candidates"][1:])
    kept = next(iter(closed_form_outputs(cases, alone)))
    assert kept.tolist() == [1] + [0] * (len(kept) - 1)


def test_tasks_may_be_mixed_in_a_batch(fitted):
    unimp, _ = fitted
    requests = [
        {"task": "recommend", "history": ["i3", "i4"]},
        {"task": "search", "history": ["i3", "i4"], "query": "shoe"},
        {"task": "select", "history": ["i3"], "candidates": ["i4", "i20"]},
        {"task": "recommend", "history": ["i14"]},
    ]
    assert unimp(requests) == [unimp(request) for request in requests]


def test_scores_are_the_documented_sum(fitted):
    unimp, _ = fitted
    model, processor = unimp.model, unimp.processor
    request = {"task": "recommend", "history": ["i3", "i4"]}
    (output,) = outputs_of(model, processor, [request], "items")
    hybrid, model.hybrid_scores = model.hybrid_scores, None
    try:
        (network,) = outputs_of(model, processor, [request], "items")
    finally:
        model.hybrid_scores = hybrid
    expected = hybrid.weights["recommend"][0] * torch.from_numpy(network).log_softmax(-1)
    for weight, score in zip(hybrid.weights["recommend"][1:], hybrid.scores, strict=True):
        expected += weight * hybrid.squashed(score, [[3, 4]])[0]
    torch.testing.assert_close(torch.from_numpy(output), expected)
    assert all(math.isfinite(weight) and weight >= 0 for weight in hybrid.weights["recommend"])


@pytest.mark.parametrize("reads", ["search", "recommend"])
def test_a_search_asks_the_network_what_the_fit_chose(fitted, reads):
    unimp, _ = fitted
    model, processor, hybrid = unimp.model, unimp.processor, unimp.model.hybrid_scores
    weights = hybrid.weights | {"search": [1.0] + [0.5] * len(hybrid.scores)}
    request = {"task": "search", "history": ["i3", "i4"], "query": "shoe"}
    try:
        model.hybrid_scores = chosen = hybrid.with_weights(weights, hybrid.stars, reads)
        (output,) = outputs_of(model, processor, [request], "items")
        best = unimp(request, top_k=NUM_ITEMS, exclude_seen=False)["items"][0]
        model.hybrid_scores = None
        read = request if reads == "search" else {"task": "recommend", "history": request["history"]}
        (network,) = outputs_of(model, processor, [read], "items")
    finally:
        model.hybrid_scores = hybrid
    expected = torch.from_numpy(network).log_softmax(-1)
    for score in chosen.scores:
        expected += 0.5 * chosen.squashed(score, [[3, 4]], ["shoe"])[0]
    torch.testing.assert_close(torch.from_numpy(output), expected)
    assert processor.catalogue.number(best["item_id"]) == int(expected.argmax())


@pytest.mark.parametrize("reads", ["search", "recommend"])
@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"task": "search"}, "query None: expected a text"),
        ({"task": "search", "query": " "}, "query ' ': expected a text"),
        ({"task": "search", "query": 5}, "query 5: expected a text"),
        ({"task": "select"}, "candidates None: expected a list"),
        ({"task": "select", "candidates": "i1"}, "candidates 'i1': expected a list"),
        ({"task": "select", "candidates": []}, "expected a list"),
        ({"task": "select", "candidates": ["i1", "m7"]}, "a candidate: item 'm7' is not among"),
        ({"task": "select", "candidates": [None]}, "a candidate is a NoneType"),
        ({"task": "select", "candidates": [{}]}, "no 'item_id', no attributes"),
    ],
)
def test_a_question_that_the_network_is_not_asked_is_checked(fitted, reads, request_, message):
    """As without closed-form scores, in the caller's place."""
    unimp, _ = fitted
    hybrid = unimp.model.hybrid_scores
    requests = [{"task": "recommend", "history": ["i1"]}, request_ | {"history": ["i1"]}]
    try:
        for scores in (None, hybrid.with_weights(hybrid.weights, hybrid.stars, reads)):
            unimp.model.hybrid_scores = scores
            with pytest.raises(ValueError, match=f"^request 1: .*{message}"):
                unimp(requests)
    finally:
        unimp.model.hybrid_scores = hybrid


def test_a_saved_model_answers_the_same(fitted, tmp_path):
    unimp, _ = fitted
    unimp.save_pretrained(tmp_path / "unimp")
    assert (tmp_path / "unimp" / HYBRID_FILE).is_file()
    loaded = PersonalizationPipeline(
        model=UniMPForConditionalGeneration.from_pretrained(tmp_path / "unimp"),
        processor=UniMPProcessor.from_pretrained(tmp_path / "unimp"),
        device="cpu",
    )
    for request in (
        {"task": "recommend", "history": ["i3", "i4"]},
        {"task": "search", "history": ["i3", "i4"], "query": "shoe"},
        {"task": "rate", "history": [{"item_id": "i3", "rating": 2}], "item": "i8"},
    ):
        assert loaded(request) == unimp(request)
    content = bytearray((tmp_path / "unimp" / HYBRID_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / "unimp" / HYBRID_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=HYBRID_FILE):
        UniMPForConditionalGeneration.from_pretrained(tmp_path / "unimp")
    loaded.model.hybrid_scores = None
    loaded.model.save_pretrained(tmp_path / "unimp")
    assert UniMPForConditionalGeneration.from_pretrained(tmp_path / "unimp").hybrid_scores is None


def test_what_was_added_or_changed_live_is_found(split):
    """Without these scores a new item could hardly be found by search: they count for more than the network."""
    shop = split.train.catalogue
    catalogue = Catalogue.from_items(list(map(shop.item, shop.item_ids)))
    processor = make_processor(catalogue)
    model = make_model(processor)
    hybrid = closed_form_scores(split.train, None, "category", True)
    weights = [0.0, *(float(score.source == "query attribute") for score in hybrid.scores)]
    model.hybrid_scores = hybrid.with_weights({"search": weights}, None)
    unimp = PersonalizationPipeline(model=model, processor=processor, device="cpu")
    unimp.add_items([{"item_id": "new", "title": "Mug number teal", "category": "mug"}])
    unimp.update_items([{"item_id": "i20", "category": "mug"}])

    def scores(query: str) -> dict[str, float]:
        request = {"task": "search", "history": ["i3", "i14"], "query": query}
        found = unimp(request, top_k=NUM_ITEMS + 1, exclude_seen=False)["items"]
        return {item["item_id"]: item["score"] for item in found}

    found = {query: scores(query) for query in ("mug", "Shoe ")}
    best = {
        query: {item_id for item_id in each if each[item_id] == max(each.values())} for query, each in found.items()
    }
    assert best["mug"] == {*(f"i{number}" for number in (*range(12), 20)), "new"}
    assert best["Shoe "] == {f"i{number}" for number in range(12, 24) if number != 20}
    like = model.hybrid_scores.stand_ins[catalogue.number("new")]
    assert catalogue.item(catalogue.item_id(like))["category"] == "mug"
    unimp({"task": "recommend", "history": ["new"]})


def test_an_item_that_is_new_in_the_fit_goes_with_what_its_like_goes_with(split):
    """Nobody took `i5`, `i6` and `i7`; `i6` says just what `i4` says."""
    train = split.train.where(~np.isin(split.train.item_numbers, [5, 6, 7]))
    shop = train.catalogue
    items = [shop.item(item_id) | ({"title": "mug number 4"} if item_id == "i6" else {}) for item_id in shop.item_ids]
    catalogue = Catalogue.from_items(items)
    rows = [
        {"user_id": str(user), "item_id": catalogue.item_id(number), "timestamp": time}
        for user in range(len(train))
        for time, number in enumerate(train.items_of(user).tolist())
    ]
    train = Histories.from_interactions(rows, catalogue)
    new = train.item_counts() == 0
    assert np.flatnonzero(new).tolist() == [5, 6, 7]
    known = closed_form_scores(train, None, "category", True)
    hybrid = closed_form_scores(train, None, "category", True, new_items=new)
    assert hybrid.stand_ins[6] == 4 and not {5, 6, 7} & {*hybrid.stand_ins.values()}
    popularity = hybrid.raw(Score("popularity"), [()])[0]
    assert popularity[6] == popularity[4] > known.raw(Score("popularity"), [()])[0, 6]
    transitions = Score("transitions", math.inf)
    assert known.raw(transitions, [[3]])[0, 6] == 0
    assert hybrid.raw(transitions, [[3]])[0, 6] == 0.75 * hybrid.raw(transitions, [[3]])[0, 4] > 0
    # What its words tell by themselves stays.
    text = Score("text", math.inf)
    assert (hybrid.raw(text, [[0]])[0] >= known.raw(text, [[0]])[0]).all()
    # One that is added later is like one that the fit knew well.
    grown = hybrid.with_items({NUM_ITEMS: {"title": "mug number 4", "category": "mug"}})
    assert grown.stand_ins[NUM_ITEMS] == 4


def test_the_fit_says_whether_the_network_earns_its_weight(split, caplog):
    catalogue = split.train.catalogue
    processor = make_processor(catalogue)
    validation = cases_of(split.validation, catalogue)
    with caplog.at_level("INFO", logger="train"):
        together, alone, fit = fit_hybrid(
            closed_form_scores(split.train, None, "category", True),
            make_model(processor),
            processor,
            validation,
            split.train,
        )
    said = [line for line in caplog.messages if line.startswith("hybrid ")]
    assert said == [f"hybrid {task}: {fit_in_words(task, fit[task])}" for task in ("recommend", "search", "rate")]
    assert all("the network does not earn its weight here" in line for line in said[:2])
    weights = [fit[task]["weight"] for task in ("recommend", "search", "rate")]
    assert weights == [0, 0, together.stars.network]
    *_, rate = validation
    closed = rate.scores(closed_form_outputs(rate, alone))
    assert fit["rate"]["closed_form"] == pytest.approx(summarise(rate.task, closed)["rmse"])
    assert fit["rate"]["network"] > fit["rate"]["together"] and fit["rate"]["cases"] == len(rate)


def test_without_validation_cases_the_fit_says_that_there_is_none(split, caplog):
    catalogue = split.train.catalogue
    processor = make_processor(catalogue)
    validation = cases_of(split.validation.take(np.array([], dtype=np.int64)), catalogue)
    hybrid = closed_form_scores(split.train, None, "category", True)
    with caplog.at_level("INFO", logger="train"):
        together, _, fit = fit_hybrid(hybrid, make_model(processor), processor, validation, split.train)
    assert together.weights == {} and fit == {"recommend": None, "search": None, "rate": None}
    said = [line for line in caplog.messages if line.startswith("hybrid ")]
    assert len(said) == 3 and all("no closed-form scores could be fitted" in line for line in said)


def test_a_weight_is_told_and_what_the_network_is_asked():
    found = {"metric": "ndcg@10", "cases": 1200, "network": 0.05, "closed_form": 0.17, "together": 0.1712}
    assert fit_in_words("search", found | {"weight": 0.254, "asked": "recommend"}) == (
        "NDCG@10 on 1,200 validation cases: network 0.0500, closed form 0.1700, together 0.1712; "
        "weight of the network 0.25, which is asked to recommend"
    )


def test_the_parts_stand_beside_the_model(split, tmp_path):
    """What a table shows: network and closed form together, and each alone, on the same cases."""
    catalogue = split.train.catalogue
    processor = make_processor(catalogue)
    model = make_model(processor)
    test = cases_of(split.test, catalogue)
    arguments = UniMPTrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", eval_strategy="no", load_best_model_at_end=False
    )
    trainer = UniMPTrainer(model=model, args=arguments, processing_class=processor)
    assert "network alone" not in evaluate_model(trainer, test, split.train)["recommend"]["parts"]
    network = {cases.task.name: summarise(cases.task, trainer.score_cases([cases])[cases.task.name]) for cases in test}
    hybrid = closed_form_scores(split.train, None, "category", True)
    validation = cases_of(split.validation, catalogue)
    model.hybrid_scores, alone, _ = fit_hybrid(hybrid, model, processor, validation, split.train)
    for task, result in evaluate_model(trainer, test, split.train, alone).items():
        assert list(rows_of(result))[:3] == ["UniMP", "network alone", "closed form alone"]
        assert {name: result["parts"]["network alone"][name] for name in network[task]} == pytest.approx(network[task])
        assert result["model"] != pytest.approx(network[task])
        closed, headline = result["parts"]["closed form alone"], result["headline"]
        assert abs(closed[headline] - result["model"][headline]) < 0.2, "an untrained network adds little"


@pytest.mark.parametrize(("query", "reads"), [(None, "search"), ("shoe", "search"), ("shoe", "recommend")])
def test_many_shoppers_are_answered_as_by_the_pipeline(fitted, tmp_path, monkeypatch, query, reads):
    unimp, _ = fitted
    hybrid = unimp.model.hybrid_scores
    weights = hybrid.weights | {"search": [1.0] + [0.5] * len(hybrid.scores)}
    monkeypatch.setattr(unimp.model, "hybrid_scores", hybrid.with_weights(weights, hybrid.stars, reads))
    unimp.save_pretrained(tmp_path / "unimp")
    histories = {"ada": ["i3", "i4"], "bob": [f"i{number}" for number in range(12, 20)], "new": []}
    rows = [{"user_id": user, "history": history} for user, history in histories.items()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "histories.parquet")
    options = [] if query is None else ["--query", query]
    batch_scoring.main(
        ["--model", str(tmp_path / "unimp"), "--histories", str(tmp_path / "histories.parquet"),
         "--output", str(tmp_path / "best.parquet"), "--top_k", "5", "--device", "cpu", *options]
    )  # fmt: skip
    found = pq.read_table(tmp_path / "best.parquet").to_pylist()
    for user, history in histories.items():
        request = {"task": "recommend", "history": history}
        if query is not None:
            request |= {"task": "search", "query": query}
        expected = unimp(request, top_k=5)["items"]
        own = [row for row in found if row["user_id"] == user]
        assert [row["item_id"] for row in own] == [item["item_id"] for item in expected]
        assert [row["score"] for row in own] == pytest.approx([item["score"] for item in expected], rel=1e-3)
