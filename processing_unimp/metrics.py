"""The metrics of our tables: pure functions on numpy arrays, and text metrics through their own libraries.

Ranks start at 1. Everything lies between 0 and 1 except `mae` and `rmse`, which are in stars, and what compares the
features of pictures: `cosine_similarity` is -1 to 1, `diversity` 0 to 2, `frechet_distance` in squared features.
"""

import functools
import importlib
import logging
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

# --- ranking ---


def rank_of_target(scores: np.ndarray, target: int, excluded: np.ndarray | None = None) -> int:
    """The place of the target among all items: 1 + the number of competitors that score at least as much.

    Ties count against us: a model that gives every item the same score ranks its target last, not first.

    Args:
        scores (`np.ndarray` of shape `(num_items,)`): higher is better; `-inf` is allowed, NaN is not.
        target (`int`): row of the true item.
        excluded (`np.ndarray`, *optional*): rows that do not compete (seen or retired items), as row numbers or as a
            boolean mask `(num_items,)`. The target competes even when it is among them: a purchase may be repeated.

    Returns:
        `int`: 1 (best) to `num_items`.

    Raises:
        `ValueError`: when scores are not one row, hold NaN, or the target is not a row of theirs.
    """
    scores = np.asarray(scores)
    if scores.ndim != 1:
        raise ValueError(
            f"scores of shape {scores.shape}: expected one score per item, (num_items,). Rank row by row."
        )
    if not 0 <= target < len(scores):
        raise ValueError(f"target {target} among {len(scores)} scores: expected a row from 0 to {len(scores) - 1}.")
    if np.isnan(scores).any():
        raise ValueError(
            f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN: expected numbers. A NaN never compares "
            "as greater, so it would flatter the rank; look for an overflow in the model."
        )
    competes = np.ones(len(scores), dtype=bool)
    if excluded is not None and len(excluded):
        competes[np.asarray(excluded)] = False
    competes[target] = False
    return 1 + int((scores[competes] >= scores[target]).sum())


def hit_rate(ranks: np.ndarray, k: int) -> float:
    """HR@k: the share of requests whose one target is among the first `k`, `mean(rank <= k)`.

    Args:
        ranks (`np.ndarray` of shape `(num_requests,)`): from [`rank_of_target`].
        k (`int`): length of the list.

    Returns:
        `float`: 0 to 1.

    Raises:
        `ValueError`: without ranks, with a rank below 1, or with `k` below 1.
    """
    return float((_checked_ranks(ranks, k) <= k).mean())


def ndcg(ranks: np.ndarray, k: int) -> float:
    """NDCG@k with one target a request: the mean of `1 / log2(1 + rank)` where `rank <= k`, else 0. The ideal is 1.

    Args:
        ranks (`np.ndarray` of shape `(num_requests,)`): from [`rank_of_target`].
        k (`int`): length of the list.

    Returns:
        `float`: 0 to 1.

    Raises:
        `ValueError`: without ranks, with a rank below 1, or with `k` below 1.
    """
    checked = _checked_ranks(ranks, k)
    return float(np.where(checked <= k, 1 / np.log2(1 + checked), 0.0).mean())


def mrr(ranks: np.ndarray, k: int) -> float:
    """MRR@k: the mean of `1 / rank` where `rank <= k`, else 0.

    Args:
        ranks (`np.ndarray` of shape `(num_requests,)`): from [`rank_of_target`].
        k (`int`): length of the list; pass the number of items for the uncut mean.

    Returns:
        `float`: 0 to 1.

    Raises:
        `ValueError`: without ranks, with a rank below 1, or with `k` below 1.
    """
    checked = _checked_ranks(ranks, k)
    return float(np.where(checked <= k, 1 / checked, 0.0).mean())


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k = {k}: expected the length of a list, 1 or more.")


def _checked_ranks(ranks: np.ndarray, k: int) -> np.ndarray:
    _check_k(k)
    checked = np.asarray(ranks, dtype=np.float64)
    if not checked.size:
        raise ValueError("no ranks: expected one a request. Is the evaluated split empty?")
    if not (checked >= 1).all():
        raise ValueError(f"a rank of {checked.min()}: expected 1 (best) or more; ranks do not start at 0 here.")
    return checked


