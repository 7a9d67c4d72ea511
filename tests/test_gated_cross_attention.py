"""Folding is the dense mask; what sees no picture passes through; closed gates change nothing."""

import pytest
import torch
from torch import nn

from modeling_unimp.configuration_unimp import UniMPConfig
from modeling_unimp.gated_cross_attention import (
    UniMPGatedCrossAttention,
    find_decoder_layers,
    fold_spans,
    mask_pictures,
)

TEXT = {"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
# Pictures shared between rows, twice in a row apart and side by side, a row without any, spans up to both ends.
INDEX = torch.tensor(
    [
        [0, 0, 1, 1, 1, 0, 3, 3, 2, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [2, 2, 0, 2, 2, 2, 1, 1, 1, 1],
        [0, 0, 0, 3, 0, 3, 3, 1, 0, 0],
    ]
)


@pytest.fixture
def config():
    return UniMPConfig(text_config=TEXT, vision_feature_size=12, cross_attention_heads=2, cross_attention_head_dim=4)


@pytest.fixture
def block(config):
    torch.manual_seed(0)
    block = UniMPGatedCrossAttention(config)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def test_fold_by_hand():
    media_mask = fold_spans(torch.tensor([[0, 4, 4, 1], [1, 0, 4, 4]]))
    assert media_mask.tokens_N.tolist() == [1, 2, 3, 4, 6, 7]
    assert media_mask.seen_I.tolist() == [0, 3]
    assert media_mask.pictures_S.tolist() == [1, 0, 0, 1]
    assert media_mask.longest == 2
    # Span 0 is full, span 1 and 2 hold one token, span 3 is full.
    assert media_mask.slots_N.tolist() == [0, 1, 2, 4, 6, 7]


def test_mask_by_hand():
    index = torch.tensor([[0, 2, 2, 0, 1], [0, 0, 0, 3, 3]])
    own = mask_pictures(index, 3, accumulate=False)
    assert own.pictures_BI.tolist() == [[0, 1], [2, 0]]
    assert own.visible_BTI[0].int().tolist() == [[0, 0], [0, 1], [0, 1], [0, 0], [1, 0]]
    assert own.visible_BTI[1].int().tolist() == [[0, 0], [0, 0], [0, 0], [1, 0], [1, 0]]
    so_far = mask_pictures(index, 3, accumulate=True)
    assert so_far.visible_BTI[0].int().tolist() == [[0, 0], [0, 1], [0, 1], [0, 1], [1, 1]]


def test_no_picture_at_all():
    assert fold_spans(torch.zeros(2, 5, dtype=torch.long)) is None
    assert mask_pictures(torch.zeros(2, 5, dtype=torch.long), 3, accumulate=True) is None


def test_pictures_that_no_token_sees_cost_nothing(block):
    media, read = torch.randn(40, 5, 12), []
    block.k_proj.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    block(torch.randn(1, 3, 16), media, fold_spans(torch.tensor([[0, 8, 31]])))
    assert torch.equal(read[0], media[[7, 30]])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_folded_is_dense(config, block, implementation):
    config._attn_implementation = implementation
    results = []
    for media_mask in (fold_spans(INDEX), mask_pictures(INDEX, 3, accumulate=False)):
        torch.manual_seed(1)
        text, media = torch.randn(4, 10, 16, requires_grad=True), torch.randn(3, 5, 12, requires_grad=True)
        out = block(text, media, media_mask)
        weights = torch.randn_like(out)
        gradients = torch.autograd.grad((out * weights).sum(), [text, media, *block.parameters()])
        results.append([out, *gradients])
    for folded, dense in zip(*results, strict=True):
        torch.testing.assert_close(folded, dense, atol=2e-5, rtol=1e-4)


def test_a_token_sees_its_own_picture_only(block):
    text, media = torch.randn(4, 10, 16), torch.randn(3, 5, 12)
    before = block(text, media, fold_spans(INDEX))
    other = media.clone()
    other[1] += 1
    changed = (block(text, other, fold_spans(INDEX)) != before).any(-1)
    assert torch.equal(changed, INDEX == 2)


def test_without_exclusion_a_token_sees_the_pictures_so_far(block):
    text, media = torch.randn(4, 10, 16), torch.randn(3, 5, 12)
    media_mask = mask_pictures(INDEX, 3, accumulate=True)
    before = block(text, media, media_mask)
    other = media.clone()
    other[1] += 1
    changed = (block(text, other, media_mask) != before).any(-1)
    assert torch.equal(changed, (INDEX == 2).cumsum(1) > 0)


@pytest.mark.parametrize("dense", [False, True])
def test_what_sees_nothing_passes_unchanged(block, dense):
    text, media = torch.randn(4, 10, 16), torch.randn(3, 5, 12)
    media_mask = mask_pictures(INDEX, 3, accumulate=False) if dense else fold_spans(INDEX)
    out = block(text, media, media_mask)
    blind = INDEX == 0
    assert torch.equal(out[blind], text[blind])
    assert (out[~blind] != text[~blind]).any(-1).all()


def test_closed_gates_change_nothing(block):
    nn.init.zeros_(block.attention_gate)
    nn.init.zeros_(block.feed_forward_gate)
    text, media = torch.randn(4, 10, 16), torch.randn(3, 5, 12)
    assert torch.equal(block(text, media, fold_spans(INDEX)), text)


def test_parameters_are_those_of_openflamingo(block):
    text, media, inner = 16, 12, 8
    attention = 2 * text + text * inner + media * 2 * inner + inner * text + 1
    feed_forward = 2 * text + 2 * 4 * text * text + 1
    assert sum(each.numel() for each in block.parameters()) == attention + feed_forward


def test_attention_by_hand(config):
    """One head of width 1, all projections the first coordinate: the mean of the picture's own values, by softmax."""
    config.cross_attention_heads = config.cross_attention_head_dim = 1
    block = UniMPGatedCrossAttention(config)
    for projection in (block.q_proj, block.k_proj, block.v_proj, block.out_proj):
        nn.init.zeros_(projection.weight)
        projection.weight.data[0, 0] = 1.0
    nn.init.constant_(block.attention_gate, 0.5)
    nn.init.zeros_(block.feed_forward_gate)
    text, media = torch.randn(1, 2, 16), torch.randn(1, 3, 12)
    out = block(text, media, fold_spans(torch.tensor([[0, 1]])))
    query = nn.functional.layer_norm(text, (16,))[0, 1, 0]
    keys = media[0, :, 0]
    expected = text.clone()
    expected[0, 1, 0] += torch.tensor(0.5).tanh() * ((query * keys).softmax(0) * keys).sum()
    torch.testing.assert_close(out, expected)


def test_decoder_layers_of_a_strange_model():
    with pytest.raises(ValueError, match="Linear has no list of 2 decoder layers"):
        find_decoder_layers(nn.Linear(1, 1), 2)
