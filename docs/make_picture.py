"""Draws the picture at the top of the README: one shopper of the made-up shop and six answers of a trained model.

python docs/make_picture.py --model unimp --output docs/history_to_answers.png

Run it from the root of the repository after `make demo`. The answers are drawn as the model gives them.
"""

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from transformers import AutoModel, AutoProcessor

from modeling_unimp import PersonalizationPipeline
from processing_unimp import (
    TASKS,
    Case,
    Catalogue,
    ExampleSource,
    Histories,
    Targets,
    leave_last_out,
    make_demo_shop,
)

SEED = 42  # the one train.py splits with, so that the shopper's last step was not learnt
WIDTH, HEIGHT, MARGIN = 1280, 620, 24
EVENTS, EVENT_WIDTH = 6, 208  # as many as the demo recipe reads
CARD_TOP, CARD_WIDTH, CARD_HEIGHT, GAP = 270, 192, 296, 16
INSET = 12
INNER = CARD_WIDTH - 2 * INSET
THUMB, SMALL_THUMB, DRAWN = 60, 48, 144
INK, SOFT, LINE, PAPER, ACCENT = "#22303c", "#6b7883", "#d5dbe0", "#ffffff", "#2f7d6b"
GOLD, PALE = "#e0a526", "#e8ecef"


