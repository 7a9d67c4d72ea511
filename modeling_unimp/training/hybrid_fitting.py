"""Closed-form scores of a shop, and how much each counts beside the network: fitted on validation, in seconds.

Shapes: C cases, N items, M of them that compete in a case, F closed-form scores.
"""

import itertools
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import softmax

from processing_unimp import Catalogue, EvaluationCases, Histories, UniMPProcessor
from processing_unimp.control_tokens import NUM_STARS
from processing_unimp.metrics.stars import rmse

from ..answering import outputs_of
from ..hybrid_scores import (
    AFTER,
    AGAIN,
    PICTURES,
    POPULARITY,
    QUERIES,
    TEXT,
    HybridScores,
    Score,
    numbers_of,
    squash,
    stars_of_history,
)
from ..star_scores import StarScores
from ..term_index import TermIndex, query_texts, texts_of
from .evaluation import Fit, fit_in_words
from .item_similarity import (
    Neighbours,
    item_knn,
    picture_similarity,
    rated_alike,
    term_vectors,
    text_similarity,
    windowed_transitions,
)
from .linear_models import LATER_HALF_LIFE, PENALTY, ease, inverse_of_users, items_of_linear_models, taken_after
from .rating_factors import biases, factorise, star_shares

if TYPE_CHECKING:
    from ..modeling_unimp import UniMPForConditionalGeneration
    from .feature_store import FeatureStore

logger = logging.getLogger("train")

MOST_CASES = 2_000
BEST_OF_SCORE, NUM_DRAWN = 50, 2_000  # items that compete in a case: the best of each score, and some of the others
LOGITS_AT_ONCE = 2**26
RIDGE = 1e-3
LEAST_POPULARITY = 1e-3  # so that of items with nothing else to go by the more popular one is first, not the table's
EASE_PENALTIES = (10.0, PENALTY)  # a small one suits small shops, a large one busy shops: the fit chooses
MOST_FOR_ALL_INVERSES = 10_000  # items; of more each takes a minute, and one was as good as all (benchmarks/LOG.md)
STAR_RIDGE = 30.0  # as by so many cases
MOST_STAR_UNITS = 100.0  # what is smaller, such as factors that a shop has none of, stays small
STAR_PENALTIES = (1.0, 3.0, 10.0, 30.0)
FEWEST_STARS = 20  # cases of validation
RANKS, FACTOR_PENALTIES = (4, 8), (3.0, 10.0)
KNN, WITHOUT_CONTENT = "kNN", f"EASE {PENALTY:g} without content"
WORDS, VALUES = "query words", "query value"
RANKINGS = ("recommend", "search")
Bounds = Sequence[tuple[float | None, float | None]]  # of each weight, the lowest and the highest; None: there is none


def closed_form_scores(
    train: Histories,
    pictures: np.ndarray | None,
    query_attribute: str | None,
    exclude_seen: bool,
    attributes: Sequence[str] | None = None,
    new_items: np.ndarray | None = None,
    sources: Collection[str] | None = None,
) -> HybridScores:
    """All closed-form scores of a shop, without weights yet.

    Args:
        train (`Histories`): the training part.
        pictures (`np.ndarray` of shape `(N, D)`, *optional*): a vector for each picture, zeros where there is none.
        query_attribute (`str`, *optional*): what queries of the shop mostly name, such as the category.
        exclude_seen (`bool`): whether items of a history are left out of rankings; if not, "again" is a score too.
        attributes (`Sequence[str]`, *optional*): what is read of an item; all that the catalogue has without it.
        new_items (`np.ndarray` of bool, `(N,)`, *optional*): listed, and taken by nobody yet: they go with what the
            item goes with that is most like them in words.
        sources (`Collection[str]`, *optional*): names of the linear models and of kNN to make, such as those of scores
            that were fitted; by default those that suit the number of items that were taken.
    """
    catalogue, attributes = train.catalogue, attributes or None
    pictures = None if pictures is None or not np.any(pictures) else pictures
    terms = term_vectors(catalogue, attributes)
    found: dict[str, Neighbours | None] = {}
    sources = _sources_for(train) if sources is None else sources
    for penalty in EASE_PENALTIES:
        if f"EASE {penalty:g}" in sources:
            found |= _linear_models(train, penalty, terms, pictures)
    if WITHOUT_CONTENT in sources and (terms is not None or pictures is not None):
        found[WITHOUT_CONTENT] = ease(inverse_of_users(train))
    if KNN in sources:
        found[KNN] = item_knn(train)
    found |= {
        "transitions": windowed_transitions(train),
        TEXT: None if terms is None else text_similarity(terms),
        PICTURES: None if pictures is None else picture_similarity(pictures),
    }
    neighbours = {
        name: (torch.from_numpy(each.items), torch.from_numpy(each.values))
        for name, each in found.items()
        if each is not None
    }
    # One shop wants the last item, another all of them alike: the fit chooses.
    middle = float(np.clip(np.median(np.diff(train.starts)) / 2, 4, 32))
    sources = [*neighbours, *([] if exclude_seen else [AGAIN])]
    lives = {AFTER: (LATER_HALF_LIFE,)}  # by which it was made
    scores = [Score(name, life) for name in sources for life in lives.get(name, (1.0, middle, math.inf))]
    indices = term_indices(catalogue, query_attribute, attributes)
    scores += [Score(POPULARITY), *(Score(name) for name in indices)]
    counts = train.item_counts() + 1
    popularity = torch.from_numpy(np.log(counts / counts.sum()))
    stand_ins = {} if new_items is None else _stand_ins(new_items, found[TEXT], found[PICTURES])
    return HybridScores(
        neighbours, indices, popularity, scores, None, None, query_attribute, stand_ins, attributes=attributes
    )


