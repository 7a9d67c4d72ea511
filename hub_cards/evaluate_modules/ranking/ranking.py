"""HR@k, NDCG@k and MRR@k where each case has one true item, with the functions of `processing_unimp`.

`evaluate` reads the imports of this file line by line: one module a line, with what pip would install after `From:`.
"""

from collections.abc import Iterable
from typing import Any

import datasets
import evaluate
import numpy as np

from processing_unimp.case_metrics import rank_of_target  # From: unimp
from processing_unimp.metrics.ranking import hit_rate, mrr, ndcg  # From: unimp

DESCRIPTION = """
How far up a ranking the one true item of each case stands. HR@k is the share of cases with it among the first k,
NDCG@k the mean of 1 / log2(1 + rank), MRR@k the mean of 1 / rank, both 0 beyond rank k.
"""

INPUTS_DESCRIPTION = """
Args:
    predictions (list of list): for each case, the ids of the recommended items, best first, each once; with the
        configuration "scores" one number an item of the catalogue, higher is better, -inf for an item that does not
        compete (seen, sold out).
    references (list): for each case, the id of the true item; with "scores" its place among the numbers, from 0.
    k (int or list of int, defaults to (5, 10)): lengths of the list. A true item that is not in the list of a case
        is missed at every k, also where the list is shorter than k. With "scores", ties count against the true item.

Returns:
    dict: "hr@k", "ndcg@k" and "mrr@k" for each k, 0 to 1.
"""

CITATION = """
@inproceedings{wei2024unimp,
    title = {Towards Unified Multi-Modal Personalization: Large Vision-Language Models for Generative Recommendation
             and Beyond},
    author = {Wei, Tianxin and Jin, Bowen and Li, Ruirui and others},
    booktitle = {ICLR},
    year = {2024}
}
"""

FEATURES = {
    "default": {"predictions": datasets.Sequence(datasets.Value("string")), "references": datasets.Value("string")},
    "scores": {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")},
}


class Ranking(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in FEATURES:
            raise ValueError(
                f"ranking has no configuration {self.config_name!r}: expected none, for lists of item ids, or "
                "'scores', for one number an item."
            )
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features(FEATURES[self.config_name]),
        )

    def _compute(self, predictions: list[Any], references: list[Any], k: int | Iterable[int] = (5, 10)) -> dict:
        rank = rank_in_list if self.config_name == "default" else rank_by_score
        ranks = np.array(
            [rank(row, true, case) for case, (row, true) in enumerate(zip(predictions, references, strict=True))]
        )
        lengths = sorted({whole_number(each) for each in (k if isinstance(k, Iterable) else [k])})
        metrics = {"hr": hit_rate, "ndcg": ndcg, "mrr": mrr}
        return {f"{name}@{length}": metric(ranks, length) for length in lengths for name, metric in metrics.items()}


def whole_number(k: Any) -> int:
    """A length of the list, also as numpy has it."""
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k={k!r}: expected a whole number of at least 1, such as 10, or a list of them.")
    return int(k)


def rank_in_list(ranked: list[str], true: str, case: int) -> float:
    """The place of the true item, from 1; infinity where the list does not hold it."""
    if len(set(ranked)) < len(ranked):
        raise ValueError(
            f"case {case}: a list of {len(ranked)} items names only {len(set(ranked))} different ones: expected each "
            "item once. Keep the first of each with list(dict.fromkeys(ranked))."
        )
    return ranked.index(true) + 1 if true in ranked else np.inf


def rank_by_score(scores: list[float], true: int, case: int) -> float:
    """The place of the true item among all scores, from 1; ties count against it."""
    try:
        return rank_of_target(np.array([np.nan if score is None else score for score in scores]), true)
    except ValueError as error:
        raise ValueError(f"case {case}: {error}") from error