class Sheet:
    """A white sheet with the few things that are drawn on it, in pixels."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, words: str, size: int = 14, fill: str = INK, anchor: str = "la") -> None:
        self.draw.text((x, y), words, fill=fill, font=ImageFont.load_default(size), anchor=anchor)

    def box(self, x: float, y: float, width: float, height: float, outline: str = LINE, stroke: int = 1) -> None:
        self.draw.rounded_rectangle((x, y, x + width, y + height), 8, outline=outline, width=stroke)

    def picture(self, x: int, y: int, item_id: str, side: int = THUMB) -> None:
        found = self.catalogue.picture(item_id)
        if found is None:
            self.box(x, y, side, side)
            self.text(x + side / 2, y + side / 2, "no picture", 11, SOFT, "mm")
        else:
            self.image.paste(found.resize((side, side), Image.Resampling.LANCZOS), (x, y))

    def enlarged(self, x: int, y: int, picture: Image.Image, side: int) -> int:
        """Pastes a picture a whole number of times as large, its pixels sharp, and returns its side."""
        picture = picture.convert("RGB")
        if picture.width > side:
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
        shown = picture.width * (side // picture.width)
        self.image.paste(picture.resize((shown, shown), Image.Resampling.NEAREST), (x + (side - shown) // 2, y))
        return shown

    def stars(self, x: float, y: float, number: float, radius: float = 6) -> None:
        for place in range(5):
            turn = np.arange(10) * np.pi / 5 - np.pi / 2
            reach = np.where(np.arange(10) % 2 == 0, radius, radius * 0.45)
            centre = x + place * 2.4 * radius
            points = np.stack([centre + reach * np.cos(turn), y + reach * np.sin(turn)], axis=1)
            self.draw.polygon([tuple(point) for point in points], fill=GOLD if place < number else PALE)

    def arrow(self, x: float, top: float, bottom: float) -> None:
        self.draw.line((x, top, x, bottom - 6), fill=SOFT, width=2)
        self.draw.polygon([(x - 6, bottom - 8), (x + 6, bottom - 8), (x, bottom)], fill=SOFT)

    def ranking(self, x: int, y: int, items: Sequence[dict[str, Any]]) -> None:
        for place, item in enumerate(items):
            top = y + place * (THUMB + 8)
            self.picture(x, top, item["item_id"])
            self.text(x + THUMB + 8, top + 12, item["title"], 13)
            self.text(x + THUMB + 8, top + 32, f"{item['score']:.1%}", 13, SOFT)


def main(model: str, output: str) -> None:
    items, interactions = make_demo_shop()
    catalogue = Catalogue.from_items(items)
    split = leave_last_out(Histories.from_interactions(interactions, catalogue), seed=SEED)
    case = shopper_with_pictures(split.test, catalogue)
    source = ExampleSource(catalogue, np.random.default_rng(SEED), query_attribute="category", num_candidates=6)
    requests: dict[str, Any] = {name: task.example(case, source) for name, task in TASKS.items() if name != "imagine"}
    # The same wish as in the search, so that what is drawn can be held against what is found.
    requests["imagine"] = {"task": "imagine", **{name: requests["search"][name] for name in ("history", "query")}}
    unimp = PersonalizationPipeline(
        model=AutoModel.from_pretrained(model), processor=AutoProcessor.from_pretrained(model)
    )
    answers = dict(zip(requests, unimp(list(requests.values()), top_k=3), strict=True))
    sheet = draw(catalogue, case, requests, answers)
    sheet.quantize(192, dither=Image.Dither.NONE).save(output, optimize=True)


def shopper_with_pictures(targets: Targets, catalogue: Catalogue) -> Case:
    """The first shopper of the test whose latest items all have a picture."""
    for case in targets:
        if all(catalogue.has_picture(event.item_id) for event in (*case.history[-EVENTS:], case.target)):
            return case
    raise ValueError("no shopper has a picture of every item.")


def draw(catalogue: Catalogue, case: Case, requests: dict[str, Any], answers: dict[str, Any]) -> Image.Image:
    sheet = Sheet(catalogue)
    draw_history(sheet, case)
    for place, (name, answer) in enumerate(answers.items()):
        x = MARGIN + place * (CARD_WIDTH + GAP)
        sheet.box(x, CARD_TOP, CARD_WIDTH, CARD_HEIGHT)
        sheet.text(x + INSET, CARD_TOP + 12, name, 18, ACCENT)
        if "query" in requests[name]:
            sheet.text(x + CARD_WIDTH - INSET, CARD_TOP + 14, f'"{requests[name]["query"]}"', 16, anchor="ra")
        draw_answer(sheet, x + INSET, CARD_TOP + 46, requests[name], answer)
    return sheet.image


def draw_history(sheet: Sheet, case: Case) -> None:
    events = case.history[-EVENTS:]
    sheet.text(MARGIN, 20, "a shopper's history, oldest first", 18, ACCENT)
    for place, event in enumerate(events):
        x = MARGIN + place * EVENT_WIDTH
        sheet.picture(x, 52, event.item_id, 96)
        item = sheet.catalogue.item(event.item_id)
        told = [str(item[name]) for name in ("colour", "material", "brand") if item[name] is not None]
        sheet.text(x + 108, 56, item["title"], 15)
        for line, value in enumerate(told):
            sheet.text(x + 108, 78 + 17 * line, value, 13, SOFT)
        if event.rating is not None:
            sheet.stars(x + 114, 140, event.rating)
    sheet.box(MARGIN, 186, WIDTH - 2 * MARGIN, 40, ACCENT, 2)
    sheet.text(WIDTH / 2, 206, "one model reads pictures, text, numbers and ids", 16, INK, "mm")
    for place in range(len(TASKS)):
        sheet.arrow(MARGIN + place * (CARD_WIDTH + GAP) + CARD_WIDTH / 2, 230, CARD_TOP - 4)
    target = sheet.catalogue.item(case.target.item_id)
    sheet.text(
        MARGIN,
        CARD_TOP + CARD_HEIGHT + 18,
        f"What this shopper really did next: {target['title']} ({target['item_id']}), {case.target.rating:.0f} stars. "
        "That step was not in the training data. Made-up shop, demo recipe, answers as they came.",
        13,
        SOFT,
    )


def draw_answer(sheet: Sheet, x: int, y: int, request: dict[str, Any], answer: dict[str, Any]) -> None:
    name = request["task"]
    if name in ("recommend", "search"):
        sheet.ranking(x, y + 6, answer["items"])
    elif name == "imagine":
        draw_imagined(sheet, x, y + 6, answer)
    elif name == "select":
        for place, item in enumerate(answer["items"]):
            side = (INNER - 16) // 3
            left, upper = x + (place % 3) * (side + 8), y + 6 + (place // 3) * (side + 46)
            sheet.picture(left, upper, item["item_id"], side)
            if item["selected"]:
                sheet.box(left - 2, upper - 2, side + 4, side + 4, ACCENT, 3)
            mark = "yes" if item["selected"] else "no"
            sheet.text(left + side / 2, upper + side + 12, f"{mark} {item['score']:.0%}", 13, SOFT, "mm")
    else:
        sheet.picture(x, y + 6, request["item"])
        sheet.text(x + THUMB + 8, y + 18, sheet.catalogue.item(request["item"])["title"], 13)
        if name == "explain":
            for line, words in enumerate(textwrap.wrap(answer["text"] or "(no words)", 24)[:8]):
                sheet.text(x, y + THUMB + 26 + 20 * line, words, 13)
        else:
            sheet.text(x + THUMB + 8, y + 38, f"{answer['stars']:.2f} stars", 13, SOFT)
            for star, share in answer["probabilities"].items():
                top = y + THUMB + 26 + 26 * (5 - star)
                sheet.text(x, top + 8, str(star), 13, SOFT, "lm")
                sheet.draw.rectangle((x + 16, top, x + 16 + 110 * share, top + 16), fill=GOLD)
                sheet.text(x + 22 + 110 * share, top + 8, f"{share:.0%}", 13, SOFT, "lm")


def draw_imagined(sheet: Sheet, x: int, y: int, answer: dict[str, Any]) -> None:
    """The picture the model made, and the item of the shop that looks most like it."""
    side = sheet.enlarged(x + (INNER - DRAWN) // 2, y, answer["picture"], DRAWN)
    sheet.text(x + INNER / 2, y + side + 12, "made by the model", 13, SOFT, "mm")
    for item in answer["nearest"][:1]:
        top = CARD_TOP + CARD_HEIGHT - INSET - SMALL_THUMB
        sheet.picture(x, top, item["item_id"], SMALL_THUMB)
        sheet.text(x + SMALL_THUMB + 8, top, "most like it, for sale:", 12, SOFT)
        sheet.text(x + SMALL_THUMB + 8, top + 16, item["title"], 13)
        sheet.text(x + SMALL_THUMB + 8, top + 33, f"{item['similarity']:.2f} alike", 12, SOFT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unimp", help="Folder of a model trained by recipes/demo.yaml.")
    parser.add_argument("--output", default="docs/history_to_answers.png", help="The PNG to write.")
    chosen = parser.parse_args()
    main(chosen.model, chosen.output)
