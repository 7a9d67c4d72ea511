"""Tuned baselines on exactly the cases UniMP is evaluated on: fitted on the training part, chosen on validation.

python -m benchmarks.baselines --config recipes/h_and_m/tiny.yaml
python -m benchmarks.baselines --items items.parquet --interactions interactions.parquet --query_attribute category
Writes baselines.json and baselines.md into output_dir. Pictures are compared where the features of a frozen tower are
in feature_store, or in the output_dir of a training. Similarities keep each item's 1,000 nearest; EASE inverts a dense
matrix, up to 20,000 items. The last row of a table, the best blend, is the closed form of UniMP without its network.

Shapes: C cases, N items, U users, R ratings.
"""

import dataclasses
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse

from modeling_unimp.hybrid_scores import POPULARITY, HybridScores, TermIndex, texts_of
from modeling_unimp.training.defaults import fill_from_data
from modeling_unimp.training.evaluation import bootstrap, closed_form_outputs
from modeling_unimp.training.experiment import (
    check_names,
    check_output_folder,
    evaluation_cases_of,
    feature_folder,
    load_shop,
    split_histories,
)
from modeling_unimp.training.feature_store import FeatureStore
from modeling_unimp.training.hybrid_fitting import (
    MOST_CASES,
    MOST_ITEMS,
    biases,
    closed_form_scores,
    fit_closed_form,
)
from modeling_unimp.training.item_similarity import (
    MOST_DENSE_ITEMS,
    Neighbours,
    ease,
    item_knn,
    picture_similarity,
    text_similarity,
    windowed_transitions,
)
from modeling_unimp.training.recipe import (
    ModelArguments,
    UniMPTrainingArguments,
    given_on_command_line,
    parse_recipe,
)
from processing_unimp import Catalogue, EvaluationCases, ExampleSource, Histories, Targets
from processing_unimp.control_tokens import NUM_STARS
from processing_unimp.metrics.summary import headline_of, summarise
from processing_unimp.task_search import query_of

logger = logging.getLogger("baselines")

HALF_LIVES = (0.5, 1.0, 2.0, 4.0, 8.0, 32.0, np.inf)  # of an item's weight, in places of the history
TIME_SHARES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # half-lives of popularity, in parts of the time trained on
NEIGHBOURS = (50, 200, 1000)
KNN_SHRINKAGES = (0.0, 10.0, 30.0, 100.0)
EASE_PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
BLEND_WEIGHTS = (0.03, 0.1, 0.3, 1.0, 3.0)
POPULARITY_WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
RATING_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
RANKS = (2, 4, 8, 16)
SWEEPS = 30
TIE_BREAK = 1e-9  # times a popularity of at most 1: orders items that a score leaves equal, and nothing else
BLOCK_BYTES = 2**23  # of scores that are held at once

# What a baseline predicts for each case in turn: a score for every item `(N,)`, or the stars it expects `(1,)`.
Scorer = Callable[[EvaluationCases], Iterable[np.ndarray]]
Variant = tuple[dict[str, Any], Scorer]


@dataclass
class Chosen:
    """The variant of one baseline that is best on validation for one task."""

    parameters: dict[str, Any]
    scorer: Scorer
    validation: float
    as_outputs: "Callable[[Scorer, EvaluationCases], Iterable[Any]]"


# --- items ---


def at_random(num_items: int) -> Iterator[Variant]:
    rng = np.random.default_rng(0)
    yield {}, lambda cases: (rng.random(num_items) for _ in range(len(cases)))


def popularity(train: Histories) -> Iterator[Variant]:
    yield {}, constant(train.item_counts().astype(np.float64))


def recent_popularity(train: Histories) -> Iterator[Variant]:
    """Interactions counted with a weight that halves with their age at the end of training."""
    age = train.timestamps.max() - train.timestamps
    for share in TIME_SHARES:
        weights = 0.5 ** (age / ((share * age.max()) or 1.0))
        counts = np.bincount(train.item_numbers, weights=weights, minlength=len(train.catalogue))
        yield {"half_life_of_training_time": share}, constant(counts)


def seen_again(tie_break: np.ndarray) -> Iterator[Variant]:
    """The items of the history: what is bought again, where seen items stay in the ranking (`exclude_seen: false`)."""
    for half_life in HALF_LIVES:
        yield {"half_life": half_life}, from_history(lambda weights: weights, half_life, tie_break)


