"""Closed-form scores of a shop, and how much each counts beside the network: fitted on validation, in seconds.

Shapes: C cases, N items, F closed-form scores.
"""

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import minimize

from processing_unimp import Catalogue, EvaluationCases, Histories, UniMPProcessor
from processing_unimp.control_tokens import NUM_STARS

from ..answering import outputs_of
from ..hybrid_scores import (
    POPULARITY,
    QUERIES,
    HybridScores,
    Score,
    StarScores,
    TermIndex,
    numbers_of,
    query_texts,
    stars_of_history,
    texts_of,
)
from .item_similarity import (
    ease,
    item_knn,
    picture_similarity,
    rated_alike,
    term_vectors,
    text_similarity,
    windowed_transitions,
)
from .rating_factors import biases, factorise

if TYPE_CHECKING:
    from ..modeling_unimp import UniMPForConditionalGeneration
    from .feature_store import FeatureStore

logger = logging.getLogger("train")

MOST_CASES = 2_000
MOST_ITEMS = 50_000  # beyond it, similarities of all pairs take hours
BYTES_OF_SCORES = 2**30  # C x F x N numbers are in memory during the fit
RIDGE = 1e-3
EASE_PENALTIES = (10.0, 100.0)  # a small one suits small shops, a large one busy shops: the fit chooses
TIE_BREAK = 0.01  # weight of popularity where rankings are better without: it decides between equals
STAR_RIDGE = 1e-5
STAR_PENALTIES = (1.0, 3.0, 10.0, 30.0)
RANK, FACTOR_PENALTIES = 8, (3.0, 10.0)
WORDS, VALUES = "query words", "query value"
RANKINGS = ("recommend", "search")


def closed_form_scores(
    train: Histories, pictures: np.ndarray | None, query_attribute: str | None, exclude_seen: bool
) -> HybridScores:
    """All closed-form scores of a shop, without weights yet.

    Args:
        train (`Histories`): the training part.
        pictures (`np.ndarray` of shape `(N, D)`, *optional*): a vector for each picture, zeros where there is none.
        query_attribute (`str`, *optional*): what queries of the shop mostly name, such as the category.
        exclude_seen (`bool`): whether items of a history are left out of rankings; if not, "again" is a score too.
    """
    catalogue = train.catalogue
    pictures = None if pictures is None or not np.any(pictures) else pictures
    terms = term_vectors(catalogue)
    found = {f"EASE {each:g}": ease(train, each, terms=terms, pictures=pictures) for each in EASE_PENALTIES}
    if not any(found.values()):
        found["kNN"] = item_knn(train)
    found |= {
        "transitions": windowed_transitions(train),
        "text": text_similarity(catalogue),
        "pictures": None if pictures is None else picture_similarity(pictures),
    }
    neighbours = {
        name: (torch.from_numpy(each.items), torch.from_numpy(each.values))
        for name, each in found.items()
        if each is not None
    }
    if not exclude_seen:
        everything = torch.arange(len(catalogue))[:, None]
        neighbours["again"] = (everything, torch.ones(len(catalogue), 1))
    # One shop wants the last item, another all of them alike: the fit chooses.
    middle = float(np.clip(np.median(np.diff(train.starts)) / 2, 4, 32))
    scores = [Score(name, half_life) for name in neighbours for half_life in (1.0, middle, math.inf)]
    indices = term_indices(catalogue, query_attribute)
    scores += [Score(POPULARITY), *(Score(name) for name in indices)]
    counts = train.item_counts() + 1
    popularity = torch.from_numpy(np.log(counts / counts.sum()))
    return HybridScores(neighbours, indices, popularity, scores, query_attribute=query_attribute)


