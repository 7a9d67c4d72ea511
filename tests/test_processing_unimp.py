"""Requests to tensors: every id in its place, pictures once a batch, labels where the paper has them."""

import base64
import logging
import weakref

import pytest
import torch
from PIL import Image
from shop import make_catalogue, make_image_processor, make_processor, picture, readable
from transformers import AutoProcessor

from processing_unimp import Catalogue, UniMPProcessor
from processing_unimp.byte_level_bpe import END_OF_TEXT

HISTORY = [{"item_id": "m1", "rating": 5}, "s2"]


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def readable_row(processor, batch, row=0):
    return readable(processor, batch["input_ids"][row][batch["attention_mask"][row] == 1])


REQUESTS = {
    "recommend": {"answer": "h1"},
    "search": {"query": "hat", "answer": "h1"},
    "rate": {"item": "h1", "answer": 4},
    "explain": {"item": "h1", "answer": "ada likes it"},
    "select": {"candidates": ["h1", "m2"], "answer": [True, False]},
}
PROMPTS = {
    "recommend": "Can you recommend the next item to the user? [ANS]",
    "search": "hat Can you retrieve the items that aligns with both the user's history and the given query? [ANS]",
    "rate": "Given [IMG] title Green hat category hat price 25 id <item_4> [EOC] , can you predict the preference "
    "level of the user to the product? [ANS]",
    "explain": "Given [IMG] title Green hat category hat price 25 id <item_4> [EOC] , can you explain to the user why "
    "the product might be suitable or unsuitable? [ANS]",
    "select": "Given [IMG] title Green hat category hat price 25 id <item_4> [EOC] [IMG] title Blue mug category mug "
    "price 8 id <item_1> [EOC] , can you select all the appropriate items for the user? [ANS] <item_4> <item_1>",
}
ANSWERS = {
    "recommend": " <item_4>",
    "search": " <item_4>",
    "rate": " <rate_4>",
    "explain": f"  ada likes it{END_OF_TEXT}",
    "select": f" {END_OF_TEXT}",
}
READ = (
    "[CLS] [IMG] title Red mug category mug price 9.5 rating <rate_5>  id <item_0> [EOC] "
    "title Blue shoe category shoe id <item_3> [EOC] "
)


@pytest.mark.parametrize("task", REQUESTS)
def test_the_sequence_is_the_papers(processor, task):
    request = {"task": task, "history": HISTORY} | REQUESTS[task]
    asked = readable_row(processor, processor(requests=[request]))
    taught = readable_row(processor, processor(requests=[request], labels=True))
    squeeze = str.split  # the number of spaces around an added token is the printer's business
    assert squeeze(asked) == squeeze(READ + PROMPTS[task])
    assert squeeze(taught) == squeeze(READ + PROMPTS[task] + ANSWERS[task])


def test_labels_of_an_answer(processor):
    for task in ("recommend", "rate", "explain"):
        request = {"task": task, "history": HISTORY} | REQUESTS[task]
        batch = processor(requests=[request], labels=True)
        labelled = batch["labels"][0] != -100
        answered = (batch["input_ids"][0] == processor.control.answer).nonzero()[-1]
        assert labelled.nonzero().flatten().tolist() == list(range(answered + 1, len(labelled)))
        assert torch.equal(batch["labels"][0][labelled], batch["input_ids"][0][labelled])
        assert torch.equal(batch["label_kinds"][0], labelled.long())


def test_a_selection_is_labelled_after_each_slot(processor):
    request = {"task": "select", "history": HISTORY} | REQUESTS["select"]
    batch = processor(requests=[request], labels=True)
    control = processor.control
    # ... [ANS] <item_4> <item_1> eos : yes is read off <item_4>, no off <item_1>.
    assert batch["input_ids"][0, -4:].tolist() == [
        control.answer, control.item(4), control.item(1), processor.tokenizer.eos_token_id
    ]  # fmt: skip
    assert batch["labels"][0, -4:].tolist() == [-100, -100, control.decision(True), control.decision(False)]


