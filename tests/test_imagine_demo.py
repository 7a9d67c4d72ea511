"""Known answers: stand-ins for the pipeline that draw what they should, always the same, or nothing."""

import dataclasses
import io
import json
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from benchmarks import imagine_demo
from benchmarks.drawing_reader import read_drawing
from benchmarks.imagine_demo import KIND, WISH, evaluate, levels_of, wilson
from benchmarks.imagine_questions import (
    MEASURES,
    WISH_MEASURES,
    Looks,
    Question,
    make_questions,
    make_wishes,
    right,
    seen_of,
    wanted,
)
from benchmarks.imagine_sheet import draw_grid
from modeling_unimp.training.experiment import split_histories
from modeling_unimp.training.recipe import parse_recipe
from processing_unimp import Case, Catalogue, ExampleSource, Histories, Interaction, Targets, leave_last_out
from processing_unimp.demo_shop import CATEGORIES, COLOURS, draw_item, make_demo_shop, true_tastes

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def drawn(category, colour="blue", pattern="plain"):
    with Image.open(io.BytesIO(draw_item(category, colour, pattern))) as picture:
        return picture.resize((64, 64), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def small_shop():
    items, interactions = make_demo_shop(num_items=96, num_shoppers=80)
    catalogue = Catalogue.from_items(items)
    return catalogue, Histories.from_interactions(interactions, catalogue)


@pytest.fixture(scope="module")
def shop(small_shop):
    """Split and source, as `demo_shop` gives them."""
    catalogue, histories = small_shop
    source = ExampleSource(catalogue, np.random.default_rng(0), history_length=6, query_attribute="category")
    return leave_last_out(histories, seed=42), source


@pytest.fixture(scope="module")
def looks(shop):
    catalogue = shop[1].catalogue
    return {item_id: seen_of(catalogue, item_id) for item_id in catalogue.item_ids}


@pytest.fixture(scope="module")
def favourites():
    return {user: taste["colour"] for user, taste in true_tastes(num_items=96, num_shoppers=80).items()}


def stand_in(picture_of, catalogue):
    """The pipeline but for the model: `picture_of(request)` is what it imagines; it finds the kind's first items."""

    def answer(requests):
        answers = []
        for request in requests:
            kind = request["query"].split()[-1]
            found = [i for i in catalogue.item_ids if catalogue.item(i)["category"] == kind][:2]
            items = [catalogue.item(item_id) for item_id in found]
            nearest = [items[0] | {"similarity": 0.5}]
            answers.append({"task": "imagine", "picture": picture_of(request), "retrieved": items, "nearest": nearest})
        return answers

    return answer


# --- what is right ---


@pytest.mark.parametrize(
    ("values", "ratings", "expected"),
    [
        (["red", "blue", "red"], [1, 5, 1], {"red"}),
        (["red", "blue", "red", "blue", "teal"], [1, 1, 1, 1, 5], {"red", "blue"}),
        (["red", "blue", "teal"], [5, 3, 4], {"red", "teal"}),
        (["red", "blue", None, None], [None, 3, 5, 5], {"red", "blue"}),
        (["red", None], [3, 5], {"red"}),
        ([None, None], [5, 5], set()),
    ],
    ids=["twice", "two twice", "liked", "neither", "unknown ones do not count", "nothing known"],
)
def test_what_a_history_asks_for(values, ratings, expected):
    assert wanted(values, ratings) == expected


def test_right_by_hand():
    case = Case("ada", [], Interaction("m1", 0.0))
    red_blue, blue_teal = frozenset({"red", "blue"}), frozenset({"blue", "teal"})
    question = Question(case, {"query": "mug"}, "mug", red_blue, blue_teal, frozenset({"dotted"}), "blue")
    assert right(Looks("mug", "red", "dotted"), question).tolist() == [1, 1, 1, 0, 1, 0]
    assert right(Looks("mug", "teal", None), question).tolist() == [1, 0, 0, 1, 0, 0]
    assert right(Looks("hat", "blue", "plain"), question).tolist() == [0, 1, 0, 1, 0, 1]
    assert right(Looks(None, None, None), question).tolist() == [0, 0, 0, 0, 0, 0]
    unknown = dataclasses.replace(question, next_colour=None)
    assert right(Looks("mug", None, None), unknown).tolist() == [1, 0, 0, 0, 0, 0]
    wish = dataclasses.replace(question, colours=frozenset({"pink"}), measures=WISH_MEASURES)
    assert right(Looks("mug", "pink", "dotted"), wish).tolist() == [1, 1, 1]
    assert right(Looks("mug", "blue", "dotted"), wish).tolist() == [1, 0, 0]


def test_real_items_are_seen_as_what_they_are(shop, looks):
    catalogue = shop[1].catalogue
    assert not all(catalogue.has_picture(item_id) for item_id in looks)
    for item_id, found in looks.items():
        item = catalogue.item(item_id)
        assert found.category == item["category"]
        assert found.colour in COLOURS and item["colour"] in (found.colour, None)
        assert (found.pattern is None) == (not catalogue.has_picture(item_id))


def test_questions_are_asked_of_the_test_shoppers(shop, looks, favourites):
    split, source = shop
    questions, skipped = make_questions(split.test, source, looks, favourites, 1000, seed=0)
    assert skipped > 0 and len(questions) + skipped == len(split.test)
    cases = {case.user_id: case for case in split.test}
    for question in questions:
        case, catalogue = cases[question.case.user_id], source.catalogue
        assert question.case == case and catalogue.has_picture(case.target.item_id)
        request = question.request
        assert set(request) == {"task", "history", "query"}  # and not the answer
        assert request["query"] == catalogue.item(case.target.item_id)["category"]
        shown = [entry["item_id"] for entry in request["history"]]
        assert shown == [event.item_id for event in case.history[-6:]]
        assert question.colours == favourites[case.user_id] and len(question.colours) == 2
        # By another way: what is drawn comes at least twice, else it is one of the shown.
        colours = Counter(looks[item_id].colour for item_id in shown)
        assert question.history_colours <= set(colours) and question.history_colours
        if max(colours.values()) > 1:
            assert question.history_colours == {colour for colour, count in colours.items() if count > 1}
    fewer, _ = make_questions(split.test, source, looks, favourites, 5, seed=0)
    assert [question.case.user_id for question in fewer] == [question.case.user_id for question in questions[:5]]
    others, _ = make_questions(split.test, source, looks, favourites, 5, seed=1)
    assert [question.case.user_id for question in fewer] != [question.case.user_id for question in others]


def test_favourites_of_another_shop_are_an_error(shop, looks, favourites):
    split, source = shop
    with pytest.raises(ValueError, match="no favourite colours of shopper 'shopper-0079' among those of 79 shoppers"):
        make_questions(split.test, source, looks, {u: favourites[u] for u in sorted(favourites)[:79]}, 1000, seed=0)


def test_a_wish_names_a_colour_that_the_history_knows_nothing_of(shop, looks, favourites):
    split, source = shop
    questions, _ = make_questions(split.test, source, looks, favourites, 1000, seed=0)
    wishes = make_wishes(questions, seed=0)
    for question, wish in zip(questions, wishes, strict=True):
        colour, category = wish.request["query"].split()
        assert wish.colours == {colour} and category == wish.category == question.request["query"]
        assert wish.request | {"query": category} == question.request and wish.case == question.case
    counts = Counter(min(wish.colours) for wish in wishes)
    assert set(counts) == set(COLOURS) and max(counts.values()) < len(wishes) / 3
    # Two of eight colours are favourites, so that a quarter of the wishes agree with them.
    agree = sum(wish.colours < question.colours for question, wish in zip(questions, wishes, strict=True))
    assert wilson(agree, len(wishes))[0] < 0.25 < wilson(agree, len(wishes))[1]
    assert make_wishes(questions[:5], seed=0) == wishes[:5] != make_wishes(questions[:5], seed=1)


def test_the_colour_of_a_history_item_without_that_attribute_is_read(shop, looks, favourites):
    split, source = shop
    holes = {item_id for item_id in looks if source.catalogue.item(item_id)["colour"] is None}
    questions, _ = make_questions(split.validation, source, looks, favourites, 1000, seed=0)
    blind = {item_id: Looks(None, None, None) for item_id in looks}
    without, _ = make_questions(split.validation, source, blind, favourites, 1000, seed=0)
    changed = [
        any(entry["item_id"] in holes for entry in question.request["history"])
        for question, other in zip(questions, without, strict=True)
        if question.history_colours != other.history_colours
    ]
    assert changed and all(changed)
    assert not any(question.patterns for question in without)


# --- stand-ins ---


def test_whoever_knows_the_shopper_is_always_right(shop, looks, favourites):
    split, source = shop
    questions, _ = make_questions(split.test, source, looks, favourites, 40, seed=0)
    by_history = {str(question.request["history"]): question for question in questions}

    def ideal(request):
        question = by_history[str(request["history"])]
        *asked, category = request["query"].split()
        return drawn(category, asked[0] if asked else min(question.colours), min(question.patterns))

    def search(requests):
        """Finds what came next for the first ten, and a mug for everybody else."""
        assert all(request["task"] == "search" and len(request["query"].split()) == 1 for request in requests)
        nexts = [by_history[str(request["history"])].case.target.item_id for request in requests[:10]]
        return [{"items": [{"item_id": item_id}]} for item_id in nexts + ["mug-001"] * (len(requests) - 10)]

    results, sheet = evaluate(
        split,
        source,
        stand_in(ideal, source.catalogue),
        favourites,
        number=40,
        reconstruct=lambda pictures: [picture.resize((64, 64)) for picture in pictures],
        search=search,
    )
    mugs = sum(question.category == "mug" for question in questions[10:])
    found_alone = results[KIND]["levels"]["first item of search alone"]
    assert found_alone["category"]["share"] == pytest.approx((10 + mugs) / 40)
    assert found_alone["next colour"]["share"] >= 10 / 40
    assert "first item of search alone" not in results[WISH]["levels"]
    assert list(results) == [KIND, WISH]
    for found in results.values():
        levels = found["levels"]
        assert found["requests"] == 40 and found["unclear"] == found["unclear_colour"] == 0
        assert all(levels["imagined"][measure]["share"] == 1 for measure in WISH_MEASURES)
        assert levels["imagined"]["both"]["interval"] == pytest.approx(wilson(40, 40))
        assert levels["imagined for others"]["category"]["share"] == 1
        assert levels["imagined for others"]["colour"]["share"] < 0.6
        assert found["personal_gain"]["category"] == {"share": 0, "interval": (0, 0)}
        assert found["personal_gain"]["colour"]["interval"][0] > 0.3
        assert levels["true next item"]["category"]["share"] == 1
    assert results[KIND]["right_colours"] == 2 and results[WISH]["right_colours"] == 1
    levels = results[KIND]["levels"]
    assert tuple(levels["imagined"]) == MEASURES and levels["imagined"]["pattern"]["share"] == 1
    assert levels["true next item, through the codec"] == levels["true next item"]
    assert levels["true next item"]["next colour"]["share"] == 1
    assert levels["imagined"]["next colour"]["share"] < 0.7
    assert levels["imagined"]["history's colour"]["share"] < 1
    assert tuple(results[WISH]["levels"]["imagined"]) == WISH_MEASURES
    assert "true next item, through the codec" not in results[WISH]["levels"]
    table = imagine_demo.format_table(results)
    assert table.count("| imagined | 100.0% [") == 2 and "nan" not in table
    assert sheet.height == 92 + 8 * 124 + 34


def test_a_model_that_reads_no_colour_is_right_by_chance_alone(shop, looks, favourites):
    split, source = shop
    questions, _ = make_questions(split.test, source, looks, favourites, 60, seed=0)
    by_history = {str(question.request["history"]): question for question in questions}

    def deaf(request):
        question = by_history[str(request["history"])]
        return drawn(question.category, min(question.colours))

    results, _ = evaluate(split, source, stand_in(deaf, source.catalogue), favourites, number=60)
    assert results[KIND]["levels"]["imagined"]["both"]["share"] == 1
    wished = results[WISH]["levels"]["imagined"]
    assert wished["category"]["share"] == 1
    assert (
        wished["colour"] == wished["both"]
        and wished["colour"]["interval"][0] < 1 / 8 < wished["colour"]["interval"][1]
    )
    low, high = results[WISH]["personal_gain"]["colour"]["interval"]
    assert low < 0 < high


def test_one_picture_for_everybody_gains_nothing_by_the_history(shop, favourites):
    split, source = shop
    always = stand_in(lambda request: drawn(request["query"].split()[-1], "blue"), source.catalogue)
    results, sheet = evaluate(split, source, always, favourites, number=60, wishes=False)
    assert list(results) == [KIND] and sheet.height == 92 + 8 * 124 + 34
    levels = results[KIND]["levels"]
    assert levels["imagined"]["category"]["share"] == 1
    assert 0 < levels["imagined"]["colour"]["share"] < 0.6
    assert levels["imagined"]["both"] == levels["imagined"]["colour"]
    assert levels["imagined for others"]["colour"]["interval"] is None
    assert results[KIND]["personal_gain"]["colour"] == {"share": 0, "interval": (0, 0)}
    # Blue is one of eight.
    assert levels["imagined"]["colour"]["share"] == pytest.approx(2 / 8, abs=0.15)
    by_history = results[KIND]["history_colours"] / 8
    assert levels["imagined"]["history's colour"]["share"] == pytest.approx(by_history, abs=0.15)


def test_noise_is_never_right(shop, favourites):
    split, source = shop
    results, _ = evaluate(split, source, stand_in(lambda request: NOISE, source.catalogue), favourites, number=20)
    for found in results.values():
        assert {measure["share"] for measure in found["levels"]["imagined"].values()} == {0}
        assert found["unclear"] == found["unclear_colour"] == 1
        assert found["levels"]["first retrieved item"]["category"]["share"] == 1
        assert found["levels"]["imagined"]["colour"]["interval"] == pytest.approx(wilson(0, 20))


def test_numbers_are_written_as_json(shop, favourites, tmp_path):
    """Of one shopper, whom no other can be compared with: a share that is not known is no number."""
    split, source = shop
    results, _ = evaluate(split, source, stand_in(lambda request: NOISE, source.catalogue), favourites, number=1)
    assert results[KIND]["levels"]["imagined for others"]["colour"]["share"] is None
    assert "| imagined for others | - | - | - |" in imagine_demo.format_table(results)
    path = tmp_path / "new" / "found.json"
    imagine_demo.write_json(results, str(path), model="unimp", temperature=0.4)
    written = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert set(written) == {"model", "temperature", "results"} and list(written["results"]) == [KIND, WISH]
    interval = results[WISH]["levels"]["imagined"]["both"]["interval"]
    assert written["results"][WISH]["levels"]["imagined"]["both"] == {
        "share": 0,
        "requests": 1,
        "interval": list(interval),
    }


def test_levels_by_hand():
    rows = [
        ("m1", "mug", "red", drawn("mug", "red", "dotted")),
        ("m2", "mug", "blue", drawn("mug", "blue")),
        ("m3", "mug", "red", None),
        ("h1", "hat", None, drawn("hat", "teal")),
        ("h2", "hat", "red", drawn("hat", "red")),
    ]
    items = [
        {"item_id": item_id, "category": category, "colour": colour, "image": picture}
        for item_id, category, colour, picture in rows
    ]
    catalogue = Catalogue.from_items(items)
    events = {"ada": ["m3", "m3", "m2", "h1"], "bob": ["h1", "h2", "h1", "m1"], "cyd": ["h1", "m2", "h2", "m1"]}
    histories = Histories.from_interactions(
        [
            {"user_id": user, "item_id": item_id, "timestamp": time, "rating": 3}
            for user, bought in events.items()
            for time, item_id in enumerate(bought)
        ],
        catalogue,
    )
    split = leave_last_out(histories, new_users=0)  # trained on: m3 m3, h1 h2, h1 m2
    source = ExampleSource(catalogue, np.random.default_rng(0), history_length=6, query_attribute="category")
    looks = {item_id: seen_of(catalogue, item_id) for item_id in catalogue.item_ids}
    assert looks["m3"] == Looks("mug", "red", None) and looks["h1"] == Looks("hat", "teal", "plain")
    favourites = {"ada": {"red", "pink"}, "bob": {"blue", "green"}, "cyd": {"teal", "red"}}
    favourites = {user: frozenset(colours) for user, colours in favourites.items()}
    questions, skipped = make_questions(split.test, source, looks, favourites, 3, seed=0)
    questions.sort(key=lambda question: question.case.user_id)
    assert skipped == 0
    assert [question.colours for question in questions] == [favourites[user] for user in ("ada", "bob", "cyd")]
    assert [question.history_colours for question in questions] == [{"red"}, {"teal"}, {"teal", "blue", "red"}]
    assert [question.request["query"] for question in questions] == ["hat", "mug", "mug"]
    pictures = [drawn("hat", "red"), drawn("hat", "teal"), drawn("mug", "teal")]
    retrieved = ["h1", "m3", "m3"]
    answers = [
        {"picture": picture, "retrieved": [catalogue.item(item_id)]}
        for picture, item_id in zip(pictures, retrieved, strict=True)
    ]
    levels = levels_of(questions, answers, split.train, looks)
    found = {name: rows[:, :4] for name, rows in levels.items()}  # without patterns
    np.testing.assert_array_equal(found["imagined"], [[1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]])
    # Nobody else asked for a hat; bob and cyd each got a teal picture, one of them no mug.
    np.testing.assert_array_equal(found["imagined for others"], [[np.nan] * 4, [1, 0, 0, 1], [0, 1, 0, 1]])
    # m3 has no picture, so it is no choice; of m1 (red) and m2 (blue) bob likes one, and cyd the other.
    at_random = [[1, 0.5, 0.5, 0.5], [1, 0.5, 0.5, 0], [1, 0.5, 0.5, 1]]
    np.testing.assert_array_equal(found["random item of the kind"], at_random)
    # h1 twice in training, m2 once, m1 never; m3 has no picture.
    popular = [[1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]
    np.testing.assert_array_equal(found["most popular item of the kind"], popular)
    # m3 has no picture, but its colour is written.
    np.testing.assert_array_equal(found["first retrieved item"], [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(found["true next item"], [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    assert levels["true next item"][:, 5].tolist() == [1, 1, 1]
    assert levels["random item of the kind"][:, 5].tolist() == [0.5, 0.5, 0.5]
    assert levels["first retrieved item"][:, 4].tolist() == [1, 0, 0]  # h1 is plain, as ada's m2 is
    summary = imagine_demo.summarise(levels)
    assert summary["imagined"]["category"]["share"] == pytest.approx(2 / 3)
    assert summary["imagined for others"]["colour"] == {"share": 0.5, "requests": 2, "interval": None}
    # The same pictures for wishes: only their own colour will do, whatever the shopper likes.
    asked = ["red hat", "pink mug", "blue mug"]
    wishes = [
        dataclasses.replace(
            question,
            request=question.request | {"query": query},
            colours=frozenset({query.split()[0]}),
            measures=WISH_MEASURES,
        )
        for question, query in zip(questions, asked, strict=True)
    ]
    levels = levels_of(wishes, answers, split.train, looks)
    np.testing.assert_array_equal(levels["imagined"], [[1, 1, 1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(levels["random item of the kind"], [[1, 0.5, 0.5], [1, 0, 0], [1, 0.5, 0.5]])
    np.testing.assert_array_equal(levels["imagined for others"], [[np.nan] * 3, [1, 0, 0], [0, 0, 0]])


def test_nobody_to_ask_is_an_error(shop, favourites):
    split, source = shop
    bare = [i for i, case in enumerate(split.test) if not source.catalogue.has_picture(case.target.item_id)]
    test = Targets(split.test.histories, split.test.users[bare], split.test.positions[bare])
    with pytest.raises(ValueError, match=f"none of the {len(bare)} test shoppers"):
        evaluate(
            dataclasses.replace(split, test=test),
            source,
            stand_in(lambda request: NOISE, source.catalogue),
            favourites,
        )


# --- numbers ---


def test_wilson_by_hand():
    # 8 of 10: (.8 + .19208 -+ 1.96 sqrt(.016 + .009604)) / 1.38416
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    with pytest.raises(ValueError, match="11 hits of 10"):
        wilson(11, 10)


def test_the_gain_leaves_out_questions_that_nobody_else_asked():
    mine = np.array([[1, 1, 1, 1, 0, 1], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=float)
    others = np.array([[1, 0.5, 0.5, 0, 0, 0.5], [1, 0, 0, 0, 0.5, 0], [np.nan] * 6])
    gain = imagine_demo.personal_gain({"imagined": mine, "imagined for others": others})
    assert [gain[measure]["share"] for measure in MEASURES] == [0, 0.25, 0.25, 0.5, -0.25, 0.25]
    assert gain["colour"]["interval"] == (0, 0.5)
    assert imagine_demo.personal_gain({"imagined": mine[2:], "imagined for others": others[2:]}) == {}


# --- the sheet and the shop ---


def test_the_sheet_shows_the_pictures(shop, looks, favourites):
    split, source = shop
    questions, _ = make_questions(split.test, source, looks, favourites, 8, seed=0)
    pictures = [drawn(category, "teal", "dotted") for category in CATEGORIES]
    answer = stand_in(lambda request: pictures.pop(0), source.catalogue)
    answers = answer([question.request for question in questions])
    sheet = draw_grid(questions, answers, source.catalogue)
    assert sheet.mode == "RGB" and 900 < sheet.width < 1400 and 900 < sheet.height < 1300
    # Each imagined picture stands in its row, where it can be read again.
    pixels = np.asarray(sheet)
    places = set()
    for row, answer in enumerate(answers):
        large = np.asarray(answer["picture"].resize((100, 100), Image.Resampling.LANCZOS))
        strip = pixels[92 + 124 * row :][:100]
        places.add(next(x for x in range(sheet.width - 100) if np.array_equal(strip[:, x : x + 100], large)))
    (x,) = places
    read = [read_drawing(sheet.crop((x, y, x + 100, y + 100))) for y in range(92, sheet.height - 124, 124)]
    assert [drawing.category for drawing in read] == list(CATEGORIES)


def test_a_sheet_of_shorter_histories_and_items_without_pictures(shop, looks, favourites):
    split, source = shop
    source = ExampleSource(source.catalogue, source.rng, history_length=2, query_attribute="category")
    questions, _ = make_questions(split.test, source, looks, favourites, 3, seed=0)
    bare = [item_id for item_id in source.catalogue.item_ids if not source.catalogue.has_picture(item_id)]
    answers = stand_in(lambda request: NOISE, source.catalogue)([question.request for question in questions])
    answers = [answer | {"retrieved": [source.catalogue.item(bare[0])], "nearest": []} for answer in answers]
    assert draw_grid(questions, answers, source.catalogue).height == 92 + 3 * 124 + 34


def test_shop_and_split_are_those_of_the_recipe(small_shop, monkeypatch):
    """All but the size of the shop, for speed: what train.py reads of the recipe, and the split it makes of it."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(imagine_demo.RECIPE)])
    data_args, _, _ = parse_recipe()
    asked = []
    monkeypatch.setattr(imagine_demo, "load_shop", lambda given: asked.append(given) or small_shop)
    split, source = imagine_demo.demo_shop()
    assert asked == [data_args]
    assert (source.history_length, source.query_attribute) == (6, "category")
    catalogue, histories = small_shop
    expected = split_histories(histories, catalogue, data_args)
    for part in ("validation", "test", "new_users"):
        assert list(getattr(split, part)) == list(getattr(expected, part))
    np.testing.assert_array_equal(split.train.item_counts(), expected.train.item_counts())
