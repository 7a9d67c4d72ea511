"""Text metrics by hand, and what they do without their libraries and data."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from processing_unimp.metrics import texts
from processing_unimp.metrics.texts import bert_score, bleu, distinct, meteor, rouge

ROOT = Path(__file__).resolve().parent.parent


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

    library = texts._library
    corpus = SimpleNamespace(wordnet=Absent())
    monkeypatch.setattr(texts, "_library", lambda name: corpus if name == "nltk.corpus" else library(name))
    assert meteor(["a couch"], ["a sofa"]) == {"meteor_no_synonyms": pytest.approx(0.25)}


def test_meteor_with_wordnet_matches_synonyms(monkeypatch):
    class Tiny:
        def ensure_loaded(self):
            pass

        def synsets(self, word):
            names = {"couch": ["couch", "sofa"]}.get(word, [])
            return [SimpleNamespace(lemmas=lambda: [SimpleNamespace(name=lambda n=n: n) for n in names])]

    library = texts._library
    corpus = SimpleNamespace(wordnet=Tiny())
    monkeypatch.setattr(texts, "_library", lambda name: corpus if name == "nltk.corpus" else library(name))
    assert meteor(["a couch"], ["a sofa"]) == {"meteor": pytest.approx(1 - 0.5 * (1 / 2) ** 3)}


def test_distinct_by_hand():
    # a, red, mug, a, blue, mug: 4 of 6 words differ; a red, red mug, a blue, blue mug: all four pairs do.
    assert distinct(["a red mug", "A blue mug"], ["", ""]) == {"distinct1": pytest.approx(4 / 6), "distinct2": 1.0}
    assert distinct(["fine", "fine", ""], [""] * 3) == {"distinct1": 0.5, "distinct2": 0.0}


@pytest.mark.parametrize("metric", [bleu, rouge, meteor, distinct, bert_score])
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
        texts._bert_scorer.cache_clear()

    yield use
    texts._bert_scorer.cache_clear()


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
        "spec = importlib.util.spec_from_file_location('texts', 'processing_unimp/metrics/texts.py')\n"
        "texts = importlib.util.module_from_spec(spec); spec.loader.exec_module(texts)\n"
        "for call in (texts.bleu, texts.rouge, texts.meteor):\n"
        "    try: call(['a'], ['a'])\n"
        "    except ImportError as error: assert 'unimp[train]' in str(error), error\n"
        "    else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
