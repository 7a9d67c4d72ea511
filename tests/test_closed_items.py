"""`item_at_eoc`: the input of an [EOC] holds the item that it closes, in whatever pieces a sequence is read."""

import pytest
import torch
from tiny_models import ANS, CLS, EOC, NUM_ITEMS, PAD, RAGGED, batch_of, config_of, item, model_of

from modeling_unimp.modeling_unimp import UniMPForConditionalGeneration
from modeling_unimp.network import UniMPModel

CONFIG = config_of("llama", item_at_eoc=True)
A, B = item(CONFIG, 0), item(CONFIG, NUM_ITEMS - 1)
STAR = CONFIG.group_slices["stars"][0]
IDS = [
    [CLS, A, EOC, 7, 8, B, STAR, EOC, 7, EOC, ANS, A],  # an item, one with stars, one that is not in the catalogue
    [PAD, PAD, PAD, CLS, EOC, A, B, EOC, EOC, ANS, B, A],  # of two items in a block the latest
]
CLOSED = [
    [-1, -1, A, -1, -1, -1, -1, B, -1, -1, -1, -1],
    [-1, -1, -1, -1, -1, -1, -1, B, -1, -1, -1, -1],
]


def test_the_item_of_each_end():
    model = UniMPModel(CONFIG)
    assert model.closed_items(torch.tensor(IDS)).tolist() == CLOSED


@pytest.mark.parametrize("item_rows", ["free", "content", "both"])
def test_an_end_is_its_row_and_that_of_its_item(item_rows):
    with_items = model_of("llama", item_at_eoc=True, item_rows=item_rows).model
    without = model_of("llama", item_rows=item_rows).model
    without.load_state_dict(with_items.state_dict())
    ids, closed = torch.tensor(IDS), torch.tensor(CLOSED)
    expected = without.embed(ids)
    for place in (closed >= 0).nonzero():
        row, column = place.tolist()
        expected[row, column] += without.embed(closed[row, column].reshape(1, 1))[0, 0]
    torch.testing.assert_close(with_items.embed(ids), expected)


def test_the_next_item_needs_no_attention():
    """One layer that adds nothing: the logits at an [EOC] are those of its row and its item's, past the last norm."""
    model = model_of("llama", fusion="none", text={"num_hidden_layers": 1}, item_at_eoc=True, tie_item_rows=True)
    language_model = model.model.language_model
    torch.nn.init.zeros_(language_model.layers[0].self_attn.o_proj.weight)
    torch.nn.init.zeros_(language_model.layers[0].mlp.down_proj.weight)
    ids = torch.tensor([[CLS, B, EOC, A, EOC]])
    rows = model.model.embed(torch.tensor([[EOC, A]]))[0]
    rows[0] = model.model.embed(torch.tensor([[CLS, EOC]]))[0, 1]  # closes nothing there
    expected = language_model.norm(rows.sum(dim=0)) @ model.model.item_embeddings("output_rows").T
    torch.testing.assert_close(model.answer_logits("items", input_ids=ids)[0, -1], expected)


@pytest.mark.parametrize("fusion", ["exclusive", "none"])
def test_what_is_written_after_a_cache_is_what_is_written_without_one(fusion):
    model = model_of("llama", fusion, item_at_eoc=True)
    batch = batch_of(model.config, RAGGED)
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    expected = model.generate(**batch, **settings)
    assert torch.equal(model.generate(**batch, **settings, use_cache=False), expected)
    plain = UniMPForConditionalGeneration(config_of("llama", fusion)).eval()
    plain.load_state_dict(model.state_dict())
    assert (plain(**batch).logits - model(**batch).logits).abs().max() > 0.01


def test_a_prompt_in_pieces_is_refused_where_a_piece_does_not_tell_all():
    settings = {"max_new_tokens": 2, "do_sample": False, "prefill_chunk_size": 5}
    for ids, fields in ((IDS[0], {"item_at_eoc": True}), ([CLS, CONFIG.group_slices["codes"][0], ANS], {})):
        model = model_of("llama", "none", **fields)
        with pytest.raises(ValueError, match="prefill_chunk_size=5.*from a piece"):
            model.generate(input_ids=torch.tensor([ids]), **settings)


def test_an_end_whose_item_is_in_the_cache():
    model = model_of("llama", fusion="none", item_at_eoc=True)
    ids = torch.tensor([[CLS, A, EOC, B, EOC, ANS]])
    whole = model(input_ids=ids).logits
    first = model(input_ids=ids[:, :4], use_cache=True)
    closed = model.model.closed_items(ids)[:, 4:]
    rest = model(input_ids=ids[:, 4:], cache=first.cache, closed_items=closed)
    torch.testing.assert_close(rest.logits, whole[:, 4:])
