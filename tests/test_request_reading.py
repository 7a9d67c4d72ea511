"""Requests of strangers: plain values whatever they come as, bounds in words, and no file opened."""

import base64
import decimal
import io
import json
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from shop import make_processor, picture

from processing_unimp.bounds import MAX_HISTORY, MAX_PICTURES, short_repr
from processing_unimp.request_reading import read_request

RECOMMEND = {"task": "recommend", "history": ["m1", "s2"]}
IMAGINE = {"task": "imagine", "history": ["m1"], "query": "mug"}


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def deep(levels):
    value = "x"
    for _ in range(levels):
        value = [value]
    return value


# ------------------------------------------------------------------------------------------------------ plain values


@pytest.mark.parametrize(
    "history",
    [
        ("m1", "s2"),
        np.array(["m1", "s2"], dtype=object),
        np.array(["m1", "s2"]),
        pd.Series(["m1", "s2"]),
        np.array([{"item_id": "m1"}, {"item_id": "s2", "rating": None}], dtype=object),
        [{"item_id": "m1", "title": None}, {"item_id": np.str_("s2"), "rating": float("nan"), "image": None}],
    ],
)
def test_histories_as_numpy_pandas_and_arrow_have_them(processor, history):
    expected = processor(requests=[RECOMMEND])["input_ids"]
    assert (processor(requests=[RECOMMEND | {"history": history, "query": None}])["input_ids"] == expected).all()


def test_candidates_too(processor):
    plain = {"task": "select", "history": ["m1"], "candidates": ["m2", "h1"]}
    expected = processor(requests=[plain])["input_ids"]
    arrays = plain | {"candidates": np.array(plain["candidates"], dtype=object)}
    assert (processor(requests=[arrays])["input_ids"] == expected).all()


def test_ids_and_values_of_every_kind():
    key = uuid.UUID(int=7)
    read = read_request(
        {
            "task": "rate",
            "history": [7, np.int64(8), 9.0, decimal.Decimal(10), key],
            "item": {"item_id": 7.0, "price": decimal.Decimal("9.50"), "since": pd.NaT, "sizes": [1.5, float("nan")]},
        }
    )
    assert read["history"] == ["7", "8", "9", "10", str(key)]
    assert read["item"] == {"item_id": "7", "price": 9.5, "sizes": ["1.5"]}


def test_the_request_itself_stays_as_it_was():
    request = {"task": "recommend", "history": [{"item_id": 7, "title": None}]}
    read_request(request)
    assert request == {"task": "recommend", "history": [{"item_id": 7, "title": None}]}


def test_half_a_character_ends_nothing(processor):
    half = json.loads('"red \\ud83d"')
    for request in (
        {"task": "search", "history": ["m1"], "query": half},
        {"task": "rate", "history": ["m1"], "item": {"title": half, half: half, "tags": [half]}},
    ):
        assert processor(requests=[request])["input_ids"].shape[0] == 1
    with pytest.raises(ValueError, match="not among the 6 items"):
        processor(requests=[{"task": "recommend", "history": [half]}])


# ------------------------------------------------------------------------------------------------------------ bounds


CIRCLE: list = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"title": deep(10_000)}, "'title' has lists or objects more than 4 deep"),
        ({"title": CIRCLE}, "more than 4 deep"),
        ({"title": {"a": {"b": {"c": {"d": {"e": 1}}}}}}, "more than 4 deep"),
        ({f"name {n}": "x" for n in range(101)}, "has 101 entries: at most 100"),
        ({"title": ["x"] * 1001}, "'title' has more than 1000 values"),
        ({"title": [["x"] * 600] * 2}, "more than 1000 values"),
        ({"title": "x" * 100_001}, "'title' has 100001 characters: at most 100000"),
        ({"x" * 100_001: "y"}, "the name of an attribute has 100001 characters"),
        ({3: "y"}, "has the key 3: expected names"),
        ({"item_id": ["m1"]}, "item_id .*is list"),
    ],
)
def test_an_item_over_a_bound_is_an_error_in_words(processor, item, message):
    for request in (
        {"task": "rate", "history": ["m1"], "item": item},
        {"task": "recommend", "history": [item]},
        {"task": "select", "history": ["m1"], "candidates": [item]},
    ):
        with pytest.raises(ValueError, match=f"request 0: .*{message}") as told:
            processor(requests=[request])
        assert len(str(told.value)) < 400


