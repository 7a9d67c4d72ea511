"""VQGAN checkpoints of taming-transformers as diffusers' `VQModel`, weight by weight.

Codes, quantised vectors and pictures are those of taming's own classes, up to rounding.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import logging

from ..image_codec import ImageCodec, vq_model_class

logger = logging.get_logger(__name__)

TAMING_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")

# The weights tell every size but the pictures'; taming's own ImageNet configuration trains at 256.
RESOLUTION_WITHOUT_CONFIG = 256

# From taming's names to diffusers'; the levels of the decoder are numbered the other way round besides.
RENAMED = {
    "encoder.down.": "encoder.down_blocks.",
    ".mid.block_1.": ".mid_block.resnets.0.",
    ".mid.block_2.": ".mid_block.resnets.1.",
    ".mid.attn_1.": ".mid_block.attentions.0.",
    ".block.": ".resnets.",
    ".attn.": ".attentions.",
    ".downsample.": ".downsamplers.0.",
    ".upsample.": ".upsamplers.0.",
    ".norm_out.": ".conv_norm_out.",
    ".nin_shortcut.": ".conv_shortcut.",
    ".norm.": ".group_norm.",
    ".q.": ".to_q.",
    ".k.": ".to_k.",
    ".v.": ".to_v.",
    ".proj_out.": ".to_out.0.",
}


def load_image_codec(name: str | os.PathLike) -> ImageCodec:
    """The codec that a recipe names: a folder or Hub name of a `diffusers.VQModel`, or a file for [`convert_taming`].

    Raises:
        ValueError: there is neither.
    """
    if Path(name).suffix in TAMING_SUFFIXES and not Path(name).is_dir():
        return ImageCodec(convert_taming(name))
    try:
        return ImageCodec.from_pretrained(name)
    except ValueError as error:
        raise ValueError(f"{error} Or name a checkpoint of taming ({', '.join(TAMING_SUFFIXES)}).") from error


def convert_taming(checkpoint: str | os.PathLike, config: str | os.PathLike | None = None) -> Any:
    """
    Convert a VQGAN of taming-transformers, whose sizes are read from its weights.

    Args:
        checkpoint (`str` or `Path`): weights by name, alone or as `"state_dict"`, in a file of `torch.save` or a
            `.safetensors` file. `loss.*` and what the training kept beside the weights are dropped.
        config (`str` or `Path`, *optional*): the yaml of the training, which adds the side of the pictures and has to
            agree with the weights. By default `NAME.yaml` beside `NAME.ckpt`, else a yaml with `model.params.ddconfig`
            beside the checkpoint or in `configs/` there or beside `checkpoints/`; without any, 256 and a warning.

    Returns:
        `diffusers.VQModel` in float32, on the CPU, in eval mode. Its codes can differ from taming's only where two
        codebook vectors are equally near up to rounding.

    Raises:
        ValueError: no such file, one that cannot be read safely, another model, or a config that does not fit.
        ImportError: diffusers is not installed.
    """
    model_class, checkpoint = vq_model_class(), Path(checkpoint)
    weights = _read_weights(checkpoint)
    architecture = _architecture(weights, checkpoint)
    config = _find_config(checkpoint) if config is None else Path(config)
    side = RESOLUTION_WITHOUT_CONFIG if config is None else _agreed_resolution(config, architecture)
    if config is None:
        logger.warning(
            f"{checkpoint} has no yaml with model.params.ddconfig beside it: pictures are taken to be {side} pixels a "
            "side. Pass config= if it was trained at another resolution."
        )
    # Built without storage: no second copy of the weights, and no random numbers are drawn.
    with torch.device("meta"):
        model = model_class(sample_size=side, **architecture)
    try:
        model.load_state_dict(_renamed(weights, len(architecture["block_out_channels"])), assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint} is no whole VQGAN of taming with a plain codebook and a ch_mult that begins with 1: "
            f"{str(error)[:600]}"
        ) from error
    return model.eval()


class _Bookkeeping:
    """Stands for every class that a checkpoint names beside its weights; nothing of the class itself is ever run."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _load(checkpoint: Path) -> Any:
    if checkpoint.suffix == ".safetensors":
        return load_file(checkpoint)
    is_zip = zipfile.is_zipfile(checkpoint)  # what torch has written since 1.6
    # A checkpoint of a training names classes of pytorch-lightning, which `weights_only` refuses.
    names = torch.serialization.get_unsafe_globals_in_checkpoint(checkpoint) if is_zip else []
    with torch.serialization.safe_globals([(_Bookkeeping, name) for name in names]):
        # Mapped: the optimizer's states, as large as the weights and more, are not read.
        return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=is_zip)


