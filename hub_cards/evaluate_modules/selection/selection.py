"""Precision, recall and F1 of chosen candidates, averaged over cases, with the functions of `processing_unimp`.

`evaluate` reads the imports of this file line by line: one module a line, with what pip would install after `From:`.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from processing_unimp.case_metrics import precision_recall_f1  # From: unimp
from processing_unimp.task_select import choose  # From: unimp

DESCRIPTION = """
How well the chosen ones among a case's candidates are the right ones: precision, recall and F1 of every case, averaged
over cases. The mean of F1 is not the F1 of mean precision and mean recall.
"""

INPUTS_DESCRIPTION = """
Args:
    predictions (list of list of bool): for each case, whether each candidate was chosen; with the configuration
        "probabilities" the probability of each to be right, of which the set with the best expected F1 is chosen.
    references (list of list of bool): for each case, whether each candidate is right, in the same order.

Returns:
    dict: "precision", "recall" and "f1", 0 to 1. Nothing chosen where nothing is right counts 1, otherwise nothing
    chosen, or nothing right, counts 0.
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


class Selection(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ("default", "probabilities"):
            raise ValueError(
                f"selection has no configuration {self.config_name!r}: expected none, for decisions, or "
                "'probabilities'."
            )
        # Decisions as numbers too: a column of truth values would take 0.3, and even "no", for True.
        numbers = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": numbers, "references": numbers}),
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        if not predictions:
            raise ValueError("no cases: expected the candidates of at least one.")
        found = []
        for case, (row, right) in enumerate(zip(predictions, references, strict=True)):
            if self.config_name == "default":
                chosen = decisions(row, case, "predictions", "Load the configuration 'probabilities' for those.")
            else:
                chosen = choose(probabilities(row, case))
            try:
                found.append(precision_recall_f1(chosen, decisions(right, case, "references", "")))
            except ValueError as error:
                raise ValueError(f"case {case}: {error}") from error
        precision, recall, f1 = (float(value) for value in np.mean(found, axis=0))
        return {"precision": precision, "recall": recall, "f1": f1}


def decisions(row: list[float], case: int, name: str, remedy: str) -> np.ndarray:
    values = np.array(row, dtype=np.float64)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"case {case}: {name} of {row}: expected true and false (1 and 0) only. {remedy}".rstrip())
    return values == 1


def probabilities(row: list[float], case: int) -> np.ndarray:
    values = np.array(row, dtype=np.float64)
    if not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"case {case}: predictions of {row}: expected probabilities from 0 to 1, one a candidate.")
    return values