# --- stars ---


def mae(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute error, `mean(|predicted - true|)`, in stars.

    Args:
        predicted (`np.ndarray` of shape `(num_requests,)`): any real numbers; expectations are not rounded first.
        true (`np.ndarray` of shape `(num_requests,)`): given stars.

    Returns:
        `float`: 0 or more.

    Raises:
        `ValueError`: when the two differ in shape, are empty or hold NaN.
    """
    return float(np.abs(_errors(predicted, true)).mean())


def rmse(predicted: np.ndarray, true: np.ndarray) -> float:
    """Root mean squared error, `sqrt(mean((predicted - true)**2))`, in stars, over all requests at once.

    Args:
        predicted (`np.ndarray` of shape `(num_requests,)`): any real numbers; expectations are not rounded first.
        true (`np.ndarray` of shape `(num_requests,)`): given stars.

    Returns:
        `float`: 0 or more.

    Raises:
        `ValueError`: when the two differ in shape, are empty or hold NaN.
    """
    return float(np.sqrt((_errors(predicted, true) ** 2).mean()))


def _errors(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    a, b = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if a.shape != b.shape or not a.size:
        raise ValueError(
            f"predictions of shape {a.shape} for true values of shape {b.shape}: expected two equal shapes and at "
            "least one request."
        )
    difference = a - b
    if np.isnan(difference).any():
        raise ValueError(
            f"{int(np.isnan(difference).sum())} of {difference.size} pairs hold NaN: expected numbers. Leave requests "
            "without a true rating out before."
        )
    return difference


# --- selection ---


def precision_recall_f1(chosen: np.ndarray, relevant: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 of one request; a table averages each of the three over requests.

    `precision = hits / chosen`, `recall = hits / relevant`, `F1 = 2 * hits / (chosen + relevant)`. Empty cases:
    nothing chosen although something was relevant gives 0, 0, 0; something chosen although nothing was relevant gives
    0, 0, 0; nothing chosen and nothing relevant is the right answer and gives 1, 1, 1.
    The mean of F1 is not the F1 of mean precision and mean recall.

    Args:
        chosen (`np.ndarray` of `bool`, shape `(num_candidates,)`): what the model selected.
        relevant (`np.ndarray` of `bool`, shape `(num_candidates,)`): what it should have selected.

    Returns:
        `tuple[float, float, float]`: precision, recall, F1, each 0 to 1.

    Raises:
        `ValueError`: when the two are not boolean arrays of one shape (lists of item numbers are not accepted).
    """
    a, b = np.asarray(chosen), np.asarray(relevant)
    if a.dtype != bool or b.dtype != bool or a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"chosen is {a.dtype} of shape {a.shape}, relevant is {b.dtype} of shape {b.shape}: expected two boolean "
            "arrays of shape (num_candidates,)."
        )
    hits, num_chosen, num_relevant = int((a & b).sum()), int(a.sum()), int(b.sum())
    if num_chosen + num_relevant == 0:
        return 1.0, 1.0, 1.0
    return (
        hits / num_chosen if num_chosen else 0.0,
        hits / num_relevant if num_relevant else 0.0,
        2 * hits / (num_chosen + num_relevant),
    )


# --- pictures, by their features ---


