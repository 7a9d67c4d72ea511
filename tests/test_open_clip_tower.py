import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from modeling_unimp.backbones import load_image_processor, load_vision_tower, vision_features
from modeling_unimp.open_clip_tower import convert_open_clip_tower, load_open_clip_image_processor

open_clip = pytest.importorskip("open_clip")

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
VIT = {"layers": 3, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 32}


def tiny_clip(quick_gelu=False, **vision):
    """A real open_clip model with random weights; biases and norms too, which open_clip starts at 0 and 1."""
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=24, vision_cfg=VIT | vision, text_cfg=TEXT, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def save_local_dir(model, folder, quick_gelu, preprocess, **vision):
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    model_cfg = {"embed_dim": 24, "quick_gelu": quick_gelu, "vision_cfg": VIT | vision, "text_cfg": TEXT}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess}))


@torch.no_grad()
def tokens_of(visual, pixels):
    output = visual.forward_intermediates(pixels, output_fmt="NLC", output_extra_tokens=True, intermediates_only=True)
    return torch.cat([output["image_intermediates_prefix"][-1], output["image_intermediates"][-1]], dim=1)


@pytest.mark.parametrize(
    ("quick_gelu", "vision"),
    [
        (False, {}),
        (True, {}),
        (False, {"image_size": 48, "patch_size": 16}),
        (True, {"image_size": 30}),  # not a multiple of the patch: the border is cut
        (False, {"head_width": 32, "mlp_ratio": 2.5}),
        (True, {"patch_dropout": 0.5}),
        (False, {"pos_embed_type": "sin_cos_2d"}),
        (True, {"norm_kwargs": {"eps": 1e-3}}),
        (False, {"act_kwargs": {"approximate": "tanh"}}),
    ],
    ids=str,
)
def test_conversion_is_exact(quick_gelu, vision):
    model = tiny_clip(quick_gelu, **vision)
    tower = convert_open_clip_tower(model.visual)
    side = vision.get("image_size", 32)
    pixels = torch.randn(3, 3, side, side)
    expected = tokens_of(model.visual, pixels)
    with torch.no_grad():
        output = tower(pixels)
        torch.testing.assert_close(output.last_hidden_state, expected, rtol=0, atol=1e-5)
        pooled = model.visual.ln_post(expected[:, 0])
        torch.testing.assert_close(output.pooler_output, pooled, rtol=0, atol=1e-5)
        torch.testing.assert_close(pooled @ model.visual.proj, model.visual(pixels), rtol=0, atol=1e-5)


def test_the_two_activations_differ():
    pixels = torch.randn(1, 3, 32, 32)
    towers = [convert_open_clip_tower(tiny_clip(quick_gelu).visual) for quick_gelu in (False, True)]
    assert [tower.config.hidden_act for tower in towers] == ["gelu", "quick_gelu"]
    with torch.no_grad():
        first, second = (tower(pixels).last_hidden_state for tower in towers)
    assert (first - second).abs().max() > 1e-3


def test_dtype_is_kept():
    assert convert_open_clip_tower(tiny_clip().visual.to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_local_dir(quick_gelu, tmp_path):
    model = tiny_clip(quick_gelu)
    save_local_dir(model, tmp_path, quick_gelu, {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]})
    tower, feature_size = load_vision_tower(f"open_clip:local-dir:{tmp_path}")
    assert feature_size == 64 and not tower.training
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(vision_features(tower, pixels), tokens_of(model.visual, pixels), rtol=0, atol=1e-5)
    # What becomes of the tower afterwards is transformers' business alone.
    tower.save_pretrained(tmp_path / "converted")
    again, _ = load_vision_tower(str(tmp_path / "converted"))
    with torch.no_grad():
        torch.testing.assert_close(vision_features(again, pixels), vision_features(tower, pixels), rtol=0, atol=0)
    assert load_vision_tower(f"open_clip:local-dir:{tmp_path}", dtype="bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "preprocess",
    [
        {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
        {"interpolation": "bilinear"},
        {"interpolation": "bicubic", "resize_mode": "squash"},
    ],
    ids=str,
)
def test_image_processor_prepares_pictures_as_open_clip_does(preprocess, tmp_path):
    save_local_dir(tiny_clip(), tmp_path, False, preprocess)
    _, reference = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    processor = load_image_processor(f"open_clip:local-dir:{tmp_path}")
    gradient = np.linspace(0, 255, 96 * 64 * 3).reshape(96, 64, 3).astype(np.uint8)
    picture = Image.fromarray(gradient)
    ours = processor(images=[picture], return_tensors="pt")["pixel_values"][0]
    assert ours.shape == (3, 32, 32)
    # Pillow and torchvision round resized bytes differently: at most two of 255 steps, in units of the deviation.
    assert (ours - reference(picture)).abs().max() < 2.5 / 255 / min(preprocess.get("std", [0.26]))


def test_image_processor_refuses_a_resize_it_does_not_know(tmp_path):
    save_local_dir(tiny_clip(), tmp_path, False, {"resize_mode": "longest"})
    with pytest.raises(ValueError, match="resizes pictures by 'longest'"):
        load_open_clip_image_processor(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        ({"layers": [1, 1, 1, 1]}, "it is a ModifiedResNet"),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, "pools by attention"),
        ({"pool_type": "avg"}, "pools by 'avg'"),
        ({"no_ln_pre": True}, "no_ln_pre"),
        ({"image_size": [32, 64]}, "not square"),
        ({"ls_init_value": 0.1}, "ls_init_value"),
        ({"timm_model_name": "resnet10t"}, "it is a TimmModel"),
    ],
    ids=str,
)
def test_what_cannot_be_converted_is_refused(vision, reason):
    with pytest.raises(ValueError, match=reason):
        convert_open_clip_tower(tiny_clip(**vision).visual)


def test_custom_blocks_are_refused():
    visual = tiny_clip(block_type="custom", qk_norm=True).visual
    with pytest.raises(ValueError, match="its blocks are CustomResidualAttentionBlock"):
        convert_open_clip_tower(visual)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-L-14", "names no weights.*openai"),
        ("ViT-L-14/openai", "Take open_clip:ViT-L-14-quickgelu/openai"),
        ("ViT-L14/openai", "no model 'ViT-L14'; the closest are.*ViT-L-14"),
        ("ViT-B-32/no-such-tag", "could not be loaded"),
        ("local-dir:/no/such/folder", "could not be loaded"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(ValueError, match=message):
        load_vision_tower(f"open_clip:{name}")


def test_a_local_dir_without_weights_is_refused(tmp_path):
    save_local_dir(tiny_clip(), tmp_path, False, {})
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(ValueError, match="could not be loaded"):
        load_vision_tower(f"open_clip:local-dir:{tmp_path}")


def test_without_open_clip_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match="pip install open_clip_torch"):
        load_vision_tower("open_clip:ViT-L-14-quickgelu/openai")
