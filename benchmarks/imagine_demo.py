"""Reads what a model of the made-up shop imagines: the kind that was asked for, in a right colour?

python -m benchmarks.imagine_demo --model unimp --requests 100 --output benchmarks/results/imagine_demo.png

After `make demo`, from the root of the repository. Test shoppers of recipes/demo.yaml are asked for a picture in
two ways, and `benchmarks/drawing_reader.py` judges the pixels. What colour is right:

- asked for a kind ("mug", the category of what they bought next): one of the shopper's two favourite colours, the
  truth by which the shop was made up and which no table holds. By chance that is 25 %. Of the items that test shoppers
  went on to buy 65 % have such a colour, of those rated 4 or 5 it is 87 %.
- asked for a colour and a kind ("teal mug", of the same category, the colour drawn by lot from all eight): the colour
  asked for. The history says nothing about it; by chance that is 12.5 %.

A further measure, "history's colour", knows no truth behind the shop: the colours that the shown history speaks for.
"""

import argparse
import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont
from transformers import AutoModel, AutoProcessor

from benchmarks.drawing_reader import read_drawing
from modeling_unimp import DataArguments, PersonalizationPipeline, UniMPTrainingArguments
from processing_unimp import Case, Catalogue, ExampleSource, Histories, Split, Targets
from processing_unimp.demo_shop import COLOURS, favourite_colours
from processing_unimp.task import history_of
from processing_unimp.task_search import query_of
from train import load_shop, split_histories

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "demo.yaml"
KIND, WISH = "asked for a kind", "asked for a colour and a kind"  # the two sets of questions
MEASURES = ("category", "colour", "both", "history's colour", "pattern", "next colour")
WISH_MEASURES = MEASURES[:3]
EXPECTED = ("imagined for others", "random item of the kind")  # levels that are means over chance, not counts
OFTEN = 2  # times among the shown items, to be a taste
GOOD = 4  # stars
Z95 = 1.96
RESAMPLES = 2000

GRID_ROWS = 8
MARGIN, TOP, ROW = 24, 92, 124
THUMB, LARGE = 60, 100
INK, SOFT, LINE, PAPER, ACCENT, WRONG = "#22303c", "#6b7883", "#d5dbe0", "#ffffff", "#2f7d6b", "#b04a3c"

Request = dict[str, Any]
# Requests of imagine in, answers of the pipeline out.
Answer = Callable[[list[Request]], Sequence[dict[str, Any]]]
# Pictures in, what an image codec keeps of them out.
Reconstruct = Callable[[list[Image.Image]], Sequence[Image.Image]]


@dataclass(frozen=True)
class Looks:
    """What is seen of an item; `None` where it is not clear or not known."""

    category: str | None
    colour: str | None
    pattern: str | None


@dataclass(frozen=True)
class Question:
    """A request and what is right for it.

    Attributes:
        category (`str`): the kind that is asked for, of the item that came next.
        colours (`frozenset[str]`): the shopper's favourites, or of a wish the one that the query names.
        history_colours, patterns (`frozenset[str]`): what the shown history speaks for, see `wanted`.
        next_colour (`str`, *optional*): of the item that came next.
        measures (`tuple[str, ...]`): what `right` looks at, the first of `MEASURES`.
    """

    case: Case
    request: Request
    category: str
    colours: frozenset[str]
    history_colours: frozenset[str]
    patterns: frozenset[str]
    next_colour: str | None
    measures: tuple[str, ...] = MEASURES


# --- what is right ---


def wanted(values: Sequence[str | None], ratings: Sequence[float | None]) -> frozenset[str]:
    """What a shown history speaks for: the definition of a "history's colour", and likewise of a right pattern.

    The tastes that made the shoppers are not used, only what shows of them: the values that at least two of the shown
    items have; when none comes twice, those of the items rated 4 or 5; when there is none, all values of the history.
    So there may be several, and chance has to be judged by the same sets.

    Args:
        values (`Sequence[str]`): of the items that the request shows, oldest first; `None` where it is not known.
        ratings (`Sequence[float]`): their stars, `None` where there are none.
    """
    known = [(value, rating) for value, rating in zip(values, ratings, strict=True) if value is not None]
    counts = Counter(value for value, _ in known)
    often = {value for value, count in counts.items() if count >= OFTEN}
    liked = {value for value, rating in known if rating is not None and rating >= GOOD}
    return frozenset(often or liked or counts)


def seen(picture: Image.Image) -> Looks:
    """A picture's looks, by its pixels alone."""
    drawing = read_drawing(picture)
    return Looks(drawing.category, drawing.colour, drawing.pattern)