def _sources_for(train: Histories) -> set[str]:
    """The linear models of a shop, and kNN for items that have none."""
    num_items = len(items_of_linear_models(train))
    sources = {f"EASE {PENALTY:g}"}
    if num_items <= MOST_FOR_ALL_INVERSES:
        # Without content: where what is alike is no hint of what goes together.
        sources |= {*(f"EASE {penalty:g}" for penalty in EASE_PENALTIES), WITHOUT_CONTENT}
    if num_items < np.count_nonzero(train.item_counts()):
        sources.add(KNN)
    return sources


def _linear_models(
    train: Histories, penalty: float, terms: sparse.csr_matrix | None, pictures: np.ndarray | None
) -> dict[str, Neighbours]:
    """Those of one penalty by their names; their inverse is let go before that of the next is made."""
    inverse = inverse_of_users(train, penalty, terms=terms, pictures=pictures)
    found = {f"EASE {penalty:g}": ease(inverse)}
    if penalty == PENALTY:
        found[AFTER] = taken_after(train, inverse)
    return found


def _stand_ins(new_items: np.ndarray, *similarity: Neighbours | None) -> dict[int, int]:
    """Of each new item the one most like it that is not new, by the first similarity that finds one."""
    stand_ins: dict[int, int] = {}
    for near in filter(None, similarity):
        numbers = np.flatnonzero(new_items)
        is_known = (near.values[numbers] > 0) & ~new_items[near.items[numbers]]
        first = is_known.argmax(axis=1)
        found = is_known.any(axis=1)
        others = near.items[numbers[found], first[found]]
        stand_ins = dict(zip(numbers[found].tolist(), others.tolist(), strict=True)) | stand_ins
    return stand_ins


def term_indices(
    catalogue: Catalogue, query_attribute: str | None, attributes: Sequence[str] | None = None
) -> dict[str, TermIndex]:
    """What queries are looked up in: words of the attributes, whole values, and what the query attribute says."""
    texts = [texts_of(item, attributes) for item in catalogue.items()]
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
        closed = _ndcg(features, truth, added, alone.weights[task])
        found = {task: fit_ranking(features, truth, added, _bounds(hybrid))}
        reached = {task: _ndcg(features, truth, added, found[task])}
        by_network = _ndcg(features, truth, added, [1.0] + [0.0] * len(hybrid.scores))
        # Wishes such as "teal mug", which validation does not hold, are what the network was taught to search for.
        if task == "search" and not processor.wish_attributes:
            asked = [{"task": "recommend", "history": request["history"]} for request in requests]
            features, truth, added = _ranking_features(
                hybrid, task, requests, catalogue, exclude_seen, outputs(asked, "items")
            )
            found["recommend"] = fit_ranking(features, truth, added, _bounds(hybrid))
            reached["recommend"] = _ndcg(features, truth, added, found["recommend"])
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
        stars = _fit_stars(train, requests, network, catalogue)
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


