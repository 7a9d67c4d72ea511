"""LoRA: adapters and new modules learn, nothing else; saved, loaded and merged it is the same model."""

import copy

import pytest
import tiny_training
import torch
from peft import PeftModel
from peft.helpers import rescale_adapter_scale
from shop import make_model, make_model_processor
from tiny_models import RAGGED, batch_of, model_of
from transformers import AutoModel, pipeline

from modeling_unimp import PersonalizationPipeline, UniMPForConditionalGeneration, add_lora
from modeling_unimp.gated_cross_attention import UniMPGatedCrossAttention

TEXT_MODELS = ("llama", "gpt_neox", "opt", "gpt2")
NEW = ("gated_cross_attention", "resampler", "item_embeddings", "late_cross_attention", "media_proj")


def frozen(model_type="llama", train="new", **kwargs):
    return model_of(model_type, **kwargs).freeze_backbones(train=train)


def adapted(model_type="llama", train="new", seed=1, **kwargs):
    """Adapters whose second factor is not zero, as after some training."""
    model = add_lora(frozen(model_type, train, **kwargs), r=4, alpha=8)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1 if "lora_" in name else 0.3)
    return model.eval()


def batch_for(model, **kwargs):
    return batch_of(model.config, RAGGED, **kwargs)


@pytest.mark.parametrize("model_type", TEXT_MODELS)
def test_an_untrained_adapter_changes_nothing(model_type):
    model = frozen(model_type)
    batch = batch_for(model)
    expected = model(**batch).logits
    torch.testing.assert_close(add_lora(model, r=4, alpha=8)(**batch).logits, expected)


@pytest.mark.parametrize("fusion", ["exclusive", "late", "early"])
@pytest.mark.parametrize("model_type", TEXT_MODELS)
def test_adapters_and_new_modules_learn_and_nothing_else(model_type, fusion):
    model = adapted(model_type, fusion=fusion, item_rows="both")
    model.train()
    batch = batch_for(model, labels=True)
    model(**batch).loss.backward()
    learning = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert learning and all("lora_" in name or any(new in name for new in NEW) for name in learning)
    # Also the copies that peft makes of new modules: a hook that kept a reference would go on using the originals.
    without_gradient = [name for name, each in learning.items() if each.grad is None or not each.grad.any()]
    assert not without_gradient
    for new in NEW[:1] if fusion == "exclusive" else ():
        copies = [name for name in learning if new in name]
        assert copies and all(".modules_to_save.default." in name for name in copies)
    originals = [each for name, each in model.named_parameters() if "original_module" in name]
    assert originals and not any(each.requires_grad or each.grad is not None for each in originals)


def test_a_step_of_training_moves_what_learns_alone():
    model = adapted()
    before = {name: each.clone() for name, each in model.named_parameters()}
    model.train()
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    model(**batch_for(model, labels=True)).loss.backward()
    optimizer.step()
    for name, each in model.named_parameters():
        assert torch.equal(each, before[name]) != each.requires_grad, name


def test_the_last_layer_learns_in_full_or_by_adapters_not_both():
    model = add_lora(frozen(train="last_layer"), r=4, alpha=8)
    learning = [name for name, each in model.named_parameters() if each.requires_grad]
    last = [name for name in learning if ".layers.1." in name]
    assert last and not any("lora_" in name for name in last)
    assert any("lora_" in name for name in learning if ".layers.0." in name)


@pytest.mark.parametrize("train", ["new", "last_layer"])
@pytest.mark.parametrize("item_rows", ["free", "both"])
def test_an_adapter_folder_is_the_same_model(tmp_path, item_rows, train):
    model = adapted(item_rows=item_rows, train=train)
    batch = batch_for(model)
    expected = model(**batch).logits
    model.save_pretrained(tmp_path)
    # The frozen backbones are not in it.
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size < sum(each.numel() * each.element_size() for each in model.get_base_model().state_dict().values())
    loaded = PeftModel.from_pretrained(frozen(item_rows=item_rows, train=train), tmp_path).eval()
    torch.testing.assert_close(loaded(**batch).logits, expected)
    again = loaded.generate(**batch, max_new_tokens=3, do_sample=False)
    assert torch.equal(again, model.generate(**batch, max_new_tokens=3, do_sample=False))


def test_a_pipeline_takes_the_model_with_its_adapters():
    processor = make_model_processor()
    model = add_lora(make_model(processor).freeze_backbones("new"), r=2, alpha=4)
    request = {"task": "recommend", "history": ["m1"]}
    expected = PersonalizationPipeline(model=model.get_base_model(), processor=processor)(request)
    assert PersonalizationPipeline(model=model, processor=processor)(request) == expected
    assert pipeline("personalization", model=model, processor=processor)(request) == expected


