"""report.html: what the model answers a few shoppers, beside what they really did, under the table of results.

The page is one file that loads nothing: pictures and style are inside and there is no script. This module computes
what the template report.html shows; the template escapes whatever a seller or a shopper wrote.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image, ImageOps

from modeling_unimp.training.evaluation import Fit, fit_in_words, rows_of
from processing_unimp import TASK_NAMES, Catalogue, EvaluationCases
from processing_unimp.metrics.summary import LOWER_IS_BETTER, NEITHER_IS_BETTER
from processing_unimp.picture import UnreadablePicture, open_picture

from .html_pieces import TEMPLATES, counted, data_uri, percent, thumbnail, title_of
from .run_record import PARTS, Results, TaskResult, number, standing
from .untrusted_text import listed, one_line

STYLE = Path(__file__).with_name("report.css")
PICTURE_SIDE = 192  # pixels; shown at half of that, which is sharp on a phone
MADE_SIDE, REBUILT_SIDE = 256, 128  # pixels on the page, of a picture the model made and of one the codec rebuilt
EXACT_SIDE = 128  # pixels; up to here a made or rebuilt picture is embedded without loss
MAX_RANKED, MAX_NEAREST, MAX_REBUILT = 10, 5, 16
MAX_TITLE, MAX_DETAILS = 80, 400  # characters
TRUTH = ("answer", "next", "others")  # what a request knows of the right answer

QUESTIONS = {
    "recommend": "Which item comes next? Ranked over the whole catalogue.",
    "search": "Which item fits both the query and the shopper? Ranked over the whole catalogue.",
    "rate": "How many stars will the shopper give? Smaller errors are better.",
    "explain": "Why does an item suit the shopper, or not? Similarity to what was really written.",
    "select": "Which of the candidates will the shopper take?",
    "imagine": "What would an item look like that fits both the query and the shopper? Gain: how much more the "
    "picture is like the item really taken than like other items of the query. Frechet: how far the pictures, all "
    "together, are from real ones. Nll: how surprised the model is by the true picture.",
}

Shopper = Mapping[str, Any]


def shoppers_of(cases_by_task: Sequence[EvaluationCases], num_shoppers: int = 6) -> list[dict[str, Any]]:
    """Bring together what the tasks ask about the same shopper at the same moment.

    Args:
        cases_by_task (`Sequence[EvaluationCases]`): cases of the same targets, one element a task.
        num_shoppers (`int`, *optional*, defaults to 6): those whom most tasks ask about come first, then the order of
            the cases decides, so that nobody is picked for a good answer.

    Returns:
        `list[dict]`: each `{"user_id": str, "requests": {task name: request with its true "answer"}}`; a task for
        which the data has no answer is absent.
    """
    requests_by_task = {cases.task.name: cases.requests for cases in cases_by_task}
    # By user and length of the history: the tasks that ask there, and which of their cases it is.
    moments: dict[tuple[str, int], dict[str, int]] = {}
    for cases in cases_by_task:
        users, places = cases.cases.users.tolist(), cases.cases.positions.tolist()
        for index, (user, place) in enumerate(zip(users, places, strict=True)):
            moments.setdefault((cases.cases.histories.users[user], place), {})[cases.task.name] = index
    chosen: dict[str, dict[str, int]] = {}
    for (user_id, _), asked in sorted(moments.items(), key=lambda moment: -len(moment[1])):
        chosen.setdefault(user_id, asked)
    return [
        {"user_id": user_id, "requests": {task: requests_by_task[task][index] for task, index in asked.items()}}
        for user_id, asked in itertools.islice(chosen.items(), num_shoppers)
    ]


def write_report(
    folder: Path,
    answer: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] | None,
    catalogue: Catalogue,
    shoppers: Sequence[Shopper],
    results: Results,
    codec: Mapping[str, Any] | None = None,
    fit: Fit | None = None,
    refit: bool = False,
) -> Path:
    """Write `report.html`.

    Args:
        folder (`Path`): where to; made if it does not exist.
        answer (`Callable`): a `PersonalizationPipeline`, or anything that maps a list of requests to answers of its
            form. It never sees the true answers. `None` will do where there are no shoppers.
        catalogue (`Catalogue`): the shop; where titles and pictures come from.
        shoppers (`Sequence[Mapping]`): whom to show, see `shoppers_of`.
        results (`Mapping`): by part of the split and task, what `evaluate_model` returns.
        codec (`Mapping`, *optional*): what turns codes into pictures: its `"metrics"`, as `measure_codec` returns
            them, and as `"pictures"` pairs of a picture and the same picture rebuilt from its codes.
        fit (`Mapping`, *optional*): by task what the fit of the closed-form scores found, see `fit_hybrid`.
        refit (`bool`, *optional*, defaults to `False`): whether what is saved in the end is trained again on all
            interactions; the page says then that it is of the model before.

    Returns:
        `Path`: the file written.

    Raises:
        ValueError: `answer` returned another number of answers than it got requests.
    """
    asked = [(place, task) for place, shopper in enumerate(shoppers) for task in shopper["requests"]]
    requests = [_without_truth(shoppers[place]["requests"][task]) for place, task in asked]
    answers = list(answer(requests)) if requests and answer is not None else []
    if len(answers) != len(requests):
        raise ValueError(f"{len(requests)} requests got {len(answers)} answers; expected one answer a request.")
    answers_of: list[dict[str, Any]] = [{} for _ in shoppers]
    for (place, task), given in zip(asked, answers, strict=True):
        answers_of[place][task] = given

    views = _ItemViews(catalogue)
    asked_of = [*results.values(), *(shopper["requests"] for shopper in shoppers)]
    page = TEMPLATES.get_template("report.html").render(
        style=Markup(STYLE.read_text(encoding="utf-8")),
        num_items=len(catalogue),
        parts=[
            {
                "name": part,
                "meaning": PARTS.get(part, ""),
                "results": [_task_result(task, of_task) for task, of_task in by_task.items()],
            }
            for part, by_task in results.items()
        ],
        shoppers=[
            {"user_id": shopper["user_id"], "panels": _panels(views, shopper["requests"], given)}
            for shopper, given in zip(shoppers, answers_of, strict=True)
        ],
        tasks=listed([task for task in TASK_NAMES if any(task in each for each in asked_of)]),
        refit=refit,
        fit={task: fit_in_words(task, of_task) for task, of_task in (fit or {}).items()},
        codec=None if codec is None else _codec(codec),
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _without_truth(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in TRUTH}


# --- items and pictures ---


class _ItemViews:
    """Items as a tile shows them; every picture is read once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._pictures: dict[str, str | None] = {}

    def of(self, entry: Any) -> dict[str, Any]:
        """Title, details and picture of an item as a request or an answer names it."""
        item_id = _id_of(entry)
        if item_id is not None and item_id in self.catalogue:
            item = dict(self.catalogue.item(item_id))
        else:
            item = dict(entry) if isinstance(entry, Mapping) else {"item_id": item_id}
        names = ["item_id", *self.catalogue.attributes]
        values = [(name, one_line(item.get(name), MAX_DETAILS)) for name in names]
        return {
            "title": title_of(item, self.catalogue.attributes, MAX_TITLE),
            "details": one_line(", ".join(f"{name}: {value}" for name, value in values if value), MAX_DETAILS),
            "picture": self._picture(item),
        }

    def _picture(self, item: Mapping[str, Any]) -> str | None:
        item_id = _id_of(item)
        if item_id is None or item_id not in self.catalogue:
            source = item.get("image")
            try:
                return None if source is None else thumbnail(open_picture(source), PICTURE_SIDE)
            except UnreadablePicture:
                return None
        if item_id not in self._pictures:
            picture = self.catalogue.picture(item_id)
            self._pictures[item_id] = None if picture is None else thumbnail(picture, PICTURE_SIDE)
        return self._pictures[item_id]