def same_attribute(catalogue: Catalogue, attributes: Sequence[str], tie_break: np.ndarray) -> Iterator[Variant]:
    """Items that share a value, such as the product code, with items of the history; which attribute is chosen."""
    for name in attributes:
        values = unit_values(catalogue.column(name))
        if values.getnnz(axis=0).max(initial=0) > 1:
            for half_life in HALF_LIVES:
                parameters = {"attribute": name, "half_life": half_life}
                yield parameters, from_history(partial(shared_with, values), half_life, tie_break)


def nearest(neighbours: Neighbours, tie_break: np.ndarray, sizes: Sequence[int] | None = None) -> Iterator[Variant]:
    """Items near to those of the history; how many of an item's nearest count is chosen."""
    width = neighbours.items.shape[1]
    for k in sorted({min(k, width) for k in sizes or NEIGHBOURS}):
        similarity = matrix_of(neighbours, k)
        for half_life in HALF_LIVES:
            yield (
                {"k": k, "half_life": half_life},
                from_history(partial(_times, similarity), half_life, tie_break),
            )


def tuned_knn(train: Histories, tie_break: np.ndarray) -> Iterator[Variant]:
    """Items bought by the same shoppers as those of the history."""
    for shrinkage in KNN_SHRINKAGES:
        for parameters, scorer in nearest(item_knn(train, shrinkage, NEIGHBOURS[-1]), tie_break):
            yield {"shrinkage": shrinkage} | parameters, scorer


def tuned_ease(train: Histories, tie_break: np.ndarray) -> Iterator[Variant]:
    """EASE, the linear item-to-item model in closed form (https://huggingface.co/papers/1905.03375), its positive
    weights."""
    for penalty in EASE_PENALTIES:
        found = ease(train, penalty, NEIGHBOURS[-1])
        if found is None:
            logger.info(f"EASE is left out: {len(train.catalogue)} items, and it is made for {MOST_DENSE_ITEMS}")
            return
        for parameters, scorer in nearest(found, tie_break, NEIGHBOURS[-1:]):
            yield {"lambda": penalty} | parameters, scorer


def pair(first: Chosen, second: Chosen) -> Iterator[Variant]:
    """Two baselines added, each case's scores divided by their maximum."""

    def scorer(weight: float) -> Scorer:
        def scores(cases: EvaluationCases) -> Iterator[np.ndarray]:
            for one, other in zip(first.scorer(cases), second.scorer(cases), strict=True):
                yield _of_maximum(one) + weight * _of_maximum(other)

        return scores

    of_both = first.parameters | {f"second_{name}": value for name, value in second.parameters.items()}
    for weight in BLEND_WEIGHTS:
        yield {"weight": weight} | of_both, scorer(weight)


def bm25(train: Histories, attributes: Sequence[str]) -> Iterator[Variant]:
    """Words of the query in the items' texts, and the log of each item's popularity; the category is not known."""
    catalogue = train.catalogue
    items = [catalogue.item(item_id) for item_id in catalogue.item_ids]
    texts = [texts_of({name: item[name] for name in attributes}) for item in items]
    index = TermIndex.of(texts, are_words=True)
    popular = np.log(train.item_counts() + 1.0)

    def scorer(weight: float) -> Scorer:
        def scores(cases: EvaluationCases) -> Iterator[np.ndarray]:
            for place in range(len(cases)):
                found = torch.zeros(len(catalogue))
                index.add_to(found, cases.requests.drawn(place)["query"])
                yield found.numpy() + weight * popular

        return scores

    for weight in POPULARITY_WEIGHTS:
        yield {"weight_of_popularity": weight}, scorer(weight)


def from_history(
    propagate: Callable[[sparse.csr_matrix], sparse.csr_matrix], half_life: float, tie_break: np.ndarray
) -> Scorer:
    """What the weighted items of the history lead to, by `propagate` from `(C, N)` to `(C, N)`.

    The whole history counts, not only the `history_length` items that UniMP reads.
    """

    def scores(cases: EvaluationCases) -> Iterator[np.ndarray]:
        for part in blocks_of(len(cases), len(tie_break)):
            weights = history_weights(cases.cases.take(part), half_life)
            yield from propagate(weights).toarray() + TIE_BREAK * tie_break

    return scores