def test_a_pipeline_is_saved_once_its_adapters_are_merged(tmp_path):
    processor = make_model_processor()
    model = add_lora(make_model(processor).freeze_backbones("new"), r=2, alpha=4)
    unimp = PersonalizationPipeline(model=model, processor=processor, device="cpu")
    unimp.add_items([{"item_id": "later", "title": "Green hat"}])
    for save in (
        unimp.save_pretrained,
        model.get_base_model().save_pretrained,
        model.get_base_model().model.save_pretrained,
    ):
        with pytest.raises(ValueError, match=r"adapters of peft in its layers.*merge_and_unload\(\)"):
            save(tmp_path)
        assert not list(tmp_path.iterdir())
    for push in (unimp.push_to_hub, model.get_base_model().push_to_hub):
        with pytest.raises(ValueError, match="adapters of peft in its layers"):  # before it asks the Hub
            push("shop/unimp")
    request = {"task": "recommend", "history": ["m1", "later"]}
    expected = unimp(request)
    PersonalizationPipeline(model=model.merge_and_unload(), processor=processor, device="cpu").save_pretrained(
        tmp_path
    )
    items = pipeline("personalization", model=str(tmp_path), device="cpu")(request)["items"]
    assert [item["item_id"] for item in items] == [item["item_id"] for item in expected["items"]]
    assert [item["score"] for item in items] == pytest.approx([item["score"] for item in expected["items"]], abs=1e-5)


def test_nothing_is_kept_from_other_adapters():
    """States, pictures and rows: of an adapter that is switched off, exchanged, weighed otherwise or merged."""
    processor = make_model_processor()
    model = add_lora(make_model(processor).freeze_backbones("new"), r=2, alpha=64)
    model.add_adapter("other", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "modules_to_save.other" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    unimp = PersonalizationPipeline(model=model.eval(), processor=processor, device="cpu")
    request = {"task": "rate", "history": ["h1", "m1"], "item": "s1"}
    state = unimp.read(request["history"])
    stars = []

    def check():
        expected = PersonalizationPipeline(model=model, processor=processor, device="cpu")(request)["stars"]
        for history in (state, request["history"]):
            assert unimp(request | {"history": history})["stars"] == pytest.approx(expected, abs=1e-5)
        stars.append(expected)

    check()
    with model.disable_adapter():
        check()
    with rescale_adapter_scale(model, 0.1):
        check()
    model.set_adapter("other")
    check()
    assert len(set(stars)) == 4
    unmerged = unimp.read(request["history"])
    model.merge_adapter()
    assert unimp.read(request["history"]).fingerprint != unmerged.fingerprint
    check()


@pytest.mark.parametrize("model_type", TEXT_MODELS)
@pytest.mark.parametrize("tied", [False, True])
def test_merged_it_is_a_plain_model(tmp_path, model_type, tied):
    plain = frozen(model_type, text={"tie_word_embeddings": tied})
    model = adapted(model_type, text={"tie_word_embeddings": tied})
    batch = batch_for(model)
    expected = model(**batch).logits
    assert not torch.allclose(expected, plain(**batch).logits, atol=1e-3)
    merged = model.merge_and_unload()
    assert type(merged) is UniMPForConditionalGeneration
    assert merged.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(merged(**batch).logits, expected, atol=1e-5, rtol=1e-4)
    merged.save_pretrained(tmp_path)
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(loaded(**batch).logits, merged(**batch).logits)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied


def test_gate_openings_are_those_of_the_copies():
    model = adapted()
    gates = {
        name: part.attention_gate
        for name, part in model.named_modules()
        if isinstance(part, UniMPGatedCrossAttention) and "original_module" not in name
    }
    assert len(gates) == 1
    (gate,) = gates.values()
    assert model.get_base_model().gate_openings()["2_attention"] == pytest.approx(gate.tanh().item())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        ("q_proj", {"q_proj"}),
    ],
)
def test_target_modules(names, expected):
    model = add_lora(frozen(), r=4, alpha=8, target_modules=names)
    found = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}
    assert found == expected
    # Cross-attention has a q_proj too; it learns in full. So does the vision tower's: it is frozen.
    places = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert not any("gated" in name or "vision" in name or "resampler" in name for name in places)


@pytest.mark.parametrize("names", [["query_key_value"], ["q_proj", "qproj"], ["lm_head"]])
def test_target_modules_that_are_not_there(names):
    with pytest.raises(ValueError, match=f"{names[-1]}.*are.*'down_proj', 'gate_proj'"):
        add_lora(frozen(), r=4, alpha=8, target_modules=names)


def test_a_language_model_that_learns_in_full_is_refused():
    with pytest.raises(ValueError, match="train_only: new"):
        add_lora(frozen(train="all"), r=4, alpha=8)


def test_the_trainer_trains_resumes_and_merges(tmp_path, monkeypatch):
    def lora_model(processor, **fields):
        return add_lora(make_model(processor, **fields).freeze_backbones("new"), r=4, alpha=8)

    monkeypatch.setattr(tiny_training, "make_model", lora_model)
    straight = tiny_training.make_trainer(tmp_path / "a", evaluate=True)
    frozen_before = copy.deepcopy(
        {name: each for name, each in straight.model.named_parameters() if not each.requires_grad}
    )
    straight.train()
    for name, each in straight.model.named_parameters():
        assert name not in frozen_before or torch.equal(each, frozen_before[name]), name
    resumed = tiny_training.make_trainer(tmp_path / "a", evaluate=True)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert tiny_training.losses(resumed)[-2:] == pytest.approx(tiny_training.losses(straight)[-2:])
    processor = make_model_processor()
    inputs = processor(requests=[{"task": "recommend", "history": ["m1", "h1"]}])
    del inputs["task_ids"]
    resumed.model.eval()
    with torch.no_grad():
        expected = resumed.model(**inputs).logits
    resumed.save_merged_model(tmp_path / "unimp")
    loaded = AutoModel.from_pretrained(tmp_path / "unimp")
    torch.testing.assert_close(loaded(**inputs).logits, expected, atol=1e-5, rtol=1e-4)
