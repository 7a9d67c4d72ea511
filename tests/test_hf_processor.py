"""What transformers asks of a processor: it round-trips, takes arguments when it is loaded, and hands out batches."""

import copy
import json

import pytest
import torch
from PIL import Image
from shop import make_model_processor, make_processor
from tiny_models import config_of
from transformers import AutoProcessor

from processing_unimp import UniMPProcessor


@pytest.fixture(scope="module")
def processor():
    return make_model_processor(history_length=3, max_words=4, query_attribute="category")


def test_the_processor_round_trips(tmp_path, processor):
    processor.save_pretrained(tmp_path / "once")
    loaded = UniMPProcessor.from_pretrained(tmp_path / "once")
    loaded.save_pretrained(tmp_path / "twice")
    config_of("llama").save_pretrained(tmp_path / "twice")
    again = AutoProcessor.from_pretrained(tmp_path / "twice")
    assert type(again) is UniMPProcessor
    request = {"task": "search", "history": ["m1", {"item_id": "s1", "rating": 4}, {"title": "x"}], "query": "hat"}
    expected = processor(requests=[request])
    for each in (loaded, again):
        assert each.to_dict() == processor.to_dict()
        assert each.image_processor.to_dict() == processor.image_processor.to_dict()
        assert each.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
        found = each(requests=[request])
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    saved = json.loads((tmp_path / "once" / "processor_config.json").read_text())
    assert saved["processor_class"] == "UniMPProcessor" and saved["history_length"] == 3
    assert "catalogue" not in saved


def test_arguments_of_loading_replace_what_was_saved(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    loaded = UniMPProcessor.from_pretrained(tmp_path, history_length=1, max_words=2)
    assert (loaded.history_length, loaded.max_words, loaded.query_attribute) == (1, 2, "category")
    history = ["m1", "h1", "m2"]
    short = loaded(requests=[{"task": "recommend", "history": history}])["input_ids"]
    assert short.shape[1] < processor(requests=[{"task": "recommend", "history": history}])["input_ids"].shape[1]


def test_without_a_catalogue_it_saves_loads_and_says_so(tmp_path, processor):
    bare = UniMPProcessor(processor.image_processor, processor.tokenizer, processor.first_token_id)
    bare.save_pretrained(tmp_path)
    loaded = UniMPProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no catalogue"):
        loaded(requests=[{"task": "recommend", "history": ["m1"]}])


def test_attributes_of_the_processor(processor):
    assert set(processor.get_attributes()) == {"image_processor", "tokenizer"}
    batch = processor(requests=[{"task": "recommend", "history": ["m1"]}])
    assert set(processor.model_input_names) == batch.keys() - {"task_ids"}
    assert "UniMPProcessor" in repr(processor)
    same = copy.deepcopy(processor)
    assert same.catalogue.item_ids == processor.catalogue.item_ids


def test_free_text_and_pictures_go_to_their_parts(processor):
    text = ["a red mug", "a hat"]
    inputs = processor(text=text, padding=False)
    assert inputs["input_ids"] == processor.tokenizer(text)["input_ids"]
    image = Image.new("RGB", (50, 40), "red")
    pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, processor.image_processor([image], return_tensors="pt")["pixel_values"])
    both = processor(images=[image], text="a red mug", return_tensors="pt")
    assert {"input_ids", "pixel_values"} <= both.keys()
    ids = inputs["input_ids"][0]
    assert processor.decode(ids) == processor.tokenizer.decode(ids)
    assert processor.batch_decode([ids]) == processor.tokenizer.batch_decode([ids])


def test_a_batch_goes_to_a_device_and_a_dtype():
    batch = make_processor()(requests=[{"task": "recommend", "history": ["m1"]}])
    moved = batch.to("cpu", dtype=torch.bfloat16)
    assert moved["pixel_values"].dtype == torch.bfloat16 and moved["input_ids"].dtype == torch.long
