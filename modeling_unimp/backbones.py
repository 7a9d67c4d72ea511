"""Language models and vision towers by name, by folder, or as a size to train from scratch.

Shapes: U pictures, P patches (tokens) a picture, F width of a vision feature.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.integrations import deepspeed
from transformers.modeling_outputs import BaseModelOutput

from .open_clip_tower import load_open_clip_image_processor, load_open_clip_tower

OPEN_CLIP_PREFIX = "open_clip:"

# Words of the byte-level BPE that is trained with a language model from scratch, and its only special token's id.
SCRATCH_VOCABULARY_SIZE = 4096
SCRATCH_END_OF_TEXT_ID = 0

# (layers, width, heads)
TEXT_SIZES = {
    "nano": (1, 64, 2),
    "mini": (2, 64, 2),
    "micro": (2, 128, 4),
    "tiny": (4, 128, 4),
    "small": (6, 256, 4),
    "base": (12, 512, 8),
}
# (layers, width, heads, side of the picture in pixels, side of a patch in pixels)
VISION_SIZES = {"tiny": (2, 64, 2, 64, 16), "small": (4, 128, 4, 128, 16)}

# Parts of a tower that its `last_hidden_state` does not pass through: no gradient ever reaches them.
_UNUSED_VISION_PARTS = {"pooler", "head", "mask_token"}

# Language models that hand keyword arguments on to their layers (others would ignore the pictures in silence) and
# whose logits are `hidden @ rows.T` with nothing after it, so that added rows compete with words on equal terms.
SUPPORTED_TEXT_MODELS = (
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "olmo2",
    "opt",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
)


@contextlib.contextmanager
def whole_weights() -> Iterator[None]:
    """Models made inside have all their weights, also where DeepSpeed's ZeRO-3 would split them at once.

    A model is put together of several, some rows of which are drawn like others: parts of them would not do. DeepSpeed
    splits the model when the training begins.
    """
    # There is a function to set this, of an object that nothing but this reference knows.
    known = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = known


def load_text_model(
    name_or_size: str, dtype: torch.dtype | str | None = None, attention_dropout: float = 0.0
) -> PreTrainedModel:
    """
    Load a pretrained causal language model, or make one to train from scratch.

    Args:
        name_or_size (`str`):
            A Hub name or a folder for `AutoModelForCausalLM`, or a size to train from scratch, one of `TEXT_SIZES`: a
            Llama with random weights for a vocabulary of `SCRATCH_VOCABULARY_SIZE` words. A folder called like a size
            is `"./tiny"`.
        dtype (`torch.dtype` or `str`, *optional*):
            Of the weights; `None` is float32 whatever the checkpoint holds, `"auto"` the checkpoint's own.
        attention_dropout (`float`, *optional*, defaults to 0.0):
            Of a model from scratch, in training.

    Raises:
        ValueError: nothing can be loaded under that name, or the checkpoint lacks weights.
    """
    if name_or_size in TEXT_SIZES:
        config = _scratch_text_config(name_or_size, attention_dropout)
        scratch = LlamaForCausalLM._from_config(config, dtype=_scratch_dtype(dtype))
        _begin_by_averaging(scratch)
        return scratch
    _refuse_missing_folder(name_or_size, "text_model")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name_or_size, dtype=_or_float32(dtype), output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"text_model={name_or_size!r} could not be loaded ({_first_line(error)}). Expected a folder or a Hub name "
            f"of a causal language model, or a size to train from scratch: {', '.join(TEXT_SIZES)}."
        ) from error
    model, report = loaded
    _refuse_missing(report["missing_keys"], f"text_model={name_or_size!r}", "a causal language model with its head")
    return model


def load_vision_tower(
    name_or_size: str | None, dtype: torch.dtype | str | None = None
) -> tuple[PreTrainedModel | None, int]:
    """
    Load a pretrained vision tower, or make one to train from scratch.

    Args:
        name_or_size (`str`, *optional*):
            A Hub name or a folder for `AutoModel` (of a full CLIP or SigLIP checkpoint the vision tower is taken);
            `"open_clip:MODEL/WEIGHTS"`, such as `"open_clip:ViT-L-14-quickgelu/openai"`, or
            `"open_clip:local-dir:FOLDER"`; `"tiny"` or `"small"`: a CLIP tower with random weights. `None` for none.
        dtype (`torch.dtype` or `str`, *optional*):
            Of the weights; `None` is float32 whatever the checkpoint holds, `"auto"` the checkpoint's own.

    Returns:
        `tuple[PreTrainedModel | None, int]`: the tower in eval mode and F, measured on a blank picture;
        `(None, 0)` for `None`.

    Raises:
        ValueError: nothing can be loaded under that name, or it does not turn a picture into features.
    """
    if name_or_size is None:
        return None, 0
    if name_or_size in VISION_SIZES:
        tower = CLIPVisionModel._from_config(_scratch_vision_config(name_or_size), dtype=_scratch_dtype(dtype))
    elif name_or_size.startswith(OPEN_CLIP_PREFIX):
        tower = load_open_clip_tower(name_or_size.removeprefix(OPEN_CLIP_PREFIX), dtype=_scratch_dtype(dtype))
    else:
        tower = _load_transformers_tower(name_or_size, dtype)
    tower.eval()
    return tower, measure_feature_size(tower, name_or_size)


def vision_features(tower: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Features of each picture `(U, P, F)`, as the resampler reads them; see `vision_outputs`."""
    features = vision_outputs(tower, pixel_values).last_hidden_state
    assert features is not None
    return features


