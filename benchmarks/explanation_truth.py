"""Reads what explanations of the made-up shop claim, and counts how much of it is so.

python -m benchmarks.explanation_truth --model unimp --requests 200

After `make demo`, from the root of the repository. Test shoppers of recipes/demo.yaml have the item explained that
they took next. A claim about the item ("this mug is teal") is compared with what the item is, and one about the
shopper ("you liked 2 teal things") with the history that the model was shown; the number has to be the right one.
Whether what was liked is also of the taste by which the shop was made up, which no table holds, is counted beside it.
"""

import argparse
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.imagine_demo import demo_model, demo_shop, wilson
from processing_unimp import Case, ExampleSource, Split
from processing_unimp.demo_shop import CATEGORIES, COLOURS, true_looks, true_tastes
from processing_unimp.grounds import LIKED
from processing_unimp.task import history_of

ITEM, SHOPPER = "item", "shopper"

Request = dict[str, Any]
# What an item is or a shopper likes, by attribute.
Looks = Mapping[str, str]
Taste = Mapping[str, frozenset[str]]


class Claim(NamedTuple):
    """One thing that an explanation says: what the item is, or what the history has of it.

    Args:
        attribute (`str`): `"category"` or `"colour"`.
        value (`str`)
        taken (`int`, *optional*): so many items of the history have it.
        liked (`int`, *optional*): so many of them got 4 or 5 stars. With neither the claim is about the item.
    """

    attribute: str
    value: str
    taken: int | None = None
    liked: int | None = None

    @property
    def about(self) -> str:
        return ITEM if self.taken is None and self.liked is None else SHOPPER


# --- reading ---

_CATEGORY, _COLOUR = "|".join(CATEGORIES), "|".join(COLOURS)
_THING = f"(?:(?P<category>{_CATEGORY})|(?P<colour>{_COLOUR}) thing)"
# The sentences of the made-up shop.
OF_ITEM = re.compile(f"This (?P<category>{_CATEGORY}) is (?P<colour>{_COLOUR})")
OF_HISTORY = re.compile(f"You (?:(?P<liked>liked)|took) (?P<number>no|[1-9]) {_THING}s?")


def claims_of(text: str) -> list[Claim] | None:
    """What a text claims; `None` when a sentence of it is none of the made-up shop's."""
    claims: list[Claim] = []
    for sentence in text.strip().removesuffix(".").split(". "):
        if found := OF_ITEM.fullmatch(sentence):
            claims += [Claim(attribute, value) for attribute, value in found.groupdict().items()]
        elif found := OF_HISTORY.fullmatch(sentence):
            attribute = "category" if found["category"] else "colour"
            number = 0 if found["number"] == "no" else int(found["number"])
            taken, liked = (None, number) if found["liked"] else (number, None)
            claims.append(Claim(attribute, found[attribute], taken, liked))
        else:
            return None
    return claims


def contradicts_itself(claims: Sequence[Claim]) -> bool:
    """Whether an item is said to have two values of an attribute, or the history two numbers of one value."""
    said: dict[tuple[str, ...], set[Any]] = {}
    for claim in claims:
        if claim.about == ITEM:
            said.setdefault((claim.attribute,), set()).add(claim.value)
        else:
            said.setdefault((claim.attribute, claim.value), set()).add((claim.taken, claim.liked))
    return any(len(values) > 1 for values in said.values())


# --- judging ---


def is_so(claim: Claim, item: Looks, history: Sequence[tuple[Looks, float | None]]) -> bool:
    """Whether a claim is true of the item, or of the items shown with their stars."""
    if claim.about == ITEM:
        return item[claim.attribute] == claim.value
    stars = [rating for looks, rating in history if looks[claim.attribute] == claim.value]
    liked = sum(rating is not None and rating >= LIKED for rating in stars)
    return claim.taken in (None, len(stars)) and claim.liked in (None, liked)


# --- counting ---


