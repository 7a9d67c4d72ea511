"""The whole model on tiny real classes: equivalences, generation, saving, growing, freezing."""

import copy
import shutil

import pytest
import torch
from tiny_models import (
    FUSIONS,
    IMG,
    NUM_ITEMS,
    PAD,
    RAGGED,
    V,
    batch_of,
    config_of,
    content_of,
    model_of,
    open_gates,
    text_config,
    vision_config,
)
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionModel, MobileNetV1Config
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from modeling_unimp.backbones import SUPPORTED_TEXT_MODELS
from modeling_unimp.configuration_unimp import UniMPConfig
from modeling_unimp.gated_cross_attention import UniMPGatedCrossAttention, mask_pictures
from modeling_unimp.modeling_unimp import UniMPForConditionalGeneration
from modeling_unimp.network import UniMPModel


@pytest.mark.parametrize("model_type", SUPPORTED_TEXT_MODELS)
def test_closed_gates_are_the_language_model_alone(model_type):
    torch.manual_seed(0)
    text_model = AutoModelForCausalLM.from_config(text_config(model_type)).eval()
    alone = copy.deepcopy(text_model)
    model = UniMPForConditionalGeneration(config_of(model_type), text_model).eval()
    batch = batch_of(model.config, [[(0, 1), (1, 2)]], num_pictures=2)
    batch["input_ids"] %= V  # words alone, which the language model knows
    expected = alone(batch["input_ids"]).logits
    assert torch.equal(model(**batch).logits[..., :V], expected)
    opened = open_gates(model)(**batch).logits[..., :V]
    first = 1  # the token of the first picture
    assert torch.equal(opened[:, :first], expected[:, :first])
    assert (opened[:, first:] - expected[:, first:]).abs().amax(-1).min() > 1e-5


@pytest.mark.parametrize("model_type", SUPPORTED_TEXT_MODELS)
def test_a_ragged_batch_is_one_by_one(model_type):
    check_ragged(model_of(model_type))


@pytest.mark.parametrize("fusion", ["all", "early", "late", "pooled", "none"])
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_ragged_batch_is_one_by_one_in_every_fusion(model_type, fusion):
    check_ragged(model_of(model_type, fusion))