def _ndcg(features: np.ndarray, truth: np.ndarray, added: np.ndarray, weights: Sequence[float] | np.ndarray) -> float:
    """NDCG@10 on the cases of the fit; an item counts as all those that it stands for."""
    scores = np.matmul(np.asarray(weights, dtype=np.float32), features)
    above = (scores >= scores[np.arange(len(truth)), truth][:, None]) * np.exp(added)
    ranks = above.sum(axis=1)
    return float(np.where(ranks < 10.5, 1 / np.log2(ranks + 1), 0).mean())


def _rmse(probabilities: torch.Tensor, requests: Sequence[Any]) -> float:
    """Of the expected stars, from the distributions `(C, 5)`."""
    expected = probabilities.double().numpy() @ np.arange(1, probabilities.shape[1] + 1)
    return rmse(expected, np.array([request["answer"] for request in requests], dtype=np.float64))


def _bounds(hybrid: HybridScores) -> Bounds:
    """Of the weights of the closed-form scores: none is below 0 but those of "again", for what a shopper took last may
    be what they need least, and what they took before it what they need next."""
    return [(None if score.source == AGAIN else 0.0, None) for score in hybrid.scores]


def fit_ranking(
    features: np.ndarray, truth: np.ndarray, added: np.ndarray, bounds: Bounds | None = None
) -> list[float]:
    """Weights by cross-entropy, with all of the weight that the network gets by it or half, or the network alone,
    whichever has the highest NDCG@10: most of the cross-entropy is about items far down, of which the network knows
    more than of the first ten, and in a small shop a blend may be worse than its best part.

    Args:
        features, truth, added: see [`fit_softmax`]; the network comes first.
        bounds (`list[tuple]`, *optional*): of the weights of the others; by default none is below 0.
    """
    bounds = bounds or [(0.0, None)] * (features.shape[1] - 1)
    weights = fit_softmax(features, truth, added, [(0.0, None), *bounds])
    halved = fit_softmax(features, truth, added, [(weights[0] / 2, weights[0] / 2), *bounds])
    alone = np.zeros(len(weights))
    alone[0] = fit_softmax(features[:, :1], truth, added)[0] or 1.0  # so that its probabilities are right as well
    # Of equals the first, whose probabilities are right.
    best = max((weights, alone, halved), key=lambda each: _ndcg(features, truth, added, each))
    found: list[float] = best.tolist()
    return found


def fit_closed(
    features: np.ndarray, truth: np.ndarray, added: np.ndarray, bounds: Bounds | None = None
) -> list[float]:
    """Weights of the scores without a network: the best blend by cross-entropy, or the best of them alone, whichever
    has the higher NDCG@10. Arguments are those of [`fit_softmax`]."""
    weights = fit_softmax(features, truth, added, bounds)
    best = max(range(len(weights)), key=lambda place: _ndcg(features[:, [place]], truth, added, [1.0]))
    single = np.zeros(len(weights))
    single[best] = fit_softmax(features[:, [best]], truth, added)[0]
    found: list[float] = max((weights, single), key=lambda each: _ndcg(features, truth, added, each)).tolist()
    return found


def _with_popularity(hybrid: HybridScores, weights: list[float]) -> list[float]:
    of_scores = zip(weights[1:], hybrid.scores, strict=True)
    least = (max(weight, LEAST_POPULARITY) if score.source == POPULARITY else weight for weight, score in of_scores)
    return [weights[0], *least]


def fit_softmax(
    features: np.ndarray, truth: np.ndarray, added: np.ndarray, bounds: Bounds | None = None, ridge: float = RIDGE
) -> np.ndarray:
    """Weights that minimise the mean cross-entropy of the softmax over items, plus a small ridge.

    Args:
        features (`np.ndarray` of shape `(C, F, M)`)
        truth (`np.ndarray` of shape `(C,)`): the place of the right item.
        added (`np.ndarray` of shape `(C, M)`): to the sums; -inf for what is left out.
        bounds (`list[tuple]`, *optional*): of each weight; by default none is below 0.
        ridge (`float`, *optional*)
    """
    rows = np.arange(len(truth))
    right = features[rows, :, truth]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = np.matmul(weights.astype(features.dtype), features) + added
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


def refit_stars(fitted: StarScores, train: Histories) -> StarScores:
    """The same of other interactions, with the strengths and weights that were chosen."""
    mean, _, of_item = biases(train, fitted.strength, fitted.item_strength)
    *_, factors = factorise(train, fitted.strength, fitted.item_strength, fitted.factors.shape[1], fitted.penalty)
    near = rated_alike(train, fitted.strength, mean, of_item)
    return fitted._replace(
        mean=mean,
        log_shares=np.log(star_shares(train)),
        biases=of_item,
        factors=factors.astype(np.float32),
        neighbours=near.items,
        similarities=near.values,
    )