def _exact(picture: Image.Image, side: int) -> dict[str, Any]:
    """A picture whose every pixel counts, about `side` pixels large on the page; a small one is enlarged a whole
    number of times and stays sharp."""
    picture = picture.convert("RGB")
    picture.thumbnail((2 * side, 2 * side), Image.Resampling.LANCZOS)
    longest = max(picture.size)
    times = max(side // longest, 1)
    width, height = (round(length * min(times, side / longest)) for length in picture.size)
    # Of such a JPEG no `optimize`: the buffer that Pillow takes for it is too small where a picture is mostly noise.
    is_small = longest <= EXACT_SIDE
    form, options = ("png", {"optimize": True}) if is_small else ("jpeg", {"quality": 95, "subsampling": 0})
    source = data_uri(picture, form, **options)
    return {"source": source, "width": width, "height": height, "is_enlarged": times > 1}


def _id_of(entry: Any) -> str | None:
    if isinstance(entry, Mapping):
        entry = entry.get("item_id")
    return None if entry is None else str(entry)


# --- one shopper ---


def _panels(views: _ItemViews, requests: Mapping[str, Any], answers: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What was asked about a shopper by panel of the template, the history first."""
    if not requests:
        return {}
    return {"history": _history(views, requests)} | {
        task: VIEWS[task](views, requests[task], answers[task]) for task in VIEWS if task in requests
    }


def _history(views: _ItemViews, requests: Mapping[str, Any]) -> dict[str, Any]:
    """The events the model reads, then the item that was really next, which it does not see."""
    events = [
        {"item": views.of(entry), "rating": entry.get("rating") if isinstance(entry, Mapping) else None}
        for entry in next(iter(requests.values()))["history"]
    ]
    truth = [requests[task]["answer"] for task in ("recommend", "search", "imagine") if task in requests]
    truth += [requests[task]["item"] for task in ("rate", "explain") if task in requests]
    return {
        "events": events,
        "next": views.of(truth[0]) if truth else None,
        "next_stars": requests["rate"]["answer"] if "rate" in requests else None,
    }


def _ranking(views: _ItemViews, request: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """A ranking with bars relative to the best, and where in it the true item came."""
    items = answer["items"][:MAX_RANKED]
    best = max((item["score"] for item in items), default=0) or 1
    ranked = [
        {
            "item": views.of(item),
            "is_true": _id_of(item) == _id_of(request["answer"]),
            "share": item["score"] / best,
            "words": percent(item["score"]),
        }
        for item in items
    ]
    place = _true_place(ranked)
    where = f"number {place}" if place else f"not in the first {len(items)}"
    return {"query": request.get("query"), "ranked": ranked, "where": where}


def _true_place(ranked: Sequence[Mapping[str, Any]]) -> int | None:
    """The rank of the item that was really taken, from 1."""
    return next((rank for rank, each in enumerate(ranked, start=1) if each["is_true"]), None)


def _rate(views: _ItemViews, request: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    true, probabilities = request["answer"], answer["probabilities"]
    most = max(probabilities.values()) or 1
    levels = [
        {"stars": stars, "is_true": stars == true, "share": share / most, "probability": share}
        for stars, share in sorted(probabilities.items(), reverse=True)
    ]
    return {"item": views.of(request["item"]), "expected": answer["stars"], "true": true, "levels": levels}


def _explain(views: _ItemViews, request: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "item": views.of(request["item"]),
        "text": answer["text"],
        "grounds": counted(answer["grounds"]),
        "true": request["answer"],
    }


def _select(views: _ItemViews, request: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    candidates = [
        {
            "item": views.of(item),
            "score": item["score"],
            "is_chosen": bool(item["selected"]),
            "is_true": bool(suits),
        }
        for item, suits in zip(answer["items"], request["answer"], strict=True)
    ]
    chosen = [each["is_true"] for each in candidates if each["is_chosen"]]
    suiting = sum(each["is_true"] for each in candidates)
    return {"candidates": candidates, "found": sum(chosen), "wrong": len(chosen) - sum(chosen), "suiting": suiting}


def _imagine(views: _ItemViews, request: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    nearest = [
        {
            "item": views.of(item),
            "is_true": _id_of(item) == _id_of(request["answer"]),
            "share": item["similarity"],
            "words": f"{item['similarity']:.2f}",
        }
        for item in answer["nearest"][:MAX_NEAREST]
    ]
    place = _true_place(nearest)
    return {
        "query": request["query"],
        "retrieved": [views.of(item) for item in answer["retrieved"]],
        "picture": _exact(answer["picture"], MADE_SIDE),
        "nearest": nearest,
        "where": f"number {place} in similarity" if place else f"not among the {len(nearest)} most alike",
        "true": views.of(request["answer"]),
    }


VIEWS: dict[str, Callable[[_ItemViews, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]] = {
    "recommend": _ranking,
    "search": _ranking,
    "rate": _rate,
    "explain": _explain,
    "select": _select,
    "imagine": _imagine,
}


# --- results ---


def _task_result(task: str, of_task: TaskResult) -> dict[str, Any]:
    """The table of a task: the headline first, the model in the first row."""
    rows = rows_of(of_task)
    names = sorted(of_task["model"], key=lambda name: name != of_task["headline"])
    best = {name: _best(name, [metrics[name] for metrics in rows.values()]) for name in names}

    def cell(who: str, name: str) -> dict[str, Any]:
        value = number(rows[who][name])
        return {
            "value": None if value is None else f"{round(value, 3) + 0.0:.3f}",  # no -0.000
            "is_best": value is not None and value == best[name],
            "interval": of_task["interval"] if who == "UniMP" and name == of_task["headline"] else None,
        }

    compared = standing(task, of_task)
    state, words = {
        "ahead": ("good", "ahead of every trivial baseline"),
        "behind": ("bad", f"behind: {compared.rival}"),
        "unclear": ("even", f"level with: {compared.rival}"),
        "few": ("even", "too few cases to tell"),
        "unknown": ("even", "nothing to compare with"),
    }[compared.verdict]
    return {
        "task": task,
        "state": state,
        "standing": words,
        "question": QUESTIONS.get(task, ""),
        "columns": [{"name": name.replace("_", " "), "lower_is_better": name in LOWER_IS_BETTER} for name in names],
        "rows": [
            {"who": who, "is_model": who == "UniMP", "cells": [cell(who, name) for name in names]} for who in rows
        ],
        "cases": of_task["cases"],
        "skipped": of_task["skipped"],
        "reliability": of_task.get("reliability"),
    }


def _best(name: str, values: Sequence[float]) -> float | None:
    """The best of a column; `None` where only one row has a value, or more is neither better nor worse."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2 or name in NEITHER_IS_BETTER:
        return None
    return min(known) if name in LOWER_IS_BETTER else max(known)


# --- the picture codec ---


def _codec(codec: Mapping[str, Any]) -> dict[str, Any]:
    metrics, pairs = codec["metrics"], codec["pictures"][:MAX_REBUILT]
    trained_on = metrics.get("trained_on")
    psnr, ssim, perplexity = (
        None if number(metrics[name]) is None else form.format(metrics[name])
        for name, form in (("psnr", "{:,.1f} dB"), ("ssim", "{:,.3f}"), ("perplexity", "{:,.0f}"))
    )
    facts = (
        ("PSNR", psnr, "How close the colours are. From about 30 dB on, the eye hardly sees a difference."),
        ("SSIM", ssim, "How close shapes and textures are. 1 is the same picture."),
        (
            "Codes used",
            f"{metrics['codes_used']:,} of {metrics['num_codes']:,}",
            "Entries of the code book that these pictures need.",
        ),
        ("Perplexity", perplexity, "This many codes, used equally often, would carry as much."),
        (
            "Pictures held out" if trained_on else "Pictures measured",
            f"{metrics['pictures']:,}",
            f"Not among the {trained_on:,} that the codec has learnt from." if trained_on else "Of this catalogue.",
        ),
    )
    return {
        "facts": facts,
        "pairs": [
            (_exact(_at_same_size(original, rebuilt), REBUILT_SIDE), _exact(rebuilt, REBUILT_SIDE))
            for original, rebuilt in pairs
        ],
        "size": pairs[0][1].size if pairs else None,
    }


def _at_same_size(original: Image.Image, rebuilt: Image.Image) -> Image.Image:
    """The original with as many pixels as the rebuilt picture, so that only what the codec lost differs."""
    return ImageOps.pad(original.convert("RGB"), rebuilt.size, Image.Resampling.LANCZOS, color="white")
