"""Closed-form similarities: against dense formulas, and by hand."""

import math

import numpy as np
import pytest
import torch

from modeling_unimp.training import closed_form, item_similarity, linear_models
from modeling_unimp.training.closed_form import closed_form_scores
from modeling_unimp.training.item_similarity import (
    Neighbours,
    item_knn,
    picture_similarity,
    rated_alike,
    term_vectors,
    text_similarity,
    users_by_items,
    windowed_transitions,
)
from modeling_unimp.training.linear_models import ease, inverse_of_users, pairs_in_order, taken_after
from processing_unimp import Catalogue, Histories


@pytest.fixture(scope="module")
def train() -> Histories:
    rng = np.random.default_rng(0)
    catalogue = Catalogue.from_items([{"item_id": str(number)} for number in range(12)])
    rows = [
        {"user_id": str(user), "item_id": str(item), "timestamp": time, "rating": int(rng.integers(1, 6))}
        for user in range(30)
        for time, item in enumerate(rng.choice(12, size=6, replace=False))
    ]
    return Histories.from_interactions(rows, catalogue)


def dense(found: Neighbours, num_items: int) -> np.ndarray:
    matrix = np.zeros((num_items, num_items))
    for row, (items, values) in enumerate(zip(*found, strict=True)):
        np.add.at(matrix[row], items, values)
    return matrix


def test_ease_is_the_closed_form(train):
    x = users_by_items(train).toarray().astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + 10 * np.eye(12))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    found = ease(inverse_of_users(train, 10.0))
    np.testing.assert_allclose(dense(found, 12), weights, atol=1e-5)
    assert (found.values < 0).any()  # some speak against one another
    # Of a few the largest by their absolute value, whatever they say.
    few = ease(inverse_of_users(train, 10.0), k=3)
    sizes = np.sort(np.abs(weights), axis=1)[:, ::-1]
    np.testing.assert_allclose(np.abs(few.values), sizes[:, :3], atol=1e-5)
    np.testing.assert_allclose(few.values, np.take_along_axis(weights, few.items, axis=1), atol=1e-5)


def test_ease_with_content_counts_similarity_as_shoppers(train, monkeypatch):
    """By a third of the penalty times the cosine of terms and the square of that of centred pictures."""
    monkeypatch.setattr(linear_models, "ROWS_AT_ONCE", 5)
    words = [{"item_id": str(number), "kind": "ab"[number % 2], "size": "xyz"[number % 3]} for number in range(12)]
    terms = term_vectors(Catalogue.from_items(words))
    pictures = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    pictures[3] = 0  # no picture
    has = np.arange(12) != 3
    unit = np.zeros((12, 4))
    unit[has] = pictures[has] - pictures[has].mean(axis=0)
    unit[has] /= np.linalg.norm(unit[has], axis=1, keepdims=True)
    x = users_by_items(train).toarray().astype(np.float64)
    similarity = (terms @ terms.T).toarray() + np.square(unit @ unit.T)
    inverse = np.linalg.inv(x.T @ x + 30 / 3 * similarity + 30 * np.eye(12))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    found = ease(inverse_of_users(train, 30.0, terms=terms, pictures=pictures))
    np.testing.assert_allclose(dense(found, 12), weights, atol=1e-5)


def test_an_inverse_of_several_blocks_in_its_own_memory(monkeypatch):
    monkeypatch.setattr(linear_models, "ROWS_AT_ONCE", 3)
    factors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    matrix = factors.T @ factors + np.eye(8, dtype=np.float32)
    expected = np.linalg.inv(matrix)
    inverse = linear_models._inverse_in_place(matrix)
    np.testing.assert_allclose(inverse, expected, atol=1e-5)
    assert np.shares_memory(inverse, matrix)


