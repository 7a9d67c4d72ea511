"""Pictures as codes and back: a frozen `diffusers.VQModel` behind two calls.

Shapes: B pictures, S pixels a side, h x w codes of a picture, row by row, D width of a code's vector.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from .manifest import check_weights, write_manifest

CODEC_WEIGHTS = "diffusion_pytorch_model"


class ImageCodec:
    """
    Square pictures of S pixels as `h * w` whole numbers.

    Args:
        vq_model (`diffusers.VQModel`):
            Frozen and put into eval mode here; its `sample_size` is S.

    Attributes:
        num_codes (`int`): size of the codebook.
        side (`int`): S.
        grid (`tuple[int, int]`): h and w.
        codes_per_picture (`int`): `h * w`.
    """

    def __init__(self, vq_model: Any) -> None:
        config = vq_model.config
        shrink = 2 ** (len(config.down_block_types) - 1)
        if config.in_channels != 3 or config.out_channels != 3:
            raise ValueError(
                f"a VQModel from {config.in_channels} to {config.out_channels} channels: expected 3 and 3, for red, "
                "green and blue."
            )
        if not isinstance(config.sample_size, int) or config.sample_size < shrink or config.sample_size % shrink:
            raise ValueError(
                f"sample_size={config.sample_size} of a VQModel with {len(config.down_block_types)} levels: expected "
                f"the pixels a side of its pictures, a multiple of {shrink}. Correct it in the model's config.json."
            )
        self.vq_model = vq_model.eval().requires_grad_(False)
        self.num_codes: int = config.num_vq_embeddings
        self.side: int = config.sample_size
        self.grid: tuple[int, int] = (self.side // shrink, self.side // shrink)
        self.codes_per_picture: int = self.grid[0] * self.grid[1]

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike,
        *,
        subfolder: str | None = None,
        verify: bool = True,
        **hub_kwargs: Any,
    ) -> "ImageCodec":
        """
        Load a `diffusers.VQModel`.

        Args:
            name_or_folder (`str` or `Path`): what `save_pretrained` wrote, or a Hub name.
            subfolder (`str`, *optional*): where in it the VQModel is.
            verify (`bool`, *optional*, defaults to `True`): whether weights have to be what was saved.
            hub_kwargs (*optional*): such as `revision` and `token`.

        Raises:
            ValueError: nothing there, a model of another class, or weights that are damaged or exchanged.
        """
        model_class, name = vq_model_class(), os.fspath(name_or_folder)
        try:
            config = model_class.load_config(name, subfolder=subfolder, **hub_kwargs)
        except OSError as error:
            raise ValueError(
                f"no image codec in {name!r}: expected a folder or Hub name of a diffusers VQModel. {error}"
            ) from error
        if config.get("_class_name") != "VQModel":
            raise ValueError(
                f"{name!r} holds a {config.get('_class_name') or config.get('model_type') or 'model of no class'}; "
                "expected a diffusers VQModel. Name its folder (subfolder= if it is part of a pipeline)."
            )
        if verify:
            check_weights(name, stem=CODEC_WEIGHTS, subfolder=subfolder, **hub_kwargs)
        try:
            return cls(model_class.from_pretrained(name, subfolder=subfolder, **hub_kwargs))
        except (SafetensorError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"the image codec in {name!r} cannot be loaded ({type(error).__name__}: {error}). It may be "
                "damaged: copy, download or save it again."
            ) from error

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the VQModel's config.json and weights, and a manifest.json of these."""
        self.vq_model.save_pretrained(os.fspath(folder))
        write_manifest(folder, sorted(each.name for each in Path(folder).glob("*.safetensors")))

    def to(self, device: str | torch.device) -> "ImageCodec":
        """Move the VQModel; encode and decode take and give what is on the CPU all the same."""
        self.vq_model.to(device)
        return self

    def pixels(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """
        Args:
            pictures (`Sequence[PIL.Image.Image]`): of any size and mode, see `square_picture`.

        Returns:
            `torch.FloatTensor` of shape `(B, 3, S, S)`, from -1 to 1.
        """
        if not len(pictures):
            return torch.empty(0, 3, self.side, self.side)
        return pixels_of([square_picture(picture, self.side) for picture in pictures])

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image], batch_size: int = 32) -> torch.Tensor:
        """
        Args:
            pictures (`Sequence[PIL.Image.Image]`): of any size and mode; read a batch at a time.
            batch_size (`int`, *optional*, defaults to 32): pictures a forward.

        Returns:
            `torch.LongTensor` of shape `(B, h * w)`, on the CPU.
        """
        codes = [torch.empty(0, self.codes_per_picture, dtype=torch.long)]
        for rows in _batches(len(pictures), batch_size):
            pixels = self.pixels([pictures[row] for row in rows])
            latents = self.vq_model.encode(pixels.to(self.vq_model.device, self.vq_model.dtype)).latents
            _, _, (_, _, indices) = self.vq_model.quantize(latents)
            codes.append(indices.reshape(len(rows), -1).cpu())
        return torch.cat(codes)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor | np.ndarray, batch_size: int = 32) -> list[Image.Image]:
        """
        Args:
            codes (`torch.LongTensor` or `np.ndarray` of shape `(B, h * w)`): from 0 to `num_codes - 1`.
            batch_size (`int`, *optional*, defaults to 32): pictures a forward.

        Returns:
            `list[PIL.Image.Image]`: RGB, S x S.

        Raises:
            ValueError: another shape, numbers that are not whole, or a code that is not in the codebook.
        """
        codes_BN = torch.as_tensor(codes)
        self._check_codes(codes_BN)
        vq_model, (height, width) = self.vq_model, self.grid
        pictures = []
        for rows in _batches(len(codes_BN), batch_size):
            indices = codes_BN[rows.start : rows.stop].to(vq_model.device, torch.long)
            shape = (len(rows), height, width, vq_model.quantize.vq_embed_dim)
            quantized_BDhw = vq_model.quantize.get_codebook_entry(indices.flatten(), shape=shape)
            # VQModel.decode takes vectors for indices where a config says lookup_from_codebook.
            condition = quantized_BDhw if vq_model.config.norm_type == "spatial" else None
            pictures += pictures_of(vq_model.decoder(vq_model.post_quant_conv(quantized_BDhw), condition))
        return pictures

    def vectors(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The codebook's entries of whole pictures, for comparing them.

        Args:
            codes (`torch.LongTensor` or `np.ndarray` of shape `(B, h * w)`): from 0 to `num_codes - 1`.

        Returns:
            `torch.FloatTensor` of shape `(B, h * w * width of an entry)`, on the CPU.
        """
        codes_BN = torch.as_tensor(codes)
        self._check_codes(codes_BN)
        codebook = self.vq_model.quantize.embedding.weight.detach().float().cpu()
        return codebook[codes_BN.long()].flatten(1)

    def _check_codes(self, codes: torch.Tensor) -> None:
        if codes.ndim != 2 or codes.shape[1] != self.codes_per_picture:
            raise ValueError(
                f"codes of shape {tuple(codes.shape)}: expected (pictures, {self.codes_per_picture}), for this codec "
                f"writes a picture as {self.grid[0]} x {self.grid[1]} codes."
            )
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"codes of type {codes.dtype}: expected whole numbers, such as torch.long.")
        if codes.numel() and (codes.min() < 0 or codes.max() >= self.num_codes):
            raise ValueError(
                f"codes from {codes.min()} to {codes.max()}: expected 0 to {self.num_codes - 1}. Token numbers of a "
                "language model are not codes: subtract the number of the first code's token."
            )


def square_picture(picture: Image.Image, side: int) -> Image.Image:
    """
    The whole picture in a square, in the middle of the mean colour of its border; transparent parts are white.

    Pictures with more than 8 bits a channel are to be scaled before (`open_picture` does).

    Returns:
        `PIL.Image.Image`: RGB, `side` x `side`; a picture that is so already comes back unchanged.
    """
    picture = on_white(picture).convert("RGB")
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if width == height:
        return picture
    values = np.asarray(picture)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    red, green, blue = border.mean(axis=0).round().astype(int).tolist()
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


def on_white(picture: Image.Image) -> Image.Image:
    """The same picture, or as RGBA its transparent parts on white."""
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


def pixels_of(squares: Sequence[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size as `(B, 3, S, S)`, from -1 to 1."""
    values_BSSC = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))
    return values_BSSC.permute(0, 3, 1, 2).float() / 127.5 - 1


def pictures_of(pixels: torch.Tensor) -> list[Image.Image]:
    """The inverse of `pixels_of`, rounded to 8 bits; what lies outside -1 to 1 is cut."""
    values_BSSC = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(values) for values in values_BSSC.cpu().numpy()]


def _batches(count: int, batch_size: int) -> Iterator[range]:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1.")
    return (range(start, min(start + batch_size, count)) for start in range(0, count, batch_size))


def vq_model_class() -> Any:
    """`diffusers.VQModel`, imported where it is needed: that takes seconds, and not every model draws."""
    try:
        from diffusers import VQModel
    except ImportError as error:
        raise ImportError(f"pictures as answers need diffusers: pip install diffusers. ({error})") from error
    return VQModel
