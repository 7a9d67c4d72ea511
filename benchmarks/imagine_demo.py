"""Reads what a model of the made-up shop imagines: the kind that was asked for, in a right colour?

python -m benchmarks.imagine_demo --model unimp --requests 100 --output benchmarks/results/imagine_demo.png

After `make demo`, from the root of the repository. Test shoppers of recipes/demo.yaml are asked for a picture in
two ways, and `benchmarks/drawing_reader.py` reads the pixels. What colour is right:

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from transformers import AutoModel, AutoProcessor

from benchmarks.imagine_questions import (
    MEASURES,
    Looks,
    Question,
    Request,
    make_questions,
    make_wishes,
    right,
    seen,
    seen_of,
)
from benchmarks.imagine_sheet import draw_grid
from modeling_unimp import DataArguments, PersonalizationPipeline
from modeling_unimp.training.experiment import load_shop, split_histories
from processing_unimp import Catalogue, ExampleSource, Histories, Split
from processing_unimp.demo_shop import true_tastes

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "demo.yaml"
KIND, WISH = "asked for a kind", "asked for a colour and a kind"  # the two sets of questions
EXPECTED = ("imagined for others", "random item of the kind")  # levels that are means over chance, not counts
Z95 = 1.96
RESAMPLES = 2000

GRID_ROWS = 8

# Requests of imagine in, answers of the pipeline out.
Answer = Callable[[list[Request]], Sequence[dict[str, Any]]]
# Pictures in, what an image codec keeps of them out.
Reconstruct = Callable[[list[Image.Image]], Sequence[Image.Image]]


# --- levels to compare with ---


def levels_of(
    questions: Sequence[Question],
    answers: Sequence[dict[str, Any]],
    train: Histories,
    looks: dict[str, Looks],
    reconstruct: Reconstruct | None = None,
    search: Answer | None = None,
) -> dict[str, np.ndarray]:
    """By name, `right` of each question `(questions, measures)`; between 0 and 1 where it is a mean over chance.

    - imagined: the pictures of the answers.
    - imagined for others: the pictures that other shoppers got for the same category, on average; what is left of a
      right answer when the history, or the colour of the wish, is another's. NaN where nobody else was asked for the
      category.
    - random item of the kind: on average over the real pictures of the category, in any colour.
    - most popular item of the kind: in training, of those with a picture.
    - first retrieved item: what the model's own search put first.
    - first item of search alone: what it puts first for the query as it was asked, when no history's colour joins it;
      the rest of the difference is what the expanded query adds.
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
        "imagined": [right(drawn, question) for drawn, question in zip(imagined, questions, strict=True)],
        "imagined for others": others,
        "random item of the kind": at_random,
        "most popular item of the kind": popular,
        "first retrieved item": retrieved,
        "true next item": true,
    }
    if search is not None:
        searches = search([question.request | {"task": "search"} for question in questions])
        levels["first item of search alone"] = [
            right(looks[answer["items"][0]["item_id"]], question)
            for question, answer in zip(questions, searches, strict=True)
        ]
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
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for name, rows in levels.items():
        rows = rows[~np.isnan(rows).any(axis=1)]
        summary[name] = {}
        for measure, column in zip(measures, rows.T, strict=True):
            summary[name][measure] = {
                "share": float(column.mean()) if len(column) else None,
                "requests": len(column),
                "interval": None if name in EXPECTED else wilson(column.sum(), len(column)),
            }
    return summary


def personal_gain(
    levels: dict[str, np.ndarray], measures: Sequence[str] = MEASURES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """By measure, how much more often a picture is right for its shopper than one that was imagined for another.

    The interval is a bootstrap over requests, whose pictures stay as they are.
    """
    difference = levels["imagined"] - levels["imagined for others"]
    difference = difference[~np.isnan(difference).any(axis=1)]
    gains: dict[str, dict[str, Any]] = {}
    if len(difference):
        drawn = np.random.default_rng(seed).integers(len(difference), size=(RESAMPLES, len(difference)))
        low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975], axis=0)
        for k, measure in enumerate(measures):
            interval = (float(low[k]), float(high[k]))
            gains[measure] = {"share": float(difference[:, k].mean()), "interval": interval}
    return gains


def format_table(results: dict[str, Any]) -> str:
    """The numbers as text, a table for each set of questions."""
    lines = []
    for name, result in results.items():
        if name == KIND:
            truth = (
                f"Right are {result['right_colours']:.2f} of 8 colours on average, the shopper's favourites; the "
                f"history speaks for {result['history_colours']:.2f} colours and "
                f"{result['right_patterns']:.2f} of 6 patterns."
            )
        else:
            truth = f"Right is {result['right_colours']:.0f} of 8 colours, the one asked for."
        lines += [
            f"{result['requests']} test shoppers {name} ({result['skipped']} skipped: no picture of what came "
            f"next). {truth} {result['unclear']:.1%} of the imagined pictures show no category clearly, "
            f"{result['unclear_colour']:.1%} no colour.",
            "",
            "| right | " + " | ".join(result["levels"]["imagined"]) + " |",
            "| --- |" + " ---: |" * len(result["levels"]["imagined"]),
        ]
        for level, measures in result["levels"].items():
            lines.append(f"| {level} | " + " | ".join(_cell(each, "{:.1%}") for each in measures.values()) + " |")
        if result["personal_gain"]:
            cells = [_cell(each, "{:+.1%}") for each in result["personal_gain"].values()]
            lines.append("| imagined, more than for others | " + " | ".join(cells) + " |")
        lines.append("")
    lines.append("[95 %: Wilson; of the last row bootstrap over requests. Without one: expected value of a choice.]")
    return "\n".join(lines)


