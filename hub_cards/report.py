"""report.html: what the model answers a few shoppers, beside what they really did, under the table of results.

The page is one file that asks nobody for anything: pictures and style are inside and there is no script. Whatever a
merchant or a shopper wrote goes through `_text`.
"""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from processing_unimp import Catalogue, EvaluationCases
from processing_unimp.picture import UnreadablePicture, open_picture

from .html_pieces import data_uri
from .run_record import PARTS, standing
from .untrusted_text import one_line

PICTURE_SIDE = 192  # pixels; shown at half of that, which is sharp on a phone
MADE_SIDE, REBUILT_SIDE = 256, 128  # pixels on the page, of a picture the model made and of one the codec rebuilt
EXACT_SIDE = 128  # pixels; up to here a made or rebuilt picture is embedded without loss
MAX_RANKED, MAX_NEAREST, MAX_REBUILT = 10, 5, 16
MAX_TITLE, MAX_DETAILS, MAX_TEXT = 80, 400, 1000  # characters
STAR, NO_STAR, TICK, CROSS, DASH, DOT = "&#9733;", "&#9734;", "&#10003;", "&#10005;", "&#8211;", " &#183; "
DOWN, TIMES = "&#8595;", "&#215;"
TRUTH = ("answer", "next", "others")  # what a request knows of the right answer

LOWER_IS_BETTER = {"mae", "rmse", "frechet", "nll"}
NEITHER_IS_BETTER = {"similarity_to_other"}  # high for a picture of anything, low for a picture of nothing

QUESTIONS = {
    "recommend": "Which item comes next? Ranked over the whole catalogue.",
    "search": "Which item fits both the query and the shopper? Ranked over the whole catalogue.",
    "rate": "How many stars will the shopper give? Smaller errors are better.",
    "explain": "Why does an item suit the shopper, or not? Likeness to what was really written.",
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
    moments: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for cases in cases_by_task:
        for case, request in zip(cases.cases, cases.requests, strict=True):
            moments.setdefault((case.user_id, len(case.history)), {})[cases.task.name] = request
    shoppers: dict[str, dict[str, Any]] = {}
    for (user_id, _), requests in sorted(moments.items(), key=lambda moment: -len(moment[1])):
        shoppers.setdefault(user_id, {"user_id": user_id, "requests": requests})
    return list(shoppers.values())[:num_shoppers]


def write_report(
    folder: Path,
    answer: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] | None,
    catalogue: Catalogue,
    shoppers: Sequence[Shopper],
    results: Mapping[str, Mapping[str, Mapping[str, Any]]],
    codec: Mapping[str, Any] | None = None,
) -> Path:
    """Write `report.html`.

    Args:
        folder (`Path`): where to; made if it does not exist.
        answer (`Callable`): a `PersonalizationPipeline`, or anything that maps a list of requests to answers of its
            form. It never sees the true answers. `None` will do where there are no shoppers.
        catalogue (`Catalogue`): the shop; where titles and pictures come from.
        shoppers (`Sequence[Mapping]`): whom to show, see `shoppers_of`.
        results (`Mapping`): by part of the split and task, what `examine_model` returns.
        codec (`Mapping`, *optional*): what turns codes into pictures: its `"metrics"`, as `measure_codec` returns
            them, and as `"pictures"` pairs of a picture and the same picture rebuilt from its codes.

    Returns:
        `Path`: the file written.

    Raises:
        ValueError: `answer` returned another number of answers than it got requests.
    """
    asked = [(number, task) for number, shopper in enumerate(shoppers) for task in shopper["requests"]]
    requests = [_without_truth(shoppers[number]["requests"][task]) for number, task in asked]
    answers = list(answer(requests)) if requests and answer is not None else []
    if len(answers) != len(requests):
        raise ValueError(f"{len(requests)} requests got {len(answers)} answers; expected one answer a request.")
    answers_of: list[dict[str, Any]] = [{} for _ in shoppers]
    for (number, task), given in zip(asked, answers, strict=True):
        answers_of[number][task] = given

    shelf = _Shelf(catalogue)
    cards = [
        _shopper(shelf, number, shopper, given)
        for number, (shopper, given) in enumerate(zip(shoppers, answers_of, strict=True), start=1)
    ]
    body = _header(catalogue, results) if results or shoppers or codec is None else _codec_header(catalogue)
    body += _results(results)
    body += _shoppers(cards) if cards or codec is None or results else ""
    body += "" if codec is None else _codec(codec)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    # A lone surrogate in an id or a column name must not cost the report.
    path.write_text(PAGE.replace("{style}", STYLE).replace("{body}", body), encoding="utf-8", errors="replace")
    return path


