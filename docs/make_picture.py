"""Draws the picture at the top of the README: one shopper of the made-up shop and five answers of a trained model.

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
WIDTH, HEIGHT, MARGIN = 1280, 610, 24
CARD_TOP, CARD_WIDTH, CARD_HEIGHT, GAP = 270, 232, 286, 18
THUMB = 64
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
            self.text(x + THUMB + 12, top + 14, item["title"])
            self.text(x + THUMB + 12, top + 34, f"{item['score']:.1%}", 14, SOFT)


def main(model: str, output: str) -> None:
    items, interactions = make_demo_shop()
    catalogue = Catalogue.from_items(items)
    split = leave_last_out(Histories.from_interactions(interactions, catalogue), seed=SEED)
    case = shopper_with_pictures(split.test, catalogue)
    source = ExampleSource(catalogue, np.random.default_rng(SEED), query_attribute="category", num_candidates=6)
    requests = {name: task.example(case, source) for name, task in TASKS.items()}
    unimp = PersonalizationPipeline(
        model=AutoModel.from_pretrained(model), processor=AutoProcessor.from_pretrained(model)
    )
    answers = dict(zip(requests, unimp(list(requests.values()), top_k=3), strict=True))
    sheet = draw(catalogue, case, requests, answers)
    sheet.quantize(192, dither=Image.Dither.NONE).save(output, optimize=True)


def shopper_with_pictures(targets: Targets, catalogue: Catalogue) -> Case:
    """The first shopper of the test whose latest items all have a picture."""
    for case in targets:
        if all(catalogue.has_picture(event.item_id) for event in (*case.history[-5:], case.target)):
            return case
    raise ValueError("no shopper has a picture of every item.")


def draw(catalogue: Catalogue, case: Case, requests: dict[str, Any], answers: dict[str, Any]) -> Image.Image:
    sheet = Sheet(catalogue)
    draw_history(sheet, case)
    for place, (name, answer) in enumerate(answers.items()):
        x = MARGIN + place * (CARD_WIDTH + GAP)
        sheet.box(x, CARD_TOP, CARD_WIDTH, CARD_HEIGHT)
        sheet.text(x + 14, CARD_TOP + 12, name, 18, ACCENT)
        draw_answer(sheet, x + 14, CARD_TOP + 46, requests[name], answer)
    return sheet.image


def draw_history(sheet: Sheet, case: Case) -> None:
    events = case.history[-5:]
    sheet.text(MARGIN, 20, "a shopper's history, oldest first", 18, ACCENT)
    for place, event in enumerate(events):
        x = MARGIN + place * (CARD_WIDTH + GAP)
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
    for place in range(5):
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
    if name == "recommend":
        sheet.ranking(x, y + 6, answer["items"])
    elif name == "search":
        sheet.text(x + 90, y - 32, f'"{request["query"]}"', 16)
        sheet.ranking(x, y + 6, answer["items"])
    elif name == "select":
        for place, item in enumerate(answer["items"]):
            left, upper = x + (place % 3) * (THUMB + 6), y + 6 + (place // 3) * (THUMB + 46)
            sheet.picture(left, upper, item["item_id"])
            if item["selected"]:
                sheet.box(left - 2, upper - 2, THUMB + 4, THUMB + 4, ACCENT, 3)
            mark = "yes" if item["selected"] else "no"
            sheet.text(left + THUMB / 2, upper + THUMB + 12, f"{mark} {item['score']:.0%}", 13, SOFT, "mm")
    else:
        sheet.picture(x, y + 6, request["item"])
        sheet.text(x + THUMB + 12, y + 20, sheet.catalogue.item(request["item"])["title"])
        if name == "explain":
            for line, words in enumerate(textwrap.wrap(answer["text"] or "(no words)", 27)[:8]):
                sheet.text(x, y + THUMB + 26 + 20 * line, words)
        else:
            sheet.text(x + THUMB + 12, y + 42, f"{answer['stars']:.2f} stars", 14, SOFT)
            for star, share in answer["probabilities"].items():
                top = y + THUMB + 26 + 26 * (5 - star)
                sheet.text(x, top + 8, str(star), 13, SOFT, "lm")
                sheet.draw.rectangle((x + 16, top, x + 16 + 140 * share, top + 16), fill=GOLD)
                sheet.text(x + 22 + 140 * share, top + 8, f"{share:.0%}", 13, SOFT, "lm")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unimp", help="Folder of a model trained by recipes/demo.yaml.")
    parser.add_argument("--output", default="docs/history_to_answers.png", help="The PNG to write.")
    chosen = parser.parse_args()
    main(chosen.model, chosen.output)
