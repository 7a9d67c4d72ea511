"""What an explanation rests on, by hand; in the prompt and in the answer."""

import pytest
from shop import make_model, make_model_processor

from modeling_unimp import PersonalizationPipeline
from processing_unimp import Catalogue
from processing_unimp.grounds import MOST_GROUNDS, grounds_of, in_words
from processing_unimp.item_terms import ItemTerms

ITEMS = [
    {"item_id": "a", "title": "Sun mug", "kind": "mug", "colours": ["Teal", "red"], "price": 9},
    {"item_id": "b", "title": "Sea mug", "kind": "mug", "colours": ["teal"], "price": 9},
    {"item_id": "c", "title": "Red hat", "kind": "hat", "colours": ["red", "blue"], "price": 9},
    {"item_id": "d", "title": "Fur hat", "kind": "hat", "colours": None, "price": 9},
]
A, B, C, D = ITEMS
TERMS = ItemTerms.of(Catalogue.from_items(ITEMS))


def test_by_hand():
    history = [B | {"rating": 3.4}, C | {"rating": 5}, {"title": "A Teal thing", "colours": "TEAL"}]
    assert grounds_of(A, history, TERMS) == [
        {"attribute": "kind", "value": "mug", "items": ["b"], "liked": 0},
        {"attribute": "colours", "value": "Teal", "items": ["b", None], "liked": 0},
        {"attribute": "colours", "value": "red", "items": ["c"], "liked": 1},
    ]  # nobody else has the title, and everybody the price
    assert grounds_of(D, [], TERMS) == [{"attribute": "kind", "value": "hat", "items": [], "liked": 0}]
    assert in_words(grounds_of(A, history, TERMS)) == (
        " kind mug 1 liked 0 colours Teal 2 liked 0 colours red 1 liked 1"
    )
    assert grounds_of(A | {"colours": ["Teal", "red"] * 9}, history, TERMS) == grounds_of(A, history, TERMS)
    many = [{"item_id": str(number), "tags": list("uvwxyz")} for number in range(2)]
    others = [{"item_id": str(number)} for number in range(2, 4)]
    found = grounds_of(many[0], many[1:], ItemTerms.of(Catalogue.from_items(many + others)))
    assert [each["value"] for each in found] == list("uvwxyz")[:MOST_GROUNDS]
    assert in_words(grounds_of(A, history[1:2], TERMS)) == " kind mug 0 colours Teal 0 colours red 1 liked 1"
    assert in_words([]) == ""


def test_a_prompt_tells_them_and_an_answer_brings_them():
    processor = make_model_processor()
    processor.tell_grounds = True
    unimp = PersonalizationPipeline(model=make_model(processor), processor=processor, device="cpu")
    request = {"task": "explain", "history": [{"item_id": "h1", "rating": 5}, "m1"], "item": "h2"}
    answer = unimp(request, max_new_tokens=2)
    expected = [{"attribute": "category", "value": "hat", "items": ["h1"], "liked": 1}]
    assert answer["grounds"] == expected and set(answer) == {"task", "text", "grounds"}
    # They are counted, whatever the request says.
    assert unimp(request | {"grounds": [{"value": "mug"}]}, max_new_tokens=2)["grounds"] == expected
    read = processor.tokenizer.decode(_words(processor, request))
    assert "whose category hat 1 liked 1, can you explain" in read
    processor.tell_grounds = False
    assert "whose" not in processor.tokenizer.decode(_words(processor, request))
    assert unimp(request, max_new_tokens=2)["grounds"] == expected
    # Of the items that are read, and of an item that is only described.
    old = unimp(request | {"history": ["h1", *["m1"] * processor.history_length]}, max_new_tokens=2)
    assert old["grounds"] == [expected[0] | {"items": [], "liked": 0}]
    described = unimp(request | {"item": {"title": "Felt", "category": "HAT"}}, max_new_tokens=2)
    assert described["grounds"] == [expected[0] | {"value": "HAT"}]
    with pytest.raises(ValueError, match="request 0: the item: .*nothing"):
        unimp(request | {"item": "nothing"})
    processor.item_terms = None
    assert unimp(request | {"grounds": [{"value": "mug"}]}, max_new_tokens=2)["grounds"] == []


def _words(processor, request) -> list[int]:
    ids = processor(requests=[request])["input_ids"][0].tolist()
    return [token for token in ids if token < processor.first_token_id]
