"""Low-rank adapters (LoRA, https://huggingface.co/papers/2106.09685) on the language model, through peft."""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from .gated_cross_attention import UniMPGatedCrossAttention


def add_lora(model: nn.Module, *, r: int, alpha: int, target_modules: Sequence[str] = ()) -> Any:
    """Wrap a UniMP model: adapters on its language model learn, and so does all that `freeze_backbones` left free.

    Args:
        model (`UniMPForConditionalGeneration`): after `freeze_backbones`.
        r, alpha (`int`): rank and scale of the adapters.
        target_modules (`Sequence[str]`, *optional*): names of the linear layers with adapters, such as
            `["q_proj", "v_proj"]`; all linear layers of the language model's own layers without it.

    Returns:
        `PeftModel`; it saves the adapters and what else learns, and `merge_and_unload` gives a plain UniMP back.

    Raises:
        ValueError: names that no linear layer of the language model has.
    """
    from peft import LoraConfig, get_peft_model

    prefix = "model.language_model."
    # Cross-attention is new: it learns in full and needs no adapter.
    inside = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, UniMPGatedCrossAttention))
    linears = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and name.startswith(prefix) and not name.startswith(inside or ("\0",))
    ]
    chosen = [name for name in linears if not target_modules or name.rpartition(".")[2] in target_modules]
    if not chosen:
        there = sorted({name.rpartition(".")[2] for name in linears})
        raise ValueError(f"lora_target_modules {list(target_modules)} name no linear layer; there are {there}.")
    pattern = "|".join(re.escape(name) for name in chosen)
    return get_peft_model(
        model, LoraConfig(r=r, lora_alpha=alpha, target_modules=pattern, modules_to_save=_modules_that_learn(model))
    )


def _modules_that_learn(model: nn.Module) -> list[str]:
    """The outermost modules all of whose parameters learn."""
    found: list[str] = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        inside_another = any(name.startswith(f"{outer}.") for outer in found)
        if name and parameters and not inside_another and all(each.requires_grad for each in parameters):
            found.append(name)
    return found
