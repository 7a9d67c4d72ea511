"""What the common tests of transformers ask of every model and its config; of a processor test_hf_processor.py.

Those tests are not in the wheel; these are our own, for `UniMPForConditionalGeneration` and `UniMPProcessor`, with
those of generation in test_generation.py. test_hf_suites.py runs transformers' where a checkout of it is at hand.
"""

import copy
import inspect
import json
import pickle
import subprocess
import sys

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from tiny_models import (
    RAGGED,
    V,
    batch_of,
    config_of,
    each_fusion,
    each_text_model,
    first_output,
    made,
    open_gates,
    text_config,
    vision_config,
)
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from modeling_unimp import UniMPConfig, UniMPForConditionalGeneration, UniMPModel
from modeling_unimp.gated_cross_attention import UniMPGatedCrossAttention

each_class = pytest.mark.parametrize("model_class", [UniMPModel, UniMPForConditionalGeneration])


# ---------------------------------------------------------------------------------------------------- save and load


@each_class
@each_text_model
def test_save_load(tmp_path, model_class, model_type):
    model = made(model_class, model_type, item_rows="both")
    batch = batch_of(model.config, RAGGED)
    first = first_output(model, batch)
    for folder in (tmp_path / "once", tmp_path / "twice"):
        model.save_pretrained(folder)
        assert (folder / "config.json").is_file()
        assert (folder / "generation_config.json").is_file() == model.can_generate()
        model, report = model_class.from_pretrained(folder, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
        assert not model.training
        torch.testing.assert_close(first_output(model, batch), first, atol=0, rtol=0)
        assert all(parameter.is_contiguous() for parameter in model.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_safetensors_hold_each_weight_once(tmp_path, tied):
    model = made(UniMPForConditionalGeneration, "llama", text={"tie_word_embeddings": tied}, item_rows="both")
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    left_out = {"lm_head.weight"} if tied else set()
    assert saved.keys() == model.state_dict().keys() - left_out
    fresh = made(UniMPForConditionalGeneration, "llama", text={"tie_word_embeddings": tied}, item_rows="both", seed=9)
    assert not fresh.load_state_dict(model.state_dict(), strict=True).missing_keys
    batch = batch_of(model.config, RAGGED)
    assert torch.equal(first_output(fresh, batch), first_output(model, batch))


@each_class
def test_from_a_state_dict_without_a_checkpoint(model_class):
    model = made(model_class, "llama")
    loaded = model_class.from_pretrained(None, config=copy.deepcopy(model.config), state_dict=model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_the_base_model_and_the_full_one_load_each_other(tmp_path):
    full = made(UniMPForConditionalGeneration, "llama", text={"tie_word_embeddings": True})
    batch = batch_of(full.config, RAGGED)
    full.save_pretrained(tmp_path / "full")
    base = UniMPModel.from_pretrained(tmp_path / "full")
    assert torch.equal(first_output(base, batch), first_output(full.model, batch))
    base.save_pretrained(tmp_path / "base")
    again, report = UniMPForConditionalGeneration.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert not report["missing_keys"]
    assert torch.equal(first_output(again, batch), first_output(full, batch))


def test_a_sharded_checkpoint(tmp_path):
    model = made(UniMPForConditionalGeneration, "llama")
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    batch = batch_of(model.config, RAGGED)
    assert torch.equal(first_output(AutoModel.from_pretrained(tmp_path), batch), first_output(model, batch))


def test_weights_of_another_shape_are_refused_or_drawn_anew(tmp_path):
    made(UniMPForConditionalGeneration, "llama").save_pretrained(tmp_path)
    with pytest.raises((RuntimeError, ValueError), match="(?i)mismatch"):
        UniMPForConditionalGeneration.from_pretrained(tmp_path, num_items=11)
    loaded = UniMPForConditionalGeneration.from_pretrained(tmp_path, num_items=11, ignore_mismatched_sizes=True)
    assert loaded.model.item_embeddings.read.items.shape[0] == 11
    assert loaded.model.item_embeddings.read.items.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "auto"])
def test_dtype_of_loading(tmp_path, dtype):
    made(UniMPForConditionalGeneration, "llama", item_rows="both").to(torch.bfloat16).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    wanted = torch.bfloat16 if dtype == "auto" else dtype
    assert model.dtype == wanted and {parameter.dtype for parameter in model.parameters()} == {wanted}
    assert model.model.item_embeddings.content_term_ids.dtype == torch.int32
    assert first_output(model, batch_of(model.config, RAGGED)).dtype == wanted
    for part in (model.model.language_model, model.model.vision_tower):
        assert part.dtype == wanted


def test_pickle_and_deepcopy():
    model = made(UniMPForConditionalGeneration, "llama")
    batch = batch_of(model.config, RAGGED)
    state = pickle.loads(pickle.dumps(model.state_dict()))
    fresh = made(UniMPForConditionalGeneration, "llama", seed=3)
    fresh.load_state_dict(state)
    copied = copy.deepcopy(model)
    for other in (fresh, copied):
        assert torch.equal(first_output(other, batch), first_output(model, batch))
    assert not {id(each) for each in copied.parameters()} & {id(each) for each in model.parameters()}
    assert pickle.loads(pickle.dumps(model.config)).to_dict() == model.config.to_dict()


@each_text_model
def test_a_whole_model_is_pickled(tmp_path, model_type):
    """The gated layers' classes are made at run time: another process has to find its own."""
    model = made(UniMPForConditionalGeneration, model_type)
    batch = batch_of(model.config, RAGGED)
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(first_output(again, batch), first_output(model, batch))
    assert torch.equal(
        first_output(copy.deepcopy(pickle.loads(pickle.dumps(model))), batch), first_output(model, batch)
    )


def test_a_pickled_model_answers_in_a_fresh_process(tmp_path):
    model = made(UniMPForConditionalGeneration, "llama")
    batch = batch_of(model.config, RAGGED)
    torch.save(model, tmp_path / "model.pt")
    torch.save((batch, first_output(model, batch)), tmp_path / "expected.pt")
    program = """
import sys, torch
model = torch.load(sys.argv[1] + "/model.pt", weights_only=False)
batch, expected = torch.load(sys.argv[1] + "/expected.pt")
with torch.no_grad():
    assert torch.equal(model(**batch)[0], expected)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


# --------------------------------------------------------------------------------------------------- initialization


@pytest.fixture
def poisoned(monkeypatch):
    """Memory that nobody initialises is not zero by luck, but NaN."""
    original = torch.empty

    def empty(*args, **kwargs):
        tensor = original(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() and tensor.device.type == "cpu" else tensor

    monkeypatch.setattr(torch, "empty", empty)


@each_fusion
@each_text_model
def test_all_weights_are_initialised(poisoned, model_type, fusion):
    torch.manual_seed(0)
    model = UniMPForConditionalGeneration(config_of(model_type, fusion, item_rows="both", content_picture_size=5))
    for name, tensor in model.state_dict().items():
        assert tensor.isfinite().all(), name
    gates = [module for module in model.modules() if isinstance(module, UniMPGatedCrossAttention)]
    assert bool(gates) == (fusion in ("exclusive", "all", "late"))
    for gate in gates:
        assert not gate.attention_gate.any() and not gate.feed_forward_gate.any()


@each_fusion
@pytest.mark.parametrize("tied", [False, True])
def test_what_a_checkpoint_lacks_is_initialised_as_in_a_new_model(fusion, tied):
    """From an empty state dict, all weights come off the meta device through `_init_weights`."""
    config = config_of("llama", fusion, text={"tie_word_embeddings": tied}, item_rows="both", content_picture_size=5)
    torch.manual_seed(0)
    new = UniMPForConditionalGeneration(copy.deepcopy(config))
    loaded = UniMPForConditionalGeneration.from_pretrained(None, config=copy.deepcopy(config), state_dict={})
    assert loaded.state_dict().keys() == new.state_dict().keys()
    for (name, first), second in zip(new.named_parameters(), loaded.parameters(), strict=True):
        assert second.device.type == "cpu" and second.isfinite().all(), name
        # transformers leaves out what a tower draws for its layers as a whole when the outer class is not its own.
        if "vision_tower" in name:
            continue
        # Drawn with another seed, but from the same distribution.
        if first.numel() >= 64:
            torch.testing.assert_close(second.std(), first.std(), rtol=0.35, atol=1e-4, msg=name)
        else:
            torch.testing.assert_close(second.mean(), first.mean(), rtol=0.35, atol=0.3, msg=name)
    for (name, first), second in zip(new.named_buffers(), loaded.buffers(), strict=True):
        assert torch.equal(first, second), name


@each_class
@each_text_model
def test_every_tensor_is_a_parameter_or_a_buffer(model_class, model_type):
    config = config_of(model_type, item_rows="both")
    expected = dict(model_class(copy.deepcopy(config)).named_buffers())
    with torch.device("meta"):
        model = model_class(config).eval()
    model.to_empty(device="cpu")
    model.init_weights()
    assert first_output(model, batch_of(config, RAGGED)).isfinite().all()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, expected[name]), name


def test_two_seeds_are_two_models():
    first, second, again = (made(UniMPForConditionalGeneration, "llama", seed=seed) for seed in (0, 1, 0))
    others, sames = second.state_dict(), again.state_dict()
    for name, one in first.named_parameters():
        assert torch.equal(one, sames[name]), name
        # Constants: norms, biases and the gates.
        assert not torch.equal(one, others[name]) or (one == one.flatten()[0]).all(), name


def test_from_config():
    config = config_of("llama")
    for model in (AutoModel.from_config(config), UniMPForConditionalGeneration._from_config(config)):
        assert type(model) is UniMPForConditionalGeneration
        assert model.config.vocab_size == config.vocab_size
    assert AutoModel.from_config(config, dtype=torch.bfloat16).dtype == torch.bfloat16


# ----------------------------------------------------------------------------------------------------------- forward


def test_signature():
    for model_class in (UniMPModel, UniMPForConditionalGeneration):
        names = list(inspect.signature(model_class.forward).parameters)
        assert names[1:3] == ["input_ids", "attention_mask"]
    model = made(UniMPForConditionalGeneration, "llama")
    assert model.main_input_name == "input_ids" and model.base_model is model.model and model.can_generate()
    assert model.loss_type == "ForConditionalGeneration" or "CausalLM" in str(model.loss_function)


@each_class
@each_text_model
def test_attentions_and_hidden_states(model_class, model_type):
    model = made(model_class, model_type)
    model.set_attn_implementation("eager")
    batch = batch_of(model.config, RAGGED)
    rows, length = batch["input_ids"].shape
    with torch.no_grad():
        out = model(**batch, output_attentions=True, output_hidden_states=True)
        plain = model(**batch)
    assert plain.attentions is None and plain.hidden_states is None
    assert [each.shape for each in out.attentions] == [(rows, 2, length, length)] * 2
    assert [each.shape for each in out.hidden_states] == [(rows, length, 32)] * 3
    if model_class is UniMPModel:
        torch.testing.assert_close(out.hidden_states[-1], out.last_hidden_state)
    # Asked through the config, too.
    model.config.text_config.output_hidden_states = model.config.output_hidden_states = True
    with torch.no_grad():
        assert len(model(**batch).hidden_states) == 3


@each_class
@each_fusion
def test_tuples_hold_what_outputs_hold(model_class, fusion):
    model = made(model_class, "llama", fusion)
    batch = batch_of(model.config, RAGGED)
    if model_class is UniMPForConditionalGeneration:
        batch["labels"] = batch_of(model.config, RAGGED, labels=True)["labels"]
    with torch.no_grad():
        out = model(**batch, use_cache=False, output_hidden_states=True)
        as_tuple = model(**batch, use_cache=False, output_hidden_states=True, return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == len(out.to_tuple())
    for first, second in zip(out.to_tuple(), as_tuple, strict=True):
        if isinstance(first, torch.Tensor):
            first, second = (first,), (second,)
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@each_text_model
def test_forward_is_deterministic_and_leaves_its_input(model_type):
    model = made(UniMPForConditionalGeneration, model_type)
    batch = batch_of(model.config, RAGGED)
    before = {name: tensor.clone() for name, tensor in batch.items()}
    assert torch.equal(first_output(model, batch), first_output(model, batch))
    assert all(torch.equal(batch[name], tensor) for name, tensor in before.items())


@each_text_model
def test_embeddings_are_as_good_as_ids(model_type):
    model = made(UniMPForConditionalGeneration, model_type)
    batch = batch_of(model.config, RAGGED)
    expected = first_output(model, batch)
    embeds = model.model.embed(batch.pop("input_ids"))
    torch.testing.assert_close(first_output(model, batch | {"inputs_embeds": embeds}), expected)
    for wrong in ({}, {"inputs_embeds": embeds, "input_ids": batch["media_index"]}):
        with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
            model(attention_mask=batch["attention_mask"], **wrong)


def test_any_attention_of_transformers_may_be_asked_of_the_language_model(tmp_path):
    made(UniMPForConditionalGeneration, "llama").save_pretrained(tmp_path)
    models = [
        AutoModel.from_pretrained(tmp_path, attn_implementation=asked)
        for asked in ("sdpa", {"text_config": "flex_attention"}, "flex_attention")
    ]
    assert [each.config.text_config._attn_implementation for each in models] == ["sdpa"] + ["flex_attention"] * 2
    batch = batch_of(models[0].config, RAGGED)
    seen = batch["attention_mask"].bool()
    sdpa, *others = (first_output(model, batch)[seen] for model in models)
    for other in others:
        torch.testing.assert_close(other, sdpa, atol=1e-5, rtol=1e-4)


@each_text_model
def test_eager_is_sdpa_where_there_is_no_padding(tmp_path, model_type):
    made(UniMPForConditionalGeneration, model_type).save_pretrained(tmp_path)
    models = {name: AutoModel.from_pretrained(tmp_path, attn_implementation=name) for name in ("eager", "sdpa")}
    for name, model in models.items():
        parts = (model, model.model, model.model.language_model, model.model.vision_tower)
        assert [part.config._attn_implementation for part in parts] == [name] * 4
    batch = batch_of(models["sdpa"].config, RAGGED)
    seen = batch["attention_mask"].bool()
    eager, sdpa = (first_output(model, batch)[seen] for model in models.values())
    torch.testing.assert_close(eager, sdpa, atol=1e-5, rtol=1e-4)


def test_image_features_are_what_the_language_model_sees():
    for model in (made(UniMPForConditionalGeneration, "llama"), made(UniMPModel, "llama")):
        inner = model if isinstance(model, UniMPModel) else model.model
        pixels = torch.randn(2, 3, 16, 16)
        with torch.no_grad():
            features = model.get_image_features(pixels)
            more = model.get_image_features(pixels, output_hidden_states=True)
            as_tuple = model.get_image_features(pixels, return_dict=False)
            seen = model(pixel_values=pixels).media_states
        assert torch.equal(features.last_hidden_state, inner.vision_tower(pixels).last_hidden_state)
        assert torch.equal(features.pooler_output, seen) and torch.equal(as_tuple[1], seen)
        assert features.hidden_states is None and len(more.hidden_states) == 2


def test_shifted_labels_are_labels_one_step_on():
    model = made(UniMPForConditionalGeneration, "llama")
    batch = batch_of(model.config, RAGGED, labels=True)
    labels = batch.pop("labels")
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    with torch.no_grad():
        expected = model(**batch, labels=labels)
        found = model(**batch, shift_labels=shifted)
        last = model(
            **batch, shift_labels=torch.where(shifted == -100, shifted, -100).index_fill(1, torch.tensor([-1]), 7)
        )
    assert torch.equal(found.nll, expected.nll) and torch.equal(found.loss, expected.loss)
    # What comes after the last token has no place in `labels`.
    torch.testing.assert_close(last.nll, -last.logits[:, -1].log_softmax(-1)[:, 7], atol=1e-5, rtol=1e-4)


def test_logits_to_keep():
    model = made(UniMPForConditionalGeneration, "llama")
    batch = batch_of(model.config, RAGGED)
    everything = first_output(model, batch)
    with torch.no_grad():
        for keep in (1, 3):
            torch.testing.assert_close(model(**batch, logits_to_keep=keep).logits, everything[:, -keep:])
        chosen = torch.tensor([0, 4])
        torch.testing.assert_close(model(**batch, logits_to_keep=chosen).logits, everything[:, chosen])


# ---------------------------------------------------------------------------------------------------------- training


@each_text_model
def test_labels_train(model_type):
    model = made(UniMPForConditionalGeneration, model_type).train()
    batch = batch_of(model.config, RAGGED, labels=True)
    out = model(**batch)
    assert out.loss.shape == () and out.loss.requires_grad and out.logits is None
    out.loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_gradients_reach_hidden_states_and_attentions():
    model = made(UniMPForConditionalGeneration, "llama")
    model.set_attn_implementation("eager")
    out = model(**batch_of(model.config, RAGGED), output_hidden_states=True, output_attentions=True)
    out.hidden_states[0].retain_grad()
    out.attentions[0].retain_grad()
    out.logits.flatten()[0].backward(retain_graph=True)
    assert out.hidden_states[0].grad is not None and out.attentions[0].grad is not None


@each_text_model
def test_activation_checkpointing_can_be_switched(model_type):
    model = made(UniMPForConditionalGeneration, model_type)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    switched = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
    assert layers and not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing and all(module.gradient_checkpointing for module in switched)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing and not any(module.gradient_checkpointing for module in switched)


def test_activation_checkpointing_with_frozen_backbones_has_gradients():
    model = made(UniMPForConditionalGeneration, "llama").freeze_backbones("new").train()
    batch = batch_of(model.config, RAGGED, labels=True)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": True})
            model.enable_input_require_grads()
        model.zero_grad()
        model(**batch, use_cache=False).loss.backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


# ------------------------------------------------------------------------------------------------------- embeddings


@each_text_model
def test_embeddings_can_be_got_and_set(model_type):
    model = made(UniMPForConditionalGeneration, model_type)
    assert isinstance(model.get_input_embeddings(), torch.nn.Embedding)
    assert isinstance(model.get_output_embeddings(), torch.nn.Linear)
    new = torch.nn.Embedding(V, 32)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new is model.model.language_model.get_input_embeddings()


@each_text_model
@pytest.mark.parametrize("tied", [False, True])
def test_words_are_tied_where_the_language_model_ties_them(tmp_path, model_type, tied):
    model = made(UniMPForConditionalGeneration, model_type, text={"tie_word_embeddings": tied})
    model.save_pretrained(tmp_path)
    for each in (model, UniMPForConditionalGeneration.from_pretrained(tmp_path), copy.deepcopy(model)):
        words, head = each.get_input_embeddings().weight, each.get_output_embeddings().weight
        assert (words is head) == tied
        assert len(list(each.parameters())) == len(list(each.named_parameters(remove_duplicate=False))) - tied


def test_the_config_may_say_that_words_are_tied(tmp_path):
    """Else a tied model would be built and, its checkpoint without a head, be loaded with a random one."""
    given = config_of("llama", tie_word_embeddings=True)
    later = config_of("llama")
    later.tie_word_embeddings = True
    for number, config in enumerate((given, later)):
        model = open_gates(UniMPForConditionalGeneration(config)).eval()
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
        model.save_pretrained(tmp_path / str(number))
        loaded = UniMPForConditionalGeneration.from_pretrained(tmp_path / str(number))
        assert loaded.config.text_config.tie_word_embeddings and loaded.config.tie_word_embeddings
        batch = batch_of(config, RAGGED)
        assert torch.equal(first_output(loaded, batch), first_output(model, batch))
    assert not config_of("llama", text={"tie_word_embeddings": True}, tie_word_embeddings=False).tie_word_embeddings


def test_words_cannot_be_resized():
    model = made(UniMPForConditionalGeneration, "llama")
    for size in (V + 10, V - 10):
        with pytest.raises(ValueError, match="cannot resize the words"):
            model.resize_token_embeddings(size)
    assert len(model.get_input_embeddings().weight) == V


# -------------------------------------------------------------------------------------------------------------- config


def test_the_config_round_trips(tmp_path):
    config = config_of("gemma3_text", fusion="late", item_rows="both", catalogue_fingerprint="abc", num_items=9)
    config.save_pretrained(tmp_path)
    copies = [
        UniMPConfig.from_dict(config.to_dict()),
        UniMPConfig(**config.to_dict()),
        UniMPConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        UniMPConfig.from_dict(json.loads(config.to_json_string(use_diff=False))),
        copy.deepcopy(config),
    ]
    ignored = ("transformers_version", "_name_or_path")
    for each in copies:
        assert type(each) is UniMPConfig and type(each.text_config) is type(config.text_config)
        first, second = ({k: v for k, v in c.to_dict().items() if k not in ignored} for c in (each, config))
        assert first == second
        assert each.group_slices == config.group_slices
    assert config.get_text_config() is config.text_config
    assert UniMPConfig().to_dict()["model_type"] == "unimp"


def test_nested_configs_may_be_dicts_or_configs(tmp_path):
    text, vision = text_config("llama"), vision_config()
    made_of_configs = UniMPConfig(text_config=text, vision_config=vision, vision_feature_size=24)
    made_of_dicts = UniMPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), vision_feature_size=24)
    assert made_of_configs.to_dict() == made_of_dicts.to_dict()
    assert isinstance(made_of_dicts.text_config, PreTrainedConfig)
    made_of_configs.save_pretrained(tmp_path)
    # A part can be read alone from the whole.
    assert type(text).from_pretrained(tmp_path).hidden_size == text.hidden_size


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_latents": "x"},
        {"num_latents": 0},
        {"fusion": "sum"},
        {"item_rows": "none"},
        {"num_items": -1},
        {"num_items": 3.5},
        {"tie_item_rows": "perhaps"},
        {"text_config": "llama"},
        {"text_config": {"hidden_size": 32}},
        {"vision_config": 3},
        {"label_softmax": "items"},
    ],
    ids=str,
)
def test_the_config_refuses_wrong_types(wrong):
    with pytest.raises((ValueError, TypeError, StrictDataclassError)):
        config_of("llama", **wrong)


# ----------------------------------------------------------------------------------------------------------- processor