def history_weights(targets: Targets, half_life: float) -> sparse.csr_matrix:
    """How much each item of the histories weighs `(C, N)`: the latest 1, one `half_life` places earlier 1/2."""
    histories, lengths = targets.histories, targets.positions
    starts = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    items = histories.item_numbers[np.repeat(histories.starts[targets.users], lengths) + places]
    weights = 0.5 ** ((np.repeat(lengths, lengths) - 1 - places) / half_life)
    return sparse.csr_matrix((weights, items, starts), shape=(len(targets), len(histories.catalogue)))


def matrix_of(neighbours: Neighbours, k: int) -> sparse.csr_matrix:
    """The `k` nearest of each item, `(N, N)`."""
    items, values = neighbours.items[:, :k], neighbours.values[:, :k]
    num_items, width = items.shape
    starts = np.arange(num_items + 1) * width
    found = sparse.csr_matrix((values.ravel().astype(np.float64), items.ravel(), starts), shape=(num_items,) * 2)
    found.eliminate_zeros()
    return found


def _times(similarity: sparse.csr_matrix, weights: sparse.csr_matrix) -> sparse.csr_matrix:
    return weights @ similarity


def unit_values(column: Sequence[Any]) -> sparse.csr_matrix:
    """The values of each item, equal and of length 1, `(N, number of values)`."""
    values = [
        sorted(set(map(str, value if isinstance(value, list | tuple) else [value])) - {"None", ""}) for value in column
    ]
    index = {value: number for number, value in enumerate(sorted(set(itertools.chain.from_iterable(values))))}
    starts = np.concatenate([[0], np.cumsum([len(row) for row in values])])
    numbers = np.array([index[value] for row in values for value in row], dtype=np.int64)
    data = np.array([1 / math.sqrt(len(row)) for row in values for _ in row])
    return sparse.csr_matrix((data, numbers, starts), shape=(len(values), len(index)))