def _cell(level: dict[str, Any], form: str) -> str:
    if level["share"] is None:
        return "-"
    text = form.format(level["share"])
    if level["interval"] is None:
        return text
    return f"{text} [{form.format(level['interval'][0])}, {form.format(level['interval'][1])}]"


def evaluate(
    split: Split,
    source: ExampleSource,
    answer: Answer,
    favourites: Mapping[str, frozenset[str]],
    *,
    number: int = 100,
    seed: int = 0,
    wishes: bool = True,
    reconstruct: Reconstruct | None = None,
    search: Answer | None = None,
) -> tuple[dict[str, Any], Image.Image]:
    """Ask for pictures, read them and compare them with the levels of `levels_of`.

    Args:
        split (`Split`): the made-up shop's; its test part is asked, its training part knows what is popular.
        source (`ExampleSource`): catalogue, history length and query attribute of the recipe.
        answer (`Callable`): imagine requests in, answers as the pipeline gives them out: `"picture"`, `"retrieved"`
            and `"nearest"`.
        favourites (`Mapping[str, frozenset[str]]`): by user id the colours that are right when a kind is asked for;
            of `true_tastes` of the same shop.
        number (`int`, *optional*, defaults to 100): shoppers to ask, each once for a kind and once for a wish.
        seed (`int`, *optional*, defaults to 0): chooses them, and the colours of the wishes.
        wishes (`bool`, *optional*, defaults to `True`): ask for a colour and a kind, too.
        reconstruct (`Callable`, *optional*): pictures in, out what the model's image codec makes of them. Of what came
            next, so it is compared with where a kind was asked for.
        search (`Callable`, *optional*): search requests in, answers out; compared with likewise.

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
        levels = levels_of(asked, answers, split.train, looks, *((reconstruct, search) if name == KIND else ()))
        imagined = [seen(each["picture"]) for each in answers]
        results[name] = {
            "levels": summarise(levels, asked[0].measures),
            "personal_gain": personal_gain(levels, asked[0].measures),
            "requests": len(asked),
            "skipped": skipped,
            "right_colours": float(np.mean([len(question.colours) for question in asked])),
            "unclear": float(np.mean([drawn.category is None for drawn in imagined])),
            "unclear_colour": float(np.mean([drawn.colour is None for drawn in imagined])),
        }
        if name == KIND:
            results[name] |= {
                "history_colours": float(np.mean([len(question.history_colours) for question in asked])),
                "right_patterns": float(np.mean([len(question.patterns) for question in asked])),
            }
        shown += list(zip(asked, answers, strict=True))[: GRID_ROWS // len(sets)]
    return results, draw_grid([question for question, _ in shown], [each for _, each in shown], catalogue)


# --- the made-up shop and a trained model ---


def demo_shop() -> tuple[Split, ExampleSource]:
    """Shop and split of recipes/demo.yaml, as train.py makes them."""
    recipe = yaml.safe_load(RECIPE.read_text())
    known = {field.name for field in dataclasses.fields(DataArguments)}
    data_args = DataArguments(**{name: value for name, value in recipe.items() if name in known})
    catalogue, histories = load_shop(data_args)
    split = split_histories(histories, catalogue, data_args)
    source = ExampleSource(
        catalogue,
        np.random.default_rng(data_args.split_seed),
        history_length=data_args.history_length,
        query_attribute=data_args.query_attribute,
    )
    return split, source


def demo_model(model: str, catalogue: Catalogue) -> PersonalizationPipeline:
    """A model of recipes/demo.yaml in a folder."""
    unimp = PersonalizationPipeline(
        model=AutoModel.from_pretrained(model), processor=AutoProcessor.from_pretrained(model)
    )
    if unimp.processor.catalogue.fingerprint != catalogue.fingerprint:
        raise SystemExit(
            f"{model} knows other items than the made-up shop has: expected a model of recipes/demo.yaml."
        )
    return unimp


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
    unimp = demo_model(model, source.catalogue)
    codec = unimp.model.image_codec
    if codec is None:
        raise SystemExit(
            f"{model} has no image codec, so it cannot imagine: train with image_codec and the task imagine."
        )
    options: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    results, sheet = evaluate(
        split,
        source,
        lambda asked: unimp(asked, seed=0, **options),
        {
            user_id: taste["colour"] for user_id, taste in true_tastes().items()
        },  # of the shop that `load_shop` makes up
        number=requests,
        wishes=wishes,
        reconstruct=lambda pictures: codec.decode(codec.encode(pictures)),
        search=lambda asked: unimp(asked, top_k=1, exclude_seen=False),
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
    """The results of `evaluate`, with the settings of the run."""
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