def vision_outputs(tower: PreTrainedModel, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
    """
    What a tower makes of pictures.

    Args:
        tower (`PreTrainedModel`):
            Returns a `last_hidden_state` of tokens `(U, P, F)` or a feature map `(U, F, height, width)`.
        pixel_values (`torch.FloatTensor` of shape `(U, 3, H, W)`):
            Cast to the tower's dtype.
        kwargs (*optional*): `output_hidden_states`, `output_attentions`.

    Returns:
        `BaseModelOutput`: `last_hidden_state` `(U, P, F)` in the tower's dtype: the tokens, a class token among them
        if the tower has one, or the positions of the feature map row by row; `hidden_states` and `attentions` where
        the tower gives them.

    Raises:
        ValueError: the tower returns neither tokens nor a feature map.
    """
    outputs = tower(pixel_values=pixel_values.to(tower.dtype), **kwargs)
    features = getattr(outputs, "last_hidden_state", None)
    if features is None or features.ndim not in (3, 4):
        came = "no last_hidden_state" if features is None else f"a last_hidden_state of shape {tuple(features.shape)}"
        raise ValueError(
            f"The vision tower {type(tower).__name__} returned {came}; expected tokens (pictures, tokens, width) or a "
            "feature map (pictures, width, height, width). Choose another vision_model."
        )
    return BaseModelOutput(
        last_hidden_state=features if features.ndim == 3 else features.flatten(2).transpose(1, 2),
        hidden_states=getattr(outputs, "hidden_states", None),
        attentions=getattr(outputs, "attentions", None),
    )


def is_unused_vision_part(name: str, model_type: str) -> bool:
    """
    Whether no feature passes through a weight of a vision tower.

    Args:
        name (`str`): of the weight or the module.
        model_type (`str`): of the tower's config. What CLIP calls `post_layernorm` is for its pooled output alone; the
            features of SigLIP and BLIP do pass through theirs.
    """
    unused = _UNUSED_VISION_PARTS | ({"post_layernorm"} if "clip" in model_type else set())
    return bool(unused & set(name.split(".")))


def load_image_processor(name_or_size: str | None) -> Any:
    """
    The image processor that goes with `load_vision_tower(name_or_size)`.

    A tower from scratch sees the whole picture, squeezed to a square; a pretrained one what it was trained on.

    Args:
        name_or_size (`str`, *optional*): as for `load_vision_tower`.

    Returns:
        `BaseImageProcessor`, or `None` for `None`.

    Raises:
        ValueError: there is no image processor under that name.
    """
    if name_or_size is None:
        return None
    if name_or_size in VISION_SIZES:
        side = VISION_SIZES[name_or_size][3]
        square = {"height": side, "width": side}
        return CLIPImageProcessor(size=square, crop_size=square, do_center_crop=False)
    if name_or_size.startswith(OPEN_CLIP_PREFIX):
        return load_open_clip_image_processor(name_or_size.removeprefix(OPEN_CLIP_PREFIX))
    _refuse_missing_folder(name_or_size, "vision_model")
    try:
        return AutoImageProcessor.from_pretrained(name_or_size)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"vision_model={name_or_size!r} has no image processor ({_first_line(error)}). Expected a "
            f"preprocessor_config.json beside its weights, or {_vision_options()}."
        ) from error


def _scratch_text_config(size: str, attention_dropout: float) -> LlamaConfig:
    layers, width, heads = TEXT_SIZES[size]
    return LlamaConfig(
        vocab_size=SCRATCH_VOCABULARY_SIZE,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        # The gated MLP has three matrices: three times the width costs about what four times cost with two.
        intermediate_size=3 * width,
        max_position_embeddings=4096,
        # sqrt(2 / (5 width)): the usual 0.02 at a width of 1000, and larger where the width is smaller.
        initializer_range=(2 / (5 * width)) ** 0.5,
        # The word table is 4096 rows beside few layers, and a shop's text is small: one table learns from both ends.
        tie_word_embeddings=True,
        attention_dropout=attention_dropout,
        bos_token_id=None,
        eos_token_id=SCRATCH_END_OF_TEXT_ID,
        pad_token_id=SCRATCH_END_OF_TEXT_ID,
    )


