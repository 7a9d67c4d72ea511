"""Known answers worked out by hand, and the traps: ties, seen items, the target among the excluded, duplicates."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from processing_unimp import metrics
from processing_unimp.metrics import (
    bert_score,
    bleu,
    cosine_similarity,
    diversity,
    frechet_distance,
    hit_rate,
    mae,
    meteor,
    mrr,
    ndcg,
    precision_recall_f1,
    rank_of_target,
    rmse,
    rouge,
)

ROOT = Path(__file__).resolve().parent.parent
LOG3 = math.log2(3)


def test_rank_counts_the_better_ones():
    scores = np.array([0.1, 0.9, 0.5, 0.7])
    assert [rank_of_target(scores, target) for target in range(4)] == [4, 1, 3, 2]


def test_ties_count_against_us():
    assert rank_of_target(np.zeros(5), 2) == 5
    assert rank_of_target(np.array([1.0, 2.0, 2.0, 0.0]), 1) == 2
    assert rank_of_target(np.full(3, -np.inf), 0) == 3


def test_excluded_items_do_not_compete():
    scores = np.array([0.4, 0.9, 0.8, 0.7])
    assert rank_of_target(scores, 3, np.array([1])) == 2
    assert rank_of_target(scores, 3, np.array([1, 2, 1])) == 1
    assert rank_of_target(scores, 3, np.array([False, True, True, False])) == 1
    assert rank_of_target(scores, 3, np.array([], dtype=int)) == 3
    assert rank_of_target(scores, 0, []) == 4


def test_the_target_competes_even_when_it_was_seen():
    scores = np.array([0.4, 0.9, 0.8])
    assert rank_of_target(scores, 2, np.array([1, 2])) == 1
    assert rank_of_target(scores, 0, np.array([0])) == 3
    assert scores.tolist() == [0.4, 0.9, 0.8]


@pytest.mark.parametrize(
    ("scores", "target", "words"),
    [([0.0, np.nan], 0, "NaN"), ([0.0, 1.0], 2, "target 2"), ([0.0, 1.0], -1, "target -1"), ([[0.0]], 0, "shape")],
)
def test_rank_refuses_what_it_cannot_rank(scores, target, words):
    with pytest.raises(ValueError, match=words):
        rank_of_target(np.array(scores), target)


def test_rank_equals_the_place_in_a_full_sort():
    rng = np.random.default_rng(0)
    scores = rng.permutation(50).astype(float)
    order = np.argsort(-scores)
    assert all(order[rank_of_target(scores, target) - 1] == target for target in range(50))


def test_hit_rate_ndcg_and_mrr_by_hand():
    ranks = np.array([1, 2, 3, 11])
    assert hit_rate(ranks, 1) == 0.25
    assert hit_rate(ranks, 2) == 0.5
    assert hit_rate(ranks, 10) == 0.75
    assert ndcg(ranks, 10) == pytest.approx((1 + 1 / LOG3 + 0.5 + 0) / 4)
    assert ndcg(ranks, 1) == 0.25
    assert mrr(ranks, 10) == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    assert mrr(ranks, 11) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 11) / 4)


@pytest.mark.parametrize("metric", [hit_rate, ndcg, mrr])
def test_ranking_metrics_refuse_empty_and_zero_based_ranks(metric):
    with pytest.raises(ValueError, match="no ranks"):
        metric(np.array([]), 10)
    with pytest.raises(ValueError, match="do not start at 0"):
        metric(np.array([0, 1]), 10)
    with pytest.raises(ValueError, match="k = 0"):
        metric(np.array([1]), 0)


def test_mae_and_rmse_by_hand():
    predicted, true = np.array([1.0, 3.5, 5.0, 2.0]), np.array([2, 3, 5, 5])
    assert mae(predicted, true) == pytest.approx((1 + 0.5 + 0 + 3) / 4)
    assert rmse(predicted, true) == pytest.approx(math.sqrt((1 + 0.25 + 0 + 9) / 4))


@pytest.mark.parametrize("metric", [mae, rmse])
def test_errors_refuse_shapes_that_would_broadcast(metric):
    with pytest.raises(ValueError, match="shape"):
        metric(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="shape"):
        metric(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="NaN"):
        metric(np.array([1.0, 2.0]), np.array([1.0, np.nan]))


def test_precision_recall_f1_by_hand():
    chosen = np.array([True, True, True, False, False])
    relevant = np.array([True, False, False, True, False])
    assert precision_recall_f1(chosen, relevant) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert precision_recall_f1(relevant, relevant) == (1.0, 1.0, 1.0)


def test_precision_recall_f1_where_something_is_empty():
    none, one = np.array([False, False]), np.array([True, False])
    assert precision_recall_f1(none, one) == (0.0, 0.0, 0.0)
    assert precision_recall_f1(one, none) == (0.0, 0.0, 0.0)
    assert precision_recall_f1(none, none) == (1.0, 1.0, 1.0)
    assert precision_recall_f1(one, ~one) == (0.0, 0.0, 0.0)


def test_precision_recall_f1_refuses_item_numbers():
    with pytest.raises(ValueError, match="boolean"):
        precision_recall_f1(np.array([3, 5]), np.array([3, 7]))
    with pytest.raises(ValueError, match="boolean"):
        precision_recall_f1(np.array([True]), np.array([True, False]))


def features(seed, n, width):
    """Rows of a mean and a covariance of their own."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def textbook_frechet_distance(a, b):
    """The root of S1 @ S2 by the eigenvalues of `sqrt(S1) @ S2 @ sqrt(S1)`, which is symmetric and has the same."""
    shift = a.mean(axis=0) - b.mean(axis=0)
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(s1)
    root = vectors @ np.diag(np.sqrt(np.clip(values, 0, None))) @ vectors.T
    eigenvalues = np.clip(np.linalg.eigvalsh(root @ s2 @ root), 0, None)
    return shift @ shift + np.trace(s1) + np.trace(s2) - 2 * np.sqrt(eigenvalues).sum()