def test_context_labels(processor):
    request = {"task": "recommend", "history": HISTORY} | REQUESTS["recommend"]
    control = processor.control
    attributes = processor(requests=[request], labels=True, context="attributes")
    ids, labels, kinds = (attributes[name][0] for name in ("input_ids", "labels", "label_kinds"))
    end = (ids == control.eoc).nonzero()[-1].item()
    history = torch.zeros_like(ids, dtype=torch.bool)
    history[1 : end + 1] = True
    assert torch.equal(kinds == 2, history & (ids != control.image))
    assert torch.equal(labels[kinds == 2], ids[kinds == 2])
    only_ids = processor(requests=[request], labels=True, context="id")
    assert only_ids["labels"][only_ids["label_kinds"] == 2].tolist() == [control.item(0), control.item(3)]
    with pytest.raises(ValueError, match="'attributes', 'id' or 'none'"):
        processor(requests=[request], labels=True, context="all")


def test_next_item_labels_follow_every_end_of_an_item(processor):
    request = {"task": "recommend", "history": ["m1", "s2", "h2"], "next": "h1"} | REQUESTS["recommend"]
    batch = processor(requests=[request], labels=True, next_item=True)
    ids, labels, kinds = (batch[name][0] for name in ("input_ids", "labels", "label_kinds"))
    after = ((ids == processor.control.eoc) | (ids == processor.control.cls)).nonzero().flatten() + 1
    assert (kinds == 3).nonzero().flatten().tolist() == after.tolist()
    assert labels[after].tolist() == [processor.control.item(n) for n in (0, 3, 5, 4)]


def test_stars_of_the_history_are_next_item_labels(processor):
    request = {"task": "recommend", "history": HISTORY, "next": "h1"} | REQUESTS["recommend"]
    batch = processor(requests=[request], labels=True, context="id", next_item=True)
    labelled = batch["labels"][0][batch["label_kinds"][0] == 3]
    control = processor.control
    assert labelled.tolist() == [control.item(0), control.star(5), control.item(3), control.item(4)]


def test_each_distinct_picture_once_and_seen_by_its_own_tokens(processor):
    requests = [
        {"task": "recommend", "history": ["m1", "s1", "m1"]},
        {"task": "recommend", "history": ["s2"]},
        {"task": "rate", "history": ["s1"], "item": "m1"},
    ]
    batch = processor(requests=requests)
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    ids, index, control = batch["input_ids"], batch["media_index"], processor.control
    assert index[1].eq(0).all()  # a history without a picture
    spans = []
    for row in range(3):
        starts = (ids[row] == control.image).nonzero().flatten().tolist()
        ends = (ids[row] == control.eoc).nonzero().flatten().tolist()
        for start in starts:
            end = next(e for e in ends if e > start)
            spans.append((row, index[row, start].item()))
            assert index[row, start : end + 1].unique().tolist() == [index[row, start].item()]
    first_seen = batch["pixel_values"][0]
    red_small = processor.image_processor(images=[Image.new("RGB", (32, 32), (220, 30, 30))], return_tensors="pt")
    assert spans[0][1] == spans[2][1] and spans[1][1] == spans[3][1]
    assert {value for _, value in spans} == {1, 2}
    assert first_seen.shape == red_small["pixel_values"][0].shape
    outside = ids.eq(control.cls) | ids.eq(control.answer)
    assert index[outside].eq(0).all()


def test_no_picture_at_all(processor):
    batch = processor(requests=[{"task": "recommend", "history": ["s2"]}])
    assert "pixel_values" not in batch and batch["media_index"].eq(0).all()


def test_a_given_picture_is_read(processor):
    own = {"title": "Tea pot", "image": picture("grey")}
    batch = processor(requests=[{"task": "rate", "history": ["s2"], "item": own}])
    assert len(batch["pixel_values"]) == 1 and batch["media_index"].max() == 1


def test_a_picture_is_prepared_anew_by_other_settings():
    processor, request = make_processor(), {"task": "recommend", "history": ["m1"]}
    before = processor(requests=[request], latents={})
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    for changed in (processor(requests=[request]), processor(requests=[request], latents={})):
        assert torch.equal(changed["pixel_values"][0], processor.pixels_of(make_catalogue().picture("m1")))
        assert not torch.equal(changed["pixel_values"], before["pixel_values"])
    assert changed["latents"][0][0] != before["latents"][0][0], "the digest by which a model knows it"


