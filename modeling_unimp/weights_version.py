"""Whether weights are still those that something was made with: in this process at once, in another by content."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import increment_version
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook


def _count_step(optimizer: Optimizer, *_: Any) -> None:
    """Count what a step has written: fused kernels do not, and the weights would seem to be those from before.

    Autograd reads the same count: it refuses a graph from before a fused step, as it does after steps of others.
    """
    weights = [each for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
    increment_version([each for each in weights if not each.is_inference()])


register_optimizer_step_post_hook(_count_step)


class WeightsVersion:
    """Equals another for as long as no weight or buffer was replaced or changed in place, and they are used alike, by
    adapters and autocast; for this process alone.

    A step of any `torch.optim.Optimizer` changes weights in place, and so does `load_state_dict`. What is written
    through `weight.data`, as by diffusers' `EMAModel.copy_to`, does not count itself: set the weight itself, under
    `torch.no_grad`, or call `torch.autograd.graph.increment_version(model.parameters())` after it. Of a tensor of
    inference mode it is not known whether it was changed: with one of them it equals nothing.

    Args:
        modules (`nn.Module`): any number of them.
    """

    def __init__(self, *modules: nn.Module) -> None:
        parts = [part for module in modules for part in module.modules()]
        # `parameters` and `buffers` would walk through all parts again, for every request.
        held = [each for part in parts for each in (*part._parameters.values(), *part._buffers.values())]
        tensors = [each for each in held if each is not None]
        self._use = _use(parts)
        # The tensors themselves are held, so that no other can take their place in memory.
        self._state = [(each, each.data_ptr(), None if each.is_inference() else each._version) for each in tensors]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WeightsVersion) or len(self._state) != len(other._state):
            return False
        if self._use != other._use:
            return False
        pairs = zip(self._state, other._state, strict=True)
        return all(a[0] is b[0] and a[1] == b[1] and a[2] is not None and a[2] == b[2] for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]


def weights_fingerprint(module: nn.Module) -> Any:
    """Equal in every process that has the same weights and uses them alike; a second for a billion of them.

    Of an offloaded model, whose weights cannot be read from here, it is an object that equals no other, nor a copy.
    """
    digest = hashlib.sha256("\n".join(_use(module.modules())).encode())
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "meta":
            return object()
        # Whole numbers, whose sums do not depend on the device, its threads or their order.
        bits = tensor.detach().contiguous().flatten().view(_INTEGERS[tensor.element_size()])
        sums = bits.view(tensor.shape).sum(dim=-1, dtype=torch.int64) if tensor.ndim > 1 else bits
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sums.cpu().numpy().tobytes())
    return digest.hexdigest()


_DEVICES = ("cpu", "cuda", "xpu", "mps")
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _use(parts: Iterable[nn.Module]) -> list[str]:
    """How weights are used: by autocast, in which types; and of each layer of peft the adapters that are active, those
    that are merged into its weights, which writes through `weight.data`, and how much each counts."""
    cast = [f"{kind} {torch.get_autocast_dtype(kind)}" for kind in _DEVICES if torch.is_autocast_enabled(kind)]
    return cast + [
        f"{part.active_adapters} {part.disable_adapters} {part.merged_adapters} {vars(part).get('scaling')}"
        for part in parts
        if hasattr(type(part), "merged_adapters")
    ]