def term_indices(catalogue: Catalogue, query_attribute: str | None) -> dict[str, TermIndex]:
    """What queries are looked up in: words of all attributes, whole values, and what the query attribute says."""
    texts = [texts_of(catalogue.item(item_id)) for item_id in catalogue.item_ids]
    found = {WORDS: TermIndex.of(texts, are_words=True), VALUES: TermIndex.of(texts, are_words=False)}
    if query_attribute is not None:
        queries = [query_texts(value) for value in catalogue.column(query_attribute)]
        found[QUERIES] = TermIndex.of(queries, are_words=False)
    return found


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
            requests = _sample(by_task[task].requests, hybrid)
            features = _ranking_features(hybrid, task, requests, catalogue, by_task[task].exclude_seen)
            weights[task] = [0.0, *_fit_ranking(hybrid, *features)]
    if "select" in by_task and "recommend" in weights:
        requests = _sample(by_task["select"].requests, hybrid)
        nothing = torch.zeros(len(requests), len(catalogue))
        fitted = _candidate_weight(hybrid.with_weights(weights, None), requests, nothing, catalogue)
        if fitted is not None:
            weights["select"] = [fitted]
    stars = None
    if "rate" in by_task and train.has_ratings:
        requests = by_task["rate"].requests[:MOST_CASES]
        stars = _fit_stars(train, requests, np.full((len(requests), NUM_STARS), 1 / NUM_STARS), catalogue)
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
) -> tuple[HybridScores, HybridScores]:
    """Fit the weights of each task on validation.

    Args:
        hybrid (`HybridScores`): of [`closed_form_scores`].
        model, processor: as trained; the network's own answers are read, and nothing of it is changed.
        validation (`Sequence[EvaluationCases]`): with whole histories.
        train (`Histories`): the training part.
        vision_features (`FeatureStore`, *optional*)
        batch_size (`int`, *optional*, defaults to 32): of the network's forwards.

    Returns:
        `tuple[HybridScores, HybridScores]`: with the network, and the best blend without it, to compare with.
    """
    if model.hybrid_scores is not None:
        raise ValueError("the model has closed-form scores already: set model.hybrid_scores = None to fit others.")
    alone = fit_closed_form(hybrid, validation, train)
    by_task = {cases.task.name: cases for cases in validation if len(cases)}
    catalogue = processor.catalogue
    together: dict[str, list[float]] = {}

    def outputs(requests: Sequence[Any], group: str) -> np.ndarray:
        found = outputs_of(model, processor, requests, group, batch_size=batch_size, vision_features=vision_features)
        return np.stack(list(found))

    search_reads = "search"
    for task in RANKINGS:
        if task not in by_task:
            continue
        requests = _sample(by_task[task].requests, hybrid)
        features, truth, hidden = _ranking_features(
            hybrid, task, requests, catalogue, by_task[task].exclude_seen, outputs(requests, "items")
        )
        closed = _ndcg(features, truth, hidden, alone.weights[task])
        found = {task: _fit_ranking(hybrid, features, truth, hidden)}
        reached = {task: _ndcg(features, truth, hidden, found[task])}
        by_network = _ndcg(features, truth, hidden, [1.0] + [0.0] * len(hybrid.scores))
        # Wishes such as "teal mug", which validation does not hold, are what the network was taught to search for.
        if task == "search" and not processor.wish_attributes:
            asked = [{"task": "recommend", "history": request["history"]} for request in requests]
            features[:, 0] = torch.from_numpy(outputs(asked, "items")).log_softmax(dim=-1).numpy()
            found["recommend"] = _fit_ranking(hybrid, features, truth, hidden)
            reached["recommend"] = _ndcg(features, truth, hidden, found["recommend"])
        best = max(reached, key=lambda name: reached[name])
        logger.info(
            f"hybrid {task}: NDCG@10 on {len(truth)} validation cases: network {by_network:.4f}, closed form "
            f"{closed:.4f}, together {reached[best]:.4f} (weight of the network {found[best][0]:.2f}"
            + (f", asked to {best})" if best != task else ")")
            + ("" if reached[best] > closed else "; the network does not earn its weight here, and gets none")
        )
        together[task] = found[best] if reached[best] > closed else alone.weights[task]
        search_reads = best if task == "search" else search_reads
    if "select" in by_task and "recommend" in together:
        requests = _sample(by_task["select"].requests, hybrid)
        asked = [{"task": "recommend", "history": request["history"]} for request in requests]
        logits = torch.from_numpy(outputs(asked, "items"))
        fitted = _candidate_weight(hybrid.with_weights(together, None), requests, logits, catalogue)
        if fitted is not None:
            together["select"] = [fitted]
    stars = None
    if "rate" in by_task and train.has_ratings:
        requests = by_task["rate"].requests[:MOST_CASES]
        stars = _fit_stars(train, requests, outputs(requests, "stars"), catalogue)
    return hybrid.with_weights(together, stars, search_reads), alone


