"""CLIP vision towers of open_clip as transformers' `CLIPVisionModel`, weight by weight.

`last_hidden_state` of the result is open_clip's tokens after its last block, class token first.
"""

import difflib
import importlib
from typing import Any

import torch
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel


def load_open_clip_tower(name: str, dtype: torch.dtype = torch.float32) -> CLIPVisionModel:
    """
    Load an open_clip model and convert its vision tower.

    Args:
        name (`str`):
            `"MODEL/WEIGHTS"`, where WEIGHTS is a tag of open_clip or a file (`"ViT-L-14-quickgelu/openai"`),
            `"local-dir:FOLDER"` or `"hf-hub:ORG/MODEL"`.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): of the weights.

    Returns:
        `CLIPVisionModel`, in eval mode.

    Raises:
        ValueError: no such model or weights, weights of another activation, or a tower that cannot be converted.
        ImportError: open_clip is not installed.
    """
    return convert_open_clip_tower(_create(name, load_weights=True).visual.to(dtype))


def load_open_clip_image_processor(name: str) -> CLIPImageProcessor:
    """
    The image processor of an open_clip model: its size, mean, standard deviation, interpolation and way to resize.

    Args:
        name (`str`): as for `load_open_clip_tower`.

    Raises:
        ValueError: no such model or weights, or a way to prepare pictures that `CLIPImageProcessor` does not know.
        ImportError: open_clip is not installed.
    """
    # Built without storage: only its description of the pictures is wanted.
    with torch.device("meta"):
        preprocess = _create(name, load_weights=False).visual.preprocess_cfg
    size, mode = preprocess["size"], preprocess["resize_mode"]
    height, width = (size, size) if isinstance(size, int) else size
    if mode not in ("shortest", "squash") or (mode == "shortest" and height != width):
        raise ValueError(
            f"open_clip:{name} resizes pictures by {mode!r} to {height} x {width}; expected 'shortest' to a square, "
            "or 'squash'. Choose another vision_model."
        )
    squash = mode == "squash"
    return CLIPImageProcessor(
        size={"height": height, "width": width} if squash else {"shortest_edge": height},
        crop_size={"height": height, "width": width},
        do_center_crop=not squash,
        image_mean=list(preprocess["mean"]),
        image_std=list(preprocess["std"]),
        # open_clip itself takes anything but bilinear as bicubic.
        resample=2 if preprocess["interpolation"] == "bilinear" else 3,
    )


def convert_open_clip_tower(visual: Any) -> CLIPVisionModel:
    """
    Convert `model.visual` of an open_clip model; dtype and device are kept.

    Args:
        visual (`open_clip.transformer.VisionTransformer`):
            A plain ViT: layer norm before the blocks, default blocks, pooled by its class token.

    Raises:
        ValueError: a tower of another kind; the message says which part has no place in `CLIPVisionModel`.
    """
    _refuse_unconvertible(visual)
    blocks = visual.transformer.resblocks
    first = blocks[0]
    width = visual.conv1.out_channels
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=first.mlp.c_fc.out_features,
        projection_dim=visual.proj.shape[1],
        num_hidden_layers=len(blocks),
        num_attention_heads=first.attn.num_heads,
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        hidden_act=_activation(first.mlp.gelu),
        layer_norm_eps=visual.ln_pre.eps,
    )
    weights = {
        "embeddings.class_embedding": visual.class_embedding,
        "embeddings.patch_embedding.weight": visual.conv1.weight,
        "embeddings.position_embedding.weight": visual.positional_embedding,
        **_parameters("pre_layrnorm", visual.ln_pre),
        **_parameters("post_layernorm", visual.ln_post),
    }
    for number, block in enumerate(blocks):
        layer = f"encoder.layers.{number}"
        weights |= _parameters(f"{layer}.layer_norm1", block.ln_1)
        weights |= _parameters(f"{layer}.layer_norm2", block.ln_2)
        weights |= _parameters(f"{layer}.mlp.fc1", block.mlp.c_fc)
        weights |= _parameters(f"{layer}.mlp.fc2", block.mlp.c_proj)
        weights |= _parameters(f"{layer}.self_attn.out_proj", block.attn.out_proj)
        for part, weight, bias in zip(
            "qkv", block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True
        ):
            weights[f"{layer}.self_attn.{part}_proj.weight"] = weight
            weights[f"{layer}.self_attn.{part}_proj.bias"] = bias
    tower = CLIPVisionModel._from_config(config, dtype=visual.conv1.weight.dtype).to(visual.conv1.weight.device)
    # strict: a weight without a place, or a place without a weight, is our bug.
    tower.load_state_dict({name: weight.detach() for name, weight in weights.items()}, strict=True)
    return tower.eval()


