"""Tuned baselines on exactly the cases UniMP is evaluated on: fitted on the training part, chosen on validation.

python -m benchmarks.baselines --config recipes/h_and_m/tiny.yaml --image_root H_AND_M/images
python -m benchmarks.baselines --items items.parquet --interactions interactions.parquet --query_attribute category
Writes baselines.json and baselines.md into output_dir. Pictures are compared where the features of a frozen tower are
in feature_store, or in the output_dir of a training. EASE is made for up to 20,000 items, whose dense inverse takes
minutes. The last row of a table, the best blend, is the closed form of UniMP without its network; what it reaches on
validation is flattered, for its weights are fitted there.
"""

import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hub_cards.run_record import save_by_case
from modeling_unimp.hybrid_scores import POPULARITY, HybridScores
from modeling_unimp.training.closed_form import closed_form_scores
from modeling_unimp.training.defaults import fill_from_data
from modeling_unimp.training.evaluation import bootstrap, by_case, closed_form_outputs
from modeling_unimp.training.experiment import (
    check_names,
    check_output_folder,
    evaluation_cases_of,
    feature_folder,
    load_shop,
    split_histories,
)
from modeling_unimp.training.feature_store import FeatureStore
from modeling_unimp.training.hybrid_fitting import MOST_CASES, fit_closed_form
from modeling_unimp.training.item_similarity import (
    picture_similarity,
    term_vectors,
    text_similarity,
    windowed_transitions,
)
from modeling_unimp.training.recipe import ModelArguments, UniMPTrainingArguments, given_on_command_line, parse_recipe
from processing_unimp import Catalogue, EvaluationCases, ExampleSource, Histories
from processing_unimp.control_tokens import NUM_STARS
from processing_unimp.metrics.lists import ListMeasures
from processing_unimp.metrics.summary import headline_of, summarise
from processing_unimp.metrics.texts import rouge
from processing_unimp.task_search import query_of

from .ranking_baselines import (
    NEIGHBOURS,
    Scorer,
    Variant,
    at_random,
    blocks_of,
    bm25,
    constant,
    ease_with_content,
    history_weights,
    nearest,
    of_maximum,
    pair,
    popularity,
    recent_popularity,
    same_attribute,
    seen_again,
    tuned_ease,
    tuned_knn,
    tuned_taken_after,
)
from .rating_baselines import constant_stars, matrix_factorisation, shoppers_mean, user_and_item
from .text_baselines import at_random as text_at_random
from .text_baselines import of_everybody, of_the_item, of_the_shopper

logger = logging.getLogger("baselines")

BASELINE_CASES = "baselines_by_case.npz"

POWERS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the scores of candidates

# From what a baseline predicts to the outputs that `EvaluationCases.score` takes from any model.
AsOutputs = Callable[[Scorer, EvaluationCases], Iterable[Any]]


@dataclass
class Chosen:
    """The variant of one baseline that is best on validation for one task."""

    variant: Variant
    validation: float
    as_outputs: AsOutputs

    @property
    def parameters(self) -> dict[str, Any]:
        """What the variant is set to."""
        return self.variant[0]

    def outputs(self, cases: EvaluationCases) -> Iterable[Any]:
        """What it answers, a case at a time."""
        return self.as_outputs(self.variant[1], cases)


# --- the best blend ---


def best_blend(
    train: Histories,
    validation: Sequence[EvaluationCases],
    pictures: np.ndarray | None,
    query_attribute: str | None,
    attributes: Sequence[str] | None = None,
    new_items: np.ndarray | None = None,
) -> HybridScores:
    """All of UniMP's closed-form scores, weighted on validation as beside a network, but without one."""
    hybrid = closed_form_scores(train, pictures, query_attribute, validation[0].exclude_seen, attributes, new_items)
    return fit_closed_form(hybrid, validation, train)


def blend_parameters(blend: HybridScores, task: str) -> dict[str, Any]:
    """What a blend consists of for a task, rounded."""
    if task == "rate":
        assert blend.stars is not None
        return {name: round(getattr(blend.stars, name), 3) for name in ("strength", "expected", "alike", "factored")}
    if task == "select":
        return {"as in recommend, times": round(blend.weights[task][0], 3)}
    found = {}
    for weight, score in zip(blend.weights[task][1:], blend.scores, strict=True):
        if round(weight, 3):
            from_query = score.source == POPULARITY or score.source in blend.terms
            age = "" if from_query else f" @ {score.half_life:g}"
            found[score.source + age] = round(weight, 3)
    return found


# --- from scores to outputs ---


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


def by_power(power: float, scorer: Scorer, cases: EvaluationCases) -> Iterator[np.ndarray]:
    """Each candidate with a probability in proportion to a power of its score: several are chosen where scores are
    close, as UniMP does. With the best candidate alone a ranking that is as good would have a lower F1."""
    catalogue = cases.source.catalogue
    for place, scores in enumerate(scorer(cases)):
        candidates = cases.requests.drawn(place)["candidates"]
        found = np.maximum(scores[[catalogue.number(item_id) for item_id in candidates]], 0)
        powers = (found / found.max()) ** power if found.any() else np.ones(len(found))
        yield powers / powers.sum()


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


