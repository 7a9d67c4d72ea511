"""Writing, as users of transformers ask for it: every strategy of `generate`, its caches and what it gives back."""

import pytest
import torch
from shop import make_model, make_model_processor
from tiny_models import RAGGED, batch_of, each_fusion, each_text_model, first_output, item, made
from transformers import DynamicCache

from modeling_unimp import UniMPForConditionalGeneration, UniMPModel
from modeling_unimp.gated_cross_attention import UniMPGatedCrossAttention

GREEDY = {"max_new_tokens": 4, "eos_token_id": None, "do_sample": False}


@each_fusion
@each_text_model
def test_generation(model_type, fusion):
    model = made(UniMPForConditionalGeneration, model_type, fusion)
    batch = batch_of(model.config, RAGGED)
    length = batch["input_ids"].shape[1]
    settings = {"max_new_tokens": 4, "eos_token_id": None}
    greedy = model.generate(**batch, **settings, do_sample=False)
    assert greedy.shape == (4, length + 4) and torch.equal(greedy[:, :length], batch["input_ids"])
    for more in ({"use_cache": False}, {"cache_implementation": "static", "disable_compile": True}):
        assert torch.equal(model.generate(**batch, **settings, do_sample=False, **more), greedy)
    beams = model.generate(**batch, **settings, num_beams=3, num_return_sequences=2, do_sample=False)
    assert beams.shape == (8, length + 4)
    torch.manual_seed(0)
    sampled = model.generate(**batch, **settings, do_sample=True, num_return_sequences=2)
    assert sampled.shape == (8, length + 4)


@each_fusion
def test_pictures_are_projected_once_for_all_that_is_written(fusion):
    """Each token is what a forward of all before it, which knows nothing of that, finds likeliest."""
    model = made(UniMPForConditionalGeneration, "llama", fusion, text={"num_hidden_layers": 4})
    batch = batch_of(model.config, RAGGED)
    projected = []
    blocks = [module for module in model.modules() if isinstance(module, UniMPGatedCrossAttention)]
    hooks = [block.k_proj.register_forward_hook(lambda *_: projected.append(1)) for block in blocks]
    written = model.generate(**batch, **GREEDY)
    for hook in hooks:
        hook.remove()
    assert len(projected) == len(blocks) == {"exclusive": 2, "all": 2, "late": 1}.get(fusion, 0)
    whole = dict(batch)
    for name, fill in (("attention_mask", 1), ("media_index", 0)):
        whole[name] = torch.nn.functional.pad(batch[name], (0, 4), value=fill)
    logits = first_output(model, whole | {"input_ids": written})[:, -5:-1]
    assert torch.equal(logits.argmax(-1), written[:, -4:])


def test_what_generation_gives_back():
    model = made(UniMPForConditionalGeneration, "llama")
    model.set_attn_implementation("eager")
    batch = batch_of(model.config, RAGGED)
    length = batch["input_ids"].shape[1]
    out = model.generate(
        **batch, max_new_tokens=3, eos_token_id=None, do_sample=False, return_dict_in_generate=True,
        output_scores=True, output_logits=True, output_hidden_states=True, output_attentions=True,
    )  # fmt: skip
    assert [scores.shape for scores in out.scores] == [(4, model.config.vocab_size)] * 3
    assert [len(step) for step in out.hidden_states] == [3] * 3 and [len(step) for step in out.attentions] == [2] * 3
    assert out.cache.get_seq_length() == length + 2
    torch.testing.assert_close(out.logits[0], first_output(model, batch)[:, -1], atol=1e-5, rtol=1e-4)


