"""VQGAN checkpoints of taming-transformers as diffusers' `VQModel`, weight by weight.

Codes, quantised vectors and pictures are those of taming's own classes, up to rounding.
"""

import io
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterable
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

# From diffusers' names to taming's, in this order; the levels of the decoder are numbered the other way round.
RENAMED = {
    "down_blocks.": "down.",
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "mid_block.attentions.0.": "mid.attn_1.",
    ".resnets.": ".block.",
    ".attentions.": ".attn.",
    ".downsamplers.0.": ".downsample.",
    ".upsamplers.0.": ".upsample.",
    ".conv_norm_out.": ".norm_out.",
    ".conv_shortcut.": ".nin_shortcut.",
    ".group_norm.": ".norm.",
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    ".to_out.0.": ".proj_out.",
}

PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}

# Weights of models that are no plain VQGAN, by the beginning of a name.
REFUSED = {
    "quantize.embed.": "a Gumbel VQGAN: take one with a plain codebook",
    "quantize.proj.": "a Gumbel VQGAN: take one with a plain codebook",
    "quantize.used": "a VQGAN with remapped codes: take one without `remap`",
    "first_stage_model.": "a transformer over codes: take the checkpoint of its VQGAN",
}


def load_image_codec(name: str | os.PathLike) -> ImageCodec:
    """
    Load what a recipe names.

    Args:
        name (`str` or `Path`):
            A folder or Hub name of a `diffusers.VQModel`, or a checkpoint file of taming-transformers (`.ckpt`, `.pt`,
            `.pth`), which is converted.

    Raises:
        ValueError: there is neither.
    """
    if Path(name).suffix in TAMING_SUFFIXES and not Path(name).is_dir():
        return ImageCodec(convert_taming(Path(name)))
    try:
        return ImageCodec.from_pretrained(name)
    except ValueError as error:
        raise ValueError(f"{error} Or name a checkpoint of taming ({', '.join(TAMING_SUFFIXES)}).") from error


def convert_taming(checkpoint: str | os.PathLike, config: str | os.PathLike | None = None) -> Any:
    """
    Convert a VQGAN of taming-transformers.

    Sizes are read from the weights; the yaml of the training must agree with them and adds the side of the pictures.

    Args:
        checkpoint (`str` or `os.PathLike`):
            A file of `torch.save` with the weights, alone or as `"state_dict"`, or a `.safetensors` file of the same
            names. `loss.*` and whatever the training kept beside the weights are dropped.
        config (`str` or `os.PathLike`, *optional*):
            A yaml file with `model.params.ddconfig`. By default `NAME.yaml` beside `NAME.ckpt`, else one beside the
            checkpoint or in `configs/` there or beside `checkpoints/`; without any, 256 pixels and a warning.

    Returns:
        `diffusers.VQModel` in float32, on the CPU, in eval mode. Its codes can differ from taming's only where two
        codebook vectors are equally near up to rounding.

    Raises:
        FileNotFoundError: no such checkpoint or config.
        ValueError: a file that cannot be read safely, another model, weights or a config that do not fit.
        ImportError: diffusers is not installed.
    """
    model_class = vq_model_class()
    checkpoint = _existing(checkpoint, "taming checkpoint")
    weights = _read_weights(checkpoint)
    architecture = _architecture(weights, checkpoint)
    config = _find_config(checkpoint) if config is None else _existing(config, "taming config")
    if config is None:
        architecture["sample_size"] = RESOLUTION_WITHOUT_CONFIG
        logger.warning(
            f"{checkpoint} has no yaml with model.params.ddconfig beside it: pictures are taken to be "
            f"{RESOLUTION_WITHOUT_CONFIG} pixels a side. Pass config= if it was trained at another resolution."
        )
    else:
        architecture["sample_size"] = _agreed_resolution(config, architecture)
    # Built without storage: no second copy of the weights, and no random numbers are drawn.
    with torch.device("meta"):
        model = model_class(**architecture)
    model.load_state_dict(_converted(weights, model.state_dict(), checkpoint), strict=True, assign=True)
    return model.eval()


