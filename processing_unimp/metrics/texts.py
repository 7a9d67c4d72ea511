"""How close explanations are to their references, through the libraries of these metrics.

A library is imported by the metric that needs it: an evaluation without explanations runs without them.
"""

import functools
import importlib
import itertools
import logging
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


def bleu(predicted: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU-4 of sacrebleu (13a tokens, exponential smoothing), divided by 100.

    Args:
        predicted (`Sequence[str]`): what the model wrote; an empty text counts as such.
        true (`Sequence[str]`): one reference each.

    Returns:
        `dict[str, float]`: `{"bleu": 0 to 1}`; sacrebleu and many papers print 100 times this.

    Raises:
        `ValueError`: when there are no texts or their numbers differ.
        `ImportError`: when sacrebleu is not installed.
    """
    _check_texts(predicted, true)
    return {"bleu": float(_library("sacrebleu").corpus_bleu(list(predicted), [list(true)]).score) / 100}


def rouge(predicted: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L of rouge-score: F-measure with Porter stems, per text, averaged.

    Args:
        predicted (`Sequence[str]`): what the model wrote.
        true (`Sequence[str]`): one reference each.

    Returns:
        `dict[str, float]`: `{"rouge1": ..., "rouge2": ..., "rougeL": ...}`, 0 to 1.

    Raises:
        `ValueError`: when there are no texts or their numbers differ.
        `ImportError`: when rouge-score is not installed.
    """
    _check_texts(predicted, true)
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(names, use_stemmer=True)
    scores = [scorer.score(reference, text) for text, reference in zip(predicted, true, strict=True)]
    return {name: float(np.mean([score[name].fmeasure for score in scores])) for name in names}


def meteor(predicted: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """METEOR of nltk (alpha 0.9, beta 3, gamma 0.5), per text, averaged; words and marks are split by a regex.

    METEOR matches equal words, then equal stems, then WordNet synonyms. Where the WordNet data is not on this machine
    the third stage is left out and the key says so, for the two numbers must not be compared.

    Args:
        predicted (`Sequence[str]`): what the model wrote.
        true (`Sequence[str]`): one reference each.

    Returns:
        `dict[str, float]`: `{"meteor": 0 to 1}`, or `{"meteor_no_synonyms": 0 to 1}` without WordNet
        (`python -m nltk.downloader wordnet` fetches it).

    Raises:
        `ValueError`: when there are no texts or their numbers differ.
        `ImportError`: when nltk is not installed.
    """
    _check_texts(predicted, true)
    module = _library("nltk.translate.meteor_score")
    wordnet: Any = _library("nltk.corpus").wordnet
    name = "meteor"
    try:
        wordnet.ensure_loaded()
    except LookupError:
        wordnet, name = _NoSynonyms(), "meteor_no_synonyms"
    scores = [
        module.single_meteor_score(_words(reference), _words(text), wordnet=wordnet)
        for text, reference in zip(predicted, true, strict=True)
    ]
    return {name: float(np.mean(scores))}


def distinct(predicted: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """How various the texts are: of all their words, and of all pairs of words that follow each other, the share that
    is of different ones (https://huggingface.co/papers/1510.03055). Who writes the same to everybody is near 0.

    Args:
        predicted (`Sequence[str]`): what the model wrote.
        true (`Sequence[str]`): not looked at.

    Returns:
        `dict[str, float]`: `{"distinct1": ..., "distinct2": ...}`, 0 to 1; 0 without any word, or pair of words.

    Raises:
        `ValueError`: when there are no texts or their numbers differ.
    """
    _check_texts(predicted, true)
    words = [_words(text.lower()) for text in predicted]
    pairs = [pair for of_text in words for pair in itertools.pairwise(of_text)]
    single = [word for of_text in words for word in of_text]
    return {
        "distinct1": len(set(single)) / max(len(single), 1),
        "distinct2": len(set(pairs)) / max(len(pairs), 1),
    }


def bert_score(predicted: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """BERTScore of bert-score: F1 of its model for English, without idf and baseline rescaling, per text, averaged.

    Args:
        predicted (`Sequence[str]`): what the model wrote; an empty text scores 0.
        true (`Sequence[str]`): one reference each, not empty.

    Returns:
        `dict[str, float]`: `{"bertscore": at most 1}`, or `{}` where bert-score or its model is missing; the log says
        so once.

    Raises:
        `ValueError`: when there are no texts or their numbers differ.
    """
    _check_texts(predicted, true)
    scorer = _bert_scorer()
    if scorer is None:
        return {}
    # The library gives an empty text 0 too, but with transformers 5 it cannot tokenize one.
    pairs = [(text, reference) for text, reference in zip(predicted, true, strict=True) if text.strip()]
    f1 = scorer.score(*(list(texts) for texts in zip(*pairs, strict=True)))[2] if pairs else np.zeros(1)
    return {"bertscore": float(f1.sum()) / len(predicted)}


@functools.cache
def _bert_scorer() -> Any | None:
    """Loaded once a process; the library downloads its model, some 1.4 GB, where it is not in the cache."""
    try:
        return _library("bert_score", "bertscore").BERTScorer(lang="en")
    except (ImportError, OSError) as error:
        logger.info(f"BERTScore of explanations is left out: {error}")
        return None


class _NoSynonyms:
    """Stands in for WordNet: a word has no synonyms."""

    def synsets(self, word: str) -> list[Any]:
        return []


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def _check_texts(predicted: Sequence[str], true: Sequence[str]) -> None:
    if isinstance(predicted, str) or isinstance(true, str) or len(predicted) != len(true) or not len(true):
        raise ValueError(
            f"{len(predicted)} texts for {len(true)} references: expected two lists of equal length, not empty."
        )


def _library(name: str, extra: str = "train") -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'{name} is needed for this metric: pip install "unimp[{extra}]". ({error})') from error
