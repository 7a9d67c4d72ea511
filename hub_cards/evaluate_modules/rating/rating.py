"""MAE, RMSE and accuracy of predicted stars, with the functions of `processing_unimp`.

`evaluate` reads the imports of this file line by line: one module a line, with what pip would install after `From:`.
"""

import datasets
import evaluate
import numpy as np

from processing_unimp.metrics.stars import mae, rmse  # From: unimp

DESCRIPTION = """
How far predicted stars are from given ones: the mean absolute error and the root mean squared error, both in stars and
of unrounded predictions, and the share of predictions that are right once both are rounded to whole stars.
"""

INPUTS_DESCRIPTION = """
Args:
    predictions (list of float): predicted stars; any real numbers, such as the mean of a distribution over stars.
    references (list of float): given stars.

Returns:
    dict: "mae" and "rmse", 0 or more, less is better; "accuracy", 0 to 1: halves round up.
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


class Rating(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        predicted, true = np.array(predictions, dtype=np.float64), np.array(references, dtype=np.float64)
        errors = {"mae": mae(predicted, true), "rmse": rmse(predicted, true)}  # these refuse NaN
        right = np.floor(predicted + 0.5) == np.floor(true + 0.5)
        return errors | {"accuracy": float(right.mean())}
