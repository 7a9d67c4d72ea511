"""The metrics of each task over all cases, from the columns that `Task.score` gives."""

from collections.abc import Callable, Sequence

import numpy as np

from ..task import Scores, Task
from .lists import ListMeasures
from .pictures import diversity, frechet_distance
from .ranking import hit_rate, mrr, ndcg
from .stars import mae, rmse
from .texts import bert_score, bleu, distinct, meteor, rouge

RANKING: dict[str, Callable[[Scores], float]] = {
    "hr@5": lambda scores: hit_rate(scores["rank"], 5),
    "ndcg@5": lambda scores: ndcg(scores["rank"], 5),
    "mrr@5": lambda scores: mrr(scores["rank"], 5),
    "hr@10": lambda scores: hit_rate(scores["rank"], 10),
    "ndcg@10": lambda scores: ndcg(scores["rank"], 10),
    # Of the catalogue, what is in anybody's first ten.
    "coverage@10": lambda scores: len(np.setdiff1d(scores["best"], -1)) / int(scores["num_items"][0]),
}
METRICS: dict[str, dict[str, Callable[[Scores], float]]] = {
    "recommend": RANKING,
    "search": RANKING,
    "rate": {
        "mae": lambda scores: mae(scores["predicted"], scores["true"]),
        "rmse": lambda scores: rmse(scores["predicted"], scores["true"]),
    },
    "select": {
        "precision": lambda scores: float(scores["precision"].mean()),
        "recall": lambda scores: float(scores["recall"].mean()),
        "f1": lambda scores: float(scores["f1"].mean()),
    },
    "imagine": {
        "gain": lambda scores: float((scores["similarity"] - scores["similarity_to_other"]).mean()),
        "similarity": lambda scores: float(scores["similarity"].mean()),
        "similarity_to_other": lambda scores: float(scores["similarity_to_other"].mean()),
        "frechet": lambda scores: _of_several(frechet_distance, scores["features"], scores["true"]),
        "diversity": lambda scores: _of_several(diversity, scores["features"]),
        "nll": lambda scores: float(scores["nll"].mean()),
    },
}
LOWER_IS_BETTER = {"mae", "rmse", "frechet", "nll"}
# High for a picture of anything, low for a picture of nothing; highest of all for chance.
NEITHER_IS_BETTER = {"similarity_to_other", "coverage@10", "novelty@10", "diversity@10"}
TEXT_METRICS = (bleu, rouge, meteor, distinct, bert_score)


def summarise(task: Task, scores: Scores, lists: ListMeasures | None = None) -> dict[str, float]:
    """
    Metrics over all cases, by name.

    Args:
        task (`Task`): what was asked.
        scores (`dict[str, np.ndarray]`): what `task.score` gives, by name an array with a row a case.
        lists (`ListMeasures`, *optional*): adds novelty and diversity of rankings.

    Returns:
        `dict[str, float]`: the same names for every model; of explanations also BERTScore where it can be had, see
        [`~processing_unimp.metrics.texts.bert_score`].
    """
    if task.name == "explain":
        predicted, true = scores["predicted"].tolist(), scores["true"].tolist()
        return {name: value for metric in TEXT_METRICS for name, value in metric(predicted, true).items()}
    found = {name: metric(scores) for name, metric in METRICS[task.name].items()}
    if lists is not None and METRICS[task.name] is RANKING:
        found |= {"novelty@10": lists.novelty(scores["best"]), "diversity@10": lists.diversity(scores["best"])}
    return found


def more_is_better(name: str, tasks: Sequence[str]) -> bool:
    """Whether a model is the better the greater a metric is.

    Args:
        name (`str`): `TASK_METRIC`, such as `recommend_ndcg@10`.
        tasks (`Sequence[str]`): names of the tasks that are evaluated.

    Raises:
        ValueError: no such task, or it has no such metric, or one that tells nothing of how good a model is.
    """
    task, _, metric = name.partition("_")
    if task not in tasks:
        raise ValueError(
            f"metric {name!r} is of no task that is evaluated: expected TASK_METRIC, of {', '.join(tasks)}."
        )
    telling = [each for each in METRICS.get(task, [metric]) if each not in NEITHER_IS_BETTER]
    if metric not in telling:
        raise ValueError(f"metric {name!r}: expected {task}_ and one of {', '.join(telling)}.")
    return metric not in LOWER_IS_BETTER


def headline_of(task: Task, scores: Scores, rows: np.ndarray) -> float:
    """The headline metric over the cases `rows`, which may hold a case several times; for intervals. Not of explain,
    whose metrics are slow."""
    # A headline is made of numbers a case; the features of pictures are not copied.
    drawn = {name: column[rows] for name, column in scores.items() if column.ndim == 1}
    return METRICS[task.name][task.headline](drawn)


def _of_several(metric: Callable[..., float], *features: np.ndarray) -> float:
    """One picture alone has no Frechet distance and no diversity."""
    return metric(*features) if len(features[0]) > 1 else float("nan")