def _without_truth(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in TRUTH}


# --- pieces ---


class _Shelf:
    """Draws items as tiles; every picture is read once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._pictures: dict[str, str | None] = {}

    def tile(self, entry: Any, below: str = "", state: str = "", badge: str = "") -> str:
        """An item as a request or an answer names it; `below`, `state` and `badge` are our own HTML."""
        item = self._item(entry)
        title = self._title(item)
        data = self._picture(item)
        if data is not None:
            picture = f'<img src="{data}" alt="" loading="lazy">'
        else:
            picture = f'<span class="blank" aria-hidden="true">{_text(title[:1].upper())}</span>'
        corner = f'<span class="badge">{badge}</span>' if badge else ""
        return (
            f'<figure class="tile {state}" title="{_text(self._details(item), MAX_DETAILS)}">'
            f'<div class="picture">{picture}{corner}</div>'
            f'<figcaption><span class="title" dir="auto">{_text(title, MAX_TITLE)}</span>{below}</figcaption>'
            "</figure>"
        )

    def _item(self, entry: Any) -> dict[str, Any]:
        item_id = _id_of(entry)
        if item_id is not None and item_id in self.catalogue:
            return dict(self.catalogue.item(item_id))
        return dict(entry) if isinstance(entry, Mapping) else {"item_id": item_id}

    def _title(self, item: Mapping[str, Any]) -> str:
        """The attribute called title or name, else the first text in the order of the shop's columns, else the id."""
        for name in ("title", "name", *self.catalogue.attributes):
            value = item.get(name)
            if isinstance(value, str) and (title := one_line(value, MAX_TITLE)):
                return title
        return str(item.get("item_id") or "item without a title")

    def _details(self, item: Mapping[str, Any]) -> str:
        names = ["item_id", *self.catalogue.attributes]
        values = [(name, one_line(item.get(name), MAX_DETAILS)) for name in names]
        return ", ".join(f"{name}: {value}" for name, value in values if value)

    def _picture(self, item: Mapping[str, Any]) -> str | None:
        item_id = _id_of(item)
        if item_id is None or item_id not in self.catalogue:
            source = item.get("image")
            try:
                return None if source is None else _as_data(open_picture(source))
            except UnreadablePicture:
                return None
        if item_id not in self._pictures:
            picture = self.catalogue.picture(item_id)
            self._pictures[item_id] = None if picture is None else _as_data(picture)
        return self._pictures[item_id]