def seen_of(catalogue: Catalogue, item_id: str) -> Looks:
    """A real item's looks: its picture read as the imagined ones are, or its attributes when it has no picture."""
    picture = catalogue.picture(item_id)
    if picture is not None:
        return seen(picture)
    item = catalogue.item(item_id)
    return Looks(item["category"], item["colour"], None)


def right(looks: Looks, question: Question) -> np.ndarray:
    """The question's measures as 0 or 1: the category asked for, a right colour (a favourite, or the one asked for),
    both, a colour and a pattern that the history speaks for, and the very colour of the item that came next."""
    marks = {
        "category": looks.category == question.category,
        "colour": looks.colour in question.colours,
        "both": looks.category == question.category and looks.colour in question.colours,
        "history's colour": looks.colour in question.history_colours,
        "pattern": looks.pattern in question.patterns,
        "next colour": looks.colour is not None and looks.colour == question.next_colour,
    }
    return np.array([marks[measure] for measure in question.measures], dtype=float)


def make_questions(
    targets: Targets,
    source: ExampleSource,
    looks: dict[str, Looks],
    favourites: Mapping[str, frozenset[str]],
    number: int,
    seed: int,
) -> tuple[list[Question], int]:
    """Questions to random shoppers for a kind, and how many shoppers were passed over.

    The query is the category of the item that came next; a shopper is passed over when it has none or no picture.

    Args:
        targets (`Targets`): of the test part.
        source (`ExampleSource`): catalogue, history length and query attribute of the recipe.
        looks (`dict[str, Looks]`): of all items. The colour of an item is its attribute, which is true in this shop,
            or where that is missing the colour that is seen; its pattern is what is seen.
        favourites (`Mapping[str, frozenset[str]]`): by user id the colours that are right.
        number (`int`): questions wanted; all there are when there are no more.
        seed (`int`): chooses the shoppers.

    Raises:
        `ValueError`: for a shopper without favourites.
    """
    catalogue = source.catalogue
    questions: list[Question] = []
    skipped = 0
    for index in np.random.default_rng(seed).permutation(len(targets)):
        if len(questions) == number:
            break
        case = targets[int(index)]
        query = query_of(catalogue.item(case.target.item_id)[str(source.query_attribute)])
        if query is None or not catalogue.has_picture(case.target.item_id):
            skipped += 1
            continue
        if case.user_id not in favourites:
            raise ValueError(
                f"no favourite colours of shopper {case.user_id!r} among those of {len(favourites)} shoppers: "
                "expected those of the same shop, favourite_colours(num_items, num_shoppers, seed)."
            )
        history = history_of(case, source)
        shown, ratings = [entry["item_id"] for entry in history], [entry["rating"] for entry in history]
        *colours, next_colour = [
            catalogue.item(item_id)["colour"] or looks[item_id].colour for item_id in (*shown, case.target.item_id)
        ]
        patterns = [looks[item_id].pattern for item_id in shown]
        request = {"task": "imagine", "history": history, "query": query}
        questions.append(
            Question(
                case,
                request,
                category=query,
                colours=favourites[case.user_id],
                history_colours=wanted(colours, ratings),
                patterns=wanted(patterns, ratings),
                next_colour=next_colour,
            )
        )
    return questions, skipped


def make_wishes(questions: Sequence[Question], seed: int) -> list[Question]:
    """The same shoppers with the same histories, asked for the same kinds in a colour drawn by lot from all eight."""
    names = list(COLOURS)
    # Another stream than the one that chooses the shoppers.
    drawn = np.random.default_rng([seed, 1]).integers(len(names), size=len(questions))
    wishes = []
    for question, number in zip(questions, drawn, strict=True):
        colour = names[number]
        wishes.append(
            dataclasses.replace(
                question,
                request=question.request | {"query": f"{colour} {question.category}"},
                colours=frozenset({colour}),
                measures=WISH_MEASURES,
            )
        )
    return wishes


# --- levels to compare with ---


