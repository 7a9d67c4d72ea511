"""Evaluation by answering: rank, read, generate; never by gathering logits over a vocabulary."""

from collections.abc import Sequence
from typing import Any

from transformers.utils import logging
from transformers.utils.logging import tqdm

from ..answering import outputs_of

logger = logging.get_logger(__name__)


def judgements_of(
    model: Any,
    processor: Any,
    cases_by_task: Sequence[Any],
    *,
    batch_size: int = 32,
    vision_features: Any = None,
    process_index: int = 0,
    num_processes: int = 1,
    show_progress: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """Answer and judge every case; with several processes each answers its share and all get the same.

    Args:
        model (`UniMPForConditionalGeneration`): unwrapped.
        processor (`UniMPProcessor`): the model's own.
        cases_by_task (`Sequence[EvaluationCases]`): one a task.
        batch_size (`int`, *optional*, defaults to 32).
        vision_features (`FeatureStore`, *optional*): see `UniMPProcessor.__call__`.
        process_index, num_processes (`int`, *optional*): this process among all.
        show_progress (`bool`, *optional*, defaults to `True`).

    Returns:
        `dict[str, list[dict]]`: by task, one judgement a case, in the order of the cases.
    """
    judged: dict[str, list[dict[str, Any]]] = {}
    for cases in cases_by_task:
        if not len(cases):
            logger.warning(f"No case to evaluate {cases.task.name} on: {cases.skipped} have no answer in the data.")
            continue
        mine = list(range(process_index, len(cases), num_processes))
        outputs = outputs_of(
            model,
            processor,
            [cases.requests[index] for index in mine],
            cases.task.answer_group,
            batch_size=batch_size,
            vision_features=vision_features,
        )
        bar = tqdm(
            zip(mine, outputs, strict=True),
            total=len(mine),
            desc=f"evaluate {cases.task.name}",
            disable=not show_progress,
            leave=False,
        )
        indexed = [(index, cases.judge(index, output)) for index, output in bar]
        if num_processes > 1:
            from accelerate.utils import gather_object  # a trained model answers without the `train` extra

            indexed = gather_object(indexed)
        judged[cases.task.name] = [judgement for _, judgement in sorted(indexed, key=lambda pair: pair[0])]
    return judged


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
