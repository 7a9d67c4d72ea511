"""Answers as the page shows them: a function a panel, HTML out."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from hub_cards.html_text import one_line
from modeling_unimp.serving.reasons import blend, leave_one_out, picture_heat
from processing_unimp.bounds import short_repr

from .answers import Answers
from .product_cards import (
    MAX_TEXT,
    PICTURE_SIDE,
    STAR,
    ProductCards,
    as_data,
    bar,
    escaped,
    grid,
    note,
    percent,
    star_buttons,
)

NO_HISTORY = note("Pick a shopper, or add an item to the history: the answers begin with what was taken.")
WAITING = '<span class="waiting">thinking</span>'
DRAWING = '<span class="waiting">drawing</span>'

Entry = dict[str, Any]


class Panels:
    """What stands where on the page.

    Args:
        answers (`Answers`): of the model.
    """

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.cards = ProductCards(answers.catalogue)

    def masthead(self) -> str:
        return (
            "<h1>UniMP</h1><p>One model reads what a shopper took, in pictures, words and stars, and answers over a "
            f"shop of {len(self.answers.catalogue):,} items.</p>"
        )

    def item_id(self, number: str) -> str:
        """The id of the item that a button names by its number."""
        if not number.isdecimal() or len(number) > 12:
            raise ValueError(f"an item {short_repr(number)}: expected the number of one.")
        item_id: str = self.answers.catalogue.item_id(int(number))
        return item_id

    # --- the shopper ---

    def shoppers(self, shoppers: Sequence[Sequence[Entry]], chosen: int | None = None) -> str:
        """Buttons, each a shopper with the pictures of the latest items."""
        buttons = "".join(
            f'<button data-say="shopper" data-item="{number}" aria-pressed="{str(number == chosen).lower()}">'
            f"<span>Shopper {number + 1}</span>"
            f'<span class="thumbs">{"".join(self._thumb(entry) for entry in history[-4:])}</span></button>'
            for number, history in enumerate(shoppers)
        )
        return f'<div class="shoppers">{buttons}</div>'

    def history(self, history: Sequence[Entry]) -> str:
        """The latest first, as one remembers it; what is too old to be read is pale."""
        if not history:
            return note("Nothing yet. Press + on any item of the shop.")
        num_read = self.answers.num_read
        lines = [
            self.cards.entry(entry, is_read=place < num_read) for place, entry in enumerate(reversed(list(history)))
        ]
        unread = len(history) - num_read
        more = note(f"The model reads the latest {num_read}; the pale ones are too old.") if unread > 0 else ""
        return f'<ul class="history">{"".join(lines)}</ul>{more}'

    def _thumb(self, entry: Entry) -> str:
        return self.cards.picture(self.answers.catalogue.item(str(entry["item_id"])))

    # --- rankings ---

    def recommended(self, history: Sequence[Entry]) -> str:
        return self._ranking(self.answers.recommend(list(history))) if history else NO_HISTORY

    def found(self, history: Sequence[Entry], query: str) -> str:
        if not query.strip():
            return note("Type what is looked for, and press Enter.")
        return self._ranking(self.answers.search(list(history), query)) if history else NO_HISTORY

    def _ranking(self, answer: dict[str, Any]) -> str:
        """Bars are relative to the first; the numbers are the model's own."""
        best = max((item["score"] for item in answer["items"]), default=0) or 1
        return grid(
            [self.cards.card(item, bar(item["score"] / best, percent(item["score"]))) for item in answer["items"]]
        )

    def queries(self, queries: Sequence[str]) -> str:
        """Queries to press instead of typing."""
        buttons = [
            f'<button data-say="query" data-item="{escaped(query)}">{escaped(one_line(query, 40))}</button>'
            for query in queries
        ]
        return f'<div class="chips">{"".join(buttons)}</div>' if buttons else ""

    def shelf(self, words: str, most: int) -> str:
        """What the shop sells, as far as it has these words."""
        items = self.answers.find(words, most)
        if not items:
            return note(f"The shop has nothing with <q>{escaped(one_line(words, 60))}</q>. Try a shorter word.")
        return grid([self.cards.card(item) for item in items])

    # --- candidates ---

    def candidates(self, words: str, ticked: Sequence[str], most: int) -> str:
        """Items to tick; ticked ones stay, before the others where these words do not find them."""
        catalogue, found = self.answers.catalogue, self.answers.find(words, most)
        ticked = self.answers.on_sale(ticked)
        ids = [item["item_id"] for item in found]
        shown = [catalogue.item(each) for each in ticked if each not in ids] + found
        cards = [
            self.cards.card(item, state="ticked" if item["item_id"] in ticked else "", say="tick", can_add=False)
            for item in shown
        ]
        if not cards:
            return note(f"The shop has nothing with <q>{escaped(one_line(words, 60))}</q>. Try a shorter word.")
        return f"<h3>{len(ticked)} ticked</h3>{grid(cards)}"

    def selected(self, history: Sequence[Entry], ticked: Sequence[str]) -> str:
        if not history:
            return NO_HISTORY
        on_sale = self.answers.on_sale(ticked)
        if not on_sale:
            return note("Nothing is ticked yet. Tick some items, then press Choose.")
        items = self.answers.select(list(history), list(on_sale))["items"]
        cards = [
            self.cards.card(
                item,
                bar(item["score"], percent(item["score"]))
                + f'<span class="verdict">{"&#10003; suits" if item["selected"] else "left out"}</span>',
                "chosen" if item["selected"] else "quiet",
            )
            for item in sorted(items, key=lambda item: -item["score"])
        ]
        return f"<h3>The model chooses</h3>{grid(cards)}"

    # --- pictures ---

    def imagined(self, history: Sequence[Entry], query: str, seed: int) -> str:
        if not query.strip():
            return note("Type a wish, such as what it is and in which colour, and press Enter.")
        if not history:
            return NO_HISTORY
        answer = self.answers.imagine(list(history), query, seed)
        wish = escaped(one_line(answer["wish"], 60))
        nearest = [
            self.cards.card(item, bar(item["similarity"], f"{item['similarity']:.2f} alike"))
            for item in answer["nearest"]
        ]
        return (
            '<div class="imagined"><figure>'
            f'<img src="{answer["picture"]}" alt="A picture of {wish}, made by the model">'
            f'<figcaption><span>Understood as</span><b dir="auto">{wish}</b>'
            "<span>Drawn by the model; not a photograph and not for sale.</span></figcaption></figure>"
            f"<div><h3>Looked up first</h3>{grid([self.cards.card(item) for item in answer['retrieved']])}</div></div>"
            f"<h3>What the shop has most like it</h3>{grid(nearest)}"
        )

    # --- one item ---

    def sheet(self, history: Sequence[Entry], item_id: str, asked: dict[str, Any]) -> Iterator[str]:
        """All about one item, from the top as it becomes known.

        Args:
            history (`Sequence[dict]`): of the shopper.
            item_id (`str`): the item.
            asked (`dict`): the request to recommend or search that it is an answer to; empty for an item of the shelf.

        Yields:
            `str`: the sheet, each time longer.
        """
        item, number = self.answers.catalogue.item(item_id), self.answers.catalogue.number(item_id)
        top = (
            f'<div class="top">{self.cards.picture(item)}<div><h2 dir="auto">{escaped(self.cards.title(item))}</h2>'
            f'<p class="facts" dir="auto">{self.cards.facts(item)}</p><p class="price">{self.cards.price(item)}</p>'
            f'<button class="add" data-say="add" data-item="{number}">Add to the history</button>'
            f'<p class="facts">or with stars {star_buttons(number, None, say="add")}</p></div></div>'
        )
        if not history:
            yield top + NO_HISTORY
            return
        parts = [
            (heading, make)
            for task, heading, make in (
                ("rate", "How many stars?", self._stars),
                ("explain", "In words", self._words),
                ("", "Why?", functools.partial(self._why, asked=asked)),
            )
            if task in ("", *self.answers.tasks)
        ]
        for heading, make in parts:
            yield top + _section(heading, WAITING)
            try:
                content = make(list(history), item_id)
            except ValueError as error:  # such as a tower that has no map; the other parts have their answers
                content = note(escaped(str(error)))
            top += _section(heading, content)
        yield top

    def _stars(self, history: list[Any], item_id: str) -> str:
        answer = self.answers.rate(history, item_id)
        probabilities = answer["probabilities"]
        most = max(probabilities.values()) or 1
        rows = "".join(
            f'<div class="level"><span>{star} {STAR}</span>{bar(share / most, percent(share))}</div>'
            for star, share in sorted(probabilities.items(), reverse=True)
        )
        return (
            f'<div class="rating"><p><b>{answer["stars"]:.1f}</b><span>stars expected</span></p>'
            f'<div class="levels">{rows}</div></div>'
        )

    def _words(self, history: list[Any], item_id: str) -> str:
        text = one_line(self.answers.explain(history, item_id)["text"], MAX_TEXT)
        return f'<blockquote dir="auto">{escaped(text) or "(the model says nothing)"}</blockquote>'

    def _why(self, history: list[Any], item_id: str, asked: dict[str, Any]) -> str:
        """Each item of the history with its share in the answer, and the heat of its picture."""
        task = next((task for task in (asked.get("task"), "rate", "recommend") if task in self.answers.tasks), None)
        if task is None:
            return note("This model gives items no score, so nothing can be said for or against them.")
        request = {"task": task, "history": history, "item": item_id} | (asked if task == asked.get("task") else {})
        pipeline = self.answers.pipeline
        with self.answers.catalogue.lock.answering():
            effects = leave_one_out(pipeline, request, item_id)
            heat = picture_heat(pipeline, request, item_id)
        largest = max(map(abs, effects)) or 1.0
        lines = []
        for place in sorted(range(len(history)), key=lambda place: -effects[place]):
            item = self.answers.catalogue.item(str(history[place]["item_id"]))
            shown = self.cards.picture(item)
            if place in heat and heat[place].any():
                picture = self.answers.catalogue.picture(item["item_id"])
                hot = as_data(blend(picture, heat[place], pipeline.processor.image_processor), PICTURE_SIDE)
                shown += f'<span class="picture"><img src="{hot}" alt="Where the picture mattered"></span>'
            effect = effects[place]
            lines.append(
                f'<li><span class="pair">{shown}</span><div><span class="title" dir="auto">'
                f"{escaped(self.cards.title(item))}</span>"
                f"{bar(abs(effect) / largest, _effect(effect, task), 'for' if effect >= 0 else 'against')}</div></li>"
            )
        return f'<p class="note">{self._legend(task, heat)}</p><ul class="reasons">{"".join(lines)}</ul>'

    def _legend(self, task: str, heat: dict[int, Any]) -> str:
        what = "expected stars" if task == "rate" else "chance to be taken next" if task == "recommend" else "chance"
        words = f"What each item of the history does to the {what}."
        if not self.answers.sees:
            return words + " This model reads no pictures."
        if not any(each.any() for each in heat.values()):
            return words + " No part of a picture mattered."
        return words + " Red marks the part of its picture that spoke for this item."


def _section(heading: str, content: str) -> str:
    return f"<section><h3>{heading}</h3>{content}</section>"


def _effect(effect: float, task: str) -> str:
    """A drop of a score as words: stars more or less, or how many times likelier."""
    if task == "rate":
        return "no effect" if abs(effect) < 0.005 else f"{effect:+.2f} stars"
    factor = math.exp(min(abs(effect), 9))
    return "no effect" if factor < 1.005 else f"{factor:.1f} &#215; {'likelier' if effect > 0 else 'less likely'}"