def frechet_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """How far the generated pictures are from the real ones as a whole: FID, on the features that are given.

    The squared 2-Wasserstein distance of the two normal distributions with the means and covariances (divided by
    `n - 1`) of the rows, `|m1 - m2|**2 + tr(S1) + tr(S2) - 2 * tr(sqrt(S1 @ S2))`
    (https://huggingface.co/papers/1706.08500). Numbers of other features, or of fewer pictures, must not be compared:
    of few pictures a distance is too large.

    Args:
        generated (`np.ndarray` of shape `(n, G)`): features of generated pictures; order does not matter.
        real (`np.ndarray` of shape `(m, G)`): features of real pictures.

    Returns:
        `float`: 0 (same mean and covariance) or more.

    Raises:
        `ValueError`: with fewer than 2 rows of either, with unequal widths, or with NaN or infinity.
    """
    a, b = _checked_features(generated, "generated"), _checked_features(real, "real")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"generated features of shape {a.shape} and real ones of shape {b.shape}: expected the same width. "
            "Take both from one model."
        )
    shift = a.mean(axis=0) - b.mean(axis=0)
    a, b = (rows - rows.mean(axis=0) for rows in (a, b))
    a, b = a / np.sqrt(len(a) - 1), b / np.sqrt(len(b) - 1)  # S1 = a.T @ a, S2 = b.T @ b
    # The eigenvalues of S1 @ S2 that are not 0 are those of (a @ b.T) @ (a @ b.T).T, so the trace of its root is the
    # nuclear norm of a @ b.T: exact, and without a G x G matrix. The orthonormal Q of a = Q @ R does not change it,
    # and R has at most G rows.
    small_a, small_b = (np.asarray(np.linalg.qr(rows, mode="r")) for rows in (a, b))
    root = np.linalg.svd(small_a @ small_b.T, compute_uv=False).sum()
    distance = float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * root)
    return max(distance, 0.0)  # rounding leaves some -1e-15 where the sets are equal


def diversity(features: np.ndarray) -> float:
    """How much pictures differ from one another: the mean of `1 - cosine` over all pairs of two of them.

    Args:
        features (`np.ndarray` of shape `(n, G)`): a row a picture; order does not matter.

    Returns:
        `float`: 0 when all point the same way, 1 when pairs are orthogonal, at most `n / (n - 1)`.

    Raises:
        `ValueError`: with fewer than 2 rows, with NaN or infinity, or with a row of zeros.
    """
    rows = _checked_features(features, "generated")
    if not rows.any(axis=1).all():
        raise ValueError(
            f"row {int(np.flatnonzero(~rows.any(axis=1))[0])} of the generated features is all zeros, so it differs "
            "from nothing and from all: expected features of a picture. Leave out what has no picture."
        )
    directions, n = _directions(rows), len(rows)
    total = directions.sum(axis=0)
    # |sum of all|**2 holds every pair twice, and each row with itself.
    return max(float(1 - (total @ total - n) / (n * (n - 1))), 0.0)


def cosine_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of each row of `a` with the same row of `b`; with one row on either side, of this with all others.

    Args:
        a (`np.ndarray` of shape `(n, G)` or `(1, G)`): features; a row of zeros, which has no direction, is similar
            to nothing: 0.
        b (`np.ndarray` of shape `(n, G)` or `(1, G)`): features.

    Returns:
        `np.ndarray` of shape `(n,)`: -1 to 1.

    Raises:
        `ValueError`: when the shapes do not fit, or with NaN or infinity.
    """
    first, second = _checked_features(a, "first", 1), _checked_features(b, "second", 1)
    if first.shape[1] != second.shape[1] or (len(first) != len(second) and 1 not in (len(first), len(second))):
        raise ValueError(
            f"features of shape {first.shape} and {second.shape}: expected two equal shapes, row beside row, or one "
            "row for all."
        )
    cosines: np.ndarray = (_directions(first) * _directions(second)).sum(axis=1)
    return cosines.clip(-1, 1)


def _checked_features(features: np.ndarray, which: str, least: int = 2) -> np.ndarray:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < least or not rows.shape[1]:
        raise ValueError(
            f"{which} features of shape {rows.shape}: expected (pictures, width) with at least {least} "
            f"{'picture' if least == 1 else 'pictures'}."
        )
    if not np.isfinite(rows).all():
        raise ValueError(
            f"{int((~np.isfinite(rows).all(axis=1)).sum())} of {len(rows)} rows of the {which} features hold NaN or "
            "infinity: expected numbers. Look for an overflow in the model."
        )
    return rows


def _directions(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; of zeros where there were zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: np.ndarray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return directions


# --- text ---


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