def test_a_store_of_features_is_let_go_with_its_last_user():
    class Features:
        def has(self, number):
            return True

        def features(self, numbers):
            return torch.ones(len(numbers), 2, 3)

    processor, request = make_processor(), {"task": "recommend", "history": ["m1"]}
    opened = [Features() for _ in range(3)]
    for store in opened:
        processor(requests=[request], vision_features=store, latents={})
    gone = [weakref.ref(store) for store in opened]
    del opened, store
    assert not any(store() for store in gone)


def test_pictures_of_several_requests_are_several(processor):
    """Their bytes are gone when the next request is read, and another's may lie in their place."""
    colours = ["red", "blue", "green", "grey"] * 5
    # After its end a picture may have any bytes; without them there would be four.
    files = [picture(colour) + bytes([place]) for place, colour in enumerate(colours)]
    uris = ["data:image/png;base64," + base64.b64encode(file).decode() for file in files]
    requests = [{"task": "recommend", "history": [{"title": "x", "image": uri}]} for uri in uris]
    alone = [processor(requests=[request])["pixel_values"] for request in requests]
    together = processor(requests=requests)
    torch.testing.assert_close(together["pixel_values"], torch.cat(alone))
    assert together["media_index"].amax(dim=1).tolist() == list(range(1, 1 + len(colours)))


def test_left_padding_changes_nothing_but_the_left(processor):
    short, long = ({"task": "recommend", "history": h} for h in (["s2"], ["m1", "s1", "h1"]))
    alone, together = processor(requests=[short]), processor(requests=[long, short])
    length = alone["input_ids"].shape[1]
    for name in ("input_ids", "attention_mask", "media_index"):
        assert torch.equal(together[name][1, -length:], alone[name][0])
    assert together["attention_mask"][1, :-length].eq(0).all()
    assert together["input_ids"][1, :-length].eq(processor.control.pad).all()


def test_a_long_history_is_cut_to_the_latest_and_said(caplog):
    processor = make_processor(history_length=2)
    logging.Logger.warning_once.cache_clear()  # another test may have been told the same
    with caplog.at_level(logging.WARNING):
        for history in (["m1", "m2", "s1"], ["m1", "m2", "s1", "h1"]):
            batch = processor(requests=[{"task": "recommend", "history": history}])
    assert caplog.text.count("the network reads only the latest; closed-form scores, where") == 1
    text = readable_row(processor, batch)
    assert "<item_2>" in text and "<item_4>" in text and "<item_0>" not in text


@pytest.mark.parametrize("format", ["full", "compact"])
def test_what_is_too_old_to_be_read_is_looked_up_all_the_same(format):
    """A wrong id is an error wherever it stands, and is called by its place in the whole history."""
    processor = make_processor(history_length=2, history_format=format)
    for place in range(4):
        history = ["m1", "m2", "s1", "h1"]
        history[place] = "gone"
        with pytest.raises(ValueError, match=f"request 0: history item {place}: .*'gone'"):
            processor(requests=[{"task": "recommend", "history": history}])


def test_max_length_drops_the_oldest_items():
    roomy = make_processor()
    request = {"task": "recommend", "history": ["m1", "s1", "h1"]}
    length = roomy(requests=[request])["input_ids"].shape[1]
    tight = make_processor(max_length=length - 1)
    batch = tight(requests=[request])
    assert batch["input_ids"].shape[1] < length
    assert "<item_0>" not in readable_row(tight, batch) and "<item_2>" in readable_row(tight, batch)
    with pytest.raises(ValueError, match="raise max_length"):
        make_processor(max_length=10)(requests=[request])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"task": "recommend"}, "an empty one for a shopper of whom nothing is known"),
        ({"task": "recommend", "history": "m1"}, "expected a list"),
        ({"task": "recommend", "history": ["m7"]}, "m7"),
        ({"task": "buy", "history": ["m1"]}, "recommend, search, rate, explain, select"),
        ({"task": "search", "history": ["m1"]}, "query"),
        ({"task": "search", "history": ["m1"], "query": "  "}, "query"),
        ({"task": "rate", "history": ["m1"]}, "NoneType"),
        ({"task": "select", "history": ["m1"], "candidates": []}, "list of items"),
        ({"task": "rate", "history": [{"item_id": "m1", "rating": 11}], "item": "m2"}, "from 1 to 5"),
    ],
)
def test_bad_requests_say_what_was_expected(processor, request_, message):
    with pytest.raises(ValueError, match=message):
        processor(requests=[request_])