def levels_of(
    questions: Sequence[Question],
    answers: Sequence[dict[str, Any]],
    train: Histories,
    looks: dict[str, Looks],
    reconstruct: Reconstruct | None = None,
) -> dict[str, np.ndarray]:
    """By name, `right` of each question `(questions, measures)`; between 0 and 1 where it is a mean over chance.

    - imagined: the pictures of the answers.
    - imagined for others: the pictures that other shoppers got for the same category, on average; what is left of a
      right answer when the history, or the colour of the wish, is another's. NaN where nobody else was asked for the
      category.
    - random item of the kind: on average over the real pictures of the category, in any colour.
    - most popular item of the kind: in training, of those with a picture.
    - first retrieved item: what the model's own search put first.
    - true next item: what the shopper went on to buy, right or not; that its colour is the one of a wish is chance.
    - true next item, through the codec: what the codec leaves of its picture; no imagined picture can be clearer.
    """
    catalogue = train.catalogue
    popularity = train.item_counts()
    imagined = [seen(answer["picture"]) for answer in answers]
    of_kind: dict[str, list[str]] = {question.category: [] for question in questions}
    for item_id, category in zip(catalogue.item_ids, catalogue.column("category"), strict=True):
        if category in of_kind and catalogue.has_picture(item_id):
            of_kind[category].append(item_id)

    def mean_right(those: Iterable[Looks], question: Question) -> np.ndarray:
        rows = [right(each, question) for each in those]
        return np.mean(rows, axis=0) if rows else np.full(len(question.measures), np.nan)

    others, at_random, popular, retrieved, true = [], [], [], [], []
    for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        kind = question.category
        alike = [j for j, other in enumerate(questions) if j != i and other.category == kind]
        others.append(mean_right([imagined[j] for j in alike], question))
        at_random.append(mean_right([looks[item_id] for item_id in of_kind[kind]], question))
        best = max(of_kind[kind], key=lambda item_id: popularity[catalogue.number(item_id)])
        popular.append(right(looks[best], question))
        retrieved.append(right(looks[answer["retrieved"][0]["item_id"]], question))
        true.append(right(looks[question.case.target.item_id], question))
    levels = {
        "imagined": [right(found, question) for found, question in zip(imagined, questions, strict=True)],
        "imagined for others": others,
        "random item of the kind": at_random,
        "most popular item of the kind": popular,
        "first retrieved item": retrieved,
        "true next item": true,
    }
    if reconstruct is not None:
        pictures = [catalogue.picture(question.case.target.item_id) for question in questions]
        kept = reconstruct([picture for picture in pictures if picture is not None])
        assert len(kept) == len(questions)  # `make_questions` asks for no item without a picture
        levels["true next item, through the codec"] = [
            right(seen(picture), question) for picture, question in zip(kept, questions, strict=True)
        ]
    return {name: np.stack(rows) for name, rows in levels.items()}


# --- numbers ---


def wilson(hits: float, number: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson: `(p + z2/2n -+ z sqrt(p (1 - p) / n + z2/4n2)) / (1 + z2/n)`."""
    if not 0 <= hits <= number or not number:
        raise ValueError(f"{hits} hits of {number}: expected at least one request and not more hits than requests.")
    share, z2 = hits / number, Z95**2
    centre = share + z2 / (2 * number)
    reach = Z95 * np.sqrt(share * (1 - share) / number + z2 / (4 * number**2))
    low, high = (centre - reach) / (1 + z2 / number), (centre + reach) / (1 + z2 / number)
    return float(max(low, 0)), float(min(high, 1))


def summarise(
    levels: dict[str, np.ndarray], measures: Sequence[str] = MEASURES
) -> dict[str, dict[str, dict[str, Any]]]:
    """By level and measure the `share` (`None` without requests), the number of `requests` and the `interval` (`None`
    for an expectation)."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, rows in levels.items():
        rows = rows[~np.isnan(rows).any(axis=1)]
        found[name] = {}
        for measure, column in zip(measures, rows.T, strict=True):
            found[name][measure] = {
                "share": float(column.mean()) if len(column) else None,
                "requests": len(column),
                "interval": None if name in EXPECTED else wilson(column.sum(), len(column)),
            }
    return found


def personal_gain(
    levels: dict[str, np.ndarray], measures: Sequence[str] = MEASURES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """By measure, how much more often a picture is right for its shopper than one that was imagined for another.

    The interval is a bootstrap over requests, whose pictures stay as they are.
    """
    difference = levels["imagined"] - levels["imagined for others"]
    difference = difference[~np.isnan(difference).any(axis=1)]
    found: dict[str, dict[str, Any]] = {}
    if len(difference):
        drawn = np.random.default_rng(seed).integers(len(difference), size=(RESAMPLES, len(difference)))
        low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975], axis=0)
        for k, measure in enumerate(measures):
            interval = (float(low[k]), float(high[k]))
            found[measure] = {"share": float(difference[:, k].mean()), "interval": interval}
    return found


