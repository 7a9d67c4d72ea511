"""Where a model drops what in training: `config.dropout`."""

import pytest
import torch
from tiny_models import RAGGED, batch_of, model_of

from modeling_unimp.backbones import load_text_model

P = 0.4


def given_and_made(model, batch):
    """Input and output of the first layer."""
    seen = []
    layer = model.model.language_model.layers[0]
    handle = layer.register_forward_hook(lambda _, args, made: seen.append((args[0], made)))
    model(**batch)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("fusion", ["exclusive", "none"])
def test_of_what_a_layer_adds_a_share_is_dropped_and_the_rest_made_up_for(fusion):
    model = model_of("llama", fusion, dropout=P)
    batch = batch_of(model.config, RAGGED)
    layer = model.model.language_model.layers[0]
    model.train()
    given, made = given_and_made(model, batch)
    added = made - given
    dropped = added == 0
    assert abs(dropped.float().mean().item() - P) < 0.05
    # The same layer on the same input, of which nothing is dropped.
    layer.added_dropout = 0.0
    torch.manual_seed(0)
    of_input = {}
    layer.register_forward_pre_hook(lambda _, args: (given, *args[1:]))
    layer.register_forward_hook(lambda _, args, made: of_input.setdefault("added", made - given))
    model(**batch)
    expected = (of_input["added"] / (1 - P)).masked_fill(dropped, 0)
    torch.testing.assert_close(added, expected, atol=1e-5, rtol=1e-4)


def test_inputs_are_dropped_in_training_alone():
    model = model_of("llama", "none", dropout=P)
    batch = batch_of(model.config, RAGGED)
    embeds = model.model.embed(batch["input_ids"])
    given, made = given_and_made(model, batch)
    assert torch.equal(given, embeds)
    again, made_again = given_and_made(model, batch)
    assert torch.equal(made, made_again)
    given, _ = given_and_made(model.train(), batch)
    dropped = given == 0
    assert abs(dropped.float().mean().item() - P) < 0.05
    torch.testing.assert_close(given, (embeds / (1 - P)).masked_fill(dropped, 0))


def test_a_language_model_from_scratch_has_it_in_its_attention():
    assert load_text_model("nano", attention_dropout=P).model.layers[0].self_attn.attention_dropout == P
    assert load_text_model("nano").config.attention_dropout == 0