def test_linear_models_of_a_large_catalogue_are_those_of_what_was_taken(monkeypatch):
    """Items that nobody took change nothing of the others, and have no neighbours."""
    rng = np.random.default_rng(0)
    taken = np.sort(rng.permutation(30)[:12])
    rows = [
        {"user_id": str(user), "item_id": str(number), "timestamp": time}
        for user in range(40)
        for time, number in enumerate(rng.choice(taken, size=5, replace=False))
    ]
    train = Histories.from_interactions(rows, Catalogue.from_items([{"item_id": str(n)} for n in range(30)]))
    whole = inverse_of_users(train, 10.0)
    expected = dense(ease(whole), 30), dense(taken_after(train, whole), 30)
    monkeypatch.setattr(linear_models, "MOST_DENSE_ITEMS", 20)
    inverse = inverse_of_users(train, 10.0)
    assert inverse.matrix.shape == (12, 12)
    for found, other in zip((ease(inverse), taken_after(train, inverse)), expected, strict=True):
        np.testing.assert_allclose(dense(found, 30), other, atol=1e-6)
    assert closed_form_scores(train, None, None, exclude_seen=True).neighbours.keys() == {
        "EASE 10",
        "EASE 100",
        "taken after",
        "transitions",
    }


def test_what_was_taken_oftenest_has_linear_models_and_all_has_neighbours(train, monkeypatch):
    monkeypatch.setattr(linear_models, "MOST_DENSE_ITEMS", 5)
    inverse = inverse_of_users(train, 10.0)
    counts = train.item_counts()
    assert len(inverse.items) == 5 and counts[inverse.items].min() >= np.delete(counts, inverse.items).max()
    x = users_by_items(train).toarray()[:, inverse.items]
    np.testing.assert_allclose(inverse.matrix, np.linalg.inv(x.T @ x + 10 * np.eye(5)), atol=1e-5)
    found = dense(ease(inverse), 12)
    weights = -inverse.matrix / np.diag(inverse.matrix)
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(found[np.ix_(inverse.items, inverse.items)], weights, atol=1e-6)
    assert not np.delete(found, inverse.items, axis=0).any() and not np.delete(found, inverse.items, axis=1).any()
    assert "kNN" in closed_form_scores(train, None, None, exclude_seen=True).neighbours


def test_a_large_catalogue_has_one_dense_inverse(train, monkeypatch):
    monkeypatch.setattr(closed_form, "MOST_FOR_ALL_INVERSES", 11)
    large = closed_form_scores(train, np.eye(12, dtype=np.float32), None, exclude_seen=True).neighbours
    assert large.keys() == {"EASE 100", "taken after", "transitions", "pictures"}
    monkeypatch.undo()
    small = closed_form_scores(train, np.eye(12, dtype=np.float32), None, exclude_seen=True).neighbours
    assert small.keys() == {*large, "EASE 10", "EASE 100 without content"}
    for name in large:
        assert all(map(torch.equal, large[name], small[name]))


def test_pairs_in_order_by_hand():
    catalogue = Catalogue.from_items([{"item_id": name} for name in "abcd"])
    rows = [
        {"user_id": "u", "item_id": name, "timestamp": time} for name, time in zip("abca", (0, 1, 2, 3), strict=True)
    ]
    rows += [{"user_id": "v", "item_id": name, "timestamp": time} for name, time in zip("dcb", (0, 5, 5), strict=True)]
    found = pairs_in_order(Histories.from_interactions(rows, catalogue)).toarray()
    two, three = 2 * 2 ** (-1 / 4), 3 * 2 ** (-2 / 4)
    expected = [
        [three, 1, two, 0],
        [two, 0, 1 + 0.5, 0],  # of u in this order, of v in one basket
        [1, 0.5, 0, 0],
        [0, two, 1, 0],  # two users are never in order
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_pair_counts_by_every_place_where_a_history_may_be_cut():
    """The sum over the cuts, of the decays on both sides, is what one distance counts."""
    catalogue = Catalogue.from_items([{"item_id": str(number)} for number in range(9)])
    rows = [{"user_id": "u", "item_id": str(number), "timestamp": number} for number in range(9)]
    found = pairs_in_order(Histories.from_interactions(rows, catalogue)).toarray()
    expected = np.zeros((9, 9))
    for cut in range(1, 9):
        for before in range(cut):
            for after in range(cut, 9):
                expected[before, after] += 2 ** (-(cut - 1 - before) / 4) * 2 ** (-(after - cut) / 4)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("dense_from", [0.0, 1.0])
def test_taken_after_is_the_regression_of_later_items(train, monkeypatch, dense_from):
    monkeypatch.setattr(linear_models, "DENSE_FROM", dense_from)
    monkeypatch.setattr(item_similarity, "BLOCK_BYTES", 4 * 12 * 5)
    x = users_by_items(train).toarray().astype(np.float64)
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(12), pairs_in_order(train).toarray())
    np.fill_diagonal(weights, 0)
    inverse = inverse_of_users(train, 10.0)
    kept = inverse.matrix.copy()
    np.testing.assert_allclose(dense(taken_after(train, inverse), 12), weights, atol=1e-5)
    np.testing.assert_array_equal(inverse.matrix, kept)  # which EASE reads too