def format_table(results: dict[str, Any]) -> str:
    """The numbers as text, a table for each set of questions."""
    lines = []
    for name, found in results.items():
        if name == KIND:
            truth = (
                f"Right are {found['right_colours']:.2f} of 8 colours on average, the shopper's favourites; the "
                f"history speaks for {found['history_colours']:.2f} colours and "
                f"{found['right_patterns']:.2f} of 6 patterns."
            )
        else:
            truth = f"Right is {found['right_colours']:.0f} of 8 colours, the one asked for."
        lines += [
            f"{found['requests']} test shoppers {name} ({found['skipped']} passed over: no picture of what came "
            f"next). {truth} {found['unclear']:.1%} of the imagined pictures show no category clearly, "
            f"{found['unclear_colour']:.1%} no colour.",
            "",
            "| right | " + " | ".join(found["levels"]["imagined"]) + " |",
            "| --- |" + " ---: |" * len(found["levels"]["imagined"]),
        ]
        for level, measures in found["levels"].items():
            lines.append(f"| {level} | " + " | ".join(_cell(each, "{:.1%}") for each in measures.values()) + " |")
        if found["personal_gain"]:
            cells = [_cell(each, "{:+.1%}") for each in found["personal_gain"].values()]
            lines.append("| imagined, more than for others | " + " | ".join(cells) + " |")
        lines.append("")
    lines.append("[95 %: Wilson; of the last row bootstrap over requests. Without one: expected value of a choice.]")
    return "\n".join(lines)


def _cell(found: dict[str, Any], form: str) -> str:
    if found["share"] is None:
        return "-"
    text = form.format(found["share"])
    if found["interval"] is None:
        return text
    return f"{text} [{form.format(found['interval'][0])}, {form.format(found['interval'][1])}]"