def _as_data(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    return data_uri(small, "jpeg", quality=85, optimize=True)


def _exact(picture: Image.Image, side: int, alt: str) -> str:
    """A picture whose every pixel counts, about `side` pixels large on the page; a small one is enlarged a whole
    number of times and stays sharp. `alt` is our own HTML."""
    picture = picture.convert("RGB")
    picture.thumbnail((2 * side, 2 * side), Image.Resampling.LANCZOS)
    longest = max(picture.size)
    times = max(side // longest, 1)
    shown = [round(length * min(times, side / longest)) for length in picture.size]
    exact = longest <= EXACT_SIDE
    # Of such a JPEG no `optimize`: the buffer that Pillow takes for it is too small where a picture is mostly noise.
    form, options = ("png", {"optimize": True}) if exact else ("jpeg", {"quality": 95, "subsampling": 0})
    data = data_uri(picture, form, **options)
    kind = ' class="pixels"' if times > 1 else ""
    return f'<img src="{data}" alt="{alt}"{kind} width="{shown[0]}" height="{shown[1]}" loading="lazy">'


def _id_of(entry: Any) -> str | None:
    if isinstance(entry, Mapping):
        entry = entry.get("item_id")
    return None if entry is None else str(entry)


def _text(value: Any, max_characters: int = MAX_TEXT) -> str:
    """Somebody else's words as HTML in which nothing can be markup."""
    return html.escape(one_line(value, max_characters), quote=True)


def _percent(share: float) -> str:
    if share < 0.0001:
        return "&lt;0.01%"
    digits = 0 if share >= 0.0995 else 1 if share >= 0.00995 else 2
    return f"{100 * share:.{digits}f}%"


def _bar(share: float) -> str:
    return f'<span class="bar"><i style="width:{100 * min(max(share, 0), 1):.1f}%"></i></span>'


def _stars(stars: Any) -> str:
    if stars is None:
        return '<span class="note">not rated</span>'
    given = min(max(round(float(stars)), 0), 5)
    return f'<span class="stars" title="{given} of 5 stars">{STAR * given}{NO_STAR * (5 - given)}</span>'


def _panel(task: str, heading: str, aside: str, content: str, width: str = "whole") -> str:
    return (
        f'<section class="panel {width}" data-task="{task}"><header><h4>{heading}</h4>'
        f'<span class="note">{aside}</span></header>{content}</section>'
    )


def _strip(tiles: Sequence[str], kind: str = "") -> str:
    return f'<div class="strip {kind}">{"".join(tiles)}</div>'


# --- one shopper ---


def _shopper(shelf: _Shelf, number: int, shopper: Shopper, answers: Mapping[str, Any]) -> str:
    requests = shopper["requests"]
    panels = [_history(shelf, requests)] if requests else []
    panels += [ANSWERS[task](shelf, requests[task], answers[task]) for task in ANSWERS if task in requests]
    return (
        f'<article class="card shopper"><header><h3>Shopper {number}</h3>'
        f'<span class="note">{_text(shopper["user_id"])}</span></header><div class="panels">{"".join(panels)}</div>'
        "</article>"
    )


def _history(shelf: _Shelf, requests: Mapping[str, Any]) -> str:
    """What the model is shown, then what it is not shown: the item that was really next."""
    entries = next(iter(requests.values()))["history"]
    tiles = [
        shelf.tile(entry, _stars(entry.get("rating") if isinstance(entry, Mapping) else None)) for entry in entries
    ]
    truth = [requests[task]["answer"] for task in ("recommend", "search", "imagine") if task in requests]
    truth += [requests[task]["item"] for task in ("rate", "explain") if task in requests]
    if truth:
        stars = _stars(requests["rate"]["answer"]) if "rate" in requests else ""
        tiles.append(shelf.tile(truth[0], stars, "true", "took next"))
    return _panel(
        "history", "What the model knows", "oldest first; framed: what came next, for it to find out", _strip(tiles)
    )


def _ranking(shelf: _Shelf, request: Mapping[str, Any], answer: Mapping[str, Any]) -> tuple[str, str]:
    """Tiles of a ranking, and a line on where the true item came."""
    shown = answer["items"][:MAX_RANKED]
    best = max((item["score"] for item in shown), default=0) or 1
    place, tiles = None, []
    for rank, item in enumerate(shown, start=1):
        hit = _id_of(item) == _id_of(request["answer"])
        place = rank if hit else place
        below = f'<span class="score">{_bar(item["score"] / best)}<b>{_percent(item["score"])}</b></span>'
        tiles.append(shelf.tile(item, below, "true" if hit else "", f"{TICK} took it" if hit else str(rank)))
    where = (
        f"the item really taken is number {place}"
        if place
        else f"the item really taken is not in the first {len(shown)}"
    )
    return _strip(tiles, "swipe"), where


def _recommend(shelf: _Shelf, request: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    tiles, where = _ranking(shelf, request, answer)
    return _panel("recommend", "Recommended next", where, tiles)


def _search(shelf: _Shelf, request: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    tiles, where = _ranking(shelf, request, answer)
    return _panel("search", f'Search <q class="query" dir="auto">{_text(request["query"])}</q>', where, tiles)


def _select(shelf: _Shelf, request: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    tiles = []
    decided = [
        (bool(item["selected"]), bool(fits)) for item, fits in zip(answer["items"], request["answer"], strict=True)
    ]
    for item, decision in zip(answer["items"], decided, strict=True):
        state, label = {
            (True, True): ("good", f"{TICK} chosen, right"),
            (True, False): ("bad", f"{CROSS} chosen, wrong"),
            (False, True): ("bad", f"{CROSS} missed"),
            (False, False): ("quiet", f"{TICK} left out"),
        }[decision]
        below = (
            f'<span class="score">{_bar(item["score"])}<b>{_percent(item["score"])}</b></span>'
            f'<span class="verdict">{label}</span>'
        )
        tiles.append(shelf.tile(item, below, state))
    found, wrong = decided.count((True, True)), decided.count((True, False))
    aside = f"{found} of {sum(fits for _, fits in decided)} found, {wrong} chosen wrongly"
    return _panel("select", "Which of these suit?", aside, _strip(tiles))


def _rate(shelf: _Shelf, request: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    true, probabilities = request["answer"], answer["probabilities"]
    most = max(probabilities.values()) or 1
    rows = "".join(
        f'<div class="level {"true" if star == true else ""}"><span>{star} {STAR}</span>'
        f"{_bar(probabilities[star] / most)}<b>{_percent(probabilities[star])}</b>"
        f"<em>{'really given' if star == true else ''}</em></div>"
        for star in sorted(probabilities, reverse=True)
    )
    content = f'<div class="beside">{shelf.tile(request["item"])}<div class="levels">{rows}</div></div>'
    aside = f"expected {answer['stars']:.1f}, really {true}"
    return _panel("rate", "How many stars?", aside, content, "half")


def _explain(shelf: _Shelf, request: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    quotes = "".join(
        f'<div class="quote {kind}"><h5>{who}</h5><p dir="auto">{_text(text) or "(nothing)"}</p></div>'
        for kind, who, text in (
            ("", "UniMP writes", answer["text"]),
            ("true", "The true explanation", request["answer"]),
        )
    )
    content = f'<div class="beside">{shelf.tile(request["item"])}<div class="quotes">{quotes}</div></div>'
    return _panel("explain", "Why it suits, or not", "", content, "half")


def _imagine(shelf: _Shelf, request: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """From what was looked up to the picture, and from the picture back to what the shop has."""
    query, true = _text(request["query"]), _id_of(request["answer"])
    place, nearest = None, []
    for rank, item in enumerate(answer["nearest"][:MAX_NEAREST], start=1):
        hit = _id_of(item) == true
        place = rank if hit else place
        below = f'<span class="score">{_bar(item["similarity"])}<b>{item["similarity"]:.2f}</b></span>'
        nearest.append(shelf.tile(item, below, "true" if hit else "", f"{TICK} took it" if hit else str(rank)))
    made = (
        '<figure class="made"><div class="frame"><span class="badge">made by the model</span>'
        f"{_exact(answer['picture'], MADE_SIDE, f'A picture of {query}, made by the model')}</div>"
        '<figcaption class="note">Not a photo and not for sale.</figcaption></figure>'
    )
    groups = (
        ("found", "Looked up first", "", _strip([shelf.tile(item) for item in answer["retrieved"]])),
        ("drawn", "Drawn", "", made),
        ("nearest", "What the shop really sells", "most alike first, at most 1", _strip(nearest, "swipe")),
        ("truth", "Really taken", "", _strip([shelf.tile(request["answer"], state="true")])),
    )
    missing = {name for name, tiles in (("found", answer["retrieved"]), ("nearest", nearest)) if not tiles}
    content = "".join(
        f'<div class="{name}"><h5>{heading} <span>{aside}</span></h5>{inside}</div>'
        for name, heading, aside, inside in groups
        if name not in missing
    )
    where = ""
    if nearest:
        found = f"number {place} in likeness" if place else f"not among the {len(nearest)} most alike"
        where = f"the item really taken is {found}"
    heading = f'Imagine <q class="query" dir="auto">{query}</q>'
    return _panel("imagine", heading, where, f'<div class="imagined">{content}</div>')


ANSWERS: dict[str, Callable[[_Shelf, Mapping[str, Any], Mapping[str, Any]], str]] = {
    "recommend": _recommend,
    "search": _search,
    "rate": _rate,
    "explain": _explain,
    "select": _select,
    "imagine": _imagine,
}


def _shoppers(cards: Sequence[str]) -> str:
    if not cards:
        return '<p class="note">No shopper to show: the test part of the split is empty.</p>'
    return (
        '<h2>Shoppers</h2><p class="lead">From the test part of the data, not picked for their answers. '
        "Percentages are the model's own probabilities; hover over an item for its attributes.</p>" + "".join(cards)
    )


# --- results ---


def _header(catalogue: Catalogue, results: Mapping[str, Any]) -> str:
    first: Mapping[str, Any] = next(iter(results.values()), {})
    standings = [_standing(task, found)[0] for task, found in first.items()]
    summary = ""
    if standings:
        summary = (
            f" On {standings.count('good')} of {len(standings)} tasks it is ahead of every trivial answer, such as "
            "naming what is popular."
        )
    return (
        '<header class="top"><h1>UniMP report</h1><p class="lead">One model reads a shopper\'s history of pictures, '
        f"words and stars, and answers every kind of request over a catalogue of {len(catalogue):,} items."
        f"{summary}</p></header>"
    )


def _results(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    parts = []
    for number, (part, by_task) in enumerate(results.items()):
        cards = "".join(_task_table(task, found) for task, found in by_task.items())
        parts.append(
            f'<details class="part"{"" if number else " open"}><summary><h3>{_text(part).capitalize()}</h3>'
            f'<span class="note">{PARTS.get(part, "")}</span></summary><div class="tables">{cards}</div></details>'
        )
    if not parts:
        return ""
    return (
        '<h2>Results</h2><p class="lead">UniMP beside trivial answers to the same cases. The best of a column is '
        f"bold; {DOWN} marks numbers that are better when they are smaller; under the main number stands its "
        "95&nbsp;% interval.</p>" + "".join(parts)
    )


def _standing(task: str, found: Mapping[str, Any]) -> tuple[str, str]:
    """Where the model stands against the best trivial answer, as a state and in words."""
    compared = standing(task, found)
    return {
        "ahead": ("good", "ahead of every trivial answer"),
        "behind": ("bad", f"behind: {compared.rival}"),
        "unclear": ("even", f"level with: {compared.rival}"),
        "unknown": ("even", "nothing to compare with"),
    }[compared.verdict]


def _task_table(task: str, found: Mapping[str, Any]) -> str:
    rows = {"UniMP": found["model"], **found["baselines"]}
    names = sorted(found["model"], key=lambda name: name != found["headline"])
    best = {name: _best(name, [metrics[name] for metrics in rows.values()]) for name in names}
    lines = ""
    for who, metrics in rows.items():
        cells = ""
        for name in names:
            value = f"{round(metrics[name], 3) + 0.0:.3f}" if math.isfinite(metrics[name]) else DASH  # no -0.000
            value = f"<b>{value}</b>" if metrics[name] == best[name] else value
            if who == "UniMP" and name == found["headline"] and found["interval"] is not None:
                low, high = found["interval"]
                value += f"<small>{low:.3f} {DASH} {high:.3f}</small>"
            cells += f"<td>{value}</td>"
        lines += f'<tr class="{"own" if who == "UniMP" else ""}"><th scope="row">{_text(who)}</th>{cells}</tr>'
    heads = "".join(
        f'<th scope="col">{_text(name.replace("_", " "))}{f"&nbsp;{DOWN}" if name in LOWER_IS_BETTER else ""}</th>'
        for name in names
    )
    state, words = _standing(task, found)
    skipped = f"{DOT}{found['skipped']:,} left out, the data has no answer" if found["skipped"] else ""
    return (
        f'<section class="card result"><header><h4>{_text(task).capitalize()}</h4>'
        f'<span class="chip {state}">{_text(words)}</span></header><p class="note">{QUESTIONS.get(task, "")}</p>'
        f'<div class="scroll"><table><thead><tr><td></td>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'
        f'<p class="note">{found["cases"]:,} cases{skipped}</p></section>'
    )


def _best(name: str, values: Sequence[float]) -> float | None:
    """The best of a column; `None` where only one row has a value, or more is neither better nor worse."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2 or name in NEITHER_IS_BETTER:
        return None
    return min(known) if name in LOWER_IS_BETTER else max(known)


# --- the picture codec ---


def _codec_header(catalogue: Catalogue) -> str:
    return (
        '<header class="top"><h1>UniMP report</h1><p class="lead">What the pictures of a catalogue of '
        f"{len(catalogue):,} items keep when they are rebuilt from codes. No shopper was asked about in this run.</p>"
        "</header>"
    )


def _codec(codec: Mapping[str, Any]) -> str:
    metrics, pairs = codec["metrics"], codec["pictures"][:MAX_REBUILT]
    trained_on = metrics.get("trained_on")
    psnr, ssim, perplexity = (
        f"{metrics[name]:,.{digits}f}" if math.isfinite(metrics[name]) else DASH
        for name, digits in (("psnr", 1), ("ssim", 3), ("perplexity", 0))
    )
    facts = (
        (
            "PSNR",
            psnr if psnr == DASH else f"{psnr} dB",
            "How close the colours are. From about 30 dB on, the eye hardly sees a difference.",
        ),
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
    told = "".join(
        f'<div><dt>{name}</dt><dd>{value}</dd><dd class="note">{meaning}</dd></div>' for name, value, meaning in facts
    )
    grid = ""
    if pairs:
        tiles = "".join(
            f'<figure class="pair">{_exact(_beside(original, rebuilt), REBUILT_SIDE, "from the shop")}'
            f"{_exact(rebuilt, REBUILT_SIDE, 'rebuilt from codes')}</figure>"
            for original, rebuilt in pairs
        )
        width, height = pairs[0][1].size
        grid = (
            '<p class="note">Above, pictures of the shop; below each, the same picture rebuilt from its codes. '
            f'All at {width} {TIMES} {height} pixels, the size the model draws in.</p><div class="pairs">{tiles}</div>'
        )
    return (
        '<h2>Picture codec</h2><p class="lead">The model draws by choosing codes from a code book; the codec turns '
        "them into pixels. What a picture loses on the way into codes and back, no drawn picture can show.</p>"
        f'<section class="card codec"><dl class="facts">{told}</dl>{grid}</section>'
    )


def _beside(original: Image.Image, rebuilt: Image.Image) -> Image.Image:
    """The original with as many pixels as the rebuilt picture, so that only what the codec lost differs."""
    return ImageOps.pad(original.convert("RGB"), rebuilt.size, Image.Resampling.LANCZOS, color="white")


# The policy lets nothing but this file's own pictures and style in, should an escape ever be forgotten.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>UniMP report</title>
<style>{style}</style>
</head>
<body><main>{body}</main></body>
</html>
"""

STYLE = """
:root {
  --ground: #f6f6f3; --card: #ffffff; --well: #f1f1ec; --line: #e3e3dc; --ink: #22252a; --soft: #6a6f78;
  --accent: #3b6fb6; --accent-soft: #dbe7f6; --gold: #b7791f; --good: #2b7a4b; --good-soft: #dff1e5;
  --bad: #b4432f; --bad-soft: #f9e3dd; --made: #7b4fa8;
  --shadow: 0 1px 2px rgba(20, 24, 32, .05), 0 6px 20px rgba(20, 24, 32, .05);
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15171a; --card: #1d2024; --well: #282c32; --line: #32373e; --ink: #e8e9ea; --soft: #9aa1ab;
    --accent: #86b2ef; --accent-soft: #26384f; --gold: #e3b258; --good: #7fcf9d; --good-soft: #1f3b2b;
    --bad: #f0917c; --bad-soft: #47291f; --made: #c7a2ee; --shadow: none;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif;
}
main { max-width: 1160px; margin: 0 auto; padding: 48px 24px 72px; }
h1, h2, h3, h4, h5, p, figure { margin: 0; }
h1 { font-size: 34px; line-height: 1.15; letter-spacing: -.02em; font-weight: 650; }
h2 { font-size: 22px; letter-spacing: -.01em; margin: 48px 0 4px; font-weight: 650; }
h3 { font-size: 17px; font-weight: 650; }
h4 { font-size: 15px; font-weight: 600; }
h5 { font-size: 12px; font-weight: 600; color: var(--soft); }
.lead { color: var(--soft); max-width: 68ch; margin-top: 8px; }
.note { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 16px; padding: 20px 22px;
  box-shadow: var(--shadow);
}
.card > header, .panel > header {
  display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: baseline; justify-content: space-between;
}

.part { margin-top: 20px; }
.part summary { cursor: pointer; margin-bottom: 12px; }
.part summary h3 { display: inline; margin-right: 10px; }
.tables { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); }
.result { display: flex; flex-direction: column; gap: 8px; min-width: 0; }
.result > :last-child { margin-top: auto; }
.chip { font-size: 12px; font-weight: 600; padding: 2px 10px; border-radius: 99px; background: var(--well); }
.chip.good { color: var(--good); background: var(--good-soft); }
.chip.bad { color: var(--bad); background: var(--bad-soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
td, th { padding: 7px 0 7px 14px; text-align: right; vertical-align: top; white-space: nowrap; font-weight: 400; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody th { white-space: normal; min-width: 88px; }
thead th { white-space: normal; vertical-align: bottom; color: var(--soft); font-size: 12px; }
tbody tr { border-top: 1px solid var(--line); }
td b, .own th { font-weight: 650; }
.own td:nth-child(2) { color: var(--accent); }
td small { display: block; font-size: 11px; color: var(--soft); }

.shopper { margin-top: 20px; }
.panels { display: flex; flex-wrap: wrap; gap: 24px 32px; margin-top: 16px; }
.panel { flex: 1 1 100%; min-width: 0; border-top: 1px solid var(--line); padding-top: 16px; }
.panel.half { flex: 1 1 420px; }
.panel > header { margin-bottom: 12px; }
.strip { display: grid; gap: 14px 12px; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); }
.tile { min-width: 0; font-size: 12px; line-height: 1.35; }
.picture {
  position: relative; aspect-ratio: 1; border-radius: 12px; overflow: hidden; background: var(--well);
  display: grid; place-items: center;
}
.picture img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.blank {
  width: 44%; aspect-ratio: 1; border-radius: 50%; display: grid; place-items: center; font-size: 18px;
  color: var(--soft); border: 1px dashed var(--soft);
}
.badge {
  position: absolute; left: 5px; top: 5px; padding: 0 7px; border-radius: 99px; font-size: 11px; line-height: 18px;
  background: var(--card); color: var(--soft); opacity: .92;
}
.tile figcaption { margin-top: 6px; display: grid; gap: 2px; }
.title { display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden;
  overflow-wrap: anywhere; }
.true > .picture { box-shadow: 0 0 0 2px var(--card), 0 0 0 4px var(--accent); }
.true .badge { background: var(--accent); color: var(--card); opacity: 1; font-weight: 600; }
.good > .picture { box-shadow: 0 0 0 2px var(--card), 0 0 0 4px var(--good); }
.bad > .picture { box-shadow: 0 0 0 2px var(--card), 0 0 0 4px var(--bad); }
.good .verdict { color: var(--good); font-weight: 600; }
.bad .verdict { color: var(--bad); font-weight: 600; }
.quiet > .picture { opacity: .6; }
.verdict { color: var(--soft); }
.stars { color: var(--gold); letter-spacing: .04em; }
.score { display: flex; align-items: center; gap: 6px; font-variant-numeric: tabular-nums; }
.score b { font-weight: 500; color: var(--soft); }
.bar { flex: 1; height: 5px; border-radius: 99px; background: var(--well); overflow: hidden; }
.bar i { display: block; height: 100%; border-radius: 99px; background: var(--accent); min-width: 2px; }
.query { font-weight: 500; background: var(--accent-soft); border-radius: 99px; padding: 2px 10px; margin-left: 4px; }

.beside { display: grid; grid-template-columns: 92px minmax(0, 1fr); gap: 18px; align-items: start; }
.levels { display: grid; gap: 7px; font-size: 13px; }
.level { display: grid; grid-template-columns: 30px minmax(40px, 1fr) 44px 78px; align-items: center; gap: 8px;
  font-variant-numeric: tabular-nums; color: var(--soft); }
.level b { font-weight: 500; text-align: right; }
.level em { font-style: normal; font-size: 12px; font-weight: 600; color: var(--accent); }
.level .bar { height: 9px; }
.level .bar i { background: var(--soft); opacity: .55; }
.level.true { color: var(--ink); }
.level.true .bar i { background: var(--accent); opacity: 1; }
.quotes { display: grid; gap: 10px; }
.quote { background: var(--well); border-radius: 12px; padding: 9px 13px; }
.quote.true { background: none; border: 1px solid var(--line); }
.quote p { overflow-wrap: anywhere; }

.imagined { display: grid; gap: 18px 32px; grid-template: "drawn found truth" auto "drawn nearest nearest" 1fr
  / auto auto 1fr; }
.imagined h5 { margin-bottom: 8px; }
.imagined h5 span { font-weight: 400; }
.found { grid-area: found; }
.drawn { grid-area: drawn; }
.nearest { grid-area: nearest; min-width: 0; }
.truth { grid-area: truth; }
.imagined .strip { grid-template-columns: repeat(auto-fill, 92px); }
.found .strip { width: 196px; }
.made .frame { position: relative; width: fit-content; border: 2px dashed var(--made); border-radius: 14px;
  padding: 5px; }
.made img { display: block; max-width: 100%; height: auto; border-radius: 8px; }
.made .badge { left: 14px; top: auto; bottom: -10px;
  background: var(--made); color: var(--card); font-weight: 600; opacity: 1; }
.made figcaption { margin-top: 14px; }
.pixels { image-rendering: pixelated; }

.codec { margin-top: 20px; display: grid; gap: 20px; }
.facts { margin: 0; display: grid; gap: 16px 28px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.facts dt { font-size: 12px; font-weight: 600; color: var(--soft); }
.facts dd { margin: 0; font-size: 22px; line-height: 1.3; font-weight: 650; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.facts dd.note { font-size: 13px; font-weight: 400; letter-spacing: 0; }
.pairs { display: flex; flex-wrap: wrap; gap: 16px 12px; }
.pair { display: grid; gap: 4px; }
.pair img { display: block; border-radius: 8px; object-fit: contain; background: var(--well); }

@media (max-width: 640px) {
  main { padding: 28px 14px 48px; }
  h1 { font-size: 28px; }
  .card { padding: 16px; }
  .panel.half { flex-basis: 100%; }
  /* Rankings are swiped; the cut last picture says that there are more. */
  .strip { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .swipe { display: flex; overflow-x: auto; scroll-snap-type: x proximity; margin: 0 -16px; padding: 4px 16px 8px;
    scroll-padding: 16px; }
  .swipe .tile { flex: 0 0 92px; scroll-snap-align: start; }
  .imagined { grid-template: "drawn drawn" "nearest nearest" "found truth" / 2fr 1fr; gap: 18px 12px; }
  .imagined .strip { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .imagined .truth .strip { grid-template-columns: minmax(0, 1fr); }
  .found .strip { width: auto; }
  .pairs { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .pair img { width: 100%; height: auto; }
  .beside { grid-template-columns: 80px minmax(0, 1fr); gap: 14px; }
  .level { grid-template-columns: 30px minmax(30px, 1fr) 40px; }
  .level em { grid-column: 2 / -1; margin-top: -4px; }
  .level em:empty { display: none; }
}
@media print { .card { break-inside: avoid; box-shadow: none; } }
"""