def _create(name: str, load_weights: bool) -> Any:
    open_clip = _import_open_clip()
    model_name, weights = name, None
    if not name.startswith(("local-dir:", "hf-hub:")):
        model_name, _, weights = name.partition("/")
        _check_tag(open_clip, model_name, weights)
    try:
        return open_clip.create_model(
            model_name,
            pretrained=weights,
            load_weights=load_weights,
            require_pretrained=load_weights,
            pretrained_text=False,
            device="cpu" if load_weights else "meta",
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"open_clip:{name} could not be loaded ({str(error)[:300]}). Expected open_clip:MODEL/WEIGHTS with a tag "
            "that can be downloaded or a file, open_clip:hf-hub:ORG/MODEL, or open_clip:local-dir:FOLDER with "
            "open_clip_config.json and the weights."
        ) from error


def _check_tag(open_clip: Any, model_name: str, weights: str) -> None:
    """Say what is wrong with a name before anything is downloaded."""
    model = open_clip.get_model_config(model_name)
    if model is None:
        close = difflib.get_close_matches(model_name, open_clip.list_models(), 5, 0.4)
        raise ValueError(f"open_clip has no model {model_name!r}; the closest are {', '.join(close) or 'none'}.")
    if not weights:
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        raise ValueError(
            f"open_clip:{model_name} names no weights. Expected open_clip:{model_name}/WEIGHTS with a file or one of "
            f"the tags {', '.join(tags)}."
        )
    tag = open_clip.get_pretrained_cfg(model_name, weights)
    if tag:
        trained = bool(tag.get("quick_gelu", False))
        if trained != bool(model.get("quick_gelu", False)):
            # open_clip only warns, and every feature is then slightly wrong.
            other = f"{model_name}-quickgelu" if trained else model_name.removesuffix("-quickgelu")
            raise ValueError(
                f"open_clip:{model_name}/{weights}: these weights were trained {'with' if trained else 'without'} "
                f"QuickGELU, and the model is built the other way. Take open_clip:{other}/{weights}."
            )


def _import_open_clip() -> Any:
    # importlib: an import statement would make open_clip a requirement of every published checkpoint.
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise ImportError(
            "A vision_model 'open_clip:...' needs open_clip: pip install open_clip_torch, or choose a CLIP "
            "checkpoint in the format of transformers."
        ) from error


def _refuse_unconvertible(visual: Any) -> None:
    transformer = importlib.import_module("open_clip.transformer")
    if type(visual) is not transformer.VisionTransformer:
        reason = f"it is a {type(visual).__name__}"
    elif visual.attn_pool is not None:
        reason = "it pools by attention"
    elif visual.pool_type != "tok":
        reason = f"it pools by {visual.pool_type!r} instead of by its class token"
    elif isinstance(visual.ln_pre, nn.Identity):
        reason = "it has no layer norm before its blocks (no_ln_pre)"
    elif visual.image_size[0] != visual.image_size[1] or visual.patch_size[0] != visual.patch_size[1]:
        reason = f"its pictures {visual.image_size} or patches {visual.patch_size} are not square"
    elif any(type(block) is not transformer.ResidualAttentionBlock for block in visual.transformer.resblocks):
        reason = f"its blocks are {type(visual.transformer.resblocks[0]).__name__}"
    elif any(not isinstance(block.ls_1, nn.Identity) for block in visual.transformer.resblocks):
        reason = "its blocks scale their outputs (ls_init_value)"
    else:
        return
    raise ValueError(
        f"This open_clip vision tower cannot become a CLIPVisionModel: {reason}. Expected a plain CLIP ViT, such as "
        "ViT-B-32, ViT-L-14-quickgelu or ViT-H-14; a timm model can be loaded by its own Hub name."
    )


def _activation(module: nn.Module) -> str:
    if type(module).__name__ == "QuickGELU":
        return "quick_gelu"
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_pytorch_tanh"
    raise ValueError(f"This open_clip vision tower has the activation {module}; expected GELU or QuickGELU.")


def _parameters(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}
