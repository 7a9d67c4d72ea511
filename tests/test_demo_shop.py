"""The made-up shop: same seed same shop, patterns only in pictures, and a signal that a model can find."""

import io
import re
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from processing_unimp import demo_shop
from processing_unimp.case_metrics import rank_of_target
from processing_unimp.catalogue import Catalogue
from processing_unimp.demo_shop import (
    CATEGORIES,
    COLOURS,
    GOES_WITH,
    PATTERNS,
    _make_items,
    draw_item,
    explained,
    make_demo_shop,
    true_looks,
)
from processing_unimp.history import Histories
from processing_unimp.metrics.ranking import hit_rate
from processing_unimp.metrics.stars import mae


@pytest.fixture(scope="module")
def shop():
    return make_demo_shop(num_shoppers=600)


@pytest.fixture(scope="module")
def looks():
    """How the items of the default shop truly look; the tables do not say the pattern."""
    with pytest.MonkeyPatch.context() as patch:  # no need to draw them again
        patch.setattr(demo_shop, "draw_item", lambda *looks: b"")
        return _make_items(240, np.random.default_rng(0))[1]


@pytest.fixture(scope="module")
def true():
    """The same by the ids of the items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_shop, "draw_item", lambda *looks: b"")
        return true_looks()


@pytest.fixture(scope="module")
def histories(shop):
    """Item numbers and stars per shopper, in time order."""
    items, interactions = shop
    number = {item["item_id"]: i for i, item in enumerate(items)}
    rows = defaultdict(list)
    for row in interactions:
        rows[row["user_id"]].append((number[row["item_id"]], row["rating"]))
    return list(rows.values())


def test_the_seed_decides_everything():
    first, again, other = make_demo_shop(24, 5, seed=7), make_demo_shop(24, 5, seed=7), make_demo_shop(24, 5, seed=8)
    assert first == again
    assert first != other


def test_items_have_what_the_table_needs(shop):
    items, _ = shop
    assert len({item["item_id"] for item in items}) == len(items) == 240
    keys = {"item_id", "title", "category", "colour", "material", "brand", "price", "image"}
    assert all(set(item) == keys and item["price"] > 0 for item in items)
    assert all(re.fullmatch(rf"{item['category']}-\d\d\d", item["item_id"]) for item in items)
    assert {item["category"] for item in items} == set(CATEGORIES)
    holes = {key: sum(item[key] is None for item in items) / len(items) for key in keys}
    assert 0.02 < holes["image"] < 0.09
    assert all(0 < holes[key] < 0.07 for key in ("colour", "material", "brand"))
    assert not any(item["image"] is None and item["colour"] is None for item in items)


def test_the_pattern_is_in_no_text_of_an_item(shop):
    items, _ = shop
    text = " ".join(str(value) for item in items for key, value in item.items() if key != "image").lower()
    assert not any(pattern in text for pattern in PATTERNS)


def test_the_looks_of_the_picture_are_the_truth(shop, looks, true):
    items, _ = shop
    for number in (0, 100, 239):
        found = (
            CATEGORIES[looks.category[number]],
            list(COLOURS)[looks.colour[number]],
            PATTERNS[looks.pattern[number]],
        )
        assert tuple(true[items[number]["item_id"]].values()) == found
        expected = {
            draw_item(
                CATEGORIES[looks.category[number]],
                list(COLOURS)[looks.colour[number]],
                PATTERNS[looks.pattern[number]],
                background,
            )
            for background in range(4)
        }
        assert items[number]["image"] in expected


def test_pictures_are_small_png_in_which_colour_and_pattern_show():
    pixels = {}
    for pattern in PATTERNS:
        with Image.open(io.BytesIO(draw_item("shirt", "teal", pattern))) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (96, 96))
            pixels[pattern] = np.asarray(picture, dtype=float)[30:80, 30:66]
    plain = pixels.pop("plain")
    assert np.abs(plain.mean(axis=(0, 1)) - COLOURS["teal"]).max() < 25
    assert plain.std(axis=(0, 1)).max() < 20
    assert all(cloth.std(axis=(0, 1)).max() > 40 for cloth in pixels.values())
    for a in pixels:
        for b in pixels:
            assert a == b or np.abs(pixels[a] - pixels[b]).mean() > 20


def test_interactions_are_a_year_in_time_order(shop):
    items, interactions = shop
    moments = [row["timestamp"] for row in interactions]
    assert moments == sorted(moments)
    assert max(moments) - min(moments) <= 365 * 24 * 3600
    assert {row["item_id"] for row in interactions} <= {item["item_id"] for item in items}
    assert all(len(row["explanation"].split()) <= 24 for row in interactions)


def test_histories_are_6_to_14_items_each_once(histories):
    lengths = [len(history) for history in histories]
    assert len(histories) == 600
    assert (min(lengths), max(lengths)) == (6, 14)
    assert all(len({number for number, _ in history}) == len(history) for history in histories)


def test_an_explanation_by_hand():
    mug, lamp = {"category": "mug", "colour": "teal"}, {"category": "lamp", "colour": "teal"}
    unknown = {"category": "mug", "colour": None}
    assert explained(mug, "teal", []) == "This mug is teal. You took no teal thing. You took no mug."
    shown = [(lamp, 5), (lamp, 4), (lamp, 2), (unknown, 3), (mug, 1)]
    assert explained(mug, "teal", shown) == "This mug is teal. You liked 2 teal things. You took 2 mugs."
    assert explained(unknown, "red", shown[3:4]) == "This mug is red. You took 1 mug."


def test_explanations_are_of_the_item_and_of_the_latest_six(shop, true):
    items, interactions = shop
    rows, taken = {item["item_id"]: item for item in items}, defaultdict(list)
    for row in interactions:
        item, latest = rows[row["item_id"]], taken[row["user_id"]]
        assert row["explanation"] == explained(item, true[row["item_id"]]["colour"], latest[-6:])
        latest.append((item, row["rating"]))


def test_all_stars_occur_and_none_rules(histories):
    stars = np.array([rating for history in histories for _, rating in history])
    shares = np.array([(stars == star).mean() for star in range(1, 6)])
    assert shares.sum() == pytest.approx(1)
    assert shares.min() > 0.03
    assert shares.max() < 0.4


def test_a_ranker_that_counts_likes_beats_popularity_and_the_picture_helps(histories, looks):
    """No truth but the looks of items: tastes are counted from each history without its last item."""
    popularity = np.zeros(240)
    for history in histories:
        popularity[[number for number, _ in history[:-1]]] += 1
    follows = np.array([CATEGORIES.index(GOES_WITH[category]) for category in CATEGORIES])

    def liked(values, seen, kinds):
        return np.log(np.bincount(values[seen], minlength=kinds) + 0.3)[values]

    ranks = defaultdict(list)
    for history in histories:
        seen, target = np.array([number for number, _ in history[:-1]]), history[-1][0]
        text = 0.5 * np.log(popularity + 5) + 0.8 * liked(looks.colour, seen, len(COLOURS))
        text += 0.5 * liked(looks.category, seen, len(CATEGORIES))
        picture = text + 0.8 * liked(looks.pattern, seen, len(PATTERNS))
        next_kind = looks.category == follows[looks.category[seen[-1]]]
        order = picture + 1.5 * next_kind + 1.5 * next_kind * (looks.colour == looks.colour[seen[-1]])
        for name, scores in (("popularity", popularity), ("text", text), ("picture", picture), ("order", order)):
            ranks[name].append(rank_of_target(scores, target, seen))
    found = {name: hit_rate(np.array(values), 10) for name, values in ranks.items()}
    assert found["popularity"] < 0.10
    assert found["text"] > found["popularity"] + 0.02
    assert found["picture"] > found["text"] + 0.04
    assert found["order"] > found["picture"] + 0.06
    assert found["order"] < 0.6  # not trivial


def test_stars_follow_from_matches_with_the_history(histories, looks):
    """A line fitted on earlier interactions predicts the last stars better than the best constant."""

    def features(history, number):
        seen, stars = np.array([i for i, _ in history]), np.array([rating for _, rating in history])
        row = [1.0, stars.mean()]
        for values in (looks.colour, looks.category, looks.pattern):
            alike = values[seen] == values[number]
            row += [alike.mean(), (stars[alike] - 3).sum() / (alike.sum() + 1)]
        return row

    train = [(features(h[:i], h[i][0]), h[i][1]) for h in histories for i in range(4, len(h) - 1)]
    weights, *_ = np.linalg.lstsq(np.array([x for x, _ in train]), np.array([y for _, y in train]), rcond=None)
    true = np.array([history[-1][1] for history in histories])
    predicted = np.array([features(history[:-1], history[-1][0]) for history in histories]) @ weights
    median = np.median([y for _, y in train])
    assert mae(np.clip(predicted, 1, 5), true) < 0.8 * mae(np.full(len(true), median), true)


def test_the_shop_is_read_without_loss():
    items, interactions = make_demo_shop(24, 8, seed=1)
    catalogue = Catalogue.from_items(items)
    histories = Histories.from_interactions(interactions, catalogue)
    assert catalogue.item_ids == [item["item_id"] for item in items]
    assert catalogue.attributes == ["title", "category", "colour", "material", "brand", "price"]
    for item in items:
        assert catalogue.has_picture(item["item_id"]) == (item["image"] is not None)
        assert all(catalogue.item(item["item_id"]).get(key) == item[key] for key in catalogue.attributes)
    drawn = next(item for item in items if item["image"] is not None)
    with Image.open(io.BytesIO(drawn["image"])) as picture:
        assert catalogue.picture(drawn["item_id"]).tobytes() == picture.tobytes()
    assert histories.num_interactions == len(interactions)
    assert not any(histories.removed.values())
    assert histories.has_ratings and histories.explanations()
    mine = [row for row in interactions if row["user_id"] == "shopper-0003"]
    assert [(event.item_id, event.rating, event.explanation) for event in histories["shopper-0003"]] == [
        (row["item_id"], row["rating"], row["explanation"]) for row in mine
    ]


def test_a_shop_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 24 items"):
        make_demo_shop(num_items=8)
    with pytest.raises(ValueError, match="1 shopper"):
        make_demo_shop(num_items=24, num_shoppers=0)


def test_more_items_than_combinations_is_fine(monkeypatch):
    monkeypatch.setattr(demo_shop, "draw_item", lambda *looks: b"")
    items, _ = make_demo_shop(num_items=400, num_shoppers=1)
    assert len({item["item_id"] for item in items}) == 400
