"""report.html: what the model answers a few shoppers, beside what they really did, under the table of results.

The page is one file that asks nobody for anything: pictures and style are inside and there is no script. Whatever a
merchant or a shopper wrote goes through `_text`.
"""

import base64
import html
import io
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from processing_unimp import TASKS, Catalogue, EvaluationCases
from processing_unimp.item_text import clean_value
from processing_unimp.picture import UnreadablePicture, open_picture

PICTURE_SIDE = 192  # pixels; shown at half of that, which is sharp on a phone
MAX_RANKED = 10
MAX_TITLE, MAX_DETAILS, MAX_TEXT = 80, 400, 1000  # characters
MAX_VALUE_WORDS = 24  # of an attribute that is a list or a number
JOINERS = "\u200c\u200d"  # without them Persian words and composed emoji fall apart
STAR, NO_STAR, TICK, CROSS, DASH, DOT = "&#9733;", "&#9734;", "&#10003;", "&#10005;", "&#8211;", " &#183; "

PARTS = {
    "test": "interactions that were kept from training",
    "new users": "shoppers who were kept from training altogether",
    "new domain": "items of a domain that was kept from training",
}
QUESTIONS = {
    "recommend": "Which item comes next? Ranked over the whole catalogue.",
    "search": "Which item fits both the query and the shopper? Ranked over the whole catalogue.",
    "rate": "How many stars will the shopper give? Smaller errors are better.",
    "explain": "Why does an item suit the shopper, or not? Likeness to what was really written.",
    "select": "Which of the candidates will the shopper take?",
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
    answer: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    catalogue: Catalogue,
    shoppers: Sequence[Shopper],
    results: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> Path:
    """Write `report.html`.

    Args:
        folder (`Path`): where to; made if it does not exist.
        answer (`Callable`): a `PersonalizationPipeline`, or anything that maps a list of requests to answers of its
            form. It never sees the true answers.
        catalogue (`Catalogue`): the shop; where titles and pictures come from.
        shoppers (`Sequence[Mapping]`): whom to show, see `shoppers_of`.
        results (`Mapping`): by part of the split and task, what `examine_model` returns.

    Returns:
        `Path`: the file written.

    Raises:
        ValueError: `answer` returned another number of answers than it got requests.
    """
    asked = [(number, task) for number, shopper in enumerate(shoppers) for task in shopper["requests"]]
    requests = [_without_truth(shoppers[number]["requests"][task]) for number, task in asked]
    answers = list(answer(requests)) if requests else []
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
    body = _header(catalogue, results) + _results(results) + _shoppers(cards)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    # A lone surrogate in an id or a column name must not cost the report.
    path.write_text(PAGE.replace("{style}", STYLE).replace("{body}", body), encoding="utf-8", errors="replace")
    return path


def _without_truth(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in ("answer", "next")}


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
            if isinstance(value, str) and (title := _line(value, MAX_TITLE)):
                return title
        return str(item.get("item_id") or "item without a title")

    def _details(self, item: Mapping[str, Any]) -> str:
        names = ["item_id", *self.catalogue.attributes]
        values = [(name, _line(item.get(name), MAX_DETAILS)) for name in names]
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
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _id_of(entry: Any) -> str | None:
    if isinstance(entry, Mapping):
        entry = entry.get("item_id")
    return None if entry is None else str(entry)


def _line(value: Any, max_characters: int) -> str:
    """Somebody else's words on one line, cut, without control characters."""
    text = value if isinstance(value, str) else clean_value(value, MAX_VALUE_WORDS) or ""
    text = "".join(
        " " if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in JOINERS else character
        for character in text[: 4 * max_characters]
    )
    text = " ".join(text.split())
    return text if len(text) <= max_characters else text[: max_characters - 3].rstrip() + "..."


def _text(value: Any, max_characters: int = MAX_TEXT) -> str:
    """Somebody else's words as HTML in which nothing can be markup."""
    return html.escape(_line(value, max_characters), quote=True)


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
    truth = [requests[task]["answer"] for task in ("recommend", "search") if task in requests]
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


ANSWERS: dict[str, Callable[[_Shelf, Mapping[str, Any], Mapping[str, Any]], str]] = {
    "recommend": _recommend,
    "search": _search,
    "rate": _rate,
    "explain": _explain,
    "select": _select,
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
        "bold; under the main number stands its 95&nbsp;% interval.</p>" + "".join(parts)
    )


def _standing(task: str, found: Mapping[str, Any]) -> tuple[str, str]:
    """Where the model stands against the best trivial answer, as a state and in words."""
    headline = found["headline"]
    sign = 1 if TASKS[task].higher_is_better else -1
    others = {
        who: metrics[headline] for who, metrics in found["baselines"].items() if math.isfinite(metrics[headline])
    }
    if not others:
        return "even", "nothing to compare with"
    rival = max(others, key=lambda who: sign * others[who])
    if found["interval"] is not None and found["interval"][0] <= others[rival] <= found["interval"][1]:
        return "even", f"level with: {rival}"
    if sign * found["model"][headline] > sign * others[rival]:
        return "good", "ahead of every trivial answer"
    return "bad", f"behind: {rival}"


def _task_table(task: str, found: Mapping[str, Any]) -> str:
    rows = {"UniMP": found["model"], **found["baselines"]}
    names = sorted(found["model"], key=lambda name: name != found["headline"])
    pick = max if TASKS[task].higher_is_better else min
    best = {name: pick(metrics[name] for metrics in rows.values()) for name in names}
    lines = ""
    for who, metrics in rows.items():
        cells = ""
        for name in names:
            value = f"{metrics[name]:.3f}"
            value = f"<b>{value}</b>" if metrics[name] == best[name] else value
            if who == "UniMP" and name == found["headline"] and found["interval"] is not None:
                low, high = found["interval"]
                value += f"<small>{low:.3f} {DASH} {high:.3f}</small>"
            cells += f"<td>{value}</td>"
        lines += f'<tr class="{"own" if who == "UniMP" else ""}"><th scope="row">{_text(who)}</th>{cells}</tr>'
    heads = "".join(f'<th scope="col">{_text(name)}</th>' for name in names)
    state, words = _standing(task, found)
    skipped = f"{DOT}{found['skipped']:,} left out, the data has no answer" if found["skipped"] else ""
    return (
        f'<section class="card result"><header><h4>{_text(task).capitalize()}</h4>'
        f'<span class="chip {state}">{_text(words)}</span></header><p class="note">{QUESTIONS.get(task, "")}</p>'
        f'<div class="scroll"><table><thead><tr><td></td>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'
        f'<p class="note">{found["cases"]:,} cases{skipped}</p></section>'
    )


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
  --bad: #b4432f; --bad-soft: #f9e3dd; --shadow: 0 1px 2px rgba(20, 24, 32, .05), 0 6px 20px rgba(20, 24, 32, .05);
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15171a; --card: #1d2024; --well: #282c32; --line: #32373e; --ink: #e8e9ea; --soft: #9aa1ab;
    --accent: #86b2ef; --accent-soft: #26384f; --gold: #e3b258; --good: #7fcf9d; --good-soft: #1f3b2b;
    --bad: #f0917c; --bad-soft: #47291f; --shadow: none;
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
thead th { color: var(--soft); font-size: 12px; }
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
  .beside { grid-template-columns: 80px minmax(0, 1fr); gap: 14px; }
  .level { grid-template-columns: 30px minmax(30px, 1fr) 40px; }
  .level em { grid-column: 2 / -1; margin-top: -4px; }
  .level em:empty { display: none; }
}
@media print { .card { break-inside: avoid; box-shadow: none; } }
"""
