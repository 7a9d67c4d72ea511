"""A training that begins with an earlier model: nothing that it knows is lost, whatever the new tables look like."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shop import ITEMS, make_histories, make_imagining_model, make_model, make_model_processor, picture, save_demo_shop
from test_pipeline_unimp import REQUESTS, close
from transformers import pipeline

from modeling_unimp import ModelArguments, PersonalizationPipeline, UniMPTrainingArguments
from modeling_unimp.training.experiment import image_codec_of, model_of, processor_of
from modeling_unimp.training.initial_model import take_weights
from modeling_unimp.training.recipe import DataArguments
from processing_unimp import Catalogue, leave_last_out

ROOT = Path(__file__).resolve().parent.parent
NEW = {"item_id": "h9", "title": "Purple cap", "category": "hat", "price": 20, "image": picture("red")}


def saved(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def answers(model, processor):
    unimp = PersonalizationPipeline(model=model, processor=processor, device="cpu")
    return unimp([request for task, request in REQUESTS.items() if task != "imagine"])


@pytest.mark.parametrize("item_rows", ["free", "both", "content"])
def test_with_the_same_tables_it_answers_as_the_earlier_model(tmp_path, item_rows):
    processor = make_model_processor()
    earlier = make_model(processor, item_rows=item_rows)
    name = saved(tmp_path / "earlier", earlier, processor)
    model = make_model(processor, seed=1, item_rows=item_rows)
    assert not close(answers(model, processor), answers(earlier, processor))
    take_weights(model, processor, name)
    assert close(answers(model, processor), answers(earlier, processor))


def test_items_in_another_order_with_one_new_and_one_gone_keep_their_logits(tmp_path):
    processor = make_model_processor()
    earlier = make_model(processor, item_rows="free")
    name = saved(tmp_path / "earlier", earlier, processor)
    items = [NEW, *(dict(item) for item in reversed(ITEMS) if item["item_id"] != "m2")]
    changed = make_model_processor(catalogue=Catalogue.from_items(items))
    changed.tokenizer = processor.tokenizer
    changed.catalogue = changed.catalogue  # whose texts are tokenized anew
    model = make_model(changed, seed=1, item_rows="free")
    new_row = model.model.item_embeddings.read.items[0].clone()
    take_weights(model, changed, name)
    assert torch.equal(model.model.item_embeddings.read.items[0], new_row)  # begins as in a new model
    request = {"task": "recommend", "history": ["h1", {"item_id": "m1", "rating": 4}]}
    with torch.no_grad():
        before = earlier.answer_logits("items", **processor(requests=[request])).flatten()
        after = model.answer_logits("items", **changed(requests=[request])).flatten()
    for item in items[1:]:
        there, here = (each.catalogue.number(item["item_id"]) for each in (processor, changed))
        torch.testing.assert_close(after[here], before[there])


def test_terms_are_met_again_by_their_text(tmp_path):
    """One more hat and a word less: the terms have other numbers, and their vectors are those they had."""
    processor = make_model_processor()
    earlier = make_model(processor, item_rows="both")
    name = saved(tmp_path / "earlier", earlier, processor)
    items = [*(dict(item) for item in ITEMS if item["item_id"] != "s2"), NEW, NEW | {"item_id": "h10"}]
    changed = make_model_processor(catalogue=Catalogue.from_items(items))
    old, new = processor.term_texts, changed.term_texts
    assert set(old) & set(new) and set(new) - set(old) and set(old) - set(new)
    model = make_model(changed, seed=1, item_rows="both")
    fresh = model.model.item_embeddings.read.content.terms.clone()
    take_weights(model, changed, name)
    of_terms = model.model.item_embeddings.read.content.terms
    for number, text in enumerate(new):
        known = earlier.model.item_embeddings.read.content.terms[old.index(text)] if text in old else fresh[number]
        assert torch.equal(of_terms[number], known), text


def test_another_build_is_refused_with_what_differs(tmp_path):
    processor = make_model_processor()
    name = saved(tmp_path / "earlier", make_model(processor, item_rows="both"), processor)
    with pytest.raises(ValueError, match=r"built otherwise.* \d+ weights differ.*missing here.*model card"):
        take_weights(make_model(processor, item_rows="free"), processor, name)
    with pytest.raises(ValueError, match=r"built otherwise.*resampler.*\(2, .*\) there and \(3, .*\) here"):
        take_weights(make_model(processor, item_rows="both", num_latents=3), processor, name)


def run_of(tmp_path, catalogue, **model_arguments):
    """Processor, codec and model as train.py makes them."""
    data_args = DataArguments(tasks=["imagine"], query_attribute="category")
    model_args = ModelArguments(text_model="tiny", **model_arguments)
    args = UniMPTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none")
    split = leave_last_out(make_histories(catalogue), new_users=0.0)
    codec, _ = image_codec_of(catalogue, data_args, model_args, args)
    processor = processor_of(catalogue, split, codec, data_args, model_args)
    return codec, processor, model_of(processor, codec, model_args, args)[0]


SMALL = {"num_latents": 2, "resampler_depth": 1, "resampler_heads": 2, "resampler_head_dim": 16}
SMALL |= {"cross_attention_heads": 2, "cross_attention_head_dim": 16}


def test_the_codec_is_that_of_the_earlier_model(tmp_path):
    """One trained anew would have other codes, and the rows of codes would mean nothing."""
    earlier, processor = make_imagining_model()
    name = saved(tmp_path / "earlier", earlier, processor)
    catalogue = Catalogue.from_items([dict(item) for item in ITEMS])
    codec, _, model = run_of(tmp_path, catalogue, initial_model=name, image_codec="train", unimp=dict(SMALL))
    codes = codec.encode([catalogue.picture("m1")])
    assert torch.equal(codes, earlier.image_codec.encode([catalogue.picture("m1")]))
    assert torch.equal(model.model.item_embeddings.after_places, earlier.model.item_embeddings.after_places)


def test_a_tower_that_was_trained_does_not_meet_features_of_another(tmp_path):
    earlier, processor = make_imagining_model()
    name = saved(tmp_path / "earlier", earlier, processor)
    catalogue = Catalogue.from_items([dict(item) for item in ITEMS])
    with pytest.raises(SystemExit, match=r"has trained its vision tower.*train_vision: true"):
        run_of(
            tmp_path, catalogue, initial_model=name, image_codec="train", unimp=dict(SMALL), train_vision=False,
            feature_store=str(tmp_path / "features"),
        )  # fmt: skip


@pytest.mark.slow
def test_a_training_goes_on_where_another_ended(tmp_path):
    """With a learning rate of 0 the network answers as before, and says what the split cannot keep apart."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}

    def train(output, shop, *more):
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), "--items", shop, "--interactions", shop, "--output_dir", output,
             "--use_cpu", "true", "--report_to", "none", "--max_steps", "2", "--eval_strategy", "no",
             "--hybrid", "none", "--save_strategy", "no", "--load_best_model_at_end", "false", "--max_test_cases", "5",
             *more],
            capture_output=True, text=True, timeout=400, cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    save_demo_shop(tmp_path / "shop", 60, 80)
    train("first", "shop")
    said = train("second", "shop", "--initial_model", "first", "--learning_rate", "0")
    assert "knows 60 of 60 items" in said and "have learnt from what is held out here if" in said
    first, second = (
        pipeline("personalization", model=str(tmp_path / each), device="cpu") for each in ("first", "second")
    )
    request = {"task": "recommend", "history": [first.processor.catalogue.item_ids[3]]}
    assert close(first(request), second(request))
    record = json.loads((tmp_path / "second/results.json").read_text())
    assert "begins with the weights of first" in record["split"]["leaks"]
    assert record["recipe"]["model"]["initial_model"] == "first"