def test_lists_over_a_bound(processor):
    assert processor(requests=[RECOMMEND | {"history": ["m1"] * MAX_HISTORY}])["input_ids"].shape[0] == 1
    for request, message in (
        (RECOMMEND | {"history": ["m1"] * (MAX_HISTORY + 1)}, "'history' has 10001 entries: at most 10000"),
        ({"task": "select", "history": ["m1"], "candidates": ["m1"] * 1001}, "'candidates' has 1001 entries"),
        ({"task": "search", "history": ["m1"], "query": "x" * 100_001}, "the query has 100001 characters"),
        ({"task": "search", "history": ["m1"], "query": deep(9)}, "the query has lists"),
        (RECOMMEND | {f"more {n}": 1 for n in range(100)}, "a request has 102 entries"),
    ):
        with pytest.raises(ValueError, match=message):
            processor(requests=[request])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"allowed": ["m2"]}, "to recommend has the key 'allowed', which is an argument of the call"),
        ({"top_k": 1}, r"'top_k', which is an argument of the call: unimp\(request, top_k=...\)"),
        ({"exclude_seen": False}, "'exclude_seen', which is an argument of the call"),
        ({"because": 3}, "'because', which is an argument of the call"),
        ({"exclude_sean": False}, "'exclude_sean': did you mean exclude_seen, an argument of the call"),
        ({"histori": []}, "'histori': did you mean history"),
        ({"query": "mug"}, "'query': expected history, and nothing else"),
        ({5: 6}, "has the key 5: expected"),
        ({"x" * 10**6: 1}, "has the key 'xxx"),
        (
            {"task": "search", "query": "mug", "item": "m1"},
            "to search has the key 'item': expected history, query, and",
        ),
        ({"task": "rate", "item": "m1", "candidates": ["m1"]}, "'candidates': expected history, item, and"),
        ({"task": "select", "candidates": ["m1"], "canidates": 1}, "'canidates': did you mean candidates"),
    ],
)
def test_a_key_that_the_task_does_not_read_is_refused(processor, more, message):
    with pytest.raises(ValueError, match=f"request 0: a request .*{message}") as told:
        processor(requests=[RECOMMEND | more])
    assert len(str(told.value)) < 400


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (RECOMMEND | {"history": pd.DataFrame({"item_id": ["m1"]})}, "with the history .*item_id.*: expected a list"),
        (RECOMMEND | {"history": {"m1", "m2"}}, "with the history {.*}: expected a list of items"),
        (
            {"task": "select", "history": [], "candidates": pd.DataFrame({"a": [1]})},
            "with the candidates .*: expected",
        ),
        (RECOMMEND | {"history": [10**5000]}, "history item 0 is a number of more than 3000 digits"),
        (
            RECOMMEND | {"history": [decimal.Decimal("1e999999")]},
            "history item 0 is a number of more than 3000 digits",
        ),
        (RECOMMEND | {"history": [1.5]}, "history item 0 1.5 is float"),
        (RECOMMEND | {"history": [{"item_id": 10**5000}]}, "history item 0: item_id is a number of more than 3000"),
        (RECOMMEND | {"history": [{"title": 10**5000}]}, "attribute 'title' is a number of more than 3000 digits"),
        (RECOMMEND | {"history": [{"title": [-(10**5000)]}]}, "attribute 'title' is a number of more than 3000"),
        (RECOMMEND | {"history": [{"title": {10**5000: 1}}]}, "attribute 'title' is a number of more than 3000"),
        (IMAGINE | {"retrieved": 5}, "with the retrieved 5: expected a list of items"),
        (IMAGINE | {"retrieved": [{"title": "Hat"}]}, "retrieved item 0 is {'title': 'Hat'}: expected an item of the"),
        (IMAGINE | {"retrieved": [None]}, "retrieved item 0 is a NoneType"),
        (IMAGINE | {"retrieved": ["m7"]}, "retrieved item 0: item 'm7' is not among"),
        (IMAGINE | {"wish": pd.Series(["red"])}, "with the wish .*: expected a text"),
        (IMAGINE | {"wish": 5}, "with the wish 5: expected a text"),
    ],
)
def test_what_is_no_list_item_or_number_is_refused_in_words(processor, request_, message):
    with pytest.raises(ValueError, match=f"request 0: .*{message}") as told:
        processor(requests=[request_])
    assert len(str(told.value)) < 600