@torch.no_grad()
def _begin_by_averaging(llama: LlamaForCausalLM) -> None:
    """Let every attention of a language model from scratch begin as the mean of the tokens before.

    Values are turned by a random rotation and outputs turned back, as trained attention tends to be (Trockman & Kolter
    2023, https://huggingface.co/papers/2305.09828). What a shopper likes is close to a mean of what she looked at:
    search on the made-up shop came to NDCG@10 .317 with it and to .286 without, after 339 steps each (validation).
    """
    for layer in llama.model.layers:
        values, outputs = layer.self_attn.v_proj.weight, layer.self_attn.o_proj.weight
        # The decomposition behind it does not know bfloat16.
        rotation = torch.nn.init.orthogonal_(torch.empty(values.shape))
        values.copy_(rotation)
        outputs.copy_(rotation.T)


def _scratch_vision_config(size: str) -> CLIPVisionConfig:
    layers, width, heads, side, patch = VISION_SIZES[size]
    return CLIPVisionConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=side,
        patch_size=patch,
        projection_dim=width,
        hidden_act="gelu",
    )


def _load_transformers_tower(name: str, dtype: torch.dtype | str | None) -> PreTrainedModel:
    _refuse_missing_folder(name, "vision_model")
    try:
        config = AutoConfig.from_pretrained(name)
        # A checkpoint of pictures and text: AutoModel on the vision part of its config loads the vision tower alone.
        config = getattr(config, "vision_config", None) or config
        tower, report = AutoModel.from_pretrained(
            name, config=config, dtype=_or_float32(dtype), output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"vision_model={name!r} could not be loaded ({_first_line(error)}). Expected {_vision_options()}."
        ) from error
    missing = [key for key in report["missing_keys"] if not is_unused_vision_part(key, tower.config.model_type)]
    _refuse_missing(missing, f"vision_model={name!r}", "a checkpoint with all weights of its vision tower")
    return tower


def measure_feature_size(tower: PreTrainedModel, name: str) -> int:
    side = getattr(tower.config, "image_size", None) or 224
    height, width = (side, side) if isinstance(side, int) else side
    blank = torch.zeros(1, 3, height, width, device=tower.device)
    try:
        with torch.no_grad():
            return vision_features(tower, blank).shape[-1]
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"vision_model={name!r} ({type(tower).__name__}) does not turn a picture into features "
            f"({_first_line(error)}). Expected {_vision_options()}."
        ) from error


def _vision_options() -> str:
    return (
        "a folder or a Hub name of a vision model, open_clip:MODEL/WEIGHTS, open_clip:local-dir:FOLDER, "
        f"or a size to train from scratch: {', '.join(VISION_SIZES)}"
    )


def _refuse_missing(missing: Iterable[str], what: str, expected: str) -> None:
    missing = sorted(missing)
    if missing:
        raise ValueError(
            f"{what} lacks {len(missing)} weights, such as {', '.join(missing[:3])}: they would stay random. "
            f"Expected {expected}."
        )


def _refuse_missing_folder(name: str, what: str) -> None:
    """A Hub name has one slash at most; do not ask the Hub for what can only be a folder."""
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).is_dir():
        raise ValueError(f"{what}={name!r}: there is no such folder (from {Path.cwd()}).")


def _or_float32(dtype: torch.dtype | str | None) -> torch.dtype | str:
    return torch.float32 if dtype is None else dtype


def _scratch_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """For weights whose checkpoint, if any, has no dtype of its own that `"auto"` could mean."""
    if dtype in (None, "auto"):
        return torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200].rstrip(".")


def check_text_config(text_config: Any) -> None:
    """Refuse a language model that would ignore pictures, or whose logits are not those of a plain head."""
    if text_config.model_type not in SUPPORTED_TEXT_MODELS:
        raise ValueError(
            f"a language model of type {text_config.model_type!r} is not supported: it is not known to hand pictures "
            "on to its layers, or its logits are not those of a plain head. Expected one of "
            f"{', '.join(SUPPORTED_TEXT_MODELS)}."
        )
    if text_config.model_type == "gemma3_text" and text_config.final_logit_softcapping is not None:
        raise ValueError(
            f"final_logit_softcapping={text_config.final_logit_softcapping}: added rows need logits without one."
        )
    if text_config.model_type == "opt" and text_config.word_embed_proj_dim != text_config.hidden_size:
        raise ValueError(
            f"an OPT with embeddings of width {text_config.word_embed_proj_dim} in layers of width "
            f"{text_config.hidden_size} is not supported: expected one width, as all but OPT-350M have."
        )
