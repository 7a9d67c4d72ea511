"""How much each closed-form score counts beside the network: fitted on validation, in seconds.

Shapes: C cases, N items, M of them that compete in a case, F closed-form scores.
"""

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from processing_unimp import Catalogue, EvaluationCases, Histories, UniMPProcessor
from processing_unimp.control_tokens import NUM_STARS
from processing_unimp.metrics.stars import rmse

from ..answering import outputs_of
from ..hybrid_scores import AGAIN, POPULARITY, HybridScores, numbers_of, squash
from .evaluation import Fit, fit_in_words
from .ranking_weights import Bounds, fit_closed, fit_ranking, fit_softmax, ndcg_at_10
from .star_fitting import fit_stars

if TYPE_CHECKING:
    from ..modeling_unimp import UniMPForConditionalGeneration
    from .feature_store import FeatureStore

logger = logging.getLogger("train")

MOST_CASES = 2_000
BEST_OF_SCORE, NUM_DRAWN = 50, 2_000  # items that compete in a case: the best of each score, and some of the others
LOGITS_AT_ONCE = 2**26
LEAST_POPULARITY = 1e-3  # so that of items with nothing else to go by the more popular one is first, not the table's
RANKINGS = ("recommend", "search")


def fit_closed_form(hybrid: HybridScores, validation: Sequence[EvaluationCases], train: Histories) -> HybridScores:
    """Fit the weights of each task on validation, without a network.

    Args:
        hybrid (`HybridScores`): of [`closed_form_scores`].
        validation (`Sequence[EvaluationCases]`): with whole histories.
        train (`Histories`): the training part.

    Returns:
        `HybridScores`: the best blend of the closed-form scores alone.
    """
    by_task = {cases.task.name: cases for cases in validation if len(cases)}
    catalogue = train.catalogue
    weights: dict[str, list[float]] = {}
    for task in RANKINGS:
        if task in by_task:
            requests = _sample(by_task[task].requests)
            features = _ranking_features(hybrid, task, requests, catalogue, by_task[task].exclude_seen)
            weights[task] = _with_popularity(hybrid, [0.0, *fit_closed(*features, bounds=_bounds(hybrid))])
    if "select" in by_task and "recommend" in weights:
        requests = _sample(by_task["select"].requests)
        nothing = itertools.repeat(np.zeros(len(catalogue), dtype=np.float32))
        fitted = _candidate_weight(hybrid.with_weights(weights, None), requests, nothing, catalogue)
        if fitted is not None:
            weights["select"] = [fitted]
    stars = None
    if "rate" in by_task and train.has_ratings:
        requests = _sample(by_task["rate"].requests)
        stars = fit_stars(train, requests, np.full((len(requests), NUM_STARS), 1 / NUM_STARS), catalogue)
    return hybrid.with_weights(weights, stars)