def _read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    try:
        loaded = _load(checkpoint)
    except OSError as error:
        raise ValueError(f"There is no taming checkpoint {checkpoint} that can be read ({error}).") from error
    except (SafetensorError, pickle.UnpicklingError, ValueError, RuntimeError, LookupError, EOFError) as error:
        raise ValueError(
            f"{checkpoint} cannot be read with weights_only=True ({str(error)[:300]}). If it is not whole, fetch it "
            "again. If you trust where it comes from, load it once with weights_only=False, write the tensors of its "
            "state_dict with safetensors.torch.save_file and convert that file."
        ) from error
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    named = weights if isinstance(weights, dict) else {type(weights).__name__: None}
    weights = {name: weight for name, weight in named.items() if not str(name).startswith("loss.")}
    other = [str(name) for name, weight in weights.items() if type(name) is not str or not torch.is_tensor(weight)]
    if other:
        raise ValueError(f"{checkpoint} holds other things than weights ({_some(other)}): expected tensors by name.")
    return weights


def _architecture(weights: dict[str, torch.Tensor], checkpoint: Path) -> dict[str, Any]:
    """Arguments of `VQModel`, but for its `sample_size`."""

    def numbers(pattern: str) -> set[int]:
        return {int(match[1]) for match in map(re.compile(pattern).match, weights) if match}

    levels = range(len(numbers(r"encoder\.down\.(\d+)\.")))
    down, up = numbers(r"encoder\.down\.(\d+)\.attn\."), numbers(r"decoder\.up\.(\d+)\.attn\.")
    try:
        in_channels = weights["encoder.conv_in.weight"].shape[1]
        widths = [len(weights[f"encoder.down.{level}.block.0.conv1.weight"]) for level in levels]
        num_codes, embed_dim = weights["quantize.embedding.weight"].shape
        out_channels, latent_channels = len(weights["decoder.conv_out.bias"]), weights["quant_conv.weight"].shape[1]
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{checkpoint} has {_some(weights) or 'no weights'}, but no proper {error}: it is no VQGAN of taming with "
            "a plain codebook (Gumbel, `remap` and transformers over codes are not converted)."
        ) from error
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "down_block_types": [f"{'Attn' * (level in down)}DownEncoderBlock2D" for level in levels],
        "up_block_types": [f"{'Attn' * (level in up)}UpDecoderBlock2D" for level in reversed(levels)],
        "block_out_channels": widths,
        "layers_per_block": len(numbers(r"encoder\.down\.0\.block\.(\d+)\.")),
        "latent_channels": latent_channels,
        "num_vq_embeddings": num_codes,
        "vq_embed_dim": embed_dim,
        "norm_num_groups": 32,
    }


def _renamed(weights: dict[str, torch.Tensor], num_levels: int) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, weight in weights.items():
        name = re.sub(r"decoder\.up\.(\d+)", lambda match: f"decoder.up_blocks.{num_levels - 1 - int(match[1])}", name)
        for theirs, ours in RENAMED.items():
            name = name.replace(theirs, ours)
        # Attention is a 1 x 1 convolution in taming and a linear layer in diffusers.
        is_linear = ".to_" in name and weight.dim() == 4
        # Copied: a mapped file may go away.
        renamed[name] = (weight.flatten(1) if is_linear else weight).to(torch.float32, copy=True)
    return renamed


