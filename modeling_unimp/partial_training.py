"""Training part of a model: what learns, what of it is saved, and where the rest is found again."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from .backbones import is_unused_vision_part, load_text_model, load_vision_tower
from .gated_cross_attention import UniMPGatedCrossAttention, find_decoder_layers

if TYPE_CHECKING:
    from .modeling_unimp import UniMPForConditionalGeneration

logger = logging.get_logger(__name__)


def freeze_backbones(model: "UniMPForConditionalGeneration", train: str, train_vision: bool) -> None:
    """See [`UniMPForConditionalGeneration.freeze_backbones`]."""
    if train not in ("new", "last_layer", "all"):
        raise ValueError(f"train={train!r}: expected 'new', 'last_layer' or 'all'.")
    language_model = model.model.language_model
    language_model.requires_grad_(train == "all")
    model.lm_head.requires_grad_(train == "all")
    for module in language_model.modules():
        if isinstance(module, UniMPGatedCrossAttention):
            module.requires_grad_(True)
    if train == "last_layer":
        owner, layers = find_decoder_layers(language_model, model.config.text_config.num_hidden_layers)
        layers[-1].requires_grad_(True)
        for part in owner.children():
            if "Norm" in type(part).__name__:
                part.requires_grad_(True)
    if model.model.vision_tower is not None:
        for name, parameter in model.model.vision_tower.named_parameters():
            unused = is_unused_vision_part(name, model.config.vision_config.model_type)
            parameter.requires_grad_(train_vision and not unused)
    model.train(model.training)


def hold_frozen_as_multiplied(model: "UniMPForConditionalGeneration", dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Keep float32 matrices that do not learn in the type that autocast multiplies them in, in place.

    The products are the same to the last bit; a GPU holds no copy in float32, and nothing is cast at each step.
    What is added and not multiplied, such as word vectors, stays as it is, so that hidden states keep their precision.

    Returns:
        `dict[str, torch.Tensor]`: by name what they were, in the memory of the CPU, for [`frozen_as_they_were`].
    """
    words = model.get_input_embeddings().weight
    whole: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d, Conv1D)) or module.weight is words:
            continue
        weights = dict(module.named_parameters(prefix=name))
        if not any(weight.requires_grad or weight.dtype != torch.float32 for weight in weights.values()):
            whole |= {key: weight.detach().cpu() for key, weight in weights.items()}
            module.to(dtype)
    return whole


def frozen_as_they_were(
    model: "UniMPForConditionalGeneration", whole: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Held weights with all of their digits, by name, in the memory of the CPU.

    Args:
        whole (`dict[str, torch.Tensor]`): what [`hold_frozen_as_multiplied`] returned.
    """
    found = {}
    for name, tensor in whole.items():
        held = model.get_parameter(name).detach().cpu()
        # A checkpoint that the training went on from may have brought others.
        found[name] = tensor if torch.equal(held, tensor.to(held.dtype)) else held.float()
    return found


def trained_state_dict(model: "UniMPForConditionalGeneration") -> dict[str, torch.Tensor]:
    """What `freeze_backbones` lets learn, and all buffers; `from_pretrained` finds the rest at the backbones."""
    # Tied weights have two names in a state dict.
    parameters = model.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in parameters if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def check_left_out(model: "UniMPForConditionalGeneration") -> None:
    """Refuse to leave out frozen weights that could not be found again: those of a backbone without a name."""
    of_backbone = {
        "model.language_model.": model.config.text_model,
        "model.vision_tower.": model.config.vision_model,
    }
    nameless = tuple(prefix for prefix, backbone in of_backbone.items() if backbone is None)
    for name, parameter in model.named_parameters():
        vision = model.config.vision_config
        unused = vision is not None and is_unused_vision_part(name, vision.model_type)
        if not parameter.requires_grad and not unused and name.startswith(nameless):
            raise ValueError(
                f"save_only_trained would leave out {name}, frozen and of no pretrained backbone: nothing "
                "could restore it. Train that part (train_only: all, train_vision: true) or save everything."
            )


def gate_openings(model: "UniMPForConditionalGeneration") -> dict[str, float]:
    """`tanh` of each gate, by layer counted from 1: 0 is closed. All processes of a sharded model call it together."""

    def opening(gate: Any) -> float:
        whole = gate.full_tensor() if hasattr(gate, "full_tensor") else gate
        return float(whole.detach().tanh())

    openings = {}
    for name, module in model.named_modules():
        if isinstance(module, UniMPGatedCrossAttention):
            layers = [part for part in name.split(".") if part.isdigit()]
            place = str(int(layers[-1]) + 1) if layers else "late"
            openings[f"{place}_attention"] = opening(module.attention_gate)
            openings[f"{place}_feed_forward"] = opening(module.feed_forward_gate)
    return openings


@torch.no_grad()
def load_left_out(model: Any, missing: set[str]) -> set[str]:
    """Copy missing weights of the backbones from where the backbones were first loaded; returns their names."""
    prefix = "" if hasattr(model, "lm_head") else "model."  # of names without a head
    named = {f"{prefix}{key}": key for key in missing}
    is_vision = {key for key in named if key.startswith("model.vision_tower.")}
    is_text = {key for key in named if key.startswith(("model.language_model.", "lm_head."))}
    is_text = {key for key in is_text if ".gated_cross_attention." not in key}
    found: dict[str, torch.Tensor] = {}
    if is_text and model.config.text_model is not None:
        found |= _text_weights(model.config.text_model, model.config.text_config.vocab_size)
    if is_vision and model.config.vision_model is not None:
        found |= _vision_weights(model.config.vision_model)
    # One that is tied to another has no memory of its own yet.
    empty = {key for key in found if key in named and model.get_parameter_or_buffer(named[key]).is_meta}
    loaded = (is_text | is_vision) & set(found) - empty
    for key in loaded:
        model.get_parameter_or_buffer(named[key]).copy_(found[key])
    if loaded:
        names = ", ".join(name for name in (model.config.text_model, model.config.vision_model) if name is not None)
        logger.warning(f"{len(loaded)} weights that this checkpoint leaves out were taken from {names}.")
    return {named[key] for key in loaded}


def grow_words(text_model: Any, size: int) -> None:
    """Append words to a causal language model, each the mean of those it has: the same rows whenever this is done."""
    old = text_model.config.vocab_size
    text_model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for rows in {text_model.get_input_embeddings().weight, text_model.get_output_embeddings().weight}:
            rows[old:] = rows[:old].mean(dim=0)


def _text_weights(name: str, size: int) -> dict[str, torch.Tensor]:
    """By their names in [`UniMPForConditionalGeneration`]."""
    text_model: Any = load_text_model(name)
    if size > text_model.config.vocab_size:
        grow_words(text_model, size)
    weights = {f"model.language_model.{key}": each for key, each in text_model.base_model.state_dict().items()}
    return weights | {f"lm_head.{key}": each for key, each in text_model.get_output_embeddings().state_dict().items()}


def _vision_weights(name: str) -> dict[str, torch.Tensor]:
    tower: Any = load_vision_tower(name)[0]
    return {f"model.vision_tower.{key}": each for key, each in tower.state_dict().items()}