def test_items_that_were_retrieved_may_come_as_an_answer_has_them(processor):
    retrieved = [{"item_id": "m1", "title": "Red mug", "score": 0.5}, np.str_("s2"), {"item_id": "h1"}]
    assert processor.read_request(IMAGINE | {"retrieved": retrieved})["retrieved"] == ["m1", "s2", "h1"]


def test_keys_of_examples_and_missing_values_are_taken():
    missing = {"query": None, "item": float("nan"), "top_k": pd.NA}
    assert read_request(RECOMMEND | missing) == RECOMMEND
    for request in (
        RECOMMEND | {"answer": "m1", "next": "m1"},
        RECOMMEND | {"task": "explain", "item": "m1", "answer": "Good.", "grounds": []},
        RECOMMEND | {"task": "imagine", "query": "mug", "answer": "m1", "others": ["m2", "s1"], "wish": "red mug"},
        RECOMMEND | {"task": "imagine", "query": "mug", "retrieved": ["m1"], "noisy_codes": [1, 2], "next": "m1"},
    ):
        assert read_request(request) == request


@pytest.mark.parametrize(
    "request_",
    [
        {"task": "x" * 10**6, "history": ["m1"]},
        {"task": "recommend", "history": "x" * 10**6},
        {"task": "recommend", "history": {"x" * 10**6: 1}},
        {"task": "recommend", "history": ["x" * 10**6]},
        {"task": "recommend", "history": [{"item_id": "x" * 10**6}]},
        {"task": "recommend", "history": [{"item_id": "m1", "rating": "x" * 10**5}]},
        {"task": "recommend", "history": [{"item_id": "m1", "rating": 10**4000}]},
        {"task": "search", "history": ["m1"], "query": ["x" * 10**5]},
        {"task": "select", "history": ["m1"], "candidates": "x" * 10**6},
        "x" * 10**6,
        ["x" * 10**6],
    ],
)
def test_an_error_says_little_of_what_was_sent(processor, request_):
    with pytest.raises(ValueError) as told:
        processor(requests=[request_])
    assert len(str(told.value)) < 800


def test_shown_is_short_whatever_it_is_of():
    for value in (
        "x" * 10**6,
        ["x" * 10**6] * 10**3,
        {"x" * 10**6: deep(10)},
        deep(100_000),
        np.zeros(10**6),
        10**4000,
        10**5000,
        [10**5000],
    ):
        assert len(short_repr(value)) <= 400
    assert short_repr("a'b") == repr("a'b") and short_repr([1, "a"]) == "[1, 'a']"


def test_an_unknown_id_is_compared_with_few(processor, monkeypatch):
    """Of a catalogue of 100,000 items difflib would look at each, which takes seconds."""
    from processing_unimp import Catalogue

    compared = []
    monkeypatch.setattr("difflib.get_close_matches", lambda word, pool, **_: compared.append(len(pool)) or [])
    catalogue = Catalogue.from_items([{"item_id": f"item-{n}"} for n in range(100_000)])
    with pytest.raises(ValueError, match="'item-x' is not among the 100000 items"):
        catalogue.number("item-x")
    assert 0 < compared[0] <= 200


# ---------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("how", ["text", "dict"])
@pytest.mark.parametrize("place", ["history", "item", "candidates"])
def test_a_path_in_a_request_is_refused_unopened(processor, tmp_path, monkeypatch, how, place):
    (tmp_path / "there.png").write_bytes(picture("red"))
    monkeypatch.setattr("os.open", lambda *_: pytest.fail("a file was opened"))
    monkeypatch.setattr("os.stat", lambda *_: pytest.fail("a file was looked for"))
    told = []
    for path in (str(tmp_path / "there.png"), str(tmp_path / "gone.png"), "/etc/passwd", "http://127.0.0.1/a.png"):
        item = {"title": "Hat", "image": path if how == "text" else {"path": path}}
        request = {"task": {"history": "recommend", "item": "rate", "candidates": "select"}[place], "history": ["m1"]}
        request[place] = item if place == "item" else [item]
        with pytest.raises(ValueError, match="an image came as a text that is no data URI") as error:
            processor(requests=[request])
        told.append(str(error.value))
    assert len(set(told)) == 1, "an error does not tell what is there"


