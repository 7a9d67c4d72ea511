"""Items that a request only describes: what the closed-form scores take them for, and what reasons call them."""

import math

import pytest
import torch
from shop import make_model, make_model_processor, picture
from test_pipeline_unimp import close

from modeling_unimp import PersonalizationPipeline, unknown_items
from modeling_unimp.hybrid_scores import MAX_HISTORY, HybridScores, Score, StandIn
from modeling_unimp.term_index import TermIndex

# Rows: m1, m2, s1, s2, h1, h2. With each goes the one of its colour, h2 with h1 and m1.
NEAR = torch.tensor([[2, 0], [3, 0], [0, 0], [1, 0], [5, 0], [4, 0]])
VALUES = torch.tensor([[3.0, 0.0], [2.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, 0.5]])


@pytest.fixture(scope="module")
def unimp() -> PersonalizationPipeline:
    """Ranks by the closed form alone: what the same shoppers took."""
    processor = make_model_processor()
    model = make_model(processor, item_rows="both", content_pictures=torch.zeros(6, 64))
    unimp = PersonalizationPipeline(model=model, processor=processor, device="cpu")
    catalogue = processor.catalogue
    names = [[catalogue.item(item_id)["title"].lower()] for item_id in catalogue.item_ids]
    pictured = [{"item_id": each, "image": catalogue.picture(each)} for each in catalogue.item_ids if each != "s2"]
    unimp.update_items(pictured)  # rows get the features of the pictures
    model.hybrid_scores = HybridScores(
        {"EASE 100": (NEAR, VALUES)},
        {"words": TermIndex.of(names, are_words=True)},
        torch.full((6,), 1 / 6).log(),
        [Score("EASE 100", math.inf, 1.0), Score("words", scale=1.0)],
        {"recommend": [0.0, 1.0, 0.0], "search": [0.0, 1.0, 1.0], "select": [1.0]},
    )
    return unimp


def scores_of(unimp, *history):
    answered = unimp({"task": "recommend", "history": list(history)}, exclude_seen=False)
    return {item["item_id"]: item["score"] for item in answered["items"]}


@pytest.mark.parametrize(
    ("described", "like"),
    [
        ({"title": "A red mug with a dot"}, "m1"),
        ({"item_id": "other shop's", "title": "Blue shoe"}, "s2"),
        ({"image": picture("green", 48)}, "h1"),
        ({"title": "Zzz", "image": picture("red")}, "m1"),  # no word of it is known: by its picture
    ],
)
def test_an_item_that_is_described_goes_with_what_its_like_goes_with(unimp, described, like):
    assert close(scores_of(unimp, described, "h2"), scores_of(unimp, like, "h2"))
    assert not close(scores_of(unimp, described, "h2"), scores_of(unimp, "h2"))


def test_what_is_like_nothing_counts_for_nothing(unimp):
    assert close(scores_of(unimp, {"title": "Zzz"}, "h2"), scores_of(unimp, "h2"))


def test_a_candidate_that_is_a_picture_alone_is_scored_as_what_looks_like_it(unimp):
    def select(*candidates):
        request = {"task": "select", "history": ["h2"], "candidates": list(candidates)}
        return [item["score"] for item in unimp(request)["items"]]

    expected = select("h1", "s2")
    assert expected[0] > expected[1]
    assert select({"image": picture("green", 48)}, "s2") == pytest.approx(expected)
    # Its like is no longer sold; of itself nobody said so.
    unimp.processor.catalogue.retire(["h1"])
    assert select({"image": picture("green", 48)}, "s2") == pytest.approx(expected)
    unimp.processor.catalogue.unretire(["h1"])


def test_pictures_of_a_history_are_looked_at_once_each_in_batches_and_of_its_latest_items_alone(unimp, monkeypatch):
    looked_at, forwards = [], []
    encode, pixels_of = unimp.model.model.encode_pictures, unknown_items._pixels

    def counted(pixels):
        forwards.append(len(pixels))
        return encode(pixels)

    def noted(processor, entries):
        entries = list(entries)
        looked_at.extend(entry["image"] for _, entry in entries)
        return pixels_of(processor, entries)

    monkeypatch.setattr(unimp.model.model, "encode_pictures", counted)
    monkeypatch.setattr(unknown_items, "_pixels", noted)
    # After its end a picture may have any bytes.
    images = [picture("red") + bytes([number]) for number in range(MAX_HISTORY + 20)]
    asked = {"task": "recommend", "history": [{"title": "Zzz", "image": image} for image in images]}
    (read,) = unknown_items.with_stand_ins(unimp.model, unimp.processor, "items", [asked])
    assert looked_at == images[20:] and forwards == [32] * 6 + [8]
    assert [isinstance(entry, StandIn) for entry in read["history"]] == [False] * 20 + [True] * MAX_HISTORY
    looked_at.clear()
    same = {"task": "recommend", "history": [{"title": "Zzz", "image": bytes(bytearray(images[0]))} for _ in images]}
    (again,) = unknown_items.with_stand_ins(unimp.model, unimp.processor, "items", [same])
    assert looked_at == images[:1] and again["history"][-1].number == read["history"][-1].number


def test_reasons_name_what_was_described_and_not_its_like(unimp):
    described = [{"title": "Red mug", "image": picture("blue")}, {"item_id": "other", "title": "Blue mug"}]
    asked = {"task": "recommend", "history": [*described, "h1"]}
    because = {item["item_id"]: item["because"] for item in unimp(asked, because=3, exclude_seen=False)["items"]}
    borrowed = {"source": "goes with what is like it", "share": 1.0}
    assert because["s1"] == [{"item": {"title": "Red mug"}} | borrowed]
    assert because["s2"] == [{"item_id": "other"} | borrowed]
    assert because["h2"] == [{"item_id": "h1", "source": "taken by the same shoppers, or alike", "share": 1.0}]


def test_a_picture_that_cannot_be_read_is_named(unimp):
    good = {"task": "select", "history": [], "candidates": ["m1"]}
    with pytest.raises(ValueError, match=r"request 1: .*picture"):
        unimp([good, good | {"candidates": ["m1", {"image": b"no picture"}]}])


def test_a_query_of_which_no_item_has_a_word_is_marked(unimp):
    found, lost = unimp([{"task": "search", "history": ["m1"], "query": query} for query in ("red zebra", "zebra")])
    assert "without_match" not in found and lost["without_match"] is True


def test_a_task_that_was_never_trained_is_marked(unimp):
    asked = [
        {"task": "recommend", "history": ["m1"]},
        {"task": "select", "history": ["m1"], "candidates": ["m2", "s1"]},  # by the scores of recommend
        {"task": "rate", "history": ["m1"], "item": "m2"},
        {"task": "explain", "history": ["m1"], "item": "m2"},
    ]
    assert not any("untrained" in answer for answer in unimp(asked))  # nobody noted what was
    unimp.model.config.trained_tasks = ["recommend", "rate"]
    assert ["untrained" in answer for answer in unimp(asked)] == [False, False, False, True]
    unimp.model.config.trained_tasks = None
