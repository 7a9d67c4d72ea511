"""The sheet of what was imagined: one row a request, the pictures as they came and how they are read."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmarks.imagine_questions import WISH_MEASURES, Question, right, seen
from processing_unimp import Catalogue

MARGIN, TOP, ROW = 24, 92, 124
THUMB, LARGE = 60, 100
INK, SOFT, LINE, PAPER, ACCENT, WRONG = "#22303c", "#6b7883", "#d5dbe0", "#ffffff", "#2f7d6b", "#b04a3c"


def draw_grid(questions: Sequence[Question], answers: Sequence[dict[str, Any]], catalogue: Catalogue) -> Image.Image:
    """One row a request: history, query, retrieved, imagined as it is read, nearest real item, true item."""
    length = max(len(question.request["history"]) for question in questions)
    step = THUMB + 8
    query_x = MARGIN + length * step + 14
    retrieved_x = query_x + 92
    imagined_x = retrieved_x + 2 * step + 22
    nearest_x = imagined_x + LARGE + 150
    true_x = nearest_x + THUMB + 44
    sheet = Image.new("RGB", (true_x + THUMB + 44 + MARGIN, TOP + ROW * len(questions) + 34), PAPER)
    draw = ImageDraw.Draw(sheet)

    def write(x: float, y: float, words: str, size: int = 13, fill: str = INK, anchor: str = "la") -> None:
        draw.text((x, y), words, fill=fill, font=ImageFont.load_default(size), anchor=anchor)

    def paste(x: int, y: int, picture: Image.Image | None, side: int = THUMB) -> None:
        if picture is None:
            draw.rectangle((x, y, x + side - 1, y + side - 1), outline=LINE)
            write(x + side / 2, y + side / 2, "no picture", 10, SOFT, "mm")
        else:
            sheet.paste(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (x, y))

    write(MARGIN, 18, "Imagined for shoppers whose next step was not in the training data", 18, ACCENT)
    heads = [
        (MARGIN, "history, oldest first, with stars"),
        (query_x, "query"),
        (retrieved_x, "retrieved"),
        (imagined_x, "imagined, and how it is read"),
        (nearest_x, "nearest real"),
        (true_x, "came next"),
    ]
    for x, words in heads:
        write(x, 58, words, 14, SOFT)
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        top = TOP + row * ROW
        middle = top + 10
        draw.line((MARGIN, top - 8, sheet.width - MARGIN, top - 8), fill=LINE)
        for place, entry in enumerate(question.request["history"]):
            x = MARGIN + place * step
            paste(x, middle, catalogue.picture(entry["item_id"]))
            stars = "unrated" if entry["rating"] is None else f"{entry['rating']} star{'s' * (entry['rating'] > 1)}"
            write(x + THUMB / 2, middle + THUMB + 10, stars, 11, SOFT, "mm")
        colours, patterns = (", ".join(sorted(words)) for words in (question.colours, question.patterns))
        is_wish = question.measures == WISH_MEASURES
        truth = f"right, as asked for: {colours}" if is_wish else f"right for this shopper: {colours}; {patterns}"
        write(MARGIN, middle + THUMB + 20, truth, 11, SOFT)
        words = question.request["query"].split()
        for line, word in enumerate(words):
            write(query_x, middle + THUMB / 2 + 20 * (line - (len(words) - 1) / 2), word, 16, INK, "lm")
        for place, item in enumerate(answer["retrieved"][:2]):
            paste(retrieved_x + place * step, middle, catalogue.picture(item["item_id"]))
        paste(imagined_x, top, answer["picture"], LARGE)
        looks = seen(answer["picture"])
        is_right = dict(zip(question.measures, right(looks, question), strict=True))
        for line, name in enumerate(("category", "colour", "pattern")):
            word = getattr(looks, name) or f"{name} unclear"
            fill = SOFT if name not in is_right else ACCENT if is_right[name] else WRONG
            write(imagined_x + LARGE + 10, top + 22 + 22 * line, word, 14, fill)
        for item in answer["nearest"][:1]:
            paste(nearest_x, middle, catalogue.picture(item["item_id"]))
            write(nearest_x + THUMB / 2, middle + THUMB + 10, f"{item['similarity']:.2f}", 11, SOFT, "mm")
        paste(true_x, middle, catalogue.picture(question.case.target.item_id))
    note = "Made-up shop, the first shoppers drawn by lot, answers as they came. Green: right. Grey: not asked for."
    write(MARGIN, sheet.height - 26, note, 12, SOFT)
    return sheet