def shared_with(values: sparse.csr_matrix, weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """The cosine of values, summed over weighted items: never `(N, N)`; no item is like itself."""
    has = sparse.diags((values.getnnz(axis=1) > 0).astype(np.float64))
    return (weights @ values) @ values.T - weights @ has


# --- stars ---


def constant_stars(train: Histories, of: Callable[[np.ndarray], Any]) -> Iterator[Variant]:
    yield {}, constant(np.array([of(train.ratings[np.isfinite(train.ratings)])], dtype=np.float64))


def shoppers_mean(train: Histories) -> Iterator[Variant]:
    """The shopper's earlier mean, drawn to everybody's as if that were `strength` more ratings."""
    mean = float(np.nanmean(train.ratings))
    no_biases, no_factors = np.zeros(len(train.catalogue)), np.zeros((len(train.catalogue), 0))
    for strength in RATING_PENALTIES:
        yield {"strength": strength}, stars_of_factors(mean, no_biases, no_factors, strength, 0.0)


def user_and_item(train: Histories) -> Iterator[Variant]:
    """Mean + the shopper's bias + the item's bias, each with its ridge penalty."""
    for item_penalty in RATING_PENALTIES:
        for user_penalty in RATING_PENALTIES:
            mean, _, of_items = biases(train, user_penalty, item_penalty)
            parameters = {"user_penalty": user_penalty, "item_penalty": item_penalty}
            no_factors = np.zeros((len(of_items), 0))
            yield parameters, stars_of_factors(mean, of_items, no_factors, user_penalty, 0.0)


def matrix_factorisation(train: Histories, user_penalty: float, item_penalty: float) -> Iterator[Variant]:
    """Biases and factors, `mu + b_u + b_i + p_u . q_i`, by alternating least squares; the biases keep theirs."""
    for rank in RANKS:
        for penalty in RATING_PENALTIES:
            mean, of_items, factors = factorise(train, user_penalty, item_penalty, rank, penalty)
            parameters = {"rank": rank, "penalty": penalty, "user_penalty": user_penalty, "item_penalty": item_penalty}
            yield parameters, stars_of_factors(mean, of_items, factors, user_penalty, penalty)


def factorise(
    train: Histories, user_penalty: float, item_penalty: float, rank: int, penalty: float, sweeps: int = SWEEPS
) -> tuple[float, np.ndarray, np.ndarray]:
    """Mean, biases of items `(N,)` and their factors `(N, rank)`, for the least squared error with ridge penalties.

    Least squares for one factor of all users, then of all items, and so on: no more than R numbers at once.
    """
    mean, of_users, of_items = biases(train, user_penalty, item_penalty)
    rated = np.isfinite(train.ratings)
    users, items = train.user_numbers[rated], train.item_numbers[rated]
    p = np.zeros((len(train), rank))
    q = np.random.default_rng(0).normal(0, 0.1, size=(len(of_items), rank))
    residual = train.ratings[rated] - mean - of_users[users] - of_items[items]

    def solved(rows: np.ndarray, size: int, other: np.ndarray | float, ridge: float) -> np.ndarray:
        weights = np.broadcast_to(np.square(other), residual.shape)
        return np.bincount(rows, residual * other, size) / (np.bincount(rows, weights, size) + ridge)

    for _ in range(sweeps):
        residual += of_users[users]
        of_users = solved(users, len(p), 1.0, user_penalty)
        residual += of_items[items] - of_users[users]
        of_items = solved(items, len(q), 1.0, item_penalty)
        residual -= of_items[items]
        for factor in range(rank):
            residual += p[users, factor] * q[items, factor]
            p[:, factor] = solved(users, len(p), q[items, factor], penalty)
            q[:, factor] = solved(items, len(q), p[users, factor], penalty)
            residual -= p[users, factor] * q[items, factor]
    return mean, of_items, q


def stars_of_factors(
    mean: float, of_items: np.ndarray, factors: np.ndarray, user_penalty: float, penalty: float
) -> Scorer:
    """The shopper's bias and factors come from the case's history, so that new shoppers have them too."""
    ridge = np.diag([user_penalty, *[penalty] * factors.shape[1]])
    described = np.concatenate([np.ones((len(of_items), 1)), factors], axis=1)

    def scores(cases: EvaluationCases) -> Iterator[np.ndarray]:
        histories = cases.cases.histories
        targets = histories.item_numbers[cases.cases.rows]
        for user, position, target in zip(cases.cases.users, cases.cases.positions, targets, strict=True):
            before = slice(histories.starts[user], histories.starts[user] + position)
            given = np.isfinite(histories.ratings[before])
            items = histories.item_numbers[before][given]
            residual = histories.ratings[before][given] - mean - of_items[items]
            x = described[items]
            of_user = np.linalg.solve(x.T @ x + ridge, x.T @ residual)
            yield np.array([mean + of_items[target] + described[target] @ of_user])

    return scores


# --- the best blend ---


def best_blend(
    train: Histories, validation: Sequence[EvaluationCases], pictures: np.ndarray | None, query_attribute: str | None
) -> HybridScores:
    """All of UniMP's closed-form scores, weighted on validation as beside a network, but without one."""
    hybrid = closed_form_scores(train, pictures, query_attribute, validation[0].exclude_seen)
    return fit_closed_form(hybrid, validation, train)


def blend_parameters(blend: HybridScores, task: str) -> dict[str, Any]:
    """What a blend consists of for a task, rounded."""
    if task == "rate":
        assert blend.stars is not None
        return {name: round(getattr(blend.stars, name), 3) for name in ("strength", "expected", "alike")}
    if task == "select":
        return {"as in recommend, times": round(blend.weights[task][0], 3)}
    found = {}
    for weight, score in zip(blend.weights[task][1:], blend.scores, strict=True):
        if round(weight, 3):
            from_query = score.source == POPULARITY or score.source in blend.terms
            age = "" if from_query else f" @ {score.half_life:g}"
            found[score.source + age] = round(weight, 3)
    return found


# --- from item scores to the outputs that `EvaluationCases.score` takes from any model ---


def ranking(source: ExampleSource) -> Callable[[dict, np.ndarray], np.ndarray]:
    return lambda request, scores: scores


def ranking_in_query(source: ExampleSource) -> Callable[[dict, np.ndarray], np.ndarray]:
    """Only items whose query attribute is the query; the target always is one of them."""
    values = [query_of(value) or "" for value in source.catalogue.column(str(source.query_attribute))]
    queries, of_items = np.unique(values, return_inverse=True)
    number_of = {query: number for number, query in enumerate(queries.tolist())}
    return lambda request, scores: np.where(of_items == number_of[request["query"]], scores, -np.inf)


def best_candidate(source: ExampleSource) -> Callable[[dict, np.ndarray], np.ndarray]:
    """Certain of the candidate with the highest score; of all of those that share it, so a tie costs precision."""

    def output(request: dict, scores: np.ndarray) -> np.ndarray:
        candidate_scores = scores[[source.catalogue.number(item_id) for item_id in request["candidates"]]]
        return (candidate_scores == candidate_scores.max()).astype(np.float64)

    return output


def star_probabilities(source: ExampleSource) -> Callable[[dict, np.ndarray], np.ndarray]:
    """The distribution on the two stars next to the expected ones whose mean they are."""
    stars = np.arange(1, NUM_STARS + 1)
    return lambda request, scores: np.clip(1 - np.abs(stars - np.clip(scores, 1, NUM_STARS)), 0, 1)


OUTPUTS = {
    "recommend": ranking,
    "search": ranking_in_query,
    "select": best_candidate,
    "rate": star_probabilities,
}


def by_scores(scorer: Scorer, cases: EvaluationCases) -> Iterator[Any]:
    """Outputs of a baseline that scores items or expects stars; in a search it is told which items the query is of."""
    output = OUTPUTS[cases.task.name](cases.source)
    for place, scores in enumerate(scorer(cases)):
        yield output(cases.requests.drawn(place), scores)


def as_it_is(scorer: Scorer, cases: EvaluationCases) -> Iterable[Any]:
    """Outputs of a baseline that answers as a model does, and reads the query by itself."""
    return scorer(cases)


# --- choice and evaluation ---


def choose(
    variants: Iterable[Variant],
    validation: Sequence[EvaluationCases],
    as_outputs: Callable[[Scorer, EvaluationCases], Iterable[Any]] = by_scores,
) -> dict[str, Chosen]:
    """For each task the variant with the best headline on validation; the first of equals."""
    best: dict[str, Chosen] = {}
    for parameters, scorer in variants:
        for cases in validation:
            task = cases.task
            value = headline_on(cases, as_outputs(scorer, cases))
            sign = 1 if task.higher_is_better else -1
            if task.name not in best or sign * value > sign * best[task.name].validation:
                best[task.name] = Chosen(parameters, scorer, value, as_outputs)
    return best


def headline_on(cases: EvaluationCases, outputs: Iterable[Any]) -> float:
    """The headline of a task; of a ranking only the ranks of the true items are found, in a tenth of the time."""
    task, targets = cases.task, cases.cases
    if task.answer_group != "items":
        return summarise(task, cases.scores(outputs))[task.headline]
    retired = ~cases.source.catalogue.available
    numbers, rest, ranks = targets.histories.item_numbers[targets.rows], iter(outputs), []
    for part in blocks_of(len(targets), len(retired)):
        scores = np.stack(list(itertools.islice(rest, len(part)))).astype(np.float64)
        right = np.arange(len(part)), numbers[part]
        truth = scores[right]
        scores[:, retired] = np.nan  # which is not as high as anything
        if cases.exclude_seen:
            scores[history_weights(targets.take(part), np.inf).nonzero()] = np.nan
        ranks.append(1 + (scores >= truth[:, None]).sum(axis=1) - (scores[right] >= truth))
    return headline_of(task, {"rank": np.concatenate(ranks)}, np.arange(len(targets)))


def blocks_of(num_cases: int, num_items: int) -> Iterator[np.ndarray]:
    """The numbers of all cases, so many at a time that their scores take no more than `BLOCK_BYTES`."""
    size = max(1, BLOCK_BYTES // (8 * num_items))
    yield from (np.arange(start, min(start + size, num_cases)) for start in range(0, num_cases, size))


def choose_all(
    train: Histories,
    validation: Sequence[EvaluationCases],
    attributes: Sequence[str],
    query_attribute: str | None,
    pictures: np.ndarray | None,
) -> dict[str, dict[str, Chosen]]:
    """Every baseline, by task and name.

    Args:
        train (`Histories`): what they are fitted on.
        validation (`Sequence[EvaluationCases]`): what chooses, one a task.
        attributes (`Sequence[str]`): of items, those that UniMP reads too.
        query_attribute (`str`, *optional*): what queries are made from.
        pictures (`np.ndarray` of shape `(N, D)`, *optional*): a vector for each picture, zeros where there is none.
    """
    chosen: dict[str, dict[str, Chosen]] = {cases.task.name: {} for cases in validation}

    def add(
        name: str, variants: Iterable[Variant], cases: Sequence[EvaluationCases], as_outputs: Any = by_scores
    ) -> dict[str, Chosen]:
        started = time.time()
        found = choose(variants, cases, as_outputs)
        for task, best in found.items():
            chosen[task][name] = best
        if found:
            values = ", ".join(f"{task} {best.validation:.4f}" for task, best in found.items())
            logger.info(f"{name}: chosen in {time.time() - started:.0f} s; on validation {values}")
        return found

    rankings = [cases for cases in validation if cases.task.name in ("recommend", "search", "select")]
    catalogue = train.catalogue
    if rankings:
        selections = [cases for cases in rankings if cases.task.name == "select"]
        searches = [cases for cases in rankings if cases.task.name == "search"]
        add("choose all", [({}, constant(np.ones(len(catalogue))))], selections)
        add("random", at_random(len(catalogue)), rankings)
        add("popularity", popularity(train), rankings)
        recent = add("recent popularity", recent_popularity(train), rankings)
        first = rankings[0]
        tie_break = _of_maximum(next(iter(recent[first.task.name].scorer(first))))
        add("seen again", seen_again(tie_break), rankings)
        same = add("same attribute as in the history", same_attribute(catalogue, attributes, tie_break), rankings)
        text = text_similarity(catalogue, attributes, NEIGHBOURS[-1])
        add("text cosine", nearest(text, tie_break) if text is not None else [], rankings)
        if pictures is not None:
            add("picture cosine", nearest(picture_similarity(pictures, NEIGHBOURS[-1]), tie_break), rankings)
        add("windowed transitions", nearest(windowed_transitions(train, NEIGHBOURS[-1]), tie_break), rankings)
        add("item-kNN", tuned_knn(train, tie_break), rankings)
        linear = add("EASE", tuned_ease(train, tie_break), rankings)
        for cases in rankings:
            task = cases.task.name
            if task in same and task in linear:
                add("EASE + same attribute", pair(linear[task], same[task]), [cases])
        add("BM25 + popularity", bm25(train, attributes) if searches else [], searches, as_it_is)
    ratings = [cases for cases in validation if cases.task.name == "rate" and train.has_ratings]
    if ratings:
        add("mean", constant_stars(train, np.mean), ratings)
        add("median", constant_stars(train, np.median), ratings)
        add("shopper's mean", shoppers_mean(train), ratings)
        by_bias = add("user + item bias", user_and_item(train), ratings)["rate"].parameters
        add("matrix factorisation", matrix_factorisation(train, **by_bias), ratings)
    if len(catalogue) > MOST_ITEMS:
        logger.info(f"best blend is left out: {len(catalogue)} items, and it is made for {MOST_ITEMS}")
    elif answerable := [*rankings, *ratings]:
        blend = best_blend(train, answerable, pictures, query_attribute)
        for cases in answerable:
            task = cases.task.name
            if task in blend.weights or task == "rate":
                variant = blend_parameters(blend, task), partial(closed_form_outputs, closed_form=blend)
                add("best blend", [variant], [cases], as_it_is)
            else:
                logger.info(f"best blend of {task} is left out: it is that of recommend, which is no task here")
    return chosen


def evaluate(cases: EvaluationCases, chosen: dict[str, Chosen]) -> dict[str, Any]:
    """Metrics of the chosen baselines on one part of the split, with 95 % intervals of the headline."""
    result: dict[str, Any] = {
        "cases": len(cases),
        "skipped": cases.skipped,
        "headline": cases.task.headline,
        "baselines": {},
    }
    for name, best in chosen.items():
        scores = cases.scores(best.as_outputs(best.scorer, cases))
        result["baselines"][name] = {
            "metrics": summarise(cases.task, scores),
            "interval": bootstrap(cases.task, scores),
            # JSON has no infinity.
            "parameters": {name: "infinite" if value == np.inf else value for name, value in best.parameters.items()},
            "validation": best.validation,
        }
    return result


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """One table a part and task."""
    lines: list[str] = []
    for part, by_task in results.items():
        for task, result in by_task.items():
            rows = result["baselines"]
            names = list(next(iter(rows.values()))["metrics"])
            headline = result["headline"]
            head = ["baseline", *names, f"{headline} 95 %", f"{headline} of validation", "chosen on validation"]
            skipped = f", {result['skipped']} without an answer left out" if result["skipped"] else ""
            lines.append(f"\n{task}, {part}: {result['cases']} cases{skipped}\n")
            lines.append(_row(head))
            lines.append(_row(["---", *["---:"] * (len(names) + 2), "---"]))
            for who, row in rows.items():
                low, high = row["interval"]
                numbers = [f"{row['metrics'][name]:.4f}" for name in names]
                parameters = ", ".join(f"{name} {value}" for name, value in row["parameters"].items())
                lines.append(_row([who, *numbers, f"{low:.4f} - {high:.4f}", f"{row['validation']:.4f}", parameters]))
    return "\n".join(lines).strip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def constant(value: np.ndarray) -> Scorer:
    """The same for every case."""
    return lambda cases: itertools.repeat(value, len(cases))


def _of_maximum(scores: np.ndarray) -> np.ndarray:
    highest = scores.max()
    return scores / highest if highest > 0 else scores


def pictures_of(catalogue: Catalogue, model_args: ModelArguments, args: UniMPTrainingArguments) -> np.ndarray | None:
    """A vector for each picture `(N, D)`, of finished features; none are computed here."""
    if model_args.feature_store is None and model_args.vision_model is None:
        return None
    folder = feature_folder(model_args, args)
    try:
        return FeatureStore.open(folder, catalogue.fingerprint).pooled().numpy()
    except ValueError as error:
        if model_args.feature_store is not None:
            raise
        logger.info(f"pictures are not compared: {error} A training with a frozen tower leaves one in output_dir.")
        return None


def main() -> None:
    started = time.time()
    logging.basicConfig(format="%(message)s")
    for name in ("train", "processing_unimp", "baselines"):
        logging.getLogger(name).setLevel(logging.INFO)
    data_args, model_args, args = parse_recipe()
    folder = check_output_folder(str(args.output_dir))
    catalogue, histories = load_shop(data_args)
    if "config" not in (given := given_on_command_line()):
        data_args, model_args, args = fill_from_data(data_args, model_args, args, given, catalogue, histories)
    check_names(catalogue, data_args)
    split = split_histories(histories, catalogue, data_args, args.seed)
    pictures = pictures_of(catalogue, model_args, args)

    # Those that train.py fits the weights of UniMP's closed form on.
    validation = evaluation_cases_of(split.validation, data_args, catalogue, args.seed, MOST_CASES)
    for cases in validation:
        if not len(cases) or cases.task.name not in OUTPUTS:
            reason = "no validation case" if not len(cases) else "there is no baseline for it here"
            logger.info(f"{cases.task.name} is left out: {reason}")
    answerable = [cases for cases in validation if len(cases) and cases.task.name in OUTPUTS]
    attributes = data_args.attributes or catalogue.attributes
    chosen = choose_all(split.train, answerable, attributes, data_args.query_attribute, pictures)
    chose = round(time.time() - started, 1)

    # As in train.py: here, once, the test parts are touched.
    parts = {"test": split.test, "new users": split.new_users, "new domain": split.new_domain}
    results = {
        part: {
            cases.task.name: evaluate(cases, chosen[cases.task.name])
            for cases in evaluation_cases_of(targets, data_args, catalogue, args.seed, data_args.max_test_cases)
            if len(cases) and chosen.get(cases.task.name)
        }
        for part, targets in parts.items()
        if targets is not None and len(targets)
    }
    record = {
        "results": results,
        "split": {"name": split.name, "leaks": split.leaks, "removed": split.removed},
        "data": dataclasses.asdict(data_args),
        "catalogue": catalogue.fingerprint,
        "seed": args.seed,
        "pictures": pictures is not None,
        "seconds_to_choose": chose,
        "seconds": round(time.time() - started, 1),
    }
    table = markdown(results)
    (folder / "baselines.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "baselines.md").write_text(table)
    print(table)
    logger.info(f"{folder}/baselines.json and .md written in {record['seconds']} s")


if __name__ == "__main__":
    main()
