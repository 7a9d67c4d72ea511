"""Weighted terms of items: which are kept, what they weigh, and items of tomorrow."""

import json
import math
import unicodedata

import numpy as np
import pytest
from shop import make_model_processor

from modeling_unimp.term_index import TermIndex, query_texts, texts_of
from processing_unimp import Catalogue, ItemTerms, UniMPProcessor
from processing_unimp.item_terms import TERMS_FILE, terms_of

ITEMS = [
    {"item_id": "a", "title": "Red wool hat", "brand": "Koto"},
    {"item_id": "b", "title": "Red cap", "brand": "Koto"},
    {"item_id": "c", "title": "Blue cap", "brand": "Nord"},
    {"item_id": "d", "title": "Green sock", "brand": "Nord"},
    {"item_id": "e", "title": "Teal sock", "brand": None},
]


@pytest.fixture
def terms():
    return ItemTerms.of(Catalogue.from_items(ITEMS))


def test_terms_of_values_of_each_kind():
    item = {
        "item_id": "x",
        "title": "Red  HAT\nred",
        "tags": ["Sale", "New in"],
        "price": 20.0,
        "new": True,
        "gone": None,
    }
    assert terms_of(item, ["title", "tags", "price", "new", "gone"]) == {
        "title=red hat red": 1, "title: red": 2, "title: hat": 1,
        "tags=sale": 1, "tags=new in": 1, "tags: new": 1, "tags: in": 1,
        "price=20": 1, "new=yes": 1,
    }  # fmt: skip
    assert terms_of(item, ["price"]) == {"price=20": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("लाल मग", ["लाल", "मग"]),
        ("蓝色杯子 XL", ["蓝", "色", "杯", "子", "xl"]),
        ("한국어 컵", ["한국어", "컵"]),
        ("Cafe\u0301 au lait", ["caf\u00e9", "au", "lait"]),
    ],
)
def test_words_of_other_scripts(text, words):
    assert terms_of({"t": text}, ["t"]).keys() == {f"t={unicodedata.normalize('NFC', text).lower()}"} | {
        f"t: {word}" for word in words
    }
    index = TermIndex.of([texts_of({"t": text}), ["other words"]], are_words=True)
    assert index.vocabulary.keys() == {*words, "other", "words"}
    assert all(index.finds(word) for word in words) and not index.finds("zzz")


def test_numbers_that_are_asked_for():
    assert [query_texts(value) for value in (108775015.0, 108775015, 20.5, float("nan"), True)] == [
        ["108775015"],
        ["108775015"],
        ["20.5"],
        [],
        [],
    ]


def test_terms_in_two_items_and_at_most_half_are_kept(terms):
    assert terms.terms == ["brand=koto", "brand=nord", "title: cap", "title: red", "title: sock"]
    np.testing.assert_allclose(terms.idf, math.log(5 / 2), rtol=1e-6)
    of_brands = ItemTerms.of(Catalogue.from_items(ITEMS), ["brand"])
    assert of_brands.terms == ["brand=koto", "brand=nord"]
    everywhere = [item | {"shop": "ours"} for item in ITEMS]
    assert ItemTerms.of(Catalogue.from_items(everywhere)).terms == terms.terms


def test_weights_by_hand(terms):
    third = pytest.approx(1 / math.sqrt(3))
    assert terms.weights_of(ITEMS[1]) == {0: third, 2: third, 3: third}
    # Twice in an item: 1 + log 2 times as much, before the length is made 1.
    twice = terms.weights_of({"title": "red red cap"})
    assert twice[3] / twice[2] == pytest.approx(1 + math.log(2))
    assert terms.weights_of({"title": "never seen"}) == {} == terms.weights_of({})


def test_arrays(terms):
    numbers, weights = terms.encode([ITEMS[1], {"title": "never seen"}, {"title": "red red cap"}], most=2)
    assert numbers.shape == weights.shape == (3, 2) and numbers.dtype == np.int32
    assert numbers[1].tolist() == [-1, -1] and numbers[2].tolist() == [3, 2]
    np.testing.assert_allclose(np.square(weights).sum(axis=1), [1, 0, 1], rtol=1e-6)
    assert terms.num_unknown([ITEMS[1], {"title": "never seen", "brand": "Koto"}]) == 1 + 3


def test_saved_and_loaded(terms, tmp_path):
    terms.save(tmp_path)
    loaded = ItemTerms.load(tmp_path / TERMS_FILE)
    assert loaded.terms == terms.terms and loaded.attributes == terms.attributes
    assert loaded.weights_of(ITEMS[1]) == terms.weights_of(ITEMS[1])
    for damage in ("{", "[]", '{"idf": 3, "attributes": []}', '{"idf": {"a": "b"}, "attributes": []}'):
        (tmp_path / TERMS_FILE).write_text(damage)
        with pytest.raises(ValueError, match=f"{TERMS_FILE} cannot be read"):
            ItemTerms.load(tmp_path / TERMS_FILE)


def test_a_processor_keeps_its_terms(tmp_path):
    processor = make_model_processor()
    processor.save_pretrained(tmp_path)
    assert UniMPProcessor.from_pretrained(tmp_path).term_texts == processor.term_texts != []
    content = json.loads((tmp_path / TERMS_FILE).read_text())
    content["idf"] = {term: 1.0 for term in content["idf"]}
    (tmp_path / TERMS_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{TERMS_FILE} is not what was written"):
        UniMPProcessor.from_pretrained(tmp_path)
    (tmp_path / TERMS_FILE).unlink()
    without = UniMPProcessor.from_pretrained(tmp_path, verify=False)
    assert without.term_texts == []
    with pytest.raises(ValueError, match="has no item terms"):
        without.content_terms(4)


def test_hostile_values_are_bounded():
    item = {"item_id": "x", "title": "a b " * 50_000, "tags": [f"t{number}" for number in range(5_000)]}
    found = terms_of(item, ["title", "tags"])
    assert sum(found.values()) <= 2 * (1_000 + 256 + 1)