@pytest.mark.parametrize(("n", "m", "width"), [(50, 40, 5), (7, 90, 12), (6, 5, 20), (2, 2, 3), (30, 3, 2)])
def test_frechet_distance_equals_the_textbook(n, m, width):
    a, b = features(1, n, width), features(2, m, width)
    # Fewer rows than features leave eigenvalues of 1e-16 where there should be 0, and their roots are 1e-8.
    assert frechet_distance(a, b) == pytest.approx(textbook_frechet_distance(a, b), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_frechet_distance_on_a_line_by_hand():
    # (m1 - m2)**2 + (s1 - s2)**2 with means 1 and 5, deviations sqrt(2) and sqrt(8): 16 + 2.
    assert frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [7.0]])) == pytest.approx(18)


def test_frechet_distance_of_independent_features_adds_up():
    # Corners of a rectangle: no covariance, so each axis is a line of its own.
    a = np.array([[0, 0], [0, 2], [2, 0], [2, 2]], dtype=float)
    b = a * [3, 1] + [1, 0]
    one = [frechet_distance(a[:, [k]], b[:, [k]]) for k in (0, 1)]
    assert one == [pytest.approx(9 + 4 * 4 / 3), 0]
    assert frechet_distance(a, b) == pytest.approx(sum(one))


def test_frechet_distance_ignores_order_and_a_common_shift_and_turn():
    a, b = features(3, 20, 6), features(4, 15, 6)
    distance = frechet_distance(a, b)
    rng = np.random.default_rng(5)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert frechet_distance(rng.permutation(a), rng.permutation(b)) == pytest.approx(distance)
    assert frechet_distance(a @ turn + 7, b @ turn + 7) == pytest.approx(distance)
    assert frechet_distance(a, a + 2) == pytest.approx(6 * 2**2)
    assert frechet_distance(a, rng.permutation(a)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a) >= 0


def test_frechet_distance_of_many_features_needs_no_square_of_them():
    a, b = np.random.default_rng(6).normal(size=(2, 4, 200_000))  # a covariance would take 320 GB
    # In so many directions the two share none: tr(S) is about the width for both, the cross term hardly there.
    assert frechet_distance(a, b) == pytest.approx(2 * 200_000 + 2 * 200_000 / 4, rel=0.02)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.zeros((1, 3)), np.zeros((4, 3)), "generated features of shape .1, 3.*at least 2"),
        (np.zeros((4, 3)), np.zeros((1, 3)), "real features of shape .1, 3"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "same width"),
        (np.zeros(4), np.zeros((4, 1)), "shape .4,"),
        (np.full((2, 1), np.nan), np.zeros((2, 1)), "2 of 2 rows of the generated features hold NaN"),
    ],
)
def test_frechet_distance_refuses_what_has_no_covariance(a, b, words):
    with pytest.raises(ValueError, match=words):
        frechet_distance(a, b)


