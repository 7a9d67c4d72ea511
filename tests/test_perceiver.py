"""The resampler: shapes, the parameters of OpenFlamingo, and attention by hand."""

import pytest
import torch

from modeling_unimp.configuration_unimp import UniMPConfig
from modeling_unimp.perceiver import UniMPPerceiverAttention, UniMPPerceiverResampler, attend

TEXT = {"model_type": "llama", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def small_config(**overrides):
    fields = {"vision_feature_size": 12, "num_latents": 3, "resampler_depth": 2, "resampler_heads": 2}
    return UniMPConfig(text_config=TEXT, **fields | {"resampler_head_dim": 4} | overrides)


def resampler_of(config):
    torch.manual_seed(0)
    resampler = UniMPPerceiverResampler(config)
    torch.nn.init.normal_(resampler.latents)
    return resampler


def test_attention_by_hand():
    query = torch.tensor([[[[2.0]]]])
    key = torch.tensor([[[[0.0], [torch.log(torch.tensor(3.0)) / 2]]]])
    value = torch.tensor([[[[4.0], [8.0]]]])
    for implementation in ("eager", "sdpa"):
        # Weights 1/4 and 3/4.
        torch.testing.assert_close(attend(query, key, value, implementation=implementation), torch.tensor([[[[7.0]]]]))
        only_first = torch.tensor([0.0, torch.finfo(torch.float32).min]).view(1, 1, 1, 2)
        torch.testing.assert_close(attend(query, key, value, only_first, implementation), torch.tensor([[[[4.0]]]]))


def test_any_number_of_patches_becomes_the_latents():
    resampler = resampler_of(small_config())
    for patches in (1, 5, 50):
        assert resampler(torch.randn(4, patches, 12)).shape == (4, 3, 12)
    assert resampler(torch.randn(0, 5, 12)).shape == (0, 3, 12)


def test_projects_only_where_widths_differ():
    assert resampler_of(small_config()).input_proj is None
    narrow = resampler_of(small_config(resampler_width=8))
    assert narrow(torch.randn(2, 5, 12)).shape == (2, 3, 8)
    assert narrow.input_proj.weight.shape == (8, 12)


def test_parameters_are_those_of_openflamingo():
    width, inner, latents, depth = 12, 8, 3, 2
    attention = 2 * 2 * width + width * inner + width * 2 * inner + inner * width
    feed_forward = 2 * width + 2 * 4 * width * width
    expected = latents * width + depth * (attention + feed_forward) + 2 * width
    assert sum(each.numel() for each in resampler_of(small_config()).parameters()) == expected


def test_order_of_patches_does_not_matter():
    resampler, features = resampler_of(small_config()), torch.randn(2, 6, 12)
    torch.testing.assert_close(resampler(features), resampler(features[:, torch.randperm(6)]))


def test_latents_look_at_themselves_too():
    config = small_config()
    attention = UniMPPerceiverAttention(config)
    media, latents = torch.randn(1, 1, 12), torch.randn(1, 3, 12)
    # One patch alone would give every latent the same value.
    attended = attention(media, latents)
    assert not torch.allclose(attended[:, 0], attended[:, 1])


def test_eager_is_sdpa():
    config, features = small_config(), torch.randn(2, 6, 12)
    resampler = resampler_of(config)
    config._attn_implementation = "sdpa"
    expected = resampler(features)
    config._attn_implementation = "eager"
    torch.testing.assert_close(resampler(features), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    resampler = resampler_of(small_config()).to(dtype)
    out = resampler(torch.randn(2, 6, 12, dtype=dtype))
    assert out.dtype == dtype and out.isfinite().all()
