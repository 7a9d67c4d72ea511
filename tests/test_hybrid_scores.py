"""Closed-form scores: by hand, through a file, and beside a network that knows something or nothing."""

import math

import numpy as np
import pytest
import torch

from modeling_unimp.hybrid_scores import HYBRID_FILE, HybridScores, Score, numbers_of, stars_of_history
from modeling_unimp.star_scores import StarScores
from modeling_unimp.term_index import TermIndex
from processing_unimp import Catalogue

# Item 0 goes with 1 (1.0) and 2 (.5), item 1 with 0 (1.0), item 2 with nothing.
NEIGHBOURS = {"pairs": (torch.tensor([[1, 2], [0, 0], [0, 0]]), torch.tensor([[1.0, 0.5], [1.0, 0.0], [0.0, 0.0]]))}
SHARES = torch.tensor([0.5, 0.25, 0.25]).log()
RED = TermIndex(
    {"red": 0, "blue": 1},
    starts=np.array([0, 2, 3]),
    items=np.array([0, 2, 1], dtype=np.int32),
    weights=np.array([2.0, 1.0, 3.0], dtype=np.float32),
    idf=np.array([1.0, 1.0], dtype=np.float32),
    mean_length=1.0,
)
STARS = StarScores(
    mean=3.0,
    biases=np.array([1.0, 0.0, -1.0]),
    strength=1.0,
    neighbours=np.array([[1], [0], [0]], dtype=np.int32),
    similarities=np.array([[0.5], [0.5], [0.0]], dtype=np.float32),
    factors=np.array([[1.0], [2.0], [0.0]], dtype=np.float32),
    penalty=3.0,
    log_shares=np.log([0.1, 0.1, 0.2, 0.2, 0.4]),
    intercepts=np.array([0.0, 0.1, 0.2, 0.1, 0.0]),
    network=0.5,
    expected=1.0,
    alike=2.0,
    factored=3.0,
)


def make(**changes) -> HybridScores:
    parts = {
        "neighbours": NEIGHBOURS,
        "terms": {"words": RED},
        "popularity": SHARES,
        "scores": [Score("pairs", 1.0, 2.0), Score("popularity"), Score("words", scale=4.0)],
        "weights": {"recommend": [1.0, 2.0, 0.5, 0.0], "search": [1.0, 0.0, 0.0, 1.0], "select": [3.0]},
        "stars": STARS,
    }
    return HybridScores(**(parts | changes))


def test_the_latest_item_counts_most():
    hybrid = make()
    # Item 0 is one place old: half of (0, 1, .5); then item 1: (1, 0, 0).
    raw = hybrid.raw(Score("pairs", 1.0), [[0, 1], [2], []])
    torch.testing.assert_close(raw, torch.tensor([[1.0, 0.5, 0.25], [0, 0, 0], [0, 0, 0]]))
    alike = hybrid.raw(Score("pairs", math.inf), [[0, 1]])
    torch.testing.assert_close(alike, torch.tensor([[1.0, 1.0, 0.5]]))


def test_items_of_no_catalogue_take_a_place_and_say_nothing():
    raw = make().raw(Score("pairs", 1.0), [[0, -1], [0, 99]])
    torch.testing.assert_close(raw, torch.tensor([[0.0, 0.5, 0.25]] * 2))


def test_a_query_finds_items_by_its_words():
    raw = make().raw(Score("words"), [[0], [0], [0]], ["Red, blue?", "green", None])
    torch.testing.assert_close(raw, torch.tensor([[2.0, 3.0, 1.0], [0, 0, 0], [0, 0, 0]]))
    whole = make(terms={"words": RED._replace(mean_length=0.0)})
    torch.testing.assert_close(
        whole.raw(Score("words"), [[0], [0]], [" Red ", "red, blue"]), torch.tensor([[2.0, 0, 1.0], [0, 3.0, 0]])
    )