def examine(
    split: Split,
    source: ExampleSource,
    answer: Answer,
    favourites: Mapping[str, frozenset[str]],
    *,
    number: int = 100,
    seed: int = 0,
    wishes: bool = True,
    reconstruct: Reconstruct | None = None,
) -> tuple[dict[str, Any], Image.Image]:
    """Ask, read, and compare.

    Args:
        split (`Split`): the made-up shop's; its test part is asked, its training part knows what is popular.
        source (`ExampleSource`): catalogue, history length and query attribute of the recipe.
        answer (`Callable`): imagine requests in, answers as the pipeline gives them out: `"picture"`, `"retrieved"`
            and `"nearest"`.
        favourites (`Mapping[str, frozenset[str]]`): by user id the colours that are right when a kind is asked for;
            `favourite_colours` of the same shop.
        number (`int`, *optional*, defaults to 100): shoppers to ask, each once for a kind and once for a wish.
        seed (`int`, *optional*, defaults to 0): chooses them, and the colours of the wishes.
        wishes (`bool`, *optional*, defaults to `True`): ask for a colour and a kind, too.
        reconstruct (`Callable`, *optional*): pictures in, out what the model's image codec makes of them. Of what came
            next, so it is compared with where a kind was asked for.

    Returns:
        `tuple[dict, PIL.Image.Image]`: for each set of questions, `"asked for a kind"` and `"asked for a colour and a
        kind"`: `levels` (see `summarise`), `personal_gain`, `requests`, `skipped`, `right_colours` (mean number a
        request), for a kind also `history_colours` and `right_patterns`, `unclear` and `unclear_colour` (shares of the
        imagined pictures); and a sheet with the first rows of each, half and half.
    """
    catalogue = source.catalogue
    looks = {item_id: seen_of(catalogue, item_id) for item_id in catalogue.item_ids}
    questions, skipped = make_questions(split.test, source, looks, favourites, number, seed)
    if not questions:
        raise ValueError(
            f"none of the {len(split.test)} test shoppers went on to an item with a picture: nothing to ask."
        )
    sets = {KIND: questions}
    if wishes:
        sets[WISH] = make_wishes(questions, seed)
    results: dict[str, Any] = {}
    shown: list[tuple[Question, dict[str, Any]]] = []
    for name, asked in sets.items():
        answers = list(answer([question.request for question in asked]))
        levels = levels_of(asked, answers, split.train, looks, reconstruct if name == KIND else None)
        imagined = [seen(each["picture"]) for each in answers]
        results[name] = {
            "levels": summarise(levels, asked[0].measures),
            "personal_gain": personal_gain(levels, asked[0].measures),
            "requests": len(asked),
            "skipped": skipped,
            "right_colours": float(np.mean([len(question.colours) for question in asked])),
            "unclear": float(np.mean([found.category is None for found in imagined])),
            "unclear_colour": float(np.mean([found.colour is None for found in imagined])),
        }
        if name == KIND:
            results[name] |= {
                "history_colours": float(np.mean([len(question.history_colours) for question in asked])),
                "right_patterns": float(np.mean([len(question.patterns) for question in asked])),
            }
        shown += list(zip(asked, answers, strict=True))[: GRID_ROWS // len(sets)]
    return results, draw_grid([question for question, _ in shown], [each for _, each in shown], catalogue)


# --- the sheet ---


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
        found = seen(answer["picture"])
        is_right = dict(zip(question.measures, right(found, question), strict=True))
        for line, name in enumerate(("category", "colour", "pattern")):
            word = getattr(found, name) or f"{name} unclear"
            fill = SOFT if name not in is_right else ACCENT if is_right[name] else WRONG
            write(imagined_x + LARGE + 10, top + 22 + 22 * line, word, 14, fill)
        for item in answer["nearest"][:1]:
            paste(nearest_x, middle, catalogue.picture(item["item_id"]))
            write(nearest_x + THUMB / 2, middle + THUMB + 10, f"{item['similarity']:.2f}", 11, SOFT, "mm")
        paste(true_x, middle, catalogue.picture(question.case.target.item_id))
    note = "Made-up shop, the first shoppers drawn by lot, answers as they came. Green: right. Grey: not asked for."
    write(MARGIN, sheet.height - 26, note, 12, SOFT)
    return sheet


# --- the made-up shop and a trained model ---


def demo_shop() -> tuple[Split, ExampleSource]:
    """Shop and split of recipes/demo.yaml, as train.py makes them."""
    recipe = yaml.safe_load(RECIPE.read_text())
    known = {field.name for field in dataclasses.fields(DataArguments)}
    data_args = DataArguments(**{name: value for name, value in recipe.items() if name in known})
    seed = recipe.get("seed", UniMPTrainingArguments.seed)
    catalogue, histories = load_shop(data_args)
    split = split_histories(histories, catalogue, data_args, seed)
    source = ExampleSource(
        catalogue,
        np.random.default_rng(seed),
        history_length=data_args.history_length,
        query_attribute=data_args.query_attribute,
    )
    return split, source


def main(
    model: str,
    requests: int,
    output: str,
    *,
    wishes: bool = True,
    temperature: float | None = None,
    json_path: str = "",
) -> dict[str, Any]:
    logging.basicConfig(format="%(message)s")
    split, source = demo_shop()
    unimp = PersonalizationPipeline(
        model=AutoModel.from_pretrained(model), processor=AutoProcessor.from_pretrained(model)
    )
    if unimp.processor.catalogue.fingerprint != source.catalogue.fingerprint:
        raise SystemExit(
            f"{model} knows other items than the made-up shop has: expected a model of recipes/demo.yaml."
        )
    codec = unimp.model.image_codec
    if codec is None:
        raise SystemExit(
            f"{model} has no image codec, so it cannot imagine: train with image_codec and the task imagine."
        )
    options: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    results, sheet = examine(
        split,
        source,
        lambda asked: unimp(asked, seed=0, **options),
        favourite_colours(),  # of the shop that `load_shop` makes up
        number=requests,
        wishes=wishes,
        reconstruct=lambda pictures: codec.decode(codec.encode(pictures)),
    )
    print(format_table(results))
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256, dither=Image.Dither.NONE).save(output, optimize=True)
    print(f"\n{output}")
    if json_path:
        write_json(results, json_path, model=model, temperature=temperature)
        print(json_path)
    return results


def write_json(results: dict[str, Any], path: str, **settings: Any) -> None:
    """What `examine` found, with the settings it was found under."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(settings | {"results": results}, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unimp", help="Folder of a model trained by recipes/demo.yaml.")
    parser.add_argument("--requests", type=int, default=100, help="Test shoppers to ask, each for a kind and a wish.")
    parser.add_argument("--output", default="benchmarks/results/imagine_demo.png", help="The PNG to write.")
    parser.add_argument(
        "--wishes",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Ask for a colour and a kind, too.",
    )
    parser.add_argument("--temperature", type=float, help="Of the pictures; the pipeline's own when not given.")
    parser.add_argument("--json", default="", metavar="PATH", help="Where to write the numbers.")
    chosen = parser.parse_args()
    main(
        chosen.model,
        chosen.requests,
        chosen.output,
        wishes=chosen.wishes,
        temperature=chosen.temperature,
        json_path=chosen.json,
    )