def _fit_stars(train: Histories, requests: Sequence[Any], network: np.ndarray, catalogue: Catalogue) -> StarScores:
    """Biases and factors by ridge regression, whose penalties and blend with the network validation chooses.

    The blend has nine numbers, each drawn to where the mean is that of biases and factors, as by so many cases that
    few of validation change nothing. Where the network by itself is ahead of that by more than a standard error, it is
    taken alone.
    """
    histories = [stars_of_history(request["history"], catalogue) for request in requests]
    items = numbers_of([request["item"] for request in requests], catalogue)
    truth = np.array([int(request["answer"]) - 1 for request in requests])
    stars = np.arange(1, network.shape[1] + 1)
    log_shares = np.log(star_shares(train))
    has_many = len(truth) >= FEWEST_STARS

    def with_penalties(of_users: float, of_items: float) -> tuple[float, StarScores]:
        mean, _, of_item = biases(train, of_users, of_items)
        nothing = np.zeros((len(catalogue), 0), dtype=np.int32), np.zeros((len(catalogue), 0), dtype=np.float32)
        found = StarScores(mean, of_item, of_users, *nothing, nothing[1], 1.0, log_shares, np.zeros(len(stars)))
        return squared_error(found, (0,)), found._replace(item_strength=of_items)

    def with_factors(rank: int, penalty: float) -> tuple[float, StarScores]:
        *_, factors = factorise(train, biased.strength, biased.item_strength, rank, penalty)
        found = biased._replace(factors=factors.astype(np.float32), penalty=penalty)
        return squared_error(found, (0, 2)), found

    def squared_error(found: StarScores, parts: tuple[int, ...]) -> float:
        expected = [sum(found.estimate(*each)[part] for part in parts) for each in zip(histories, items, strict=True)]
        return float(np.square(np.array(expected) - truth - 1).mean())

    penalties = STAR_PENALTIES if has_many else STAR_PENALTIES[1:2]
    _, biased = min((with_penalties(u, i) for u in penalties for i in penalties), key=lambda each: each[0])
    ranks, of_factors = (RANKS, FACTOR_PENALTIES) if has_many else (RANKS[:1], FACTOR_PENALTIES[-1:])
    _, found = min((with_factors(r, p) for r in ranks for p in of_factors), key=lambda each: each[0])
    near = rated_alike(train, found.strength, found.mean, found.biases)
    found = found._replace(neighbours=near.items, similarities=near.values)
    tilts = found.tilts(np.array([found.estimate(*each) for each in zip(histories, items, strict=True)]))
    # What items rated alike tell comes in small numbers, whose weight is large: all are drawn as if they were as large
    # as the first.
    spread = tilts.std(axis=0)
    units = np.ones(4 + len(stars))
    units[1:4] = np.clip(spread[0] / np.maximum(spread, 1e-9), 1.0, MOST_STAR_UNITS)
    features = np.stack(
        [np.log(np.clip(network, 1e-6, None)), *(stars * tilts[:, part : part + 1] for part in range(3))]
        + [np.broadcast_to(stars == star, network.shape).astype(np.float64) for star in stars],
        axis=1,
    )

    def errors(weights: np.ndarray) -> np.ndarray:
        return np.square(softmax(np.matmul(weights, features) + log_shares, axis=1) @ stars - truth - 1)

    start = np.array([0.0, 1.0, 0.0, 1.0] + [0.0] * len(stars))
    bounds = [(-least, None) for least in (start / units)[:4]] + [(None, None)] * len(stars)
    at_start = np.matmul(start, features) + log_shares
    pull = STAR_RIDGE / len(truth)
    weights = start + units * fit_softmax(units[:, None] * features, truth, at_start, bounds, ridge=pull)
    if has_many:
        own = np.array([1.0, 0.0, 0.0, 0.0, *-log_shares])  # the network as it is
        gains = errors(weights) - errors(own)
        if gains.mean() > gains.std() / math.sqrt(len(gains)):
            weights = own
    of_network, expected, alike, factored = map(float, weights[:4])
    return found._replace(
        network=of_network, expected=expected, alike=alike, factored=factored, intercepts=weights[4:]
    )