def _sample(requests: Sequence[Any], hybrid: HybridScores) -> list[Any]:
    """As many as the fit has room for, spread over all."""
    room = BYTES_OF_SCORES // (4 * (len(hybrid.scores) + 1) * hybrid.num_items)
    most = max(100, min(MOST_CASES, room))
    return list(requests[:: max(1, math.ceil(len(requests) / most))])


def _ranking_features(
    hybrid: HybridScores,
    task: str,
    requests: list[Any],
    catalogue: Catalogue,
    exclude_seen: bool,
    logits: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The closed-form scores `(C, F, N)`, the right items `(C,)`, and those left out `(C, N)`; with the network's
    logits `(C, N)` their log-probabilities come first, `(C, 1 + F, N)`.

    Scales of the scores are set in `hybrid`: those of a history for all tasks, those of a query for search.
    """
    histories = [numbers_of(request["history"], catalogue) for request in requests]
    queries = [request.get("query") for request in requests]
    truth = np.array([catalogue.number(request["answer"]) for request in requests])
    for place, score in enumerate(hybrid.scores):
        can_be_measured = score.source in hybrid.neighbours or (score.source in hybrid.terms and task == "search")
        if score.scale is None and can_be_measured:
            raw = hybrid.raw(score, histories, queries)
            tenth = raw.topk(min(10, raw.shape[1]), dim=1).values[:, -1].mean().item()
            hybrid.scores[place] = score._replace(scale=tenth or float(raw.max()) or 1.0)
    features = [] if logits is None else [torch.from_numpy(logits).log_softmax(dim=-1)]
    features += [hybrid.squashed(score, histories, queries, len(catalogue)) for score in hybrid.scores]
    hidden = np.repeat(~np.asarray(catalogue.available)[None], len(truth), axis=0)
    if exclude_seen:
        for row, history in enumerate(histories):
            hidden[row, [number for number in history if number >= 0]] = True
    hidden[np.arange(len(truth)), truth] = False
    return torch.stack(features, dim=1).numpy(), truth, hidden


def _ndcg(features: np.ndarray, truth: np.ndarray, hidden: np.ndarray, weights: Sequence[float]) -> float:
    """NDCG@10 on the cases of the fit."""
    scores = np.matmul(np.asarray(weights, dtype=np.float32), features)
    scores[hidden] = -np.inf
    ranks = (scores >= scores[np.arange(len(truth)), truth][:, None]).sum(axis=1)
    return float(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean())


def _fit_ranking(hybrid: HybridScores, features: np.ndarray, truth: np.ndarray, hidden: np.ndarray) -> list[float]:
    """Weights by cross-entropy, with popularity or without, whichever has the higher NDCG@10.

    Most of the cross-entropy is about items far down, where popularity tells more than at the top.
    """
    popularity = next(place for place, score in enumerate(hybrid.scores) if score.source == POPULARITY)
    bounds: list[Any] = [(0.0, None)] * features.shape[1]
    with_popularity = fit_softmax(features, truth, hidden, bounds).tolist()
    bounds[features.shape[1] - len(hybrid.scores) + popularity] = (TIE_BREAK, TIE_BREAK)
    without = fit_softmax(features, truth, hidden, bounds).tolist()
    return max(without, with_popularity, key=lambda weights: _ndcg(features, truth, hidden, weights))


def fit_softmax(
    features: np.ndarray, truth: np.ndarray, hidden: np.ndarray, bounds: Any = None, ridge: float = RIDGE
) -> np.ndarray:
    """Weights that minimise the mean cross-entropy of the softmax over items, plus a small ridge.

    Args:
        features (`np.ndarray` of shape `(C, F, N)`)
        truth (`np.ndarray` of shape `(C,)`): the right item.
        hidden (`np.ndarray` of shape `(C, N)`): items that are left out.
        bounds (`list[tuple]`, *optional*): of each weight; by default none is below 0.
        ridge (`float`, *optional*)
    """
    rows = np.arange(len(truth))
    right = features[rows, :, truth]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = np.matmul(weights.astype(features.dtype), features)
        scores[hidden] = -np.inf
        largest = scores.max(axis=1, keepdims=True)
        exponentials = np.exp(scores - largest)
        total = exponentials.sum(axis=1, keepdims=True)
        value = (np.log(total[:, 0]) + largest[:, 0] - scores[rows, truth]).mean()
        expected = np.matmul(features, (exponentials / total)[:, :, None])[:, :, 0]
        gradient = (expected - right).mean(axis=0) + 2 * ridge * weights
        return float(value + ridge * np.square(weights).sum()), gradient.astype(np.float64)

    start = np.full(features.shape[1], 0.1)
    bounds = bounds or [(0.0, None)] * features.shape[1]
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x)


def _candidate_weight(
    hybrid: HybridScores, requests: Sequence[Any], logits: torch.Tensor, catalogue: Catalogue
) -> float | None:
    """By what the scores of candidates are multiplied before their softmax; from cases with one right candidate."""
    found = [
        (row, request, numbers_of(request["candidates"], catalogue))
        for row, request in enumerate(requests)
        if sum(request["answer"]) == 1
    ]
    if not found:
        return None
    width = max(len(numbers) for _, _, numbers in found)
    features = np.zeros((len(found), 1, width), dtype=np.float32)
    hidden = np.ones((len(found), width), dtype=bool)
    for place, (row, request, numbers) in enumerate(found):
        scores = hybrid.add("recommend", logits[row : row + 1], [numbers_of(request["history"], catalogue)])[0]
        features[place, 0, : len(numbers)], hidden[place, : len(numbers)] = scores[numbers], False
    truth = np.array([request["answer"].index(True) for _, request, _ in found])
    return float(fit_softmax(features, truth, hidden)[0])


def _fit_stars(train: Histories, requests: Sequence[Any], network: np.ndarray, catalogue: Catalogue) -> StarScores:
    """Biases and factors by ridge regression, whose penalties and blend with the network validation chooses."""
    histories = [stars_of_history(request["history"], catalogue) for request in requests]
    items = numbers_of([request["item"] for request in requests], catalogue)
    truth = np.array([int(request["answer"]) - 1 for request in requests])
    stars = np.arange(1, network.shape[1] + 1)

    def with_penalties(of_users: float, of_items: float) -> tuple[float, tuple[float, StarScores]]:
        mean, _, of_item = biases(train, of_users, of_items)
        nothing = np.zeros((len(catalogue), 0), dtype=np.int32), np.zeros((len(catalogue), 0), dtype=np.float32)
        found = StarScores(mean, of_item, of_users, *nothing, nothing[1], 1.0, np.zeros(len(stars)))
        return squared_error(found, (0,)), (of_items, found)

    def with_factors(penalty: float) -> tuple[float, StarScores]:
        *_, factors = factorise(train, biased.strength, item_penalty, RANK, penalty)
        found = biased._replace(factors=factors.astype(np.float32), penalty=penalty)
        return squared_error(found, (0, 2)), found

    def squared_error(found: StarScores, parts: tuple[int, ...]) -> float:
        expected = [sum(found.estimate(*each)[part] for part in parts) for each in zip(histories, items, strict=True)]
        return float(np.square(np.array(expected) - truth - 1).mean())

    _, (item_penalty, biased) = min(
        (with_penalties(u, i) for u in STAR_PENALTIES for i in STAR_PENALTIES), key=lambda each: each[0]
    )
    _, found = min(map(with_factors, FACTOR_PENALTIES), key=lambda each: each[0])
    near = rated_alike(train, found.strength, found.mean, found.biases)
    found = found._replace(neighbours=near.items, similarities=near.values)
    estimates = np.array([found.estimate(*each) for each in zip(histories, items, strict=True)])
    features = np.stack(
        [np.log(np.clip(network, 1e-6, None)), *(stars * estimates[:, part : part + 1] for part in range(3))]
        + [np.broadcast_to(stars == star, network.shape).astype(np.float64) for star in stars],
        axis=1,
    )
    free = [(0.0, None)] * 4 + [(None, None)] * len(stars)
    weights = fit_softmax(features, truth, np.zeros(network.shape, dtype=bool), bounds=free, ridge=STAR_RIDGE)
    of_network, expected, alike, factored = map(float, weights[:4])
    return found._replace(
        network=of_network, expected=expected, alike=alike, factored=factored, intercepts=weights[4:]
    )