def test_diversity_by_hand():
    assert diversity(np.array([[1.0, 2.0], [2.0, 4.0], [0.5, 1.0]])) == pytest.approx(0)
    assert diversity(np.eye(4)) == pytest.approx(1)
    assert diversity(np.array([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(2)
    # Pairs: alike 0, and twice 60 degrees apart 1/2.
    assert diversity(np.array([[1, 0], [5, 0], [1, math.sqrt(3)]])) == pytest.approx(1 / 3)
    assert diversity(np.full((5, 7), 0.3)) >= 0


def test_diversity_is_the_mean_over_pairs_in_any_order():
    rows = features(7, 9, 4)
    pairs = [(i, j) for i in range(9) for j in range(i)]
    cosines = cosine_similarity(rows[[i for i, _ in pairs]], rows[[j for _, j in pairs]])
    assert diversity(rows) == pytest.approx(1 - cosines.mean())
    assert diversity(rows[::-1]) == pytest.approx(diversity(rows))


def test_cosine_similarity_by_hand():
    a, b = np.array([[3, 4], [1, 0], [2, 2]]), np.array([[6, 8], [0, 5], [-1, -1]])
    np.testing.assert_allclose(cosine_similarity(a, b), [1, 0, -1], atol=1e-12)
    root = math.sqrt(2)
    np.testing.assert_allclose(cosine_similarity(a[:1], b), [1, 4 / 5, -7 / (5 * root)])
    np.testing.assert_allclose(cosine_similarity(a, b[1:2]), [4 / 5, 0, 1 / root], atol=1e-12)
    assert cosine_similarity(a, np.zeros((1, 2))).tolist() == [0, 0, 0]


def test_features_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="row 1 of the generated features is all zeros"):
        diversity(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="at least 2 pictures"):
        diversity(np.ones((1, 3)))
    with pytest.raises(ValueError, match="row beside row"):
        cosine_similarity(np.ones((3, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="row beside row"):
        cosine_similarity(np.ones((1, 3)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="at least 1 picture"):
        cosine_similarity(np.ones((0, 3)), np.ones((0, 3)))


def test_bleu_by_hand():
    sentence = "this mug is teal and striped"
    assert bleu([sentence], [sentence]) == {"bleu": pytest.approx(1.0)}
    # Five of the six words: precisions 1, all n-grams match, brevity penalty exp(1 - 6/5).
    assert bleu(["this mug is teal and"], [sentence])["bleu"] == pytest.approx(math.exp(1 - 6 / 5))
    assert bleu([""], [sentence])["bleu"] == 0.0


def test_rouge_by_hand():
    scores = rouge(["a red mug here", "nothing"], ["a mug red here", "else"])
    # First pair: all 4 words, no bigram in common, longest common subsequence 3; second pair: nothing.
    assert scores == {"rouge1": pytest.approx(0.5), "rouge2": 0.0, "rougeL": pytest.approx(0.75 / 2)}
    assert rouge(["striped mugs"], ["stripes mug"])["rouge1"] == pytest.approx(1.0)  # stems


def test_meteor_by_hand():
    (name, value), *_ = meteor(["this mug is red"], ["this mug is red"]).items()
    assert name in ("meteor", "meteor_no_synonyms")
    assert value == pytest.approx(1 - 0.5 * (1 / 4) ** 3)  # one chunk of four matches
    ((_, value),) = meteor(["Mugs here"], ["mug there"]).items()
    # One of two words (by stem, whatever its case): P = R = 1/2, so F = 1/2; one chunk of one match costs half of it.
    assert value == pytest.approx(0.25)
    ((_, value),) = meteor(["", "word"], ["word", "word"]).items()
    assert value == pytest.approx((0 + 0.5) / 2)


def test_meteor_without_wordnet_is_called_something_else(monkeypatch):
    class Absent:
        def ensure_loaded(self):
            raise LookupError("Resource wordnet not found.")

    library = metrics._library
    corpus = SimpleNamespace(wordnet=Absent())
    monkeypatch.setattr(metrics, "_library", lambda name: corpus if name == "nltk.corpus" else library(name))
    assert meteor(["a couch"], ["a sofa"]) == {"meteor_no_synonyms": pytest.approx(0.25)}


def test_meteor_with_wordnet_matches_synonyms(monkeypatch):
    class Tiny:
        def ensure_loaded(self):
            pass

        def synsets(self, word):
            names = {"couch": ["couch", "sofa"]}.get(word, [])
            return [SimpleNamespace(lemmas=lambda: [SimpleNamespace(name=lambda n=n: n) for n in names])]

    library = metrics._library
    corpus = SimpleNamespace(wordnet=Tiny())
    monkeypatch.setattr(metrics, "_library", lambda name: corpus if name == "nltk.corpus" else library(name))
    assert meteor(["a couch"], ["a sofa"]) == {"meteor": pytest.approx(1 - 0.5 * (1 / 2) ** 3)}


@pytest.mark.parametrize("metric", [bleu, rouge, meteor, bert_score])
def test_text_metrics_refuse_lists_that_do_not_match(metric):
    with pytest.raises(ValueError, match="1 texts for 2"):
        metric(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="not empty"):
        metric([], [])
    with pytest.raises(ValueError, match="two lists"):
        metric("a", "b")


@pytest.fixture
def bert_scorer(monkeypatch):
    """Sets what the library `bert_score` is, and forgets the scorer that was loaded from it."""

    def use(library):
        monkeypatch.setitem(sys.modules, "bert_score", library)
        metrics._bert_scorer.cache_clear()

    yield use
    metrics._bert_scorer.cache_clear()


def test_bert_score_is_the_mean_f1_of_the_english_model(bert_scorer):
    made = []

    class Scorer:
        def __init__(self, lang):
            made.append(lang)

        def score(self, predicted, true):
            assert (predicted, true) == (["a mug", "a lamp"], ["mug", "lamp"])
            return np.zeros(2), np.ones(2), np.array([0.5, 0.75])

    bert_scorer(SimpleNamespace(BERTScorer=Scorer))
    for _ in range(2):
        assert bert_score(["a mug", "a lamp"], ["mug", "lamp"]) == {"bertscore": 0.625}
    assert made == ["en"]
    # An empty text scores 0, and the library is not asked about it.
    assert bert_score(["a mug", " ", "a lamp", ""], ["mug", "hat", "lamp", "hat"]) == {"bertscore": 0.3125}
    assert bert_score([""], ["mug"]) == {"bertscore": 0.0}


def offline(lang):
    raise OSError("roberta-large is not in the cache.")


@pytest.mark.parametrize(
    ("library", "reason"),
    [(None, "unimp[bertscore]"), (SimpleNamespace(BERTScorer=offline), "roberta-large is not in the cache")],
)
def test_bert_score_is_left_out_and_that_is_said_once(bert_scorer, caplog, library, reason):
    bert_scorer(library)
    with caplog.at_level("INFO", logger="processing_unimp"):
        assert [bert_score(["a"], ["a"]), bert_score(["a"], ["b"])] == [{}, {}]
    assert [record.getMessage() for record in caplog.records if reason in record.getMessage()] == caplog.messages
    assert len(caplog.messages) == 1


def test_the_file_imports_without_the_text_libraries_and_says_how_to_get_them():
    code = (
        "import importlib.util, sys\n"
        "for name in ('sacrebleu', 'rouge_score', 'nltk', 'bert_score'): sys.modules[name] = None\n"
        "spec = importlib.util.spec_from_file_location('metrics', 'processing_unimp/metrics.py')\n"
        "metrics = importlib.util.module_from_spec(spec); spec.loader.exec_module(metrics)\n"
        "for call in (metrics.bleu, metrics.rouge, metrics.meteor):\n"
        "    try: call(['a'], ['a'])\n"
        "    except ImportError as error: assert 'unimp[train]' in str(error), error\n"
        "    else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