def _find_config(checkpoint: Path) -> Path | None:
    named, folder = checkpoint.with_suffix(".yaml"), checkpoint.parent
    if named.is_file():
        return named
    folders = [folder, folder / "configs", *([folder.parent / "configs"] if folder.name == "checkpoints" else [])]
    # A run has other yaml files too, such as its trainer's.
    params = {file: _read_params(file) for each in folders for file in sorted(each.glob("*.yaml"))}
    found = [file for file in params if params[file]]
    if any(params[file] != params[found[0]] for file in found):
        raise ValueError(
            f"{checkpoint} lies beside {len(found)} configs that differ ({_some(map(str, found))}). Pass config= its "
            f"own, or name that one {named.name}."
        )
    return found[0] if found else None


def _read_params(config: Path) -> dict[str, Any] | None:
    """`model.params` of a yaml file, or `None` where that has no `ddconfig`."""
    try:
        text = config.read_text(encoding="utf-8")
        params = yaml.safe_load(text)["model"]["params"] if "ddconfig" in text else {}
        return params if isinstance(params["ddconfig"], dict) else None
    except (LookupError, TypeError):
        return None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{config} is no readable yaml ({error}). Mend it, or pass config= another file.") from error


def _agreed_resolution(config: Path, architecture: dict[str, Any]) -> int:
    """The resolution in `config`, once all it says is what the weights say."""
    params = _read_params(config)
    if params is None:
        raise ValueError(f"{config} has no model.params.ddconfig; expected the yaml that the VQGAN was trained with.")
    said = params | params["ddconfig"]
    resolution, attending = said.get("resolution"), said.get("attn_resolutions", [])
    if not isinstance(resolution, int) or resolution < 1 or not isinstance(attending, list):
        raise ValueError(
            f"{config}: resolution is {resolution!r}; expected the pixels a side, such as 256, and as "
            f"attn_resolutions a list of such numbers, not {attending!r}."
        )
    widths = architecture["block_out_channels"]
    expected: dict[str, Any] = {
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": architecture["layers_per_block"],
        "z_channels": architecture["latent_channels"],
        "in_channels": architecture["in_channels"],
        "out_ch": architecture["out_channels"],
        "n_embed": architecture["num_vq_embeddings"],
        "embed_dim": architecture["vq_embed_dim"],
        # These leave no trace in the weights, or none that a VQModel could follow.
        **{"double_z": False, "give_pre_end": False, "tanh_out": False, "resamp_with_conv": True, "remap": None},
    }
    differing = {name: value for name, value in expected.items() if said.get(name, value) != value}
    wrong = [f"{name} {said[name]} (expected {value})" for name, value in differing.items()]
    # Attention is where a level's side is named; the decoder counts its sides from the lowest, doubling.
    sides = [resolution // 2**level for level in range(len(widths))]
    sides += [sides[-1] * 2**level for level in range(len(widths))]
    blocks = architecture["down_block_types"] + architecture["up_block_types"]
    there = [side for side, block in zip(sides, blocks, strict=True) if block.startswith("Attn")]
    if there != [side for side in sides if side in attending]:
        wrong.append(f"attn_resolutions {attending} at resolution {resolution} (expected {sorted(set(there))})")
    if wrong:
        raise ValueError(
            f"{config} does not fit the weights: {', '.join(wrong)}. Pass config= the yaml that this checkpoint was "
            "trained with; without any yaml beside it, all but the resolution is read from the weights."
        )
    return resolution


def _some(names: Iterable[str]) -> str:
    first = list(islice(names, 5))
    return ", ".join([*first[:4], *(["..."] if len(first) > 4 else [])])