def test_what_is_taken_after_has_a_direction():
    """Everybody takes a before b and c before d."""
    catalogue = Catalogue.from_items([{"item_id": name} for name in "abcd"])
    rows = [
        {"user_id": f"{pair}{user}", "item_id": name, "timestamp": time}
        for pair in ("ab", "cd")
        for user in range(20)
        for time, name in enumerate(pair)
    ]
    train = Histories.from_interactions(rows, catalogue)
    found = dense(taken_after(train, inverse_of_users(train, 1.0)), 4)
    assert found[0, 1] > 0.5 > 0.1 > abs(found[1, 0]) and found[2, 3] > 0.5 and not found[0, 3]


def test_knn_is_the_shrunk_cosine_whatever_the_size_of_a_block(train, monkeypatch):
    x = users_by_items(train).toarray()
    counts = x.T @ x
    norm = np.sqrt(np.diag(counts))
    expected = counts / (np.outer(norm, norm) + 10)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(dense(item_knn(train), 12), expected, atol=1e-6)
    monkeypatch.setattr(item_similarity, "BLOCK_BYTES", 4 * 12 * 5)
    np.testing.assert_allclose(dense(item_knn(train), 12), expected, atol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.0, 10.0])
def test_an_item_that_nobody_has_is_near_to_none(shrinkage):
    catalogue = Catalogue.from_items([{"item_id": name} for name in "abc"])
    rows = [{"user_id": "u", "item_id": name, "timestamp": 0} for name in "ab"]
    found = dense(item_knn(Histories.from_interactions(rows, catalogue), shrinkage), 3)
    near = 1 / (1 + shrinkage)
    np.testing.assert_allclose(found, [[0, near, 0], [near, 0, 0], [0, 0, 0]], rtol=1e-6)