def test_the_sum_by_hand():
    hybrid, logits = make(), torch.tensor([[2.0, 1.0, 0.0]])
    network = logits[0] - torch.logsumexp(logits[0], 0)
    pairs = torch.tensor([0.0, math.log1p(3 * 1.0 / 2), math.log1p(3 * 0.5 / 2)])
    popular = torch.tensor([math.log(2), 0.0, 0.0])
    torch.testing.assert_close(hybrid.add("recommend", logits, [[0]])[0], network + 2 * pairs + 0.5 * popular)
    words = torch.tensor([math.log1p(3 * 2 / 4), 0.0, math.log1p(3 / 4)])
    torch.testing.assert_close(hybrid.add("search", logits, [[0]], ["red"])[0], network + words)
    torch.testing.assert_close(hybrid.add("explain", logits, [[0]]), logits)


def test_words_count_for_the_values_that_a_query_does_not_name():
    """Of "dotted mug" the kind is named and no name as a whole; of "red" neither is, and words have all the weight."""
    texts = [["red mug with dots", "mug"], ["blue mug", "mug"], ["red hat", "hat"]]
    kinds = TermIndex.of([["mug"], ["mug"], ["hat"]], are_words=False)
    names = TermIndex.of([["red mug with dots"], ["blue mug"], ["red hat"]], are_words=False)
    terms = {"words": TermIndex.of(texts, are_words=True), "kinds": kinds, "names": names}
    weights = {"search": [1.0, 0.5, 0.25, 0.125]}
    scores = [Score(name, scale=1.0) for name in terms]
    hybrid = make(neighbours={}, terms=terms, scores=scores, weights=weights)
    assert hybrid.weights_of("search", "blue mug") == weights["search"]
    assert hybrid.weights_of("search", "dotted mug") == [1.0, 0.625, 0.25, 0.0]
    assert hybrid.weights_of("search", "red") == [1.0, 0.875, 0.0, 0.0]
    logits, queries = torch.zeros(2, 3), ["red", "dotted mug"]
    together = hybrid.add("search", logits, [[0], []], queries)
    for row, query in enumerate(queries):
        torch.testing.assert_close(together[row], hybrid.add("search", logits[:1], [[]], [query])[0])
    of_words = torch.log1p(3 * hybrid.raw(scores[0], [[]], ["red"]))
    torch.testing.assert_close(together[:1], 0.875 * of_words - math.log(3))


def test_items_that_nobody_told_of_have_the_networks_score_alone():
    hybrid, logits = make(), torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    added = hybrid.add("recommend", logits, [[0, 3]])
    assert added.shape == (1, 4)
    assert added[0, 3] == pytest.approx(float(logits.log_softmax(-1)[0, 3]))


def test_an_added_item_is_a_neighbour_of_what_it_is_like():
    """In the place of what is less like an item; 0 is like nothing."""
    neighbours = {
        "text": (torch.tensor([[1, 2], [0, 0], [0, 0]]), torch.tensor([[0.5, 0.25], [0.5, 0.0], [0.25, 0.0]]))
    }
    old = make(neighbours=neighbours, scores=[Score("text", math.inf)], weights={})
    new = {3: {"item_id": "three"}, 4: {"item_id": "four"}}
    alike = [torch.tensor([0.375, 0.0, 0.75]), torch.tensor([0.125, 0.0, 0.0])]
    grown = old.with_items(new, similarity={"text": alike})
    raw = grown.raw(Score("text", math.inf), [[0], [1], [2]])
    # Item 3 is near items 0 and 2 itself. Item 4 is not, but item 0 stands in for it, whose nearest is at 0.5.
    expected = [[0, 0.5, 0, 0.375, 0.5], [0.5, 0, 0, 0, 0.5], [0.25, 0, 0, 0.75, 0.25]]
    torch.testing.assert_close(raw, torch.tensor(expected))
    assert grown.neighbours["text"][0][2].tolist() == [3, 0], "the nearest first"
    assert old.raw(Score("text", math.inf), [[0]]).tolist() == [[0, 0.5, 0.25]]