@each_text_model
def test_left_padding_is_not_seen(model_type):
    model = made(UniMPForConditionalGeneration, model_type)
    batch = batch_of(model.config, RAGGED[2:3])
    padded = dict(batch)
    for name, fill in (("input_ids", model.config.padding_token_id), ("attention_mask", 0), ("media_index", 0)):
        padded[name] = torch.nn.functional.pad(batch[name], (5, 0), value=fill)
    torch.testing.assert_close(first_output(model, padded)[:, 5:], first_output(model, batch), atol=1e-5, rtol=1e-4)
    settings = {"max_new_tokens": 4, "eos_token_id": None, "do_sample": False}
    assert torch.equal(model.generate(**padded, **settings)[:, 5:], model.generate(**batch, **settings))


def test_generation_from_embeddings():
    model = made(UniMPForConditionalGeneration, "llama")
    batch = batch_of(model.config, RAGGED)
    settings = {"max_new_tokens": 4, "eos_token_id": None, "do_sample": False}
    expected = model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
    embeds = model.model.embed(batch.pop("input_ids"))
    assert torch.equal(model.generate(inputs_embeds=embeds, **batch, **settings), expected)


def test_generation_refuses_arguments_it_would_ignore():
    model = made(UniMPForConditionalGeneration, "llama")
    with pytest.raises(ValueError, match="not used by the model|picture_values"):
        model.generate(**batch_of(model.config, RAGGED), max_new_tokens=1, picture_values=torch.zeros(1))


# ------------------------------------------------------------------------------------------------------------- caches


@each_fusion
@pytest.mark.parametrize("model_class", [UniMPModel, UniMPForConditionalGeneration])
@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_by_either_name_goes_on_where_it_ended(model_class, fusion, name):
    model = made(model_class, "llama", fusion)
    batch = batch_of(model.config, RAGGED)
    length = batch["input_ids"].shape[1]
    first = {key: value[:, : length - 2] if value.shape[:2] == (4, length) else value for key, value in batch.items()}
    with torch.no_grad():
        cache = model(**first, use_cache=True).cache
        media = {} if fusion == "none" else {"media_index": batch["media_index"]}
        rest = {"input_ids": batch["input_ids"][:, -2:], "attention_mask": batch["attention_mask"], **media}
        if "pixel_values" in batch:
            rest["pixel_values"] = batch["pixel_values"]
        last = model(**rest, **{name: cache})[0]
    torch.testing.assert_close(last, first_output(model, batch)[:, -2:], atol=1e-5, rtol=1e-4)


@each_fusion
@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_writing_goes_on_from_a_cache(fusion, name):
    """A second call of `generate` gets the first one's cache and batch, whose media index ends with the prompt."""
    model = made(UniMPForConditionalGeneration, "llama", fusion)
    batch = batch_of(model.config, RAGGED)
    straight = model.generate(**batch, **GREEDY | {"max_new_tokens": 7})
    first = model.generate(**batch, **GREEDY | {"max_new_tokens": 3}, return_dict_in_generate=True)
    more = torch.ones_like(first.sequences[:, :3])
    going_on = batch | {"input_ids": first.sequences, "attention_mask": torch.cat([batch["attention_mask"], more], 1)}
    assert torch.equal(model.generate(**going_on, **GREEDY, **{name: first.cache}), straight)
    if name == "cache":
        # With beams, of which each goes on from it.
        begun = {name: tensor[:, :-2] if tensor.ndim == 2 else tensor for name, tensor in batch.items()}
        beams = GREEDY | {"num_beams": 3}
        with torch.no_grad():
            cache = model(**begun, use_cache=True).cache
        assert torch.equal(model.generate(**batch, **beams, cache=cache), model.generate(**batch, **beams))


# --------------------------------------------------------------------------------------------------- assisted decoding


@each_fusion
def test_an_assistant_changes_nothing(fusion):
    """Its candidates have no picture, and there are more of them than the media index covers."""
    model = made(UniMPForConditionalGeneration, "llama", fusion)
    batch = batch_of(model.config, RAGGED[:1])
    expected = model.generate(**batch, **GREEDY | {"max_new_tokens": 8})
    for seed in (0, 5):
        assistant = made(UniMPForConditionalGeneration, "llama", fusion, seed=seed)
        written = model.generate(**batch, **GREEDY | {"max_new_tokens": 8}, assistant_model=assistant)
        assert torch.equal(written, expected)


