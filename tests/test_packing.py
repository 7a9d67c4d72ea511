"""Padded rows go through the language model side by side, and nothing that comes out tells."""

import pytest
import torch
from tiny_models import FUSIONS, PAD, RAGGED, batch_of, model_of

from modeling_unimp.backbones import SUPPORTED_TEXT_MODELS
from modeling_unimp.gated_cross_attention import fold_spans
from modeling_unimp.packing import Packing


def mask_of(*lengths, width):
    return torch.tensor([[0] * (width - length) + [1] * length for length in lengths])


def alone(batch, row):
    """One row of a batch without its padding."""
    first = int((batch["attention_mask"][row] == 0).sum())
    per_token = ("input_ids", "attention_mask", "media_index", "labels")
    return {name: value[row : row + 1, first:] if name in per_token else value for name, value in batch.items()}


def rows_read(model, batch):
    """The shape `(R, T)` of what the language model is given, and the outputs."""
    shapes = []

    def note(module, args, kwargs):
        shapes.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    hook = model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    outputs = model(**batch, use_cache=False, skip_logits=False)
    hook.remove()
    return shapes[0], outputs


def test_where_each_token_goes():
    packing = Packing.of(mask_of(2, 5, 1, 3, width=5))
    # The row of 5 alone, then 3 and 2; the row of 1 finds no room there.
    assert packing.position_ids_RT.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1], [0, 0, 0, 0, 0]]
    tokens = torch.arange(1, 21).view(4, 5, 1)
    assert packing.pack(tokens)[..., 0].tolist() == [[6, 7, 8, 9, 10], [18, 19, 20, 4, 5], [15, 0, 0, 0, 0]]
    expected = tokens[..., 0] * mask_of(2, 5, 1, 3, width=5)
    assert packing.unpack(packing.pack(tokens))[..., 0].tolist() == expected.tolist()


@pytest.mark.parametrize("mask", [mask_of(4, 4, width=4), mask_of(4, 3, 2, width=4), mask_of(3, width=5)])
def test_where_no_row_is_saved_nothing_is_packed(mask):
    assert Packing.of(mask) is None


def test_padding_may_name_a_picture():
    mask = mask_of(2, 1, 3, width=3)
    packing = Packing.of(mask)
    index = torch.tensor([[7, 7, 0], [5, 5, 5], [0, 6, 6]])  # 7 and two of 5 are partly padding
    spans = packing.pack_spans(fold_spans(index))
    pictures = spans.seen_I[spans.pictures_S[spans.slots_N // spans.longest]]
    seen = dict(zip(spans.tokens_N.tolist(), pictures.tolist(), strict=True))
    # Packed: the row of 3; then the row of 2 and the row of 1.
    assert seen == {1: 5, 2: 5, 3: 6, 5: 4}


@pytest.mark.parametrize("model_type", SUPPORTED_TEXT_MODELS)
def test_every_language_model_keeps_packed_rows_apart(model_type):
    model = model_of(model_type)
    batch = batch_of(model.config, RAGGED * 2, labels=True)
    (num_rows, _), outputs = rows_read(model, batch)
    assert (num_rows < len(batch["input_ids"])) == (model_type != "opt")
    for row in range(len(batch["input_ids"])):
        expected = model(**alone(batch, row), skip_logits=False)
        length = expected.logits.shape[1]
        torch.testing.assert_close(outputs.logits[row : row + 1, -length:], expected.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("fusion", ["none", *FUSIONS])
def test_loss_and_gradients_are_those_of_the_rows_alone(fusion, attention):
    model = model_of("llama", fusion)
    model.model.language_model.set_attn_implementation(attention)
    batch = batch_of(model.config, RAGGED * 2, labels=True)
    (num_rows, _), packed = rows_read(model, batch)
    # In fusion "all" what a token may look at is told by its row.
    assert (num_rows < len(batch["input_ids"])) == (fusion != "all")
    packed.nll.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    rows = [model(**alone(batch, row), skip_logits=True).nll for row in range(len(batch["input_ids"]))]
    torch.testing.assert_close(packed.nll, torch.cat(rows), atol=1e-5, rtol=1e-4)
    torch.cat(rows).sum().backward()
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_who_asks_for_states_or_attentions_gets_those_of_the_padded_rows():
    model = model_of("llama")
    model.model.language_model.set_attn_implementation("eager")
    batch = batch_of(model.config, RAGGED * 2)
    num_rows, width = batch["input_ids"].shape
    _, outputs = rows_read(model, batch | {"output_hidden_states": True})
    assert outputs.hidden_states[0].shape[:2] == (num_rows, width)
    _, outputs = rows_read(model, batch | {"output_attentions": True})
    assert outputs.attentions[0].shape[-2:] == (width, width)
    assert len(outputs.attentions[0]) == num_rows


def test_what_fills_a_row_up_reaches_nothing():
    model = model_of("llama", "none")
    batch = batch_of(model.config, RAGGED * 2)
    _, outputs = rows_read(model, batch)
    other = batch | {"input_ids": batch["input_ids"].where(batch["input_ids"] != PAD, 3)}
    _, changed = rows_read(model, other)
    is_token = batch["attention_mask"].bool()
    assert torch.equal(outputs.logits[is_token], changed.logits[is_token])