def test_an_added_item_without_words_goes_with_what_it_looks_like():
    looks = (torch.tensor([[1], [0], [0]]), torch.tensor([[0.5], [0.5], [0.0]]))
    pairs = (torch.tensor([[1], [2], [1]]), torch.tensor([[1.0], [1.0], [1.0]]))
    old = make(neighbours={"pictures": looks, "pairs": pairs}, scores=[Score("pairs", 1.0)], weights={})
    new = {3: {"item_id": "red"}, 4: {"item_id": "without a picture"}}
    alike = [torch.tensor([0.25, 0.0, 0.75]), torch.zeros(3)]
    grown = old.with_items(new, similarity={"pictures": alike})
    assert grown.stand_ins == {3: 2}
    torch.testing.assert_close(grown.raw(Score("pictures", 1.0), [[2], [0]])[:, 3:], torch.tensor([[0.75, 0], [0, 0]]))
    assert grown.raw(Score("pairs", 1.0), [[1]]).tolist() == [[0, 0, 1, 1, 0]], "where item 2 is near, it is too"


def test_an_added_item_goes_with_what_its_like_goes_with():
    texts = [["red mug", "mug"], ["blue shoe", "shoe"], ["green sock", "sock"]]
    terms = {"words": TermIndex.of(texts, are_words=True), "query attribute": TermIndex.of([["mug"], [], []], False)}
    old = make(terms=terms, query_attribute="kind")
    new = {"item_id": "new", "title": "Teal MUG", "kind": "mug"}
    grown = old.with_items({3: new, 4: {"item_id": "odd", "title": "zzz"}})
    assert grown.stand_ins == {3: 0} and old.stand_ins == {}
    # As a neighbour it is item 0, and so it is in a history; the other is nobody's neighbour.
    raw = grown.raw(Score("pairs", 1.0), [[1], [3], [4]])
    torch.testing.assert_close(raw, torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0.5, 1, 0], [0, 0, 0, 0, 0]]))
    # Of whoever has item 0 it is as near as the nearest of item 0, which is 1; half as much a place later.
    near = grown.raw(Score("pairs", 1.0), [[0], [0, 4]])
    torch.testing.assert_close(near, torch.tensor([[0, 1.0, 0.5, 1.0, 0], [0, 0.5, 0.25, 0.5, 0]]))
    popularity = grown.raw(Score("popularity"), [[0]])[0]
    assert popularity[3] == popularity[0] and popularity[4] == 0, "nothing says what the other is like"
    assert grown.raw(Score("query attribute"), [[0]], [" Mug"]).tolist() == [[1, 0, 0, 1, 0]]
    teal = grown.raw(Score("words"), [[0]], ["teal"])[0]
    assert teal[3] > 0 and teal.count_nonzero() == 1
    added = grown.add("recommend", torch.zeros(1, 5), [[1]])[0]
    assert added[0] == added[3]
    assert old.add("recommend", torch.zeros(1, 3), [[1]]).shape == (1, 3)


def test_who_took_a_new_item_is_told_by_its_own_words_and_by_what_goes_with_its_like():
    # Nobody took d, which is like c in its words; those who took a, its stand-in, took b.
    alike = torch.tensor([[1], [0], [3], [2]]), torch.tensor([[0.5], [0.5], [0.75], [0.75]])
    taken = torch.tensor([[1], [0], [0], [0]]), torch.tensor([[0.25], [0.25], [0.0], [0.0]])
    hybrid = HybridScores(
        {"text": alike, "transitions": taken}, {}, torch.zeros(4), [Score("text"), Score("transitions")], {}, None,
        stand_ins={3: 0},
    )  # fmt: skip
    assert hybrid.raw(Score("text"), [[3]])[0, :3].tolist() == [0, 0, 0.75]
    assert hybrid.raw(Score("transitions"), [[3]])[0, :3].tolist() == [0, 0.25, 0]


def test_what_is_taken_again_is_the_item_itself():
    grown = make(scores=[Score("again", 1.0)]).with_items({3: {"item_id": "new", "title": "red"}})
    raw = grown.raw(Score("again", 1.0), [[0], [3], [0, 3, -1, 9]])
    torch.testing.assert_close(raw, torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0], [0.125, 0, 0, 0.25]]))