ANSWERED = {*OUTPUTS, "explain"}


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
    as_outputs: AsOutputs = by_scores,
) -> dict[str, Chosen]:
    """For each task the variant with the best headline on validation; the first of equals."""
    best: dict[str, Chosen] = {}
    for parameters, scorer in variants:
        for cases in validation:
            task = cases.task
            value = headline_on(cases, as_outputs(scorer, cases))
            sign = 1 if task.higher_is_better else -1
            if task.name not in best or sign * value > sign * best[task.name].validation:
                best[task.name] = Chosen((parameters, scorer), value, as_outputs)
    return best


def with_power(best: Chosen, validation: EvaluationCases) -> Chosen:
    """A baseline of select by the power that is best on validation, if any is better than the best candidate alone."""
    for power in POWERS:
        found = choose([best.variant], [validation], partial(by_power, power))["select"]
        if found.validation > best.validation:
            best = Chosen((found.parameters | {"power": power}, found.variant[1]), found.validation, found.as_outputs)
    return best


def headline_on(cases: EvaluationCases, outputs: Iterable[Any]) -> float:
    """The headline of a task; of a ranking only the ranks of the true items are found, and in blocks."""
    task, targets = cases.task, cases.cases
    if task.answer_group == "words":
        texts = cases.scores(outputs)
        return rouge(texts["predicted"].tolist(), texts["true"].tolist())[task.headline]
    if task.answer_group != "items":
        return summarise(task, cases.scores(outputs))[task.headline]
    retired = ~cases.source.catalogue.available
    numbers, rest, ranks = targets.histories.item_numbers[targets.rows], iter(outputs), []
    for part in blocks_of(len(targets), len(retired)):
        scores = np.stack(list(itertools.islice(rest, len(part)))).astype(np.float64)
        if np.isnan(scores).any():
            raise ValueError(f"{np.isnan(scores).sum()} scores of {task.name} are NaN: expected numbers.")
        right = np.arange(len(part)), numbers[part]
        truth = scores[right]
        scores[:, retired] = np.nan  # which is not as high as anything
        if cases.exclude_seen:
            scores[history_weights(targets.take(part), np.inf).nonzero()] = np.nan
        ranks.append(1 + (scores >= truth[:, None]).sum(axis=1) - (scores[right] >= truth))
    return headline_of(task, {"rank": np.concatenate(ranks)}, np.arange(len(targets)))