def test_a_broken_picture_in_the_catalogue_is_a_missing_picture(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff not a picture")
    catalogue = Catalogue.from_items(
        [{"item_id": "a", "title": "A", "image": str(broken)}, {"item_id": "b", "title": "B", "image": None}]
    )
    processor = make_processor(catalogue)
    batch = processor(requests=[{"task": "recommend", "history": ["a", "b"]}])
    assert "pixel_values" not in batch
    assert processor.control.image not in batch["input_ids"]
    assert list(catalogue.unreadable_pictures) == ["a"]


def test_save_and_load_give_the_same_tensors(processor, tmp_path):
    request = {"task": "select", "history": HISTORY} | REQUESTS["select"]
    processor.save_pretrained(tmp_path)
    again = UniMPProcessor.from_pretrained(tmp_path)
    before, after = (p(requests=[request], labels=True, context="attributes") for p in (processor, again))
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name
    assert again.catalogue.item_ids == processor.catalogue.item_ids


def test_a_misspelt_setting_is_told_at_loading(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    for load in (UniMPProcessor.from_pretrained, AutoProcessor.from_pretrained):
        with pytest.raises(ValueError, match="no setting 'historylength': did you mean history_length?"):
            load(tmp_path, historylength=2)
    again = UniMPProcessor.from_pretrained(tmp_path, history_length=2, model_max_length=99, do_resize=False)
    assert again.history_length == 2 and again.tokenizer.model_max_length == 99 and not again.image_processor.do_resize


def test_requests_without_their_name_are_told_from_pictures(processor):
    for given in ([{"task": "recommend", "history": ["m1"]}], {"task": "recommend", "history": ["m1"]}):
        with pytest.raises(ValueError, match=r"requests are given by name, processor\(requests="):
            processor(given)


def test_checkpoints_can_leave_the_pictures_out(processor, tmp_path):
    processor.save_pretrained(tmp_path, save_pictures=False)
    assert not UniMPProcessor.from_pretrained(tmp_path).catalogue.has_picture("m1")


def test_words_stop_at_the_end_and_skip_added_tokens(processor):
    ids = processor.item_text.untrusted(" ada likes it")
    row = [*ids, processor.control.item(2), processor.tokenizer.eos_token_id, *ids]
    assert processor.words(row) == "ada likes it"


def test_free_text_and_pictures_pass_through(processor):
    batch = processor(text="Red mug", images=Image.new("RGB", (40, 40)), return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 32, 32)
    assert processor.tokenizer.decode(batch["input_ids"][0]) == "Red mug"


def test_texts_with_pictures_see_them(processor):
    """Known ids by hand: [IMG] before a text that has a picture, all of its tokens see it; padding on the left."""
    image, hat = processor.control.image, Image.new("RGB", (40, 40), "green")
    words = [processor.tokenizer(each, add_special_tokens=False)["input_ids"] for each in ("Red mug", "Green")]
    batch = processor(text=["Red mug", "Green"], images=[None, hat])
    length = max(len(words[0]), 1 + len(words[1]))
    rows = [words[0], [image, *words[1]]]
    pad = [length - len(row) for row in rows]
    assert batch["input_ids"].tolist() == [[processor.control.pad] * n + row for n, row in zip(pad, rows, strict=True)]
    assert batch["attention_mask"].tolist() == [[0] * n + [1] * len(row) for n, row in zip(pad, rows, strict=True)]
    assert batch["media_index"].tolist() == [[0] * length, [0] * pad[1] + [1] * len(rows[1])]
    pixels = processor.image_processor([hat], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], pixels)
    # The form that transformers gives: a list of pictures for each text.
    nested = processor(text=["Red mug", "Green"], images=[[], [hat]], return_tensors="pt", padding=True)
    assert all(torch.equal(nested[name], batch[name]) for name in batch)


def test_arguments_of_tokenizer_and_image_processor_reach_them(processor):
    hat = Image.new("RGB", (40, 40), "green")
    cut = processor(text=["Red mug with a blue hat", "Green"], images=[hat, None], max_length=4, truncation=True)
    assert cut["input_ids"].shape == (2, 4) and cut["input_ids"][0, 0] == processor.control.image
    padded = processor(text="Green", images=hat, text_kwargs={"padding": "max_length", "max_length": 12})
    assert padded["input_ids"].shape == padded["media_index"].shape == (1, 12)
    plain = processor(text="Green", images=hat, images_kwargs={"do_normalize": False})["pixel_values"]
    assert torch.equal(
        plain, processor.image_processor([hat], do_normalize=False, return_tensors="pt")["pixel_values"]
    )
    flat = processor(text="Green", images=hat, do_normalize=False, common_kwargs={"return_tensors": "pt"})
    assert torch.equal(flat["pixel_values"], plain)
    alone = processor(images=[hat], do_normalize=False, return_tensors="pt")["pixel_values"]
    assert torch.equal(alone, plain)
    assert processor(text=["Green"], text_kwargs={"return_attention_mask": False}).keys() == {"input_ids"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"text": "Green", "paddding": True}, "did you mean padding"),
        ({"requests": [{"task": "recommend", "history": ["m1"]}], "paddding": True}, "did you mean padding"),
        ({"images": [Image.new("RGB", (9, 9))], "do_resiz": True}, "did you mean do_resize"),
        ({"text": "Green", "text_kwargs": {"max_lenght": 3}}, "did you mean max_length"),
        (
            {"text": "Green", "padding": True, "text_kwargs": {"padding": False}},
            "came both by itself and in text_kwargs",
        ),
        ({"text": ["a", "b"], "images": [Image.new("RGB", (9, 9))]}, "2 texts and 1 images"),
        ({"text": "a", "images": [[Image.new("RGB", (9, 9))] * 2]}, "at most one"),
        ({"text": "a", "images": Image.new("RGB", (9, 9)), "return_tensors": "np"}, "expected 'pt'"),
        ({"text": "a", "images": Image.new("RGB", (9, 9)), "text_pair": "b"}, "text_pair"),
        ({"text": "a", "images": Image.new("RGB", (9, 9)), "padding": False}, "padding=False"),
        ({"images": None}, "pass requests"),
        ({"images": [None]}, "None"),
        ({"images": "/etc/passwd"}, "data URI"),
    ],
)
def test_arguments_that_would_be_passed_over_are_refused(processor, arguments, words):
    with pytest.raises(ValueError, match=words):
        processor(**arguments)


