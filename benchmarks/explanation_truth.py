"""Reads what explanations of the made-up shop claim, and counts how much of it is so.

python -m benchmarks.explanation_truth --model unimp --requests 200

After `make demo`, from the root of the repository. Test shoppers of recipes/demo.yaml have the item explained that
they took next. A claim about the item ("this mug is teal") is compared with what the item is. A claim about the
shopper ("you like things in teal") is compared twice: with the history that the model was shown, in which at least two
items have to be so, or one that got 4 or 5 stars; and with the taste by which the shop was made up, which no table
holds.
"""

import argparse
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.imagine_demo import demo_model, demo_shop, wilson
from processing_unimp import Case, ExampleSource, Split
from processing_unimp.demo_shop import CATEGORIES, COLOURS, PATTERNS, true_looks, true_tastes
from processing_unimp.task import history_of

OFTEN = 2  # items of a history, to be a taste
GOOD = 4  # stars
ITEM, SHOPPER = "item", "shopper"

Request = dict[str, Any]
# What an item is or a shopper likes, by attribute.
Looks = Mapping[str, str]
Taste = Mapping[str, frozenset[str]]


class Claim(NamedTuple):
    """One thing that an explanation says.

    Args:
        about (`str`): `"item"` (it is so) or `"shopper"` (who likes it).
        attribute (`str`): `"category"`, `"colour"` or `"pattern"`.
        value (`str`)
        holds (`bool`): `False` where it is denied: "not dotted", "not your colour".
    """

    about: str
    attribute: str
    value: str
    holds: bool = True


# --- reading ---

_WORDS = {
    "category": "|".join(CATEGORIES),
    "colour": "|".join(COLOURS),
    "pattern": "|".join(PATTERNS),
}
_USUAL = "(?P<usual_pattern>{pattern}) things in (?P<usual_colour>{colour}) or (?P<other_colour>{colour})"
_ITEM = "(?P<item_colour>{colour}) and (?P<item_pattern>{pattern})"
# The sentences of the made-up shop; what a group claims is in its name.
FORMS = [
    re.compile(form.format(**{name: f"(?:{words})" for name, words in _WORDS.items()}))
    for form in (
        "You like (?P<likes_pattern>{pattern}) things in (?P<likes_colour>{colour}); "
        f"this (?P<item_category>{{category}}) is {_ITEM}\\.",
        "You like things in (?P<likes_colour>{colour}); this (?P<item_category>{category}) is "
        "(?P<item_colour>{colour}), though (?P<item_pattern>{pattern}) "
        "and not (?P<not_pattern>(?P<usual_pattern>{pattern}))\\.",
        "You like (?P<likes_pattern>{pattern}) things; this (?P<item_category>{category}) is "
        "(?P<item_pattern>{pattern}), though (?P<item_colour>(?P<dislikes_colour>{colour})) is not your colour\\.",
        f"You often look for a (?P<likes_category>(?P<item_category>{{category}})); this one is {_ITEM}, "
        f"but you prefer {_USUAL}\\.",
        f"This (?P<item_category>{{category}}) is {_ITEM}; you prefer {_USUAL}\\.",
    )
]
_CLAIMS = {"item": (ITEM, True), "not": (ITEM, False), "dislikes": (SHOPPER, False)}


def claims_of(text: str) -> list[Claim] | None:
    """What a text claims; `None` when it is no sentence of the made-up shop."""
    for form in FORMS:
        if found := form.fullmatch(text.strip()):
            claims = []
            for name, value in found.groupdict().items():
                verb, attribute = name.split("_")
                about, holds = _CLAIMS.get(verb, (SHOPPER, True))
                claims.append(Claim(about, attribute, value, holds))
            return claims
    return None


def contradicts_itself(claims: Sequence[Claim]) -> bool:
    """Whether a claim is made and denied, or one item is said to have two values of an attribute."""
    made = {claim[:3] for claim in claims if claim.holds}
    denied = {claim[:3] for claim in claims if not claim.holds}
    of_item = Counter(attribute for about, attribute, _ in made if about == ITEM)
    return bool(made & denied) or any(count > 1 for count in of_item.values())


# --- judging ---