def choose_all(
    train: Histories,
    validation: Sequence[EvaluationCases],
    attributes: Sequence[str],
    query_attribute: str | None,
    pictures: np.ndarray | None,
    new_items: np.ndarray | None = None,
) -> dict[str, dict[str, Chosen]]:
    """Every baseline, by task and name.

    Args:
        train (`Histories`): what they are fitted on.
        validation (`Sequence[EvaluationCases]`): what chooses, one a task.
        attributes (`Sequence[str]`): of items, those that UniMP reads too.
        query_attribute (`str`, *optional*): what queries are made from.
        pictures (`np.ndarray` of shape `(N, D)`, *optional*): a vector for each picture, zeros where there is none.
        new_items (`np.ndarray` of bool, `(N,)`, *optional*): that nobody took yet, for the best blend.
    """
    chosen: dict[str, dict[str, Chosen]] = {cases.task.name: {} for cases in validation}

    def add(
        name: str, variants: Iterable[Variant], cases: Sequence[EvaluationCases], as_outputs: AsOutputs = by_scores
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
        tie_break = of_maximum(next(iter(recent[first.task.name].variant[1](first))))
        add("seen again", seen_again(tie_break), rankings)
        same = add("same attribute as in the history", same_attribute(catalogue, attributes, tie_break), rankings)
        terms = term_vectors(catalogue, attributes)
        text = [] if terms is None else nearest(text_similarity(terms, NEIGHBOURS[-1]), tie_break)
        add("text cosine", text, rankings)
        alike = None if pictures is None else picture_similarity(pictures, NEIGHBOURS[-1])
        if alike is not None:
            add("picture cosine", nearest(alike, tie_break), rankings)
        add("windowed transitions", nearest(windowed_transitions(train, NEIGHBOURS[-1]), tie_break), rankings)
        add("item-kNN", tuned_knn(train, tie_break), rankings)
        linear = add("EASE", tuned_ease(train, tie_break), rankings)
        add("EASE with content", ease_with_content(train, terms, pictures, tie_break), rankings)
        after = tuned_taken_after(train, tie_break, terms=terms, pictures=pictures)
        add("taken after (linear)", after, rankings)
        for cases in rankings:
            task = cases.task.name
            if task in same and task in linear:
                add("EASE + same attribute", pair(linear[task].variant, same[task].variant), [cases])
        add("BM25 + popularity", bm25(train, attributes) if searches else [], searches, as_it_is)
        for cases in selections:
            for name, best in list(chosen["select"].items()):
                chosen["select"][name] = with_power(best, cases)
    ratings = [cases for cases in validation if cases.task.name == "rate" and train.has_ratings]
    if ratings:
        add("mean", constant_stars(train, np.mean), ratings)
        add("median", constant_stars(train, np.median), ratings)
        add("shopper's mean", shoppers_mean(train), ratings)
        by_bias = add("user + item bias", user_and_item(train), ratings)["rate"].parameters
        add("matrix factorisation", matrix_factorisation(train, **by_bias), ratings)
    explanations = [cases for cases in validation if cases.task.name == "explain"]
    if explanations:
        add("random text", text_at_random(train), explanations, as_it_is)
        add("text for everybody", of_everybody(train), explanations, as_it_is)
        add("text of the item", of_the_item(train), explanations, as_it_is)
        add("text of the shopper", of_the_shopper(train), explanations, as_it_is)
    if answerable := [*rankings, *ratings]:
        blend = best_blend(train, answerable, pictures, query_attribute, attributes, new_items)
        for cases in answerable:
            task = cases.task.name
            if task in blend.weights or task == "rate":
                variant = blend_parameters(blend, task), partial(closed_form_outputs, closed_form=blend)
                add("best blend", [variant], [cases], as_it_is)
            else:
                logger.info(f"best blend of {task} is left out: it is that of recommend, which is no task here")
    return chosen


def evaluate(cases: EvaluationCases, chosen: dict[str, Chosen], lists: ListMeasures | None = None) -> dict[str, Any]:
    """Metrics of the chosen baselines on one part of the split, with 95 % intervals of the headline."""
    result: dict[str, Any] = {
        "cases": len(cases),
        "skipped": cases.skipped,
        "headline": cases.task.headline,
        "baselines": {},
    }
    for name, best in chosen.items():
        scores = cases.scores(best.outputs(cases))
        result["baselines"][name] = {
            "metrics": summarise(cases.task, scores, lists),
            "interval": bootstrap(cases.task, scores),
            # JSON has no infinity.
            "parameters": {name: "infinite" if value == np.inf else value for name, value in best.parameters.items()},
            "validation": best.validation,
            "by_case": by_case(cases.task, scores),
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
                interval = "" if row["interval"] is None else "{:.4f} - {:.4f}".format(*row["interval"])
                values = [row["metrics"][name] for name in names]
                numbers = [f"{value:.4f}" if np.isfinite(value) else "-" for value in values]
                parameters = ", ".join(f"{name} {value}" for name, value in row["parameters"].items())
                lines.append(_row([who, *numbers, interval, f"{row['validation']:.4f}", parameters]))
    return "\n".join(lines).strip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def pictures_of(catalogue: Catalogue, model_args: ModelArguments, args: UniMPTrainingArguments) -> np.ndarray | None:
    """A vector for each picture `(N, D)`, of finished features; none are computed here."""
    if model_args.feature_store is None and model_args.vision_model is None:
        return None
    folder = feature_folder(model_args, args)
    try:
        return FeatureStore.open(folder, catalogue.picture_digests()).pooled().numpy()
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
    split = split_histories(histories, catalogue, data_args)
    pictures = pictures_of(catalogue, model_args, args)

    # Those that train.py fits the weights of UniMP's closed form on.
    validation = evaluation_cases_of(split.validation, data_args, catalogue, MOST_CASES)
    for cases in validation:
        if not len(cases) or cases.task.name not in ANSWERED:
            reason = "no validation case" if not len(cases) else "there is no baseline for it here"
            logger.info(f"{cases.task.name} is left out: {reason}")
    answerable = [cases for cases in validation if len(cases) and cases.task.name in ANSWERED]
    attributes = data_args.attributes or catalogue.attributes
    chosen = choose_all(split.train, answerable, attributes, data_args.query_attribute, pictures, split.new_items)
    chose = round(time.time() - started, 1)

    # As in train.py: here, once, the test parts are touched.
    lists = ListMeasures(split.train.item_counts(), term_vectors(catalogue))
    parts = {"test": split.test, "new users": split.new_users, "new domain": split.new_domain}
    results = {
        part: {
            cases.task.name: evaluate(cases, chosen[cases.task.name], lists)
            for cases in evaluation_cases_of(targets, data_args, catalogue, data_args.max_test_cases)
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
        "split_seed": data_args.split_seed,
        "pictures": pictures is not None,
        "seconds_to_choose": chose,
        "seconds": round(time.time() - started, 1),
    }
    save_by_case(
        folder / BASELINE_CASES,
        {
            (part, task, who): row.pop("by_case")
            for part, by_task in results.items()
            for task, result in by_task.items()
            for who, row in result["baselines"].items()
        },
    )
    table = markdown(results)
    (folder / "baselines.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "baselines.md").write_text(table)
    print(table)
    logger.info(f"{folder}/baselines.json and .md written in {record['seconds']} s")


if __name__ == "__main__":
    main()