@torch.no_grad()
def check_ragged(model):
    batch = batch_of(model.config, RAGGED)
    together = model(**batch).logits
    for row, items in enumerate(RAGGED):
        alone = batch_of(model.config, [items])
        logits = model(**alone).logits[0]
        torch.testing.assert_close(together[row, -len(logits) :], logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", [*FUSIONS, "none"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_cached_generation_is_uncached(fusion, num_beams):
    model = model_of("llama", fusion)
    batch = batch_of(model.config, RAGGED)
    settings = {
        "max_new_tokens": 6,
        "num_beams": num_beams,
        "num_return_sequences": num_beams,
        "do_sample": False,
        "eos_token_id": None,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    cached = model.generate(**batch, **settings)
    uncached = model.generate(**batch, **settings, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    assert cached.sequences.shape == (len(RAGGED) * num_beams, batch["input_ids"].shape[1] + 6)
    for one, other in zip(cached.scores, uncached.scores, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", SUPPORTED_TEXT_MODELS)
def test_every_language_model_generates(model_type):
    model = model_of(model_type, "all")
    batch = batch_of(model.config, RAGGED)
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    assert torch.equal(model.generate(**batch, **settings), model.generate(**batch, **settings, use_cache=False))


@pytest.mark.parametrize("fusion", ["exclusive", "all", "late"])
def test_generation_in_other_ways(fusion):
    model = model_of("llama", fusion)
    batch = batch_of(model.config, RAGGED)
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    expected = model.generate(**batch, **settings)
    assert torch.equal(model.generate(**batch, **settings, prefill_chunk_size=5), expected)
    assert torch.equal(model.generate(**batch, **settings, cache_implementation="static"), expected)
    states = model.model.encode_media(batch.pop("pixel_values"))
    assert torch.equal(model.generate(**batch, **settings, media_states=states), expected)
    embedded = {name: batch[name] for name in ("attention_mask", "media_index")}
    embedded["inputs_embeds"] = model.model.embed(batch["input_ids"])
    assert torch.equal(model.generate(**embedded, **settings, media_states=states), expected[:, -4:])
    sampled = model.generate(**batch, max_new_tokens=4, do_sample=True, num_return_sequences=2, media_states=states)
    assert sampled.shape[0] == 2 * len(RAGGED)


def test_a_history_is_read_once_and_continued():
    """Tokens after a cached prefix, with the media index of the new tokens alone."""
    model = model_of("llama")
    batch = batch_of(model.config, [[(0, 1), (1, 2), (2, 3)]])
    whole = model(**batch).logits
    cut = 10
    prefix = {name: batch[name][:, :cut] for name in ("input_ids", "attention_mask", "media_index")}
    first = model(**prefix, pixel_values=batch["pixel_values"], use_cache=True)
    rest = model(
        input_ids=batch["input_ids"][:, cut:],
        attention_mask=batch["attention_mask"],
        media_index=batch["media_index"][:, cut:],
        media_states=first.media_states,
        cache=first.cache,
    )
    torch.testing.assert_close(rest.logits, whole[:, cut:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_pictures_are_seen(fusion):
    model = model_of("llama", fusion)
    batch = batch_of(model.config, [[(0, 1), (1, 2), (2, 3)]])
    logits = model(**batch).logits
    changed = dict(batch, pixel_values=batch["pixel_values"].clone())
    changed["pixel_values"][1] += 1.0
    differs = (model(**changed).logits != logits).any(-1)[0]
    start = int((batch["media_index"][0] == 2).nonzero()[0])
    assert not differs[:start].any() and differs[start]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_eager_is_sdpa(fusion):
    model = model_of("llama", fusion)
    batch = batch_of(model.config, RAGGED)
    sees = batch["attention_mask"].bool()
    model.set_attn_implementation("sdpa")
    expected = model(**batch).logits
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(model(**batch).logits[sees], expected[sees], atol=1e-5, rtol=1e-4)


def test_folding_in_the_whole_model_is_the_dense_mask(monkeypatch):
    model = model_of("gpt_neox")
    batch = batch_of(model.config, RAGGED, labels=True)
    folded = model(**batch).loss
    folded.backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    monkeypatch.setattr(
        UniMPModel, "_media_mask", lambda self, index, num_pictures, length: mask_pictures(index, num_pictures, False)
    )
    dense = model(**batch).loss
    dense.backward()
    torch.testing.assert_close(dense, folded)
    for name, each in model.named_parameters():
        if each.grad is not None:
            torch.testing.assert_close(each.grad, gradients[name], atol=1e-5, rtol=1e-3)


# ------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("fusion", ["exclusive", "all", "late"])
def test_activation_checkpointing_gives_the_same_gradients(reentrant, fusion):
    model = model_of("llama", fusion).freeze_backbones("new").train()
    batch = batch_of(model.config, RAGGED, labels=True)

    def gradients():
        model.zero_grad()
        model(**batch).loss.backward()
        return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}

    expected = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    checkpointed = gradients()
    assert set(checkpointed) == set(expected) and any("resampler" in name for name in expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------- answers


def test_rank_is_the_argsort_of_the_full_softmax():
    model = model_of("llama")
    batch = batch_of(model.config, RAGGED)
    scores, numbers = model.rank(NUM_ITEMS, **batch)
    first, stop = model.config.group_slices["items"]
    full = model(**batch).logits[:, -1].softmax(-1)[:, first:stop]
    assert torch.equal(numbers, full.argsort(-1, descending=True))
    torch.testing.assert_close(scores, (full / full.sum(-1, keepdim=True)).sort(-1, descending=True).values)
    allowed = torch.arange(NUM_ITEMS) % 2 == 0
    assert set(model.rank(10, allowed, **batch)[1].flatten().tolist()) == {0, 2, 4, 6}


def test_answers_are_the_logits_of_forward():
    model = model_of("llama")
    batch = batch_of(model.config, RAGGED)
    logits = model(**batch).logits
    for group, (first, stop) in model.config.group_slices.items():
        torch.testing.assert_close(model.answer_logits(group, 2, **batch), logits[:, -2:, first:stop])
    torch.testing.assert_close(model.stars(**batch), logits[:, -1, V + 5 : V + 10].softmax(-1))
    torch.testing.assert_close(model.decisions(3, **batch), logits[:, -3:, V + 10 : V + 12].softmax(-1)[..., 1])


def test_groups_that_are_not_there():
    model = model_of("llama", num_codes=0, codes_per_picture=0)
    batch = batch_of(model.config, RAGGED)
    with pytest.raises(ValueError, match="this model has no codes"):
        model.answer_logits("codes", **batch)
    with pytest.raises(ValueError, match="group='stones': expected one of words, stars"):
        model.answer_logits("stones", **batch)


# ----------------------------------------------------------------------------------------------- saving and growing


@pytest.mark.parametrize("tied_words", [False, True])
@pytest.mark.parametrize("item_rows", ["free", "content", "both"])
def test_saves_and_loads(tmp_path, tied_words, item_rows):
    model = model_of("llama", item_rows=item_rows, text={"tie_word_embeddings": tied_words})
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied_words
    batch = batch_of(model.config, RAGGED)
    model.save_pretrained(tmp_path)
    loaded, report = UniMPForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied_words
    assert loaded.generation_config.pad_token_id == PAD


def test_missing_weights_are_initialised(tmp_path):
    model = model_of("llama", item_rows="both")
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not any(part in name for part in ("gated_cross_attention", "item_embeddings", "resampler"))
    }
    model.save_pretrained(tmp_path, state_dict=state)
    loaded, report = UniMPForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"]
    for module in loaded.modules():
        if isinstance(module, UniMPGatedCrossAttention):
            assert not module.attention_gate.any() and not module.feed_forward_gate.any()
            assert 0.05 < module.q_proj.weight.std() < 0.2
    rows = loaded.model.item_embeddings
    assert not rows.read.items.any() and 0.05 < rows.read.tokens.std() < 0.2
    assert 0.05 < rows.read.content.terms.std() < 0.2
    assert (rows.content_term_ids == -1).all() and not rows.content_term_weights.any()
    assert loaded.model.resampler.latents.std() > 0.5
    own = model.model.language_model.layers[0].mlp.up_proj.weight
    assert torch.equal(loaded.model.language_model.layers[0].mlp.up_proj.weight, own)


def test_weights_left_out_come_from_the_backbones(tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(text_config("llama", tie_word_embeddings=True)).save_pretrained(tmp_path / "text")
    CLIPVisionModel(vision_config()).save_pretrained(tmp_path / "vision")
    model = UniMPForConditionalGeneration.from_backbones(
        str(tmp_path / "text"), str(tmp_path / "vision"), num_items=NUM_ITEMS, num_latents=3, resampler_depth=1
    )
    open_gates(model.freeze_backbones("last_layer")).eval()
    torch.nn.init.normal_(model.model.language_model.layers[-1].mlp.up_proj.weight)
    kept = model.trained_state_dict()
    assert not any("vision_tower" in name and "running" not in name for name in kept)
    assert not any("lm_head" in name or "layers.0" in name for name in kept)
    model.save_pretrained(tmp_path / "unimp", state_dict=kept)
    with CaptureLogger(logging.get_logger("transformers.modeling_utils")) as captured:
        loaded, report = UniMPForConditionalGeneration.from_pretrained(tmp_path / "unimp", output_loading_info=True)
    assert not report["missing_keys"]
    assert not captured.out  # nothing of lost or newly drawn weights
    batch = batch_of(model.config, RAGGED)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    shutil.rmtree(tmp_path / "vision")
    with pytest.raises(ValueError, match="^vision_model='.*vision': there is no such folder"):
        UniMPForConditionalGeneration.from_pretrained(tmp_path / "unimp")


@pytest.mark.parametrize("item_rows", ["free", "content", "both"])
@pytest.mark.parametrize("tied", [False, True])
def test_added_items_leave_old_scores(tmp_path, item_rows, tied):
    model = model_of("llama", item_rows=item_rows, tie_item_rows=tied, catalogue_fingerprint="old")
    batch = batch_of(model.config, RAGGED)
    before = model(**batch).logits
    model.add_items(3, None if item_rows == "free" else content_of(3), catalogue_fingerprint="new")
    after = model(**batch).logits
    assert after.shape[-1] == before.shape[-1] + 3 == model.config.vocab_size
    torch.testing.assert_close(after[..., :-3], before, atol=1e-6, rtol=1e-5)
    assert model.config.num_items == NUM_ITEMS + 3 and model.config.catalogue_fingerprint == "new"
    model.save_pretrained(tmp_path)
    assert torch.equal(UniMPForConditionalGeneration.from_pretrained(tmp_path)(**batch).logits, after)


def test_a_catalogue_that_is_not_the_models():
    class FakeCatalogue:
        fingerprint = "aaaa"

        def __len__(self):
            return NUM_ITEMS

    model = model_of("llama", catalogue_fingerprint="aaaa")
    model.check_catalogue(FakeCatalogue())
    model.config.catalogue_fingerprint = "bbbb"
    with pytest.raises(ValueError, match="fingerprint is aaaa and this model was made for bbbb"):
        model.check_catalogue(FakeCatalogue())
    model.add_items(2)
    with pytest.raises(ValueError, match="holds 7 items and this model 9 item tokens"):
        model.check_catalogue(FakeCatalogue())


def test_deepcopy():
    model = model_of("llama")
    copied = copy.deepcopy(model)
    batch = batch_of(model.config, RAGGED)
    expected = model(**batch).logits
    open_gates(model, 0.0)
    assert torch.equal(copied(**batch).logits, expected)


def test_words_cannot_be_resized():
    model = model_of("llama")
    assert model.resize_token_embeddings(V) is model.get_input_embeddings()
    with pytest.raises(ValueError, match="cannot resize the words from 50 to 60"):
        model.resize_token_embeddings(60)


# ---------------------------------------------------------------------------------------------------------- forward


def test_forward_conforms():
    model = model_of("llama")
    model.set_attn_implementation("eager")
    batch = batch_of(model.config, RAGGED, labels=True)
    out = model(**batch, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 3 and len(out.attentions) == 2
    as_tuple, named = model(**batch, return_dict=False), model(**batch)
    assert torch.equal(as_tuple[0], named.loss) and torch.equal(as_tuple[1], named.logits)
    labels = batch.pop("labels")
    assert labels.shape == out.logits.shape[:2]
    torch.testing.assert_close(model(**batch, logits_to_keep=2).logits, out.logits[:, -2:])
    torch.testing.assert_close(model(**batch, logits_to_keep=torch.tensor([0, 3])).logits, out.logits[:, [0, 3]])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_embeddings_instead_of_ids(fusion):
    model = model_of("llama", fusion)
    batch = batch_of(model.config, RAGGED)
    expected = model(**batch).logits
    embeds = model.model.embed(batch.pop("input_ids"))
    torch.testing.assert_close(model(**batch, inputs_embeds=embeds).logits, expected)


def test_features_and_states_instead_of_pixels():
    model = model_of("llama")
    batch = batch_of(model.config, RAGGED)
    expected = model(**batch)
    pixels = batch.pop("pixel_values")
    features = model.model.encode_pictures(pixels)
    assert features.shape == (3, 5, 24)
    torch.testing.assert_close(model(**batch, vision_features=features).logits, expected.logits)
    torch.testing.assert_close(model(**batch, media_states=expected.media_states).logits, expected.logits)
    # A model without a tower reads features.
    blind = model_of("llama", vision_config=None)
    assert blind(**batch, vision_features=features).logits.shape == expected.logits.shape
    with pytest.raises(ValueError, match="no vision tower: pass vision_features"):
        blind(**batch, pixel_values=pixels)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
@pytest.mark.parametrize("fusion", [*FUSIONS, "none"])
def test_half_precision(dtype, fusion):
    model = model_of("llama", fusion, item_rows="both").to(dtype)
    batch = batch_of(model.config, RAGGED, labels=True)
    out = model(**batch)
    out.loss.backward()
    assert out.logits.dtype == dtype and out.loss.isfinite()
    del batch["labels"]
    model.generate(**batch, max_new_tokens=2, do_sample=False)


def test_autocast():
    model = model_of("llama", item_rows="both").train()
    batch = batch_of(model.config, RAGGED, labels=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss, model(**batch).loss, atol=0.05, rtol=0.05)


def test_a_convolutional_tower():
    vision = MobileNetV1Config(image_size=32, depth_multiplier=0.25, min_depth=4)
    model = model_of("llama", vision_config=vision, vision_feature_size=256)
    pixels = torch.randn(2, 3, 64, 64)
    assert model.model.encode_pictures(pixels).shape == (2, 4, 256)
    model.freeze_backbones().train()
    statistics = {name: each.clone() for name, each in model.model.vision_tower.named_buffers()}
    first = model.model.encode_pictures(pixels)
    assert not first.requires_grad
    for name, each in model.model.vision_tower.named_buffers():
        assert torch.equal(each, statistics[name])
    model.freeze_backbones(train_vision=True).train()
    assert model.model.encode_pictures(pixels).requires_grad
    assert model.model.vision_tower.training


@pytest.mark.parametrize(
    "change, message",
    [
        ({"media_index": None}, "pictures came without a media_index"),
        ({"pixel_values": None}, "media_index names picture 3, but only 0 pictures came"),
        ({"media_index": torch.ones(4, 3, dtype=torch.long)}, "media_index covers 3 tokens"),
        ({"vision_features": torch.zeros(3, 5, 24)}, "either pixel_values or vision_features"),
        ({"pixel_values": None, "vision_features": torch.zeros(3, 5, 9)}, "vision features of shape .*, 24"),
        ({"input_ids": None}, "exactly one of input_ids or inputs_embeds"),
    ],
)
def test_errors_of_forward(change, message):
    model = model_of("llama")
    with pytest.raises(ValueError, match=message):
        model(**batch_of(model.config, RAGGED) | change)


def test_errors_of_the_fusions():
    none = model_of("llama", "none")
    batch = batch_of(none.config, RAGGED)
    with pytest.raises(ValueError, match="pictures came to a model with fusion='none'"):
        none(**batch, vision_features=torch.zeros(3, 5, 24))
    early = model_of("llama", "early")
    batch = batch_of(early.config, [[(0, 1)]])
    batch["input_ids"][batch["input_ids"] == IMG] = torch.tensor([IMG, IMG, 3])
    with pytest.raises(ValueError, match=r"row 0 holds 2 \[IMG\] tokens: fusion='early' needs 3"):
        early(**batch)
    late = model_of("llama", "late")
    batch = batch_of(late.config, [[(0, 1)]])
    cache = late(**batch, use_cache=True).cache
    with pytest.raises(ValueError, match="media_index covers 1 tokens; the cache holds"):
        late(input_ids=torch.tensor([[3]]), media_index=torch.tensor([[0]]), cache=cache)


@pytest.mark.parametrize(
    "config, message",
    [
        (
            AutoConfig.for_model("bloom"),
            "a language model of type 'bloom' is not supported: .* Expected one of gemma3",
        ),
        (text_config("gemma3_text", final_logit_softcapping=30.0), "final_logit_softcapping=30.0"),
        (text_config("opt", word_embed_proj_dim=16), "an OPT with embeddings of width 16 in layers of width 32"),
    ],
)
def test_language_models_that_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        UniMPModel(UniMPConfig(text_config=config))


# --------------------------------------------------------------------------------------------------------- training


def trainable(model):
    return {name for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("model_type", SUPPORTED_TEXT_MODELS)
def test_what_learns(model_type):
    model = model_of(model_type)
    model.freeze_backbones("new")
    new = trainable(model)
    assert all(any(part in name for part in ("resampler", "gated_cross_attention", "item_embeddings")) for name in new)
    assert sum("gate" in name.split(".")[-1] for name in new) == 2
    model.freeze_backbones("last_layer")
    added = trainable(model) - new
    assert any("1" in name.split(".") for name in added) and not any("0" in name.split(".") for name in added)
    outside = {name for name in added if "1" not in name.split(".")}
    assert outside and all("norm" in name or "ln_f" in name for name in outside)
    model.freeze_backbones("all")
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    assert all("vision_tower" in name for name in frozen)
    model.freeze_backbones("all", train_vision=True)
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    assert all("post_layernorm" in name for name in frozen) and frozen
    with pytest.raises(ValueError, match="train='some'"):
        model.freeze_backbones("some")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_everything_that_learns_gets_a_gradient(fusion):
    model = model_of("llama", fusion, item_rows="both").freeze_backbones("all", train_vision=True).train()
    model(**batch_of(model.config, RAGGED, labels=True)).loss.backward()
    assert not [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]


def test_training_changes_new_weights_only():
    model = model_of("llama", gate=0.0).freeze_backbones("new").train()
    before = {name: each.clone() for name, each in model.named_parameters()}
    batch = batch_of(model.config, RAGGED, labels=True)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    changed = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert changed <= trainable(model)
    openings = model.gate_openings()
    assert set(openings) == {"2_attention", "2_feed_forward"} and all(abs(each) > 1e-3 for each in openings.values())


# ------------------------------------------------------------------------------------------------------- backbones
