"""Whether weights are still those that something was made with: in this process at once, in another by content."""

import hashlib
from typing import Any

import torch
from torch import nn


def weights_version(module: nn.Module) -> tuple[Any, ...]:
    """Differs as soon as a weight or buffer was replaced or changed in place; for this process alone.

    What is written through `weight.data` does not count itself: set the weight itself, under `torch.no_grad`.
    """
    return tuple((tensor.data_ptr(), tensor.dtype, _num_writes(tensor)) for tensor in _tensors(module))


def weights_fingerprint(module: nn.Module) -> Any:
    """Equal in every process that has the same weights; a second for a billion of them.

    Of an offloaded model, whose weights cannot be read from here, it is an object that equals no other, nor a copy.
    """
    digest = hashlib.sha256()
    for tensor in _tensors(module):
        if tensor.device.type == "meta":
            return object()
        # Whole numbers, whose sums do not depend on the device, its threads or their order.
        bits = tensor.detach().contiguous().flatten().view(_INTEGERS[tensor.element_size()])
        sums = bits.view(tensor.shape).sum(dim=-1, dtype=torch.int64) if tensor.ndim > 1 else bits
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sums.cpu().numpy().tobytes())
    return digest.hexdigest()


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _num_writes(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