def test_early_fusion_writes_a_token_for_every_latent():
    processor = make_processor(num_image_tokens=3)
    batch = processor(requests=[{"task": "recommend", "history": ["m1"]}])
    assert batch["input_ids"].eq(processor.control.image).sum() == 3


def test_without_vision_pictures_are_not_opened():
    processor = make_processor(num_image_tokens=0)
    batch = processor(requests=[{"task": "recommend", "history": ["m1"]}])
    assert "pixel_values" not in batch


def test_first_token_id_inside_the_tokenizer_is_refused():
    tokenizer = make_processor().tokenizer
    with pytest.raises(ValueError, match="first_token_id"):
        UniMPProcessor(make_image_processor(), tokenizer, first_token_id=5, catalogue=make_catalogue())


def test_the_byte_level_bpe_is_reproducible_and_lossless():
    first, second = make_processor().tokenizer, make_processor().tokenizer
    assert first.get_vocab() == second.get_vocab()
    text = "Grey hat 19.99 \u00e9\u4e2d\U0001f600"
    assert first.decode(first(text)["input_ids"]) == text


def test_a_query_is_cut_to_sixteen_words(processor):
    request = {"task": "search", "history": ["m1"], "query": "hat \x00 " + "word " * 14 + "z" * 50_000 + " more"}
    text = readable_row(processor, processor(requests=[request]))
    query = text.split("[EOC] ")[1].split(" Can you retrieve")[0]
    assert query.split() == ["hat"] + ["word"] * 14 + ["z" * 40]