def is_borne_out(claim: Claim, item: Looks, history: Sequence[tuple[Looks, float | None]]) -> bool:
    """Whether a claim is so: about the item by what it is, about the shopper by the items shown, with their stars."""
    if claim.about == ITEM:
        return (item[claim.attribute] == claim.value) == claim.holds
    stars = [rating for looks, rating in history if looks[claim.attribute] == claim.value]
    likes = len(stars) >= OFTEN or any(rating is not None and rating >= GOOD for rating in stars)
    return likes == claim.holds


def by_counting(item: Looks, history: Sequence[tuple[Looks, float | None]]) -> str:
    """A sentence of the shop for what the item and the shown history bear out."""

    def likes(attribute: str) -> bool:
        return is_borne_out(Claim(SHOPPER, attribute, item[attribute]), item, history)

    category, colour, pattern = item["category"], item["colour"], item["pattern"]
    usual = [looks["pattern"] for looks, _ in history] or [pattern]
    most = max(usual, key=usual.count)
    if likes("colour") and likes("pattern"):
        return f"You like {pattern} things in {colour}; this {category} is {colour} and {pattern}."
    if likes("colour"):
        return f"You like things in {colour}; this {category} is {colour}, though {pattern} and not {most}."
    if likes("pattern"):
        return f"You like {pattern} things; this {category} is {pattern}, though {colour} is not your colour."
    colours = [looks["colour"] for looks, _ in history] or [colour]
    first, second = ([name for name, _ in Counter(colours).most_common(2)] * 2)[:2]
    return f"This {category} is {colour} and {pattern}; you prefer {most} things in {first} or {second}."


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
        `dict`: of the texts the numbers `texts`, `read` and `contradictions`; of their claims `item`, `shopper` (by
        the history shown) and `taste` (the same claims by the taste), each a pair: how many are so, of how many; and
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
        judged = [is_borne_out(claim, looks[case.target.item_id], history) for claim in claims]
        if not all(judged):
            wrong.append(text)
        for claim, so in zip(claims, judged, strict=True):
            counts[claim.about][0] += so
            counts[claim.about][1] += 1
            if claim.about == SHOPPER:
                counts["taste"][0] += (claim.value in tastes[case.user_id][claim.attribute]) == claim.holds
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
    """Ask for explanations and judge them, beside those of nobody and those by counting.

    Args:
        split (`Split`): the made-up shop's; its test part is asked.
        source (`ExampleSource`): catalogue and history length of the recipe.
        explain (`Callable`): explain requests in, texts out.
        looks, tastes: of the same shop, see [`judge`].
        number (`int`, *optional*, defaults to 200): shoppers to ask.
        seed (`int`, *optional*, defaults to 0): chooses them, and the training explanations.

    Returns:
        `dict[str, dict]`: by level what [`judge`] finds. `"written by the shop"`: the true explanations, which no
        model that learns from their like can be expected to pass; `"by counting"`: those of [`by_counting`], which
        knows what every item is; `"of somebody else"`: training explanations drawn by chance.
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
        "by counting": [
            by_counting(
                looks[request["item"]], [(looks[entry["item_id"]], entry["rating"]) for entry in request["history"]]
            )
            for request in requests
        ],
        "of somebody else": [written[int(place)] for place in rng.integers(len(written), size=len(cases))],
    }
    return {name: judge(those, cases, source, looks, tastes) for name, those in texts.items()}


def format_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The numbers as text, with texts of the model that say what is not so."""
    lines = [
        "| explanations | can be read | contradict themselves | so of the item "
        "| so of the shopper, by the history shown | so of the shopper, by the taste |",
        "| --- |" + " ---: |" * 5,
    ]
    for level, found in results.items():
        cells = [f"{found['read']} of {found['texts']}", str(found["contradictions"])]
        for name in (ITEM, SHOPPER, "taste"):
            so, claims = found[name]
            low, high = wilson(so, claims) if claims else (0.0, 1.0)
            cells.append(f"{so} of {claims} [{low:.0%} - {high:.0%}]" if claims else "-")
        lines.append(f"| {level} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "[95 %: Wilson.]", *(f"not so: {text}" for text in results["UniMP"]["wrong"])])


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
