"""Answers as the page shows them: a function a panel, HTML out; the HTML is in panels.html."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hub_cards.html_pieces import TEMPLATES, counted, percent, thumbnail
from hub_cards.untrusted_text import one_line
from modeling_unimp.attribution import NETWORK, POPULARITY, QUERY, REST
from modeling_unimp.serving.reasons import blend, leave_one_out, picture_heat
from processing_unimp.bounds import short_repr

from .answers import Answers
from .product_cards import PICTURE_SIDE, ProductCards

MAX_WORDS, MAX_EXPLANATION = 60, 600  # characters of a query or wish, and of an explanation
HTML: Any = TEMPLATES.get_template("space/panels.html").module
NO_HISTORY = HTML.note("Pick a shopper, or add an item to the history: the answers begin with what was taken.")
# Why an item is ranked where it is, if not for an item of the history.
PARTS = {
    NETWORK: "as the network reads the history",
    POPULARITY: "popular",
    QUERY: "fits the query",
    REST: "several items of the history",
}
WAITING, DRAWING = HTML.waiting("thinking"), HTML.waiting("drawing")

Entry = dict[str, Any]


class Panels:
    """The parts of the page.

    Args:
        answers (`Answers`): of the model.
    """

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.cards = ProductCards(answers.catalogue)

    def masthead(self) -> Markup:
        return HTML.masthead(len(self.answers.catalogue))

    def item_id(self, number: str) -> str:
        """The id of the item that a button names by its number."""
        if not number.isdecimal() or len(number) > 12:
            raise ValueError(f"an item {short_repr(number)}: expected the number of one.")
        item_id: str = self.answers.catalogue.item_id(int(number))
        return item_id

    # --- the shopper ---

    def shoppers(self, histories: Sequence[Sequence[Entry]], chosen: int | None = None) -> Markup:
        """Buttons, each a shopper with the pictures of the latest items."""
        latest = [[self.cards.view_of(entry["item_id"]) for entry in history[-4:]] for history in histories]
        return HTML.shoppers(latest, chosen)

    def history(self, history: Sequence[Entry]) -> Markup:
        """The latest first; items that the network is not shown are pale."""
        if not history:
            return HTML.note("Nothing yet. Press + on any item of the shop.")
        events = [(self.cards.view_of(entry["item_id"]), entry.get("rating")) for entry in reversed(list(history))]
        return HTML.history(events, self.answers.history_length)

    # --- rankings ---

    def recommended(self, history: Sequence[Entry]) -> Markup:
        return self._ranking(self.answers.recommend(list(history))) if history else NO_HISTORY

    def found(self, history: Sequence[Entry], query: str) -> Markup:
        if not query.strip():
            return HTML.note("Type what is looked for, and press Enter.")
        return self._ranking(self.answers.search(list(history), query)) if history else NO_HISTORY

    def _ranking(self, answer: Mapping[str, Any]) -> Markup:
        """Bars are relative to the first; the numbers are the model's own."""
        best = max((item["score"] for item in answer["items"]), default=0) or 1
        return HTML.scored(
            [
                (self.cards.view(item), item["score"] / best, percent(item["score"]), self._why(item.get("because")))
                for item in answer["items"]
            ]
        )

    def _why(self, because: Sequence[Mapping[str, Any]] | None) -> str:
        """The largest part of an item's score, in words."""
        if not because:
            return ""
        largest = because[0]
        if "item_id" not in largest:
            return PARTS[largest["source"]]
        title = self.cards.view_of(largest["item_id"])["title"]
        return f"{title}: {largest['source']}"

    def queries(self, queries: Sequence[str]) -> Markup:
        """Queries to press instead of typing."""
        return HTML.queries(queries) if queries else Markup()

    def products(self, words: str, most: int) -> Markup:
        """Items on sale that have these words."""
        items = self.answers.find(words, most)
        return HTML.products([self.cards.view(item) for item in items]) if items else _nothing_found(words)

    # --- candidates ---

    def candidates(self, words: str, ticked: Sequence[str], most: int) -> Markup:
        """Items to tick; ticked ones stay, before the others where these words do not find them."""
        found = {item["item_id"]: item for item in self.answers.find(words, most)}
        ticked = self.answers.on_sale(ticked)
        items = [self.answers.catalogue.item(each) for each in ticked if each not in found] + [*found.values()]
        if not items:
            return _nothing_found(words)
        return HTML.candidates([(self.cards.view(item), item["item_id"] in ticked) for item in items], len(ticked))

    def selected(self, history: Sequence[Entry], ticked: Sequence[str]) -> Markup:
        if not history:
            return NO_HISTORY
        on_sale = self.answers.on_sale(ticked)
        if not on_sale:
            return HTML.note("Nothing is ticked yet. Tick some items, then press Choose.")
        items = self.answers.select(list(history), list(on_sale))["items"]
        return HTML.selected(
            [
                (self.cards.view(item), item["score"], item["selected"])
                for item in sorted(items, key=lambda item: -item["score"])
            ]
        )

    # --- pictures ---

    def imagined(self, history: Sequence[Entry], query: str, seed: int) -> Markup:
        if not query.strip():
            return HTML.note("Type a wish, such as what it is and in which colour, and press Enter.")
        if not history:
            return NO_HISTORY
        answer = self.answers.imagine(list(history), query, seed)
        return HTML.imagined(
            Markup(answer["picture"]),
            one_line(answer["wish"], MAX_WORDS),
            [self.cards.view(item) for item in answer["retrieved"]],
            [
                (self.cards.view(item), item["similarity"], f"{item['similarity']:.2f} alike", "")
                for item in answer["nearest"]
            ],
        )

    # --- one item ---

    def sheet(self, history: Sequence[Entry], item_id: str, asked: dict[str, Any]) -> Iterator[Markup]:
        """All about one item, from the top as it becomes known.

        Args:
            history (`Sequence[dict]`): of the shopper.
            item_id (`str`): the item.
            asked (`dict`): the request to recommend or search that it is an answer to; empty for an item of the shop.

        Yields:
            `Markup`: the sheet, each time longer.
        """
        item = self.cards.view_of(item_id)
        if not history:
            yield HTML.sheet(item, []) + NO_HISTORY
            return
        parts = [
            (heading, make)
            for task, heading, make in (
                ("rate", "How many stars?", self._stars),
                ("explain", "In words", self._explanation),
                ("", "Why?", functools.partial(self._reasons, asked=asked)),
            )
            if task in ("", *self.answers.tasks)
        ]
        sections: list[tuple[str, Markup]] = []
        for heading, make in parts:
            yield HTML.sheet(item, [*sections, (heading, WAITING)])
            try:
                content = make(list(history), item_id)
            except ValueError as error:  # such as a tower that has no map; the other parts have their answers
                content = HTML.note(str(error))
            sections.append((heading, content))
        yield HTML.sheet(item, sections)

    def _stars(self, history: list[Any], item_id: str) -> Markup:
        answer = self.answers.rate(history, item_id)
        probabilities = answer["probabilities"]
        most = max(probabilities.values()) or 1
        levels = [(stars, share / most, share) for stars, share in sorted(probabilities.items(), reverse=True)]
        return HTML.stars(answer["stars"], levels)

    def _explanation(self, history: list[Any], item_id: str) -> Markup:
        answer = self.answers.explain(history, item_id)
        return HTML.explanation(one_line(answer["text"], MAX_EXPLANATION), counted(answer["grounds"]))

    def _reasons(self, history: list[Any], item_id: str, asked: dict[str, Any]) -> Markup:
        """Each item of the history with its share in the answer, and the heat of its picture."""
        task = next((task for task in (asked.get("task"), "rate", "recommend") if task in self.answers.tasks), None)
        if task is None:
            return HTML.note("This model gives items no score, so nothing can be said for or against them.")
        more = asked if task == asked.get("task") else {"item": item_id} if task == "rate" else {}
        request = {"task": task, "history": history} | more
        pipeline = self.answers.pipeline
        with self.answers.catalogue.lock.answering():
            effects = leave_one_out(pipeline, request, item_id)
            heat = picture_heat(pipeline, request, item_id)
        largest = max(map(abs, effects)) or 1.0
        items = []
        for place in sorted(range(len(history)), key=lambda place: -effects[place]):
            effect, own_id = effects[place], str(history[place]["item_id"])
            has_heat = place in heat and heat[place].any()
            items.append(
                {
                    "item": self.cards.view_of(own_id),
                    "heat": self._with_heat(own_id, heat[place]) if has_heat else None,
                    "share": abs(effect) / largest,
                    "words": _effect(effect, task),
                    "kind": "for" if effect >= 0 else "against",
                }
            )
        return HTML.reasons(self._legend(task, heat), items)

    def _with_heat(self, item_id: str, heat: Any) -> str:
        picture = self.answers.catalogue.picture(item_id)
        return thumbnail(blend(picture, heat, self.answers.pipeline.processor.image_processor), PICTURE_SIDE)

    def _legend(self, task: str, heat: dict[int, Any]) -> str:
        what = "expected stars" if task == "rate" else "chance to be taken next" if task == "recommend" else "chance"
        words = f"What each item of the history does to the {what}."
        if not self.answers.reads_pictures:
            return words + " This model reads no pictures."
        if not any(each.any() for each in heat.values()):
            return words + " No part of a picture mattered."
        return words + " Red marks the part of its picture that spoke for this item."


def _nothing_found(words: str) -> Markup:
    return HTML.nothing_found(one_line(words, MAX_WORDS))


def _effect(effect: float, task: str) -> str:
    """A drop of a score as words: stars more or less, or how many times likelier."""
    if task == "rate":
        return "no effect" if abs(effect) < 0.005 else f"{effect:+.2f} stars"
    factor = math.exp(min(abs(effect), 9))
    return "no effect" if factor < 1.005 else f"{factor:.1f} \u00d7 {'likelier' if effect > 0 else 'less likely'}"