def test_a_compact_history_is_tokens_of_items_and_stars():
    """What is asked about stays in full, and so does an item that the catalogue does not know."""
    full, compact = make_processor(), make_processor(history_format="compact")
    control = compact.control
    history = ["m1", {"item_id": "s1", "rating": 4}]
    (ids,) = compact(requests=[{"task": "recommend", "history": history}])["input_ids"].tolist()
    image = [control.image] * compact.num_image_tokens
    m1, s1 = (control.item(compact.catalogue.number(item_id)) for item_id in ("m1", "s1"))
    with_picture = [image if compact.catalogue.has_picture(item_id) else [] for item_id in ("m1", "s1")]
    begin = [control.cls, *with_picture[0], m1, control.eoc, *with_picture[1], s1, control.star(4), control.eoc]
    # To recommend is to go on: nothing is asked. To search is not.
    assert ids == begin
    search = {"task": "search", "history": history, "query": "a mug"}
    (ids,), (of_full,) = (each(requests=[search])["input_ids"].tolist() for each in (compact, full))
    assert ids[: len(begin)] == begin and ids[-1] == control.answer
    assert of_full[-len(ids[len(begin) :]) :] == ids[len(begin) :]

    request = {"task": "rate", "history": ["m1", {"title": "Tin mug"}], "item": "s1"}
    (read,) = compact(requests=[request])["input_ids"].tolist()
    (of_full,) = full(requests=[request])["input_ids"].tolist()
    described = of_full.index(control.eoc) + 1
    assert read[-len(of_full[described:]) :] == of_full[described:]
    with pytest.raises(ValueError, match="history_format='short': expected 'full' or 'compact'"):
        make_processor(history_format="short")


def test_labels_of_a_compact_history():
    processor = make_processor(history_format="compact")
    request = {"task": "recommend", "history": ["m1", {"item_id": "s1", "rating": 4}], "answer": "h1", "next": "h1"}
    batch = processor(requests=[request], labels=True, next_item=True)
    (ids,), (labels,), (kinds,) = (batch[name].tolist() for name in ("input_ids", "labels", "label_kinds"))
    s1, h1 = (processor.control.item(processor.catalogue.number(item_id)) for item_id in ("s1", "h1"))
    m1 = processor.control.item(processor.catalogue.number("m1"))
    ends = (processor.control.cls, processor.control.eoc)
    after = [place + 1 for place, token in enumerate(ids) if token in ends]
    assert [labels[place] for place in after] == [m1, s1, h1] and [kinds[place] for place in after] == [3, 3, 3]
    stars = ids.index(processor.control.star(4))
    assert (labels[stars], kinds[stars]) == (processor.control.star(4), 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"history_length": 2.5}, "history_length=2.5: expected a whole number, at least 1"),
        ({"history_length": 0}, "history_length=0: expected a whole number, at least 1"),
        ({"history_length": True}, "history_length=True"),
        ({"max_length": "x"}, "max_length='x': expected a whole number"),
        ({"max_words": -1}, "max_words=-1: expected a whole number, at least 1"),
        ({"num_retrieved": 0}, "num_retrieved=0"),
        ({"num_image_tokens": -1}, "num_image_tokens=-1: expected a whole number, at least 0"),
        ({"exclude_seen": "no"}, "exclude_seen='no': expected True or False"),
        ({"tell_grounds": 1}, "tell_grounds=1: expected True or False"),
        ({"wish_attributes": "title"}, "attributes='title': expected a list of names"),
        ({"wish_attributes": [1]}, r"wish_attributes=\[1\]: expected a list of names"),
        ({"query_attribute": 5}, "query_attribute=5: expected a name"),
    ],
)
def test_settings_of_another_kind_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        make_processor(**wrong)
