"""Evaluation by answering: outputs are scored case by case, averaged with an interval, and shown beside baselines."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import logging
from transformers.utils.logging import tqdm

from processing_unimp import EvaluationCases, Histories, UniMPProcessor
from processing_unimp.control_tokens import NUM_STARS
from processing_unimp.metrics.calibration import reliability
from processing_unimp.metrics.lists import ListMeasures
from processing_unimp.metrics.summary import headline_of, summarise
from processing_unimp.task import Scores, Task, stacked

from ..answering import candidate_probabilities, outputs_of
from ..hybrid_scores import HybridScores

if TYPE_CHECKING:
    from ..modeling_unimp import UniMPForConditionalGeneration
    from .feature_store import FeatureStore
    from .trainer import UniMPTrainer

logger = logging.get_logger(__name__)

RESAMPLES = 500
LEAST_CASES = 30  # of fewer an interval is too narrow, and of a single one a point: too few to tell who is ahead
CLOSED_FORM_BATCH = 64
Results = dict[str, dict[str, Any]]
Fit = dict[str, dict[str, Any] | None]  # by task, see `fit_hybrid`


def score_cases(
    model: "UniMPForConditionalGeneration",
    processor: UniMPProcessor,
    cases_by_task: Sequence[EvaluationCases],
    *,
    batch_size: int = 32,
    vision_features: "FeatureStore | None" = None,
    process_index: int = 0,
    num_processes: int = 1,
    show_progress: bool = True,
) -> dict[str, Scores]:
    """Answer and score every case; with several processes each answers its share and all get all scores.

    Args:
        model (`UniMPForConditionalGeneration`): unwrapped.
        processor (`UniMPProcessor`): the model's own.
        cases_by_task (`Sequence[EvaluationCases]`): one a task.
        batch_size (`int`, *optional*, defaults to 32).
        vision_features (`FeatureStore`, *optional*): see `UniMPProcessor.__call__`.
        process_index, num_processes (`int`, *optional*): this process among all.
        show_progress (`bool`, *optional*, defaults to `True`).

    Returns:
        `dict[str, Scores]`: by task, arrays with a row a case, in the order of the cases; no entry for a task without
        cases.
    """
    scores: dict[str, Scores] = {}
    for cases in cases_by_task:
        if not len(cases):
            if cases.skipped:
                logger.warning(
                    f"No case to evaluate {cases.task.name} on: {cases.skipped - cases.seen} have no answer in the "
                    f"data, and {cases.seen} ask for an item of the history, which exclude_seen leaves out."
                )
            continue
        own = range(process_index, len(cases), num_processes)
        # Each process answers as many, the last of them again: with sharded weights all have to take part.
        answered = [*own, len(cases) - 1][: -(-len(cases) // num_processes)]
        outputs = outputs_of(
            model,
            processor,
            cases.requests.take(answered),
            cases.task.answer_group,
            batch_size=batch_size,
            vision_features=vision_features,
        )
        bar = tqdm(
            zip(answered, outputs, strict=True),
            total=len(answered),
            desc=f"evaluate {cases.task.name}",
            disable=not show_progress,
            leave=False,
        )
        indexed = [(index, cases.score(index, output)) for index, output in bar][: len(own)]
        if num_processes > 1:
            from accelerate.utils import gather_object  # a trained model answers without the `train` extra

            indexed = gather_object(indexed)
        scores[cases.task.name] = stacked(score for _, score in sorted(indexed, key=lambda pair: pair[0]))
    return scores


def evaluate_model(
    trainer: "UniMPTrainer",
    cases_by_task: Sequence[EvaluationCases],
    train: Histories,
    closed_form: HybridScores | None = None,
    lists: ListMeasures | None = None,
) -> Results:
    """Metrics of the model and of each task's trivial baselines on the same cases.

    Args:
        trainer (`UniMPTrainer`)
        cases_by_task (`Sequence[EvaluationCases]`)
        train (`Histories`): what the baselines are fitted on.
        closed_form (`HybridScores`, *optional*): the best blend without the network, where the model has closed-form
            scores.
        lists (`ListMeasures`, *optional*): adds novelty and diversity of rankings.

    Returns:
        By task: `cases`, `skipped`, `headline`, `interval` (95 %, bootstrap over cases, of the headline),
        `reliability` of the probabilities (see [`~processing_unimp.metrics.calibration.reliability`]), and with their
        metrics `model`, `parts` (what it is made of, each alone) and `baselines`. `by_case` holds what [`by_case`]
        gives of the model and its parts.
    """
    scores_by_task = trainer.score_cases(cases_by_task)
    parts: dict[str, dict[str, Scores]] = {}
    if closed_form is not None:
        parts = _parts(trainer, cases_by_task, closed_form)
    results: Results = {}
    for cases in cases_by_task:
        task = cases.task
        if task.name not in scores_by_task:
            continue
        scores = scores_by_task[task.name]
        alone = {name: each[task.name] for name, each in parts.items() if task.name in each}
        retrieved = task.retrieval_baselines(scores)
        results[task.name] = {
            "cases": len(cases),
            "skipped": cases.skipped,
            "headline": task.headline,
            "interval": bootstrap(task, scores),
            "reliability": reliability(scores["confidence"], scores["is_right"]) if "confidence" in scores else None,
            "by_case": {name: by_case(task, each) for name, each in {"UniMP": scores, **alone}.items()},
            "model": summarise(task, scores, lists),
            "parts": {name: summarise(task, each, lists) for name, each in alone.items()},
            "baselines": cases.baselines(train, lists)
            | {name: summarise(task, each) for name, each in retrieved.items()},
        }
    return results


def _parts(
    trainer: "UniMPTrainer", cases_by_task: Sequence[EvaluationCases], closed_form: HybridScores
) -> dict[str, dict[str, Scores]]:
    """Scores of the network alone and of the closed form alone, by task."""
    model = trainer.bare_model
    hybrid_tasks = {*closed_form.weights, *(["rate"] if closed_form.stars is not None else [])}
    cases_by_task = [cases for cases in cases_by_task if cases.task.name in hybrid_tasks and len(cases)]
    hybrid, model.hybrid_scores = model.hybrid_scores, None
    try:
        network = trainer.score_cases(cases_by_task)
    finally:
        model.hybrid_scores = hybrid
    alone = {cases.task.name: cases.scores(closed_form_outputs(cases, closed_form)) for cases in cases_by_task}
    return {"network alone": network, "closed form alone": alone}


def closed_form_outputs(cases: EvaluationCases, closed_form: HybridScores) -> Iterator[np.ndarray]:
    """What closed-form scores answer without a network, a case at a time, as `EvaluationCases.scores` takes it."""
    catalogue = cases.source.catalogue
    for start in range(0, len(cases), CLOSED_FORM_BATCH):
        requests = cases.requests[start : start + CLOSED_FORM_BATCH]
        nothing = torch.zeros(len(requests), len(catalogue))
        if cases.task.answer_group == "stars":
            outputs = closed_form.star_probabilities(torch.ones(len(requests), NUM_STARS), requests, catalogue)
        elif cases.task.answer_group == "decisions":
            outputs = candidate_probabilities(closed_form, nothing, requests, catalogue)
        else:
            outputs = closed_form.add_to_requests(nothing, requests, catalogue)
        for request, output in zip(requests, outputs.numpy(), strict=True):
            if cases.task.answer_group == "decisions":
                output = output[len(output) - len(request["candidates"]) :]
            yield output


def rows_of(result: Mapping[str, Any], model: str = "UniMP") -> dict[str, dict[str, float]]:
    """Metrics of a task by who answers: the model, its parts alone, the baselines."""
    return {model: result["model"], **result.get("parts", {}), **result["baselines"]}


def bootstrap(task: Task, scores: Scores, seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of the headline when cases are drawn anew with replacement; `None` for fewer than `LEAST_CASES`,
    and for metrics of texts, which are slow to compute."""
    num_cases = len(next(iter(scores.values())))
    if task.answer_group == "words" or num_cases < LEAST_CASES:
        return None
    rng = np.random.default_rng(seed)
    values = [headline_of(task, scores, rng.integers(num_cases, size=num_cases)) for _ in range(RESAMPLES)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def by_case(task: Task, scores: Scores) -> np.ndarray:
    """The headline of each case alone `(C,)`, for comparisons in pairs; an RMSE is the root of the mean square of its
    cases. Empty for metrics of texts, which are of all cases together."""
    if task.answer_group == "words":
        return np.zeros(0, dtype=np.float32)
    num_cases = len(next(iter(scores.values())))
    return np.array([headline_of(task, scores, np.array([case])) for case in range(num_cases)], dtype=np.float32)


def headline(results: dict[str, dict[str, float]], headlines: dict[str, str], before: dict | None = None) -> str:
    """One line an evaluation: `recommend ndcg@10 0.0453 (+0.0012) | rate rmse 0.9412`.

    Args:
        results: metrics by task.
        headlines (`dict[str, str]`): the metric that stands for each task.
        before (*optional*): the results of the evaluation before, for the change in brackets.
    """
    parts = []
    for task, metrics in results.items():
        name = headlines[task]
        part = f"{task} {name} {metrics[name]:.4f}"
        if before and task in before:
            part += f" ({metrics[name] - before[task][name]:+.4f})"
        parts.append(part)
    return " | ".join(parts)


def fit_in_words(task: str, of_task: Mapping[str, Any] | None) -> str:
    """What the fit of the closed-form scores found for a task, and whether the network earns its weight there."""
    if of_task is None:
        needed = "validation cases and ratings" if task == "rate" else "validation cases"
        return f"without {needed} no closed-form scores could be fitted, and the network answers alone"
    words = (
        f"{of_task['metric'].upper()} on {of_task['cases']:,} validation cases: network {of_task['network']:.4f}, "
        f"closed form {of_task['closed_form']:.4f}, together {of_task['together']:.4f}; "
    )
    gain = of_task["network"] - of_task["together"]
    if not of_task["weight"] and (-gain if of_task["metric"] == "rmse" else gain) > 0:
        return words + "the network is ahead on these cases, by no more than chance may do, and gets no weight"
    if not of_task["weight"]:
        return words + "the network does not earn its weight here, and gets none"
    asked = "" if of_task["asked"] == task else f", which is asked to {of_task['asked']}"
    return words + f"weight of the network {of_task['weight']:.2g}{asked}"


def format_table(results: dict[str, Results]) -> str:
    """For each part of the split and task one row with the metrics of the model, then one for each baseline."""
    lines: list[str] = []
    for part, by_task in results.items():
        lines.append(f"\n{part}")
        for task, result in by_task.items():
            rows = rows_of(result)
            names = list(result["model"])
            widths = {name: max(len(name) + 2, 11) for name in names}
            head = "".join(name.rjust(widths[name]) for name in names)
            skipped = f", {result['skipped']} skipped" if result.get("skipped") else ""
            lines.append(f"  {task} ({result['cases']} cases{skipped})".ljust(36) + head)
            for who, metrics in rows.items():
                line = f"    {who}".ljust(36) + "".join(_cell(metrics[name]).rjust(widths[name]) for name in names)
                if who == "UniMP" and result["interval"] is not None:
                    low, high = result["interval"]
                    line += f"   {result['headline']} 95 % interval {low:.4f} .. {high:.4f}"
                lines.append(line)
            if (found := result.get("reliability")) is not None:
                lines.append(
                    f"    probabilities of UniMP are off by {found['ece']:.3f} (ECE; exactly right ones would show "
                    f"{found['ece_by_chance']:.3f} on as many cases)"
                )
    return "\n".join(lines)


def _cell(value: float) -> str:
    """A metric that does not apply, such as the likelihood of a picture that was not drawn, is a dash."""
    return f"{value:.4f}" if math.isfinite(value) else "-"