def fit_hybrid(
    hybrid: HybridScores,
    model: "UniMPForConditionalGeneration",
    processor: UniMPProcessor,
    validation: Sequence[EvaluationCases],
    train: Histories,
    *,
    vision_features: "FeatureStore | None" = None,
    batch_size: int = 32,
) -> tuple[HybridScores, HybridScores, Fit]:
    """Fit the weights of each task on validation.

    Args:
        hybrid (`HybridScores`): of [`closed_form_scores`].
        model, processor: as trained; the network's own answers are read, and nothing of it is changed.
        validation (`Sequence[EvaluationCases]`): with whole histories.
        train (`Histories`): the training part.
        vision_features (`FeatureStore`, *optional*)
        batch_size (`int`, *optional*, defaults to 32): of the network's forwards.

    Returns:
        `tuple[HybridScores, HybridScores, dict]`: with the network; the best blend without it, to compare with; and
        what was found: by task that ranks or rates the `metric` of `network`, `closed_form` and both `together` on so
        many `cases`, the `weight` that the network gets (0: it does not earn any), and which task it is `asked`.
        `None` for a task without cases. Candidates are ranked by what was found for recommend.
    """
    if model.hybrid_scores is not None:
        raise ValueError("the model has closed-form scores already: set model.hybrid_scores = None to fit others.")
    alone = fit_closed_form(hybrid, validation, train)
    by_task = {cases.task.name: cases for cases in validation if len(cases)}
    catalogue = processor.catalogue
    together: dict[str, list[float]] = {}
    fit: Fit = {cases.task.name: None for cases in validation if cases.task.name in (*RANKINGS, "rate")}

    def outputs(requests: Sequence[Any], group: str) -> Iterator[np.ndarray]:
        # Logits of all items for all cases would be too many at once.
        size = max(1, min(batch_size, LOGITS_AT_ONCE // len(catalogue))) if group == "items" else batch_size
        return outputs_of(model, processor, requests, group, batch_size=size, vision_features=vision_features)

    search_reads = "search"
    for task in RANKINGS:
        if task not in by_task:
            continue
        requests = _sample(by_task[task].requests)
        exclude_seen = by_task[task].exclude_seen
        features, truth, added = _ranking_features(
            hybrid, task, requests, catalogue, exclude_seen, outputs(requests, "items")
        )
        closed = ndcg_at_10(features, truth, added, alone.weights[task])
        found = {task: fit_ranking(features, truth, added, _bounds(hybrid))}
        reached = {task: ndcg_at_10(features, truth, added, found[task])}
        by_network = ndcg_at_10(features, truth, added, [1.0] + [0.0] * len(hybrid.scores))
        # Wishes such as "teal mug", which validation does not hold, are what the network was taught to search for.
        if task == "search" and not processor.wish_attributes:
            asked = [{"task": "recommend", "history": request["history"]} for request in requests]
            features, truth, added = _ranking_features(
                hybrid, task, requests, catalogue, exclude_seen, outputs(asked, "items")
            )
            found["recommend"] = fit_ranking(features, truth, added, _bounds(hybrid))
            reached["recommend"] = ndcg_at_10(features, truth, added, found["recommend"])
        best = max(reached, key=lambda name: reached[name])
        together[task] = _with_popularity(hybrid, found[best]) if reached[best] > closed else alone.weights[task]
        fit[task] = {
            "metric": "ndcg@10",
            "cases": len(truth),
            "network": by_network,
            "closed_form": closed,
            "together": reached[best],
            "weight": together[task][0],
            "asked": best,
        }
        search_reads = best if task == "search" else search_reads
    if "select" in by_task and "recommend" in together:
        requests = _sample(by_task["select"].requests)
        asked = [{"task": "recommend", "history": request["history"]} for request in requests]
        logits = outputs(asked, "items")
        fitted = _candidate_weight(hybrid.with_weights(together, None), requests, logits, catalogue)
        if fitted is not None:
            together["select"] = [fitted]
    stars = None
    if "rate" in by_task and train.has_ratings:
        requests = _sample(by_task["rate"].requests)
        network = np.stack(list(outputs(requests, "stars")))
        stars = fit_stars(train, requests, network, catalogue)
        nothing, own = torch.ones(network.shape), torch.from_numpy(network)
        fit["rate"] = {
            "metric": "rmse",
            "cases": len(requests),
            "network": _rmse(own, requests),
            "closed_form": _rmse(alone.star_probabilities(nothing, requests, catalogue), requests),
            "together": _rmse(hybrid.with_weights({}, stars).star_probabilities(own, requests, catalogue), requests),
            "weight": stars.network,
            "asked": "rate",
        }
    for task, of_task in fit.items():
        logger.info(f"hybrid {task}: {fit_in_words(task, of_task)}")
    return hybrid.with_weights(together, stars, search_reads), alone, fit


def _sample(requests: Sequence[Any]) -> list[Any]:
    """As many as the fit has room for, spread over all."""
    return list(requests[:: max(1, math.ceil(len(requests) / MOST_CASES))])


def _ranking_features(
    hybrid: HybridScores,
    task: str,
    requests: list[Any],
    catalogue: Catalogue,
    exclude_seen: bool,
    logits: Iterable[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The closed-form scores of the items that compete `(C, F, M)`, the place of the right one `(C,)`, and what is
    added to the sums `(C, M)`; with the network's logits `(N,)` of each case their log-probabilities come first,
    `(C, 1 + F, M)`.

    The best items of each score compete, and a random draw of the others. Each of these stands for as many as it was
    drawn from, by whose logarithm its sum is raised: the softmax is over all items, of which the drawn are an
    unbiased estimate (https://huggingface.co/papers/1412.2007). Where all compete, nothing is estimated.

    Scales of the scores are set in `hybrid`: those of a history for all tasks, those of a query for search.
    """
    num_items, rng = len(catalogue), np.random.default_rng(0)
    raw = torch.zeros(len(hybrid.scores), num_items)
    tenth = np.zeros((len(requests), len(hybrid.scores)))
    popular = np.zeros(0, dtype=np.int64)
    of_history = []
    for places, scores in hybrid.by_source():
        if scores[0].source == POPULARITY:
            hybrid.add_raw(raw[places], scores, ())
            popular = raw[places][0].topk(min(BEST_OF_SCORE, num_items)).indices.numpy()
        else:
            of_history.append((places, scores))
    found: list[tuple[torch.Tensor, np.ndarray]] = []
    each_logits = itertools.repeat(None) if logits is None else logits
    for case, (request, own) in enumerate(zip(requests, each_logits, strict=False)):
        history, truth = numbers_of(request["history"], catalogue), catalogue.number(request["answer"])
        best, touched = [popular], []
        for places, scores in of_history:
            numbers = hybrid.add_raw(raw[places], scores, history, request.get("query")).unique()
            touched.append(numbers)
            values, order = raw[places, numbers].topk(min(BEST_OF_SCORE, len(numbers)), dim=1)
            best.extend(numbers[order].numpy())
            if values.shape[1] >= min(10, num_items):
                tenth[case, places] = values[:, min(9, num_items - 1)].clamp(min=0)
        features = raw
        if own is not None:
            features = torch.cat([torch.from_numpy(own).float().log_softmax(dim=-1)[None], raw])
            best.append(features[0].topk(min(BEST_OF_SCORE, num_items)).indices.numpy())
        allowed = np.array(catalogue.available)
        if exclude_seen:
            allowed[[number for number in history if number >= 0]] = False
        allowed[truth] = False
        competing = np.unique(np.concatenate(best))
        competing = competing[allowed[competing]]
        allowed[competing] = False
        others = np.flatnonzero(allowed)
        drawn = rng.choice(others, NUM_DRAWN, replace=False) if len(others) > NUM_DRAWN else others
        chosen = np.concatenate([[truth], competing, drawn])
        added = np.zeros(len(chosen), dtype=np.float32)
        added[len(chosen) - len(drawn) :] = math.log(max(len(others), 1) / max(len(drawn), 1))
        found.append((features[:, torch.from_numpy(chosen)], added))
        for (places, _), numbers in zip(of_history, touched, strict=True):
            raw[places, numbers] = 0
    width = max(len(added) for _, added in found)
    all_features = np.zeros((len(found), len(found[0][0]), width), dtype=np.float32)
    all_added = np.full((len(found), width), -np.inf, dtype=np.float32)
    for case, (own_features, added) in enumerate(found):
        all_features[case, :, : len(added)], all_added[case, : len(added)] = own_features, added
    first = all_features.shape[1] - len(hybrid.scores)
    for place, score in enumerate(hybrid.scores):
        is_of_history = score.source == AGAIN or score.source in hybrid.neighbours
        can_be_measured = is_of_history or (score.source in hybrid.terms and task == "search")
        of_score = all_features[:, first + place]
        if score.scale is None and can_be_measured:
            score = score._replace(scale=float(tenth[:, place].mean()) or float(of_score.max()) or 1.0)
            hybrid.scores[place] = score
        of_score[:] = squash(score, torch.from_numpy(of_score))
    return all_features, np.zeros(len(found), dtype=np.int64), all_added


def _rmse(probabilities: torch.Tensor, requests: Sequence[Any]) -> float:
    """Of the expected stars, from the distributions `(C, 5)`."""
    expected = probabilities.double().numpy() @ np.arange(1, probabilities.shape[1] + 1)
    return rmse(expected, np.array([request["answer"] for request in requests], dtype=np.float64))


def _bounds(hybrid: HybridScores) -> Bounds:
    """Of the weights of the closed-form scores: none is below 0 but those of "again", for what a shopper took last may
    be what they need least, and what they took before it what they need next."""
    return [(None if score.source == AGAIN else 0.0, None) for score in hybrid.scores]


def _with_popularity(hybrid: HybridScores, weights: list[float]) -> list[float]:
    of_scores = zip(weights[1:], hybrid.scores, strict=True)
    least = (max(weight, LEAST_POPULARITY) if score.source == POPULARITY else weight for weight, score in of_scores)
    return [weights[0], *least]


def _candidate_weight(
    hybrid: HybridScores, requests: Sequence[Any], logits: Iterable[np.ndarray], catalogue: Catalogue
) -> float | None:
    """By what the scores of candidates are multiplied before their softmax; from cases with one right candidate."""
    found: list[tuple[np.ndarray, int]] = []
    for request, own in zip(requests, logits, strict=False):  # of which there may be no end
        if sum(request["answer"]) == 1:
            history = numbers_of(request["history"], catalogue)
            scores = hybrid.add("recommend", torch.from_numpy(own)[None], [history])[0].numpy()
            found.append((scores[numbers_of(request["candidates"], catalogue)], request["answer"].index(True)))
    if not found:
        return None
    width = max(len(scores) for scores, _ in found)
    features = np.zeros((len(found), 1, width), dtype=np.float32)
    added = np.full((len(found), width), -np.inf, dtype=np.float32)
    for place, (scores, _) in enumerate(found):
        features[place, 0, : len(scores)], added[place, : len(scores)] = scores, 0
    return float(fit_softmax(features, np.array([truth for _, truth in found]), added)[0])