def test_a_changed_item_is_found_by_its_new_words_and_keeps_its_neighbours():
    texts = [["red mug"], ["blue shoe"], ["green sock"]]
    old = make(terms={"words": TermIndex.of(texts, are_words=True)})
    changed = old.with_items({1: {"item_id": "b", "title": "Blue lamp"}})
    for query, expected in (("shoe", []), ("lamp", [1]), ("blue", [1]), ("mug", [0])):
        assert changed.raw(Score("words"), [[0]], [query])[0].nonzero().flatten().tolist() == expected
    score = Score("pairs", 1.0)
    torch.testing.assert_close(changed.raw(score, [[0, 1]]), old.raw(score, [[0, 1]]))


def test_a_query_finds_the_values_that_it_names():
    """The longest first, none inside another, each once for each time that it is named."""
    texts = [["coffee mug"], ["mug"], ["teal"], ["coffee"], ["teal coffee"]]
    index = TermIndex.of(texts, are_words=False)

    def found(query):
        scores = torch.zeros(5)
        index.add_to(scores, query)
        return scores.tolist()

    assert found("Coffee  MUG") == [1, 0, 0, 0, 0]
    assert found("mug in teal") == [0, 1, 1, 0, 0]
    assert found("a teal mug for coffee") == [0, 1, 1, 1, 0]
    assert found("teal coffee mug") == [1, 0, 1, 0, 0]  # of two as long the later
    assert found("nothing of the kind") == [0] * 5
    assert found("mug " * 5_000)[1] == 16


def test_an_index_made_again_is_the_same():
    texts = [["red mug", "mug"], ["blue shoe"], []]
    for are_words in (True, False):
        index = TermIndex.of(texts, are_words)
        again = index.with_items({0: ["other"]}).with_items({0: texts[0]})
        for query in ("red", "mug", "blue shoe", "red mug", "other"):
            found, expected = torch.zeros(3), torch.zeros(3)
            again.add_to(found, query)
            index.add_to(expected, query)
            torch.testing.assert_close(found, expected)


def test_long_texts_cost_little():
    index, found = TermIndex.of([["red"], ["blue"]], are_words=True), torch.zeros(2)
    index.add_to(found, "red " * 10**6)
    once = torch.zeros(2)
    index.add_to(once, "red")
    torch.testing.assert_close(found, 16 * once)


def test_stars_by_hand():
    # Residuals: item 0: 5 - 3 - 1 = 1, item 2: 3 - 3 + 1 = 1; the shopper's bias: 2 / (2 + 1).
    estimate, alike, factored = STARS.estimate([(0, 5.0), (2, 3.0), (1, None)], 1)
    assert estimate == pytest.approx(3 + 2 / 3)
    # Item 1 is rated like item 0 (.5): .5 * (1 - 2/3) / (1 + .5).
    assert alike == pytest.approx(0.5 * (1 / 3) / 1.5)
    # Rows (1, 1) and (1, 0), residuals 1 and 1, ridge 1 and 3: bias 7/11, factor 1/11, which is 2 of item 1.
    assert factored == pytest.approx(7 / 11 + 2 / 11 - 2 / 3)
    assert STARS.estimate([], 2) == (2.0, 0.0, 0.0) and STARS.estimate([(-1, 4.0)], -1) == (3.5, 0.0, 0.0)
    # Three described items, each with 4 stars, 1 above the mean, count like any three: 3 / (3 + 1).
    described = [(-1, 4.0), (-1, 4.0), (-1, 4.0)]
    estimate, _, factored = STARS.estimate(described, 1)
    assert (estimate, factored) == (pytest.approx(3.75), pytest.approx(0))


@pytest.mark.parametrize("expected", [1.3, 2.0, 3.7, 4.95])
def test_a_distribution_of_stars_has_the_mean_that_is_expected(expected):
    """Also in a shop where nearly everything has five stars, and then most of it is there."""
    most_are_five = np.array([0.02, 0.01, 0.02, 0.05, 0.9])
    plain = STARS._replace(
        log_shares=np.log(most_are_five), intercepts=np.zeros(5), network=0.0, expected=1.0, alike=0.0, factored=1.0
    )
    probabilities = plain.probabilities(np.full(5, 0.2), (expected - 0.25, 0.5, 0.25))  # of what is alike no weight
    assert probabilities @ np.arange(1, 6) == pytest.approx(expected, abs=1e-3)
    # In proportion to the shares times a power of one number.
    steps = np.diff(np.log(probabilities / most_are_five))
    np.testing.assert_allclose(steps, steps.mean(), atol=1e-4)