class _Bookkeeping:
    """Stands for every class that a checkpoint names beside its weights; nothing of the class itself is ever run."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _existing(path: str | os.PathLike, what: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no {what} {path}; expected a file.")
    return path


def _read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    if checkpoint.suffix == ".safetensors":
        try:
            loaded: Any = load_file(checkpoint)
        except SafetensorError as error:
            raise ValueError(f"{checkpoint} is not a whole .safetensors file ({error}). Fetch it again.") from error
    else:
        loaded = _load_checkpoint(checkpoint)
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(weights, dict):
        raise ValueError(f"{checkpoint} holds a {type(weights).__name__}; expected weights by name.")
    weights = {name: weight for name, weight in weights.items() if not str(name).startswith("loss.")}
    other = [str(name) for name, weight in weights.items() if not (type(name) is str and torch.is_tensor(weight))]
    if other:
        raise ValueError(f"{checkpoint} holds other things than weights ({_some(other)}); expected tensors by name.")
    for beginning, kind in REFUSED.items():
        if any(name.startswith(beginning) for name in weights):
            raise ValueError(f"{checkpoint} has weights {beginning}*: it is {kind}.")
    return weights


def _load_checkpoint(checkpoint: Path) -> Any:
    """A checkpoint of a training names classes of pytorch-lightning, which `weights_only` refuses."""
    try:
        stand_ins: list[Any] = [(_Bookkeeping, name) for name in _names_in(checkpoint)]
        with torch.serialization.safe_globals(stand_ins):
            # Mapped: the optimizer's states, as large as the weights and more, are not read.
            return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(checkpoint))
    except (pickle.UnpicklingError, zipfile.BadZipFile, ValueError, RuntimeError, LookupError, EOFError) as error:
        raise ValueError(
            f"{checkpoint} cannot be read with weights_only=True ({str(error)[:300]}). If you trust where it comes "
            "from, write its weights alone once and convert that file: "
            f"weights = torch.load({checkpoint.name!r}, map_location='cpu', weights_only=False)['state_dict']; "
            "safetensors.torch.save_file({name: weight.contiguous() for name, weight in weights.items() "
            "if not name.startswith('loss.')}, 'vqgan.safetensors')"
        ) from error


def _names_in(checkpoint: Path) -> set[str]:
    """Every class and function that a checkpoint names, found without running it."""
    if zipfile.is_zipfile(checkpoint):
        with zipfile.ZipFile(checkpoint) as archive:
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
        return {name for data in pickles for name in _names_in_pickle(io.BytesIO(data))}
    with open(checkpoint, "rb") as file:
        # Before torch 1.6: three pickles about the file, then the content; the numbers come after it.
        return {name for _ in range(4) for name in _names_in_pickle(file)}


def _names_in_pickle(file: Any) -> list[str]:
    names = [str(value).split(" ") for code, value, _ in pickletools.genops(file) if code.name == "GLOBAL"]
    # torch writes under the module names of Python 2.
    return [f"{PYTHON_2_MODULES.get(module, module)}.{name}" for module, name in names]


def _architecture(weights: dict[str, torch.Tensor], checkpoint: Path) -> dict[str, Any]:
    """Arguments of `VQModel`, but for its `sample_size`."""

    def shape(name: str) -> torch.Size:
        if name not in weights:
            raise ValueError(
                f"{checkpoint} has no {name}, but {_some(weights) or 'nothing'}: it is no VQGAN of taming."
            )
        return weights[name].shape

    def numbers(pattern: str) -> set[int]:
        return {int(match[1]) for match in map(re.compile(pattern).match, weights) if match}

    ch, in_channels = shape("encoder.conv_in.weight")[:2]
    levels = len(numbers(r"encoder\.down\.(\d+)\."))
    widths = [shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    if widths[:1] != [ch]:
        raise ValueError(
            f"{checkpoint}: its first convolution has {ch} channels and its levels have {widths}. A VQModel begins "
            "with the width of its first level: only a ch_mult that begins with 1 can be converted."
        )
    down, up = numbers(r"encoder\.down\.(\d+)\.attn\."), numbers(r"decoder\.up\.(\d+)\.attn\.")
    num_codes, embed_dim = shape("quantize.embedding.weight")
    return {
        "in_channels": in_channels,
        "out_channels": shape("decoder.conv_out.weight")[0],
        "down_block_types": [
            "AttnDownEncoderBlock2D" if level in down else "DownEncoderBlock2D" for level in range(levels)
        ],
        "up_block_types": [
            "AttnUpDecoderBlock2D" if level in up else "UpDecoderBlock2D" for level in reversed(range(levels))
        ],
        "block_out_channels": widths,
        "layers_per_block": len(numbers(r"encoder\.down\.0\.block\.(\d+)\.")),
        "latent_channels": shape("quant_conv.weight")[1],
        "num_vq_embeddings": num_codes,
        "vq_embed_dim": embed_dim,
        "norm_num_groups": 32,
    }


def _converted(
    weights: dict[str, torch.Tensor], places: dict[str, torch.Tensor], checkpoint: Path
) -> dict[str, torch.Tensor]:
    """The weights under the names of `places`, each used once."""
    levels = len({name.split(".")[2] for name in places if name.startswith("decoder.up_blocks.")})
    names = {place: _taming_name(place, levels) for place in places}
    missing = [name for name in names.values() if name not in weights]
    unknown = sorted(set(weights) - set(names.values()))
    if missing or unknown:
        raise ValueError(
            f"{checkpoint}: {len(missing)} weights are missing ({_some(missing) or 'none'}) and {len(unknown)} have "
            f"no place ({_some(unknown) or 'none'}). Expected a whole VQGAN of taming-transformers, {levels} levels."
        )
    converted = {}
    for place, name in names.items():
        # Attention is a 1 x 1 convolution in taming and a linear layer in diffusers.
        linear = ".to_" in place and place.endswith(".weight")
        expected = (*places[place].shape, 1, 1) if linear else tuple(places[place].shape)
        if tuple(weights[name].shape) != expected:
            raise ValueError(
                f"{checkpoint}: {name} is {tuple(weights[name].shape)}; expected {expected}, by the others."
            )
        converted[place] = weights[name].to(torch.float32, copy=True).reshape(places[place].shape)
    return converted


def _taming_name(place: str, levels: int) -> str:
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{levels - 1 - int(match[1])}", place)
    for ours, theirs in RENAMED.items():
        name = name.replace(ours, theirs)
    return name


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
        if "ddconfig" not in text:
            return None
        params = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{config} is no readable yaml ({error}). Mend it, or pass config= another file.") from error
    for name in ("model", "params"):
        params = params.get(name) if isinstance(params, dict) else None
    return params if isinstance(params, dict) and isinstance(params.get("ddconfig"), dict) else None


def _agreed_resolution(config: Path, architecture: dict[str, Any]) -> int:
    """The resolution in `config`, once all it says is what the weights say."""
    params = _read_params(config)
    if params is None:
        raise ValueError(f"{config} has no model.params.ddconfig; expected the yaml that the VQGAN was trained with.")
    ddconfig = params["ddconfig"]
    resolution = ddconfig.get("resolution")
    if not isinstance(resolution, int) or resolution < 1:
        raise ValueError(f"{config}: resolution is {resolution!r}; expected the pixels a side, such as 256.")
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
        **dict.fromkeys(("double_z", "give_pre_end", "tanh_out"), False),
        "resamp_with_conv": True,
        "remap": None,
    }
    said = {name: value for name, value in (params | ddconfig).items() if name in expected}
    wrong = [f"{name} {value} (expected {expected[name]})" for name, value in said.items() if value != expected[name]]
    # The levels of the encoder and of the decoder that attend, by the weights and as taming counts resolutions.
    down, up = (
        [level for level, block in enumerate(blocks) if block.startswith("Attn")]
        for blocks in (architecture["down_block_types"], architecture["up_block_types"][::-1])
    )
    attending = ddconfig.get("attn_resolutions", [])
    levels, lowest = range(len(widths)), resolution // 2 ** (len(widths) - 1)
    if down != [level for level in levels if resolution // 2**level in attending] or up != [
        level for level in levels if lowest * 2 ** (len(widths) - 1 - level) in attending
    ]:
        wrong.append(
            f"attn_resolutions {attending} at resolution {resolution} (expected attention at the levels {down} of "
            f"the encoder and {up} of the decoder)"
        )
    if wrong:
        raise ValueError(
            f"{config} does not fit the weights: {', '.join(wrong)}. Pass config= the yaml that this checkpoint was "
            "trained with; without any yaml beside it, all but the resolution is read from the weights."
        )
    return resolution


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