@each_fusion
def test_prompt_lookup_changes_nothing(fusion):
    """The prompt repeats itself around an added token: the candidates hold ids beyond the language model's words."""
    model = made(UniMPForConditionalGeneration, "llama", fusion)
    batch = batch_of(model.config, RAGGED[:1])
    number = item(model.config, 2)
    repeated = torch.tensor([[7, number, 8, 7, number, 8, 7]])
    batch["input_ids"] = torch.cat([batch["input_ids"], repeated], dim=1)
    for name, fill in (("attention_mask", 1), ("media_index", 0)):
        if name in batch:
            batch[name] = torch.nn.functional.pad(batch[name], (0, 7), value=fill)
    expected = model.generate(**batch, **GREEDY | {"max_new_tokens": 8})
    written = model.generate(**batch, **GREEDY | {"max_new_tokens": 8}, prompt_lookup_num_tokens=3)
    assert torch.equal(written, expected)


# -------------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("normalize", [False, True])
def test_transition_scores_are_the_scores_of_what_was_written(normalize):
    model = made(UniMPForConditionalGeneration, "llama")
    batch = batch_of(model.config, RAGGED)
    out = model.generate(**batch, **GREEDY, return_dict_in_generate=True, output_scores=True)
    written = out.sequences[:, batch["input_ids"].shape[1] :]
    found = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=normalize)
    for row in range(4):
        for step in range(4):
            scores = out.scores[step][row]
            expected = (scores.log_softmax(-1) if normalize else scores)[written[row, step]]
            torch.testing.assert_close(found[row, step], expected)


def test_transition_scores_of_a_beam_add_up_to_its_score():
    model = made(UniMPForConditionalGeneration, "llama")
    out = model.generate(
        **batch_of(model.config, RAGGED), max_new_tokens=5, eos_token_id=2, do_sample=False, num_beams=3,
        length_penalty=0.0, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    found = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    assert (out.beam_indices[:, found.shape[1] :] < 0).all()
    torch.testing.assert_close(found.sum(dim=1), out.sequences_scores, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------------- batches of a processor


@pytest.fixture(scope="module")
def processor():
    return make_model_processor()


REQUEST = {"task": "explain", "history": ["m1", "s1"], "item": "h1"}


def test_a_batch_of_the_processor_is_generated_from_as_it_is(processor):
    """`task_ids` is of the Trainer alone: generate takes it and nothing changes."""
    model = make_model(processor)
    batch = processor(requests=[REQUEST, {"task": "recommend", "history": ["m2"]}])
    assert "task_ids" in batch
    written = model.generate(**batch, **GREEDY)
    without = {name: tensor for name, tensor in batch.items() if name != "task_ids"}
    assert torch.equal(written, model.generate(**without, **GREEDY))
    assert isinstance(model(**batch, use_cache=True).cache, DynamicCache)


def test_words_alone_are_written_where_groups_were_never_compared(processor):
    """Trained in groups, an item's logit says nothing beside a word's; yet without a choice one of them would win."""
    model = make_model(processor, label_softmax="group")
    torch.nn.init.constant_(model.model.item_embeddings.write.items, 9.0)
    batch = processor(requests=[REQUEST])
    length, words_end = batch["input_ids"].shape[1], model.config.group_slices["words"][1]
    assert model(**batch).logits[0, -1].argmax() >= words_end
    for changed in ({}, {"num_beams": 2}, {"do_sample": True}):
        assert (model.generate(**batch, **GREEDY | changed)[:, length:] < words_end).all()
    first, stop = model.config.group_slices["items"]
    chosen = model.generate(**batch, **GREEDY, answer_group="items")[:, length:]
    assert ((chosen >= first) & (chosen < stop)).all()