def test_a_distribution_of_stars_by_hand():
    # Of shares (.1, .1, .2, .2, .4) the mean is 3.7; tilted by log 2 they are as .2, .4, 1.6, 3.2 and 12.8, whose
    # mean is 82.6 / 18.2.
    twice = 82.6 / 18.2
    tilts = STARS.tilts(np.array([[3.7, 0.25, twice - 3.7], [twice, 0.0, 3.7 - twice], [9.0, -1.0, 0.0]]))
    np.testing.assert_allclose(tilts, [[0, 0.25, np.log(2)], [np.log(2), 0, -np.log(2)], [2, -1, 0]], atol=1e-4)
    network = np.array([0.1, 0.1, 0.2, 0.3, 0.3])
    # .5 of the network's logarithms, twice what items rated alike tell and three times the tilt of the factors.
    weights = np.sqrt(network) * (8 * np.exp(0.5)) ** np.arange(1, 6) * np.exp(STARS.log_shares + STARS.intercepts)
    found = STARS.probabilities(network, (3.7, 0.25, twice - 3.7))
    np.testing.assert_allclose(found, weights / weights.sum(), rtol=1e-3)


def test_a_shop_without_words_is_the_same_from_a_file(tmp_path):
    empty = TermIndex.of([[], []], are_words=True)
    none = {"near": (torch.zeros(2, 1, dtype=torch.int32), torch.zeros(2, 1))}
    HybridScores(none, {"words": empty}, torch.zeros(2), [], {}).save_pretrained(tmp_path)
    loaded = HybridScores.load(tmp_path / HYBRID_FILE)
    assert loaded.terms["words"].vocabulary == {}
    found = loaded.with_items({2: {"item_id": "new", "title": "mug"}})
    assert found.raw(Score("words"), [[]], ["mug"])[0].argmax() == 2


@pytest.mark.parametrize("stars", [STARS, None])
def test_a_file_keeps_everything(tmp_path, stars):
    added = {3: {"item_id": "n", "title": "Red T\u00e9al"}}
    others = {"query_attribute": "kind", "search_reads": "recommend", "attributes": ["title", "kind"]}
    hybrid = make(stars=stars, **others).with_items(added)
    hybrid.save_pretrained(tmp_path)
    loaded = HybridScores.load(tmp_path / HYBRID_FILE)
    assert (loaded.scores, loaded.weights) == (hybrid.scores, hybrid.weights)
    assert {name: getattr(loaded, name) for name in others} == others
    assert loaded.stand_ins == {3: 0} and loaded.digest() == hybrid.digest()
    assert loaded.digest() not in {make(stars=stars).digest(), loaded.with_weights({}, stars).digest()}
    logits = torch.randn(2, 4)
    for task, queries in (("recommend", None), ("search", ["red", "blue t\u00e9al"])):
        expected = hybrid.add(task, logits, [[0, 1], [2]], queries)
        torch.testing.assert_close(loaded.add(task, logits, [[0, 1], [2]], queries), expected)
    assert (loaded.stars is None) == (stars is None)
    if stars is not None:
        assert loaded.stars.estimate([(0, 5.0)], 1) == STARS.estimate([(0, 5.0)], 1)
        np.testing.assert_array_equal(loaded.stars.intercepts, STARS.intercepts)


@pytest.mark.parametrize("damage", [b"", b"{", b"x" * 100])
def test_a_damaged_file_is_named(tmp_path, damage):
    (tmp_path / HYBRID_FILE).write_bytes(damage)
    with pytest.raises(ValueError, match=f"{HYBRID_FILE} cannot be read"):
        HybridScores.load(tmp_path / HYBRID_FILE)


def test_histories_of_requests():
    catalogue = Catalogue.from_items([{"item_id": "7"}, {"item_id": "b"}])
    history = ["7", {"item_id": "b", "rating": 4}, {"title": "unknown"}, {"item_id": 7, "rating": None}]
    assert numbers_of(history, catalogue) == [0, 1, -1, 0]
    assert stars_of_history(history, catalogue) == [(0, None), (1, 4.0), (-1, None), (0, None)]