def judge(
    texts: Iterable[str],
    cases: Sequence[Case],
    source: ExampleSource,
    looks: Mapping[str, Looks],
    tastes: Mapping[str, Taste],
) -> dict[str, Any]:
    """How much of what texts say is so.

    Args:
        texts (`Iterable[str]`): an explanation a case, of its target.
        cases (`Sequence[Case]`)
        source (`ExampleSource`): of which the history length is looked at.
        looks (`Mapping[str, Mapping[str, str]]`): by item id what the item is, as `true_looks` tells.
        tastes (`Mapping[str, Mapping[str, frozenset[str]]]`): by user id, as `true_tastes` tells.

    Returns:
        `dict`: of the texts the numbers `texts`, `read` and `contradictions`; of their claims `item`, `shopper` and
        `taste` (claims that something was liked), each a pair: how many are so, of how many; and
        `wrong`, a few texts that say what is not so.
    """
    read, contradictions, wrong = 0, 0, []
    counts = {name: [0, 0] for name in (ITEM, SHOPPER, "taste")}
    number = 0
    for text, case in zip(texts, cases, strict=True):
        number += 1
        claims = claims_of(text)
        if claims is None:
            wrong.append(text)
            continue
        read += 1
        contradictions += contradicts_itself(claims)
        history = [(looks[entry["item_id"]], entry["rating"]) for entry in history_of(case, source)]
        judged = [is_so(claim, looks[case.target.item_id], history) for claim in claims]
        if not all(judged):
            wrong.append(text)
        for claim, so in zip(claims, judged, strict=True):
            counts[claim.about][0] += so
            counts[claim.about][1] += 1
            if claim.liked:
                counts["taste"][0] += claim.value in tastes[case.user_id][claim.attribute]
                counts["taste"][1] += 1
    return {"texts": number, "read": read, "contradictions": contradictions} | counts | {"wrong": wrong[:5]}


def evaluate(
    split: Split,
    source: ExampleSource,
    explain: Callable[[list[Request]], Sequence[str]],
    looks: Mapping[str, Looks],
    tastes: Mapping[str, Taste],
    *,
    number: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Ask for explanations and judge them, beside those that the shop wrote.

    Args:
        split (`Split`): the made-up shop's; its test part is asked.
        source (`ExampleSource`): catalogue and history length of the recipe.
        explain (`Callable`): explain requests in, texts out.
        looks, tastes: of the same shop, see [`judge`].
        number (`int`, *optional*, defaults to 200): shoppers to ask.
        seed (`int`, *optional*, defaults to 0): chooses them, and the training explanations.

    Returns:
        `dict[str, dict]`: by level what [`judge`] finds. `"written by the shop"`: the true explanations, which fill in
        sentences by counting in the table; a model that learns from their like cannot be expected to pass them.
        `"of somebody else"`: training explanations drawn by chance.
    """
    rng = np.random.default_rng(seed)
    cases = [split.test[int(place)] for place in rng.permutation(len(split.test))[:number]]
    requests: list[Request] = [
        {"task": "explain", "history": history_of(case, source), "item": case.target.item_id} for case in cases
    ]
    written = split.train.explanations()
    texts = {
        "UniMP": explain(requests),
        "written by the shop": [str(case.target.explanation) for case in cases],
        "of somebody else": [written[int(place)] for place in rng.integers(len(written), size=len(cases))],
    }
    return {name: judge(those, cases, source, looks, tastes) for name, those in texts.items()}


def format_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The numbers as text, with texts of the model that say what is not so."""
    lines = [
        "| explanations | can be read | contradict themselves | true of the item "
        "| true of the history shown | liked, and of the taste |",
        "| --- |" + " ---: |" * 5,
    ]
    for level, found in results.items():
        cells = [f"{found['read']} of {found['texts']}", str(found["contradictions"])]
        for name in (ITEM, SHOPPER, "taste"):
            so, claims = found[name]
            low, high = wilson(so, claims) if claims else (0.0, 1.0)
            cells.append(f"{so} of {claims} [{low:.0%} - {high:.0%}]" if claims else "-")
        lines.append(f"| {level} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "[95 %: Wilson.]", *(f"not true: {text}" for text in results["UniMP"]["wrong"])])


def main(model: str, requests: int, json_path: str = "") -> dict[str, dict[str, Any]]:
    logging.basicConfig(format="%(message)s")
    split, source = demo_shop()
    unimp = demo_model(model, source.catalogue)

    def explain(asked: list[Request]) -> list[str]:
        return [answer["text"] for answer in unimp(asked)]

    results = evaluate(split, source, explain, true_looks(), true_tastes(), number=requests)
    print(format_table(results))
    if json_path:
        Path(json_path).parent.mkdir(parents=True, exist_ok=True)
        Path(json_path).write_text(json.dumps({"model": model, "results": results}, indent=2) + "\n")
        print(json_path)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unimp", help="Folder of a model trained by recipes/demo.yaml.")
    parser.add_argument("--requests", type=int, default=200, help="Test shoppers to ask.")
    parser.add_argument("--json", default="", metavar="PATH", help="Where to write the numbers.")
    chosen = parser.parse_args()
    main(chosen.model, chosen.requests, chosen.json)