def test_pictures_that_a_request_may_carry(processor, tmp_path):
    (tmp_path / "a.png").write_bytes(picture("red"))
    uri = "data:image/png;base64," + base64.b64encode(picture("red")).decode()
    pixels = []
    for image in (
        uri,
        picture("red"),
        {"bytes": picture("red")},
        tmp_path / "a.png",
        Image.new("RGB", (32, 32), (220, 30, 30)),
    ):
        request = {"task": "rate", "history": ["s2"], "item": {"title": "Hat", "image": image}}
        pixels.append(processor(requests=[request])["pixel_values"])
    assert all((each == pixels[0]).all() for each in pixels)
    with pytest.raises(ValueError, match="cannot read the picture"):
        bad = "data:image/png;base64," + base64.b64encode(b"%!PS-Adobe").decode()
        processor(requests=[{"task": "rate", "history": ["s2"], "item": {"title": "Hat", "image": bad}}])


def pictured(count, image=None):
    """Items that are pictures alone; after its end a picture may have any bytes."""
    return [
        {"image": picture("red") + number.to_bytes(2, "big") if image is None else image} for number in range(count)
    ]


def test_more_pictures_than_are_opened_are_refused_before_any_is(processor, monkeypatch):
    monkeypatch.setattr("processing_unimp.batch_pictures.open_picture", lambda _: pytest.fail("a picture was opened"))
    large = Image.new("1", (7_000, 7_000))
    buffer = io.BytesIO()
    large.save(buffer, "PNG")
    larger = [{"image": buffer.getvalue() + bytes([number])} for number in range(9)]
    too_many = f"have {MAX_PICTURES + 1} pictures of their own: at most {MAX_PICTURES}"
    for request, message in (
        (RECOMMEND | {"history": pictured(MAX_PICTURES + 1)}, too_many),
        ({"task": "select", "history": pictured(1), "candidates": pictured(MAX_PICTURES + 1)[1:]}, too_many),
        (RECOMMEND | {"history": larger}, "the 9 pictures of a request have 441 megapixels together: at most 400"),
    ):
        with pytest.raises(ValueError, match=f"request 0: .*{message}"):
            processor(requests=[request])
    read_request(RECOMMEND | {"history": [*larger[:8], *pictured(MAX_PICTURES - 8)]})
    read_request(RECOMMEND | {"history": pictured(MAX_HISTORY, picture("red"))})  # of which there is one


def test_a_picture_that_several_items_have_is_opened_once(processor):
    copies = [{"title": "Hat", "image": bytes(bytearray(picture("red")))} for _ in range(3)]
    assert len(processor(requests=[RECOMMEND | {"history": [*copies, "m1"]}])["pixel_values"]) == 2


def test_candidates_that_are_too_long_are_refused_before_a_picture_is_opened(processor, monkeypatch):
    monkeypatch.setattr("processing_unimp.batch_pictures.open_picture", lambda _: pytest.fail("a picture was opened"))
    candidates = [each | {"title": "one two three four five six seven"} for each in pictured(MAX_PICTURES)]
    with pytest.raises(ValueError, match=r"request 0: its question needs \d+ tokens more than max_length=2048"):
        processor(requests=[{"task": "select", "history": ["m1"], "candidates": candidates}])


def test_pictures_beside_a_text_are_read_in_the_same_way(processor, tmp_path):
    (tmp_path / "a.png").write_bytes(picture("red"))
    for ask in ({"text": "title"}, {}):
        with pytest.raises(ValueError, match="no data URI"):
            processor(images=str(tmp_path / "a.png"), **ask)
        assert processor(images=Path(tmp_path / "a.png"), return_tensors="pt", **ask)["pixel_values"].shape[0] == 1


@pytest.mark.parametrize("rating", [0, 5.5, True, "4", [4]])
def test_stars_that_are_none_are_refused_also_where_they_are_too_old_to_be_read(processor, rating):
    history = [{"item_id": "m1", "rating": rating}, *["m1"] * 30]
    for request in ({"task": "recommend", "history": history}, {"task": "rate", "history": history, "item": "s1"}):
        with pytest.raises(ValueError, match="request 1: a rating of .*: expected a number from 1 to 5"):
            processor(requests=[{"task": "recommend", "history": ["m1"]}, request])