def test_rows_with_few_neighbours_in_a_block_of_their_own(monkeypatch):
    catalogue = Catalogue.from_items([{"item_id": name} for name in "abcdef"])
    rows = [{"user_id": "u", "item_id": name, "timestamp": 0} for name in "abcd"]
    rows += [{"user_id": "v", "item_id": name, "timestamp": 0} for name in "ef"]
    train = Histories.from_interactions(rows, catalogue)
    whole = item_knn(train)
    assert (whole.values > 0).sum(axis=1).tolist() == [3, 3, 3, 3, 1, 1]
    monkeypatch.setattr(item_similarity, "BLOCK_BYTES", 4 * 6 * 2)
    for found, expected in zip(item_knn(train), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_largest_are_kept_in_order(train):
    whole, three = item_knn(train), item_knn(train, k=3)
    np.testing.assert_array_equal(three.values, whole.values[:, :3])
    assert (np.diff(whole.values, axis=1) <= 0).all()


def test_transitions_by_hand():
    catalogue = Catalogue.from_items([{"item_id": name} for name in "abcd"])
    rows = [{"user_id": "u", "item_id": name, "timestamp": time} for time, name in enumerate("abc")]
    rows += [{"user_id": "v", "item_id": "a", "timestamp": 0}]
    found = dense(windowed_transitions(Histories.from_interactions(rows, catalogue)), 4)
    # a is there twice, b and c once; two users are never neighbours.
    assert found[0, 1] == found[1, 0] == pytest.approx(1 / (math.sqrt(2) + 3))
    assert found[0, 2] == pytest.approx(0.8 / (math.sqrt(2) + 3))
    assert found[1, 2] == pytest.approx(1 / (1 + 3)) and not found[3].any()


def test_terms_by_hand():
    items = [
        {"item_id": "a", "title": "Red wool hat", "brand": "Koto"},
        {"item_id": "b", "title": "Red cap", "brand": "Koto"},
        {"item_id": "c", "title": "Blue cap", "brand": "Nord"},
        {"item_id": "d", "title": "Green sock", "brand": "Nord"},
        {"item_id": "e", "title": "Teal sock", "brand": None},
    ]
    vectors = term_vectors(Catalogue.from_items(items)).toarray()
    # In two items each: "title: red", "title: cap", "title: sock", both brands; the rest are in one alone.
    assert vectors.shape == (5, 5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    found = dense(text_similarity(term_vectors(Catalogue.from_items(items))), 5)
    assert found[0, 1] == pytest.approx(2 / math.sqrt(2 * 3)) and found[0, 2] == 0 == found[0, 0]
    assert term_vectors(Catalogue.from_items([{"item_id": "a"}, {"item_id": "b"}])) is None


def test_pictures_by_hand(monkeypatch):
    vectors = np.array([[1, 0], [1, 0], [-1, 0], [0, 0]], dtype=np.float32)  # the last has none
    found = dense(picture_similarity(vectors), 4)
    assert found[0, 1] == pytest.approx(1) and found[0, 2] == 0 and not found[3].any()
    monkeypatch.setattr(item_similarity, "MOST_PICTURES", 2)
    assert picture_similarity(vectors) is None


def test_of_more_pairs_than_are_affordable_the_longest_lists_are_cut(monkeypatch, caplog):
    items = [{"item_id": name, "colour": "red" if name in "abc" else None} for name in "abcdef"]
    items[0]["title"] = items[3]["title"] = "wool"
    catalogue = Catalogue.from_items(items)
    rows = [{"user_id": "u", "item_id": name, "timestamp": time} for time, name in enumerate("abcd")]
    rows += [{"user_id": "v", "item_id": name, "timestamp": time} for time, name in enumerate("ab")]
    train = Histories.from_interactions(rows, catalogue)
    whole = dense(item_knn(train), 6), dense(text_similarity(term_vectors(catalogue)), 6)
    assert (whole[0] > 0).sum() == 12 and (whole[1] > 0).sum() == 8
    # Two items have one term and three the other, two are of v and four of u: 4 pairs and 9, or 4 and 16.
    monkeypatch.setattr(item_similarity, "MOST_PAIRS", 12)
    with caplog.at_level("INFO", logger="train"):
        knn, text = dense(item_knn(train), 6), dense(text_similarity(term_vectors(catalogue)), 6)
    assert np.argwhere(knn).tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]
    assert knn[0, 1] == pytest.approx(1 / (2 + 10)) and knn[2, 3] == whole[0][2, 3]
    assert np.argwhere(text).tolist() == [[0, 3], [3, 0]] and text[0, 3] == whole[1][0, 3]
    assert "of 1 histories the latest 2" in caplog.text and "1 of 2 terms are left out, which 3 items" in caplog.text


def test_a_large_catalogue_keeps_fewer_neighbours_an_item():
    assert [item_similarity.num_neighbours(size) for size in (1_000, 50_000, 100_000, 10**6)] == [200, 200, 100, 50]


def test_items_rated_alike_are_found(train):
    catalogue = Catalogue.from_items([{"item_id": name} for name in "abc"])
    rng, rows = np.random.default_rng(1), []
    for user in range(200):
        taste = int(rng.integers(2))
        for time, stars in enumerate((5 - 3 * taste, 5 - 3 * taste, int(rng.integers(1, 6)))):
            rows.append({"user_id": str(user), "item_id": "abc"[time], "timestamp": time, "rating": stars})
    found = dense(rated_alike(Histories.from_interactions(rows, catalogue), 3.0, 3.5, np.zeros(3)), 3)
    assert found[0, 1] > 0.6 and found[0, 1] > 3 * found[0, 2]
