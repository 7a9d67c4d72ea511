"""Tuned baselines on exactly the cases UniMP is evaluated on: fitted on the training part, chosen on validation.

python -m benchmarks.baselines --config recipes/h_and_m/tiny.yaml
python -m benchmarks.baselines --items items.parquet --interactions interactions.parquet --query_attribute category
Writes baselines.json and baselines.md into output_dir. Matrices are dense: up to some ten thousand items.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeling_unimp.training.evaluation import bootstrap
from modeling_unimp.training.experiment import evaluation_cases_of, load_shop, split_histories
from modeling_unimp.training.hybrid_fitting import biases
from modeling_unimp.training.item_similarity import users_by_items
from modeling_unimp.training.recipe import parse_recipe
from processing_unimp import Case, Catalogue, EvaluationCases, ExampleSource, Histories
from processing_unimp.control_tokens import NUM_STARS
from processing_unimp.metrics.summary import summarise
from processing_unimp.task import Scores
from processing_unimp.task_search import query_of

logger = logging.getLogger("baselines")

HALF_LIVES = (0.5, 1.0, 2.0, 4.0, 8.0, 32.0, np.inf)  # of an item's weight, in places of the history
TIME_SHARES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # half-lives of popularity, in parts of the time trained on
NEIGHBOURS = (30, 100, 300, 1000)
KNN_SHRINKAGES = (0.0, 10.0, 30.0, 100.0)
EASE_PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
BLEND_WEIGHTS = (0.03, 0.1, 0.3, 1.0, 3.0)
RATING_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
TIE_BREAK = 1e-9  # times a popularity of at most 1: orders items that a score leaves equal, and nothing else

# What a baseline predicts for a case: a score for every item `(num_items,)`, or the stars it expects `(1,)`.
Scorer = Callable[[Case], np.ndarray]
Variant = tuple[dict[str, Any], Scorer]


@dataclass
class Chosen:
    """The variant of one baseline that is best on validation for one task."""

    parameters: dict[str, Any]
    scorer: Scorer
    validation: float


# --- items ---


def at_random(num_items: int) -> Iterator[Variant]:
    rng = np.random.default_rng(0)
    yield {}, lambda case: rng.random(num_items)


def popularity(train: Histories) -> Iterator[Variant]:
    yield {}, _constant(train.item_counts().astype(np.float64))


def recent_popularity(train: Histories) -> Iterator[Variant]:
    """Interactions counted with a weight that halves with their age at the end of training."""
    age = train.timestamps.max() - train.timestamps
    for share in TIME_SHARES:
        weights = 0.5 ** (age / ((share * age.max()) or 1.0))
        counts = np.bincount(train.item_numbers, weights=weights, minlength=len(train.catalogue))
        yield {"half_life_of_training_time": share}, _constant(counts)


def seen_again(catalogue: Catalogue, tie_break: np.ndarray) -> Iterator[Variant]:
    """The items of the history: what is bought again, where seen items stay in the ranking (`exclude_seen: false`)."""
    for half_life in HALF_LIVES:
        yield {"half_life": half_life}, from_history(np.eye(len(catalogue)), half_life, catalogue, tie_break)


def same_attribute(catalogue: Catalogue, attributes: Sequence[str], tie_break: np.ndarray) -> Iterator[Variant]:
    """Items that share a value, such as the product code, with items of the history; which attribute is chosen."""
    for name in attributes:
        alike = shared_values(catalogue.column(name))
        if alike.any():
            for half_life in HALF_LIVES:
                parameters = {"attribute": name, "half_life": half_life}
                yield parameters, from_history(alike, half_life, catalogue, tie_break)


def item_knn(train: Histories, tie_break: np.ndarray) -> Iterator[Variant]:
    """Items bought by the same shoppers as those of the history."""
    together = co_occurrence(train)
    for shrinkage in KNN_SHRINKAGES:
        similarity = cosine(together, shrinkage)
        for k in sorted({min(k, len(similarity)) for k in NEIGHBOURS}):
            nearest = nearest_only(similarity, k)
            for half_life in HALF_LIVES:
                parameters = {"k": k, "shrinkage": shrinkage, "half_life": half_life}
                yield parameters, from_history(nearest, half_life, train.catalogue, tie_break)


def ease(train: Histories, tie_break: np.ndarray) -> Iterator[Variant]:
    """EASE, the linear item-to-item model in closed form (https://huggingface.co/papers/1905.03375)."""
    together = co_occurrence(train)
    for penalty in EASE_PENALTIES:
        weights = ease_weights(together, penalty)
        for half_life in HALF_LIVES:
            parameters = {"lambda": penalty, "half_life": half_life}
            yield parameters, from_history(weights, half_life, train.catalogue, tie_break)


def blend(first: Chosen, second: Chosen) -> Iterator[Variant]:
    """Two baselines added, each case's scores divided by their maximum."""

    def scorer(weight: float) -> Scorer:
        return lambda case: _of_maximum(first.scorer(case)) + weight * _of_maximum(second.scorer(case))

    of_both = first.parameters | {f"second_{name}": value for name, value in second.parameters.items()}
    for weight in BLEND_WEIGHTS:
        yield {"weight": weight} | of_both, scorer(weight)


def from_history(
    similarity: np.ndarray, half_life: float, catalogue: Catalogue, tie_break: np.ndarray
) -> Callable[[Case], np.ndarray]:
    """Sums the rows of the history's items; the latest weighs 1, one `half_life` places earlier 1/2.

    The whole history counts, not only the `history_length` items that UniMP reads.
    """

    def score(case: Case) -> np.ndarray:
        rows = [catalogue.number(event.item_id) for event in case.history]
        weights = 0.5 ** (np.arange(len(rows))[::-1] / half_life)
        return weights @ similarity[rows] + TIE_BREAK * tie_break

    return score


def co_occurrence(train: Histories) -> np.ndarray:
    """How many users have both items `(num_items, num_items)`; the diagonal holds an item's users."""
    x = users_by_items(train)
    together: np.ndarray = (x.T @ x).toarray().astype(np.float64)
    return together


def cosine(together: np.ndarray, shrinkage: float) -> np.ndarray:
    """`c_ij / (sqrt(c_ii * c_jj) + shrinkage)`; an item is not similar to itself, for it has been seen."""
    users = np.diag(together)
    norm = np.sqrt(np.outer(users, users)) + shrinkage
    similarity: np.ndarray = np.divide(together, norm, out=np.zeros_like(together), where=together > 0)
    np.fill_diagonal(similarity, 0)
    return similarity


def nearest_only(similarity: np.ndarray, k: int) -> np.ndarray:
    """The `k` largest entries of each row, 0 elsewhere."""
    kept = np.zeros_like(similarity)
    columns = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    np.put_along_axis(kept, columns, np.take_along_axis(similarity, columns, axis=1), axis=1)
    return kept


def ease_weights(together: np.ndarray, penalty: float) -> np.ndarray:
    """`B` with a zero diagonal that minimises `|X - XB|^2 + penalty * |B|^2`, where `X^T X` is `together`."""
    inverse = np.linalg.inv(together + penalty * np.eye(len(together)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def shared_values(column: Sequence[Any]) -> np.ndarray:
    """Values that two items share, in parts of the values that either has `(num_items, num_items)`; diagonal 0."""
    values = [set(map(str, value if isinstance(value, list) else [value])) - {"None", ""} for value in column]
    index = {value: i for i, value in enumerate(sorted(set().union(*values)))}
    has = np.zeros((len(values), len(index)), dtype=np.float32)
    for row, found in enumerate(values):
        has[row, [index[value] for value in found]] = 1
    both, sizes = (has @ has.T).astype(np.float64), has.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - both
    alike: np.ndarray = np.divide(both, either, out=np.zeros_like(both), where=both > 0)
    np.fill_diagonal(alike, 0)
    return alike


# --- stars ---


def constant_stars(train: Histories, of: Callable[[np.ndarray], Any]) -> Iterator[Variant]:
    yield {}, _constant(np.array([of(train.ratings[np.isfinite(train.ratings)])], dtype=np.float64))


def shoppers_mean(train: Histories) -> Iterator[Variant]:
    """The shopper's earlier mean, drawn to everybody's as if that were `strength` more ratings."""
    mean = float(np.nanmean(train.ratings))
    for strength in RATING_PENALTIES:
        yield {"strength": strength}, _bias_scorer(train.catalogue, mean, np.zeros(len(train.catalogue)), strength)


def user_and_item(train: Histories) -> Iterator[Variant]:
    """Mean + the shopper's bias + the item's bias, each with its ridge penalty."""
    mean = float(np.nanmean(train.ratings))
    for item_penalty in RATING_PENALTIES:
        for user_penalty in RATING_PENALTIES:
            _, _, of_items = biases(train, user_penalty, item_penalty)
            parameters = {"user_penalty": user_penalty, "item_penalty": item_penalty}
            yield parameters, _bias_scorer(train.catalogue, mean, of_items, user_penalty)


def _bias_scorer(catalogue: Catalogue, mean: float, of_items: np.ndarray, user_penalty: float) -> Scorer:
    """The shopper's bias is taken from the case's history, so that new shoppers have one too."""

    def score(case: Case) -> np.ndarray:
        given = [
            event.rating - mean - of_items[catalogue.number(event.item_id)]
            for event in case.history
            if event.rating is not None
        ]
        of_user = sum(given) / (len(given) + user_penalty)
        return np.array([mean + of_user + of_items[catalogue.number(case.target.item_id)]])

    return score


# --- from item scores to the outputs that `EvaluationCases.score` takes from any model ---


def ranking(source: ExampleSource) -> Callable[[dict, np.ndarray], np.ndarray]:
    return lambda request, scores: scores


def ranking_in_query(source: ExampleSource) -> Callable[[dict, np.ndarray], np.ndarray]:
    """Only items whose query attribute is the query; the target always is one of them."""
    queries = np.array([query_of(value) or "" for value in source.catalogue.column(str(source.query_attribute))])
    return lambda request, scores: np.where(queries == request["query"], scores, -np.inf)


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


def scores_of(cases: EvaluationCases, scorer: Scorer) -> Scores:
    """Scores of a baseline's outputs for all cases, as the model's are scored."""
    output = OUTPUTS[cases.task.name](cases.source)
    pairs = zip(cases.cases, cases.requests, strict=True)
    return cases.scores(output(request, scorer(case)) for case, request in pairs)


# --- choice and evaluation ---


def choose(variants: Iterable[Variant], validation: Sequence[EvaluationCases]) -> dict[str, Chosen]:
    """For each task the variant with the best headline on validation; the first of equals."""
    best: dict[str, Chosen] = {}
    for parameters, scorer in variants:
        for cases in validation:
            task = cases.task
            value = summarise(task, scores_of(cases, scorer))[task.headline]
            sign = 1 if task.higher_is_better else -1
            if task.name not in best or sign * value > sign * best[task.name].validation:
                best[task.name] = Chosen(parameters, scorer, value)
    return best


def choose_all(
    train: Histories, validation: Sequence[EvaluationCases], attributes: Sequence[str]
) -> dict[str, dict[str, Chosen]]:
    """Every baseline, by task and name; they see the `attributes` of items that UniMP reads too."""
    chosen: dict[str, dict[str, Chosen]] = {cases.task.name: {} for cases in validation}

    def add(name: str, variants: Iterable[Variant], cases: Sequence[EvaluationCases]) -> dict[str, Chosen]:
        started = time.time()
        found = choose(variants, cases)
        for task, best in found.items():
            chosen[task][name] = best
        if found:
            logger.info(f"{name}: chosen for {', '.join(found)} in {time.time() - started:.0f} s")
        return found

    rankings = [cases for cases in validation if cases.task.name in ("recommend", "search", "select")]
    if rankings:
        catalogue = train.catalogue
        selections = [cases for cases in rankings if cases.task.name == "select"]
        add("choose all", [({}, _constant(np.ones(len(catalogue))))], selections)
        add("random", at_random(len(catalogue)), rankings)
        add("popularity", popularity(train), rankings)
        recent = add("recent popularity", recent_popularity(train), rankings)
        tie_break = _of_maximum(recent[rankings[0].task.name].scorer(rankings[0].cases[0]))
        add("seen again", seen_again(catalogue, tie_break), rankings)
        same = add("same attribute as in the history", same_attribute(catalogue, attributes, tie_break), rankings)
        add("item-kNN", item_knn(train, tie_break), rankings)
        linear = add("EASE", ease(train, tie_break), rankings)
        for cases in rankings:
            task = cases.task.name
            if task in same:
                add("EASE + same attribute", blend(linear[task], same[task]), [cases])
    ratings = [cases for cases in validation if cases.task.name == "rate"]
    if ratings and train.has_ratings:
        add("mean", constant_stars(train, np.mean), ratings)
        add("median", constant_stars(train, np.median), ratings)
        add("shopper's mean", shoppers_mean(train), ratings)
        add("user + item bias", user_and_item(train), ratings)
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
        scores = scores_of(cases, best.scorer)
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
            head = ["baseline", *names, f"{headline} 95 %", "chosen on validation"]
            skipped = f", {result['skipped']} without an answer left out" if result["skipped"] else ""
            lines.append(f"\n{task}, {part}: {result['cases']} cases{skipped}\n")
            lines.append(_row(head))
            lines.append(_row(["---", *["---:"] * (len(names) + 1), "---"]))
            for who, row in rows.items():
                low, high = row["interval"]
                numbers = [f"{row['metrics'][name]:.4f}" for name in names]
                parameters = ", ".join(f"{name} {value}" for name, value in row["parameters"].items())
                lines.append(_row([who, *numbers, f"{low:.4f} - {high:.4f}", parameters]))
    return "\n".join(lines).strip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _constant(value: np.ndarray) -> Scorer:
    return lambda case: value


def _of_maximum(scores: np.ndarray) -> np.ndarray:
    highest = scores.max()
    return scores / highest if highest > 0 else scores


def main() -> None:
    started = time.time()
    logging.basicConfig(format="%(message)s")
    for name in ("train", "processing_unimp", "baselines"):
        logging.getLogger(name).setLevel(logging.INFO)
    data_args, _, args = parse_recipe()
    catalogue, histories = load_shop(data_args)
    split = split_histories(histories, catalogue, data_args, args.seed)

    # All of validation: `max_validation_cases` only saves time between epochs.
    validation = evaluation_cases_of(split.validation, data_args, catalogue, args.seed, None)
    for cases in validation:
        if not len(cases) or cases.task.name not in OUTPUTS:
            reason = "no validation case" if not len(cases) else "there is no baseline for it here"
            logger.info(f"{cases.task.name} is left out: {reason}")
    answerable = [cases for cases in validation if len(cases) and cases.task.name in OUTPUTS]
    chosen = choose_all(split.train, answerable, data_args.attributes or catalogue.attributes)

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
    folder = Path(str(args.output_dir))
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "results": results,
        "split": {"name": split.name, "leaks": split.leaks, "removed": split.removed},
        "data": dataclasses.asdict(data_args),
        "catalogue": catalogue.fingerprint,
        "seed": args.seed,
        "seconds": round(time.time() - started, 1),
    }
    table = markdown(results)
    (folder / "baselines.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "baselines.md").write_text(table)
    print(table)
    logger.info(f"{folder}/baselines.json and .md written in {record['seconds']} s")


if __name__ == "__main__":
    main()
