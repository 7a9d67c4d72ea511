"""Low-rank adapters (LoRA, https://huggingface.co/papers/2106.09685) on the language model, through peft."""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from ..gated_cross_attention import UniMPGatedCrossAttention


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
        ValueError: names that no frozen linear layer of the language model has, or a model that has none.
    """
    from peft import LoraConfig, get_peft_model

    names = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    prefix = "model.language_model."
    # Cross-attention is new: it learns in full and needs no adapter.
    inside = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, UniMPGatedCrossAttention))
    # GPT-2 calls its linear layers Conv1D. A layer that learns in full needs no adapter either.
    linears = {
        name: name.rpartition(".")[2]
        for name, part in model.named_modules()
        if isinstance(part, (nn.Linear, Conv1D))
        and not part.weight.requires_grad
        and name.startswith(prefix)
        and not name.startswith(inside or ("\0",))
    }
    if not linears:
        raise ValueError(
            "adapters learn beside frozen layers, and this language model has none: all of it learns. "
            "Call freeze_backbones(train='new') first (train_only: new), or do without adapters (use_peft: false)."
        )
    unknown = set(names) - set(linears.values())
    if unknown:
        raise ValueError(
            f"lora_target_modules names {sorted(unknown)}; the linear layers of this language model that do not learn "
            f"in full are {sorted(set(linears.values()))}."
        )
    pattern = "|".join(re.escape(name) for name, last in linears.items() if not names or last in names)
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
