"""Whole models on tiny real classes, and batches for them."""

import pytest
import torch
from transformers import AutoConfig, CLIPVisionConfig

from modeling_unimp.configuration_unimp import UniMPConfig
from modeling_unimp.gated_cross_attention import UniMPGatedCrossAttention
from modeling_unimp.item_embeddings import ItemContent
from modeling_unimp.modeling_unimp import UniMPForConditionalGeneration

V, NUM_ITEMS = 50, 7
CLS, IMG, EOC, ANS, PAD = V, V + 1, V + 2, V + 3, V + 4
FUSIONS = ("exclusive", "all", "early", "late", "pooled")
SHARED = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.1,
}
GATED_MLP = {"intermediate_size": 48, "num_key_value_heads": 1}
OWN = {
    "gpt_neox": {"intermediate_size": 48},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0, "init_std": 0.1},
    "gemma3_text": GATED_MLP | {"head_dim": 16, "sliding_window": 8},
}


def text_config(model_type="gpt_neox", **overrides):
    return AutoConfig.for_model(model_type, **SHARED | OWN.get(model_type, GATED_MLP) | overrides)


def vision_config():
    return CLIPVisionConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )


def config_of(model_type="gpt_neox", fusion="exclusive", text=None, **overrides):
    fields = {
        "text_config": text_config(model_type, **text or {}),
        "vision_config": None if fusion == "none" else vision_config(),
        "vision_feature_size": 24,
        "num_latents": 3,
        "resampler_depth": 1,
        "resampler_heads": 2,
        "resampler_head_dim": 8,
        "cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "num_items": NUM_ITEMS,
        "num_codes": 2,
        "codes_per_picture": 4,
        "num_terms": V,
        "content_length": 4,
        "initializer_range": 0.1,
    }
    return UniMPConfig(fusion=fusion, **fields | overrides)


def content_of(num_items):
    """Random terms of items."""
    return ItemContent(torch.randint(-1, V, (num_items, 4)), torch.rand(num_items, 4))


def open_gates(model, value=1.0):
    for module in model.modules():
        if isinstance(module, UniMPGatedCrossAttention):
            torch.nn.init.constant_(module.attention_gate, value)
            torch.nn.init.constant_(module.feed_forward_gate, value)
    return model


def model_of(*args, gate=1.0, seed=0, **kwargs):
    torch.manual_seed(seed)
    model = UniMPForConditionalGeneration(config_of(*args, **kwargs))
    if model.config.item_rows != "free":
        model.set_content(content_of(NUM_ITEMS))
    return open_gates(model, gate).eval()


def item(config, number):
    return config.group_slices["items"][0] + number


def row_of(config, items):
    """`[CLS]`, items as (picture row or None, number), instruction, `[ANS]`: ids and media index."""
    ids, index = [CLS], [0]
    for picture, number in items:
        block = [3 + number, 4 + number, item(config, number), EOC]
        if picture is not None:
            block = [IMG] * config.num_image_tokens + block
        ids += block
        index += [0 if picture is None else picture + 1] * len(block)
    return ids + [20, 21, ANS], index + [0, 0, 0]


def batch_of(config, rows, num_pictures=3, labels=False):
    """Rows padded on the left."""
    encoded = [row_of(config, items) for items in rows]
    length = max(len(ids) for ids, _ in encoded)
    pad = [length - len(ids) for ids, _ in encoded]
    generator = torch.Generator().manual_seed(5)
    batch = {
        "input_ids": torch.tensor([[PAD] * n + ids for n, (ids, _) in zip(pad, encoded, strict=True)]),
        "attention_mask": torch.tensor([[0] * n + [1] * len(ids) for n, (ids, _) in zip(pad, encoded, strict=True)]),
        "media_index": torch.tensor([[0] * n + index for n, (_, index) in zip(pad, encoded, strict=True)]),
    }
    if num_pictures and config.fusion != "none":
        batch["pixel_values"] = torch.randn(num_pictures, 3, 16, 16, generator=generator)
    if labels:
        target = torch.full_like(batch["input_ids"], -100)
        target[:, -1] = torch.tensor([item(config, n % NUM_ITEMS) for n in range(len(rows))])
        target[:, -2] = 21
        target[0, -3] = V + 5 + 3
        batch["input_ids"][2, -4] = V + 5 + 5 + 2  # the first picture code, and what is written after it
        target[2, -3] = V + 5 + 5 + 3
        batch["labels"] = target
    return batch


# Different numbers of pictures, none at all, one twice, one shared between users.
RAGGED = [[(0, 1), (1, 2), (None, 3)], [(None, 5)], [(1, 2), (2, 4), (2, 4), (0, 6)], [(2, 0)]]

each_text_model = pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "opt", "gpt2", "gemma3_text"])
each_fusion = pytest.mark.parametrize("fusion", ["exclusive", "all", "early", "late", "pooled", "none"])


def made(model_class, *args, seed=0, **kwargs):
    torch.manual_seed(seed)
    return open_gates(model_class(config_of(*args, **kwargs))).eval()


def first_output(model, batch):
    with torch.no_grad():
        return model(**batch)[0]
