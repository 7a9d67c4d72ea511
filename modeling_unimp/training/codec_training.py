"""Trains an image codec on a shop's own pictures, and measures one.

Shapes: B pictures, C colours, S pixels a side, h x w codes of a picture, K codes of the codebook, U vectors to be
named by codes, D width of a vector.
"""

import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, reduce
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from ..image_codec import ImageCodec, pixels_of, square_picture, vq_model_class

logger = logging.getLogger(__name__)

METRICS = "codec.json"
MIN_PICTURES = 16
MIN_HELD_OUT = 8
HELD_OUT_SHARE = 0.1

LATENT_WIDTH = 16
NORM_GROUPS = 8
SQUARE_WEIGHT = 5.0  # a wrong colour is a large error on few pixels, which the absolute one hardly notices
GRADIENT_WEIGHT = 0.5
COMMITMENT_WEIGHT = 0.25

# At first the decoder sees the encoder's own vectors, and the codebook only follows them: quantising too
# early spends all codes on brightness, which is learnt first, and leaves none for colours.
UNQUANTIZED_SHARE = 0.2
# A code that no picture used for so many steps starts anew; over the last share of the steps all codes settle.
RESTART_AFTER = 20
SETTLING_SHARE = 0.25
REVIVALS = 20


def train_codec(
    pictures: Sequence[Image.Image], settings: Any, folder: str | Path, *, seed: int, use_cpu: bool
) -> tuple[ImageCodec, dict[str, Any]]:
    """
    Train a small VQModel, save it with its metrics, and tell how good it is on pictures it has not seen.

    Every picture is kept in memory as a square of `codec_side` (12 KB at 64 pixels).

    Args:
        pictures (`Sequence[PIL.Image.Image]`): at least 16, of any size and mode; read once, in order.
        settings (`ModelArguments`): its `codec_*` fields; `codec_batch_size` counts for each process.
        folder (`str` or `Path`): for config.json, the weights, and codec.json with the metrics.
        seed (`int`): of the weights, the order and the held-out pictures.
        use_cpu (`bool`): stay on the CPU.

    Returns:
        `tuple[ImageCodec, dict]`: the codec, on the CPU, and what [`measure_codec`] says of the held-out tenth;
        `codes_used` and `perplexity` are those of the `trained_on` training pictures.

    Raises:
        ValueError: too few pictures, or sizes that do not fit together.
        ImportError: diffusers is not installed.
    """
    started = time.perf_counter()
    _check(len(pictures), settings)
    set_seed(seed)
    model = CodecTraining(new_vq_model(settings))
    squares = [square_picture(pictures[row], settings.codec_side) for row in range(len(pictures))]
    held_out, training = _split(squares, seed)
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.codec_steps,
        per_device_train_batch_size=settings.codec_batch_size,
        learning_rate=settings.codec_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        save_strategy="no",
        report_to="none",
        logging_steps=20,
        remove_unused_columns=False,
        seed=seed,
        use_cpu=use_cpu,
    )
    args.mixed_precision = "no"  # whatever the launcher says: the nearest code hangs on the last digits
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=training,  # type: ignore[arg-type]
        data_collator=lambda squares: {"pixels": pixels_of(squares)},
        callbacks=[CodebookSchedule(seed)],
    )
    if not args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(CodecBar)
    trainer.train()

    codec = ImageCodec(model.vq_model.to(args.device, memory_format=torch.contiguous_format))
    revive_dead_codes(codec, training, seed)
    metrics = measure_codec(codec, held_out) | {"trained_on": len(training)}
    metrics |= _usage(codec.encode(training), codec.num_codes)
    codec.to("cpu")
    if args.should_save:
        codec.save_pretrained(folder)
        (Path(folder) / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    # The next Trainer may use another precision, which a configured accelerator would refuse.
    AcceleratorState._reset_state()
    logger.info(
        f"image codec: {settings.codec_steps} steps on {len(training)} pictures in {time.perf_counter() - started:.0f}"
        f" s; on {len(held_out)} others PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.3f}; "
        f"{metrics['codes_used']} of {codec.num_codes} codes in use, perplexity {metrics['perplexity']:.0f}"
    )
    return codec, metrics


def measure_codec(codec: ImageCodec, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """
    How near decoded pictures come to the true ones, as squares of 8 bits a colour.

    Returns:
        `dict`: means over pictures of `psnr` (dB, at most 100), `ssim` and `l1` (0 to 1), and of their codes
        `codes_used`, `num_codes` and `perplexity` (`exp(entropy)` of the codes' shares: how many are in use, if all
        were used alike), and the number of `pictures`.

    Raises:
        ValueError: no pictures.
    """
    if not len(pictures):
        raise ValueError("no pictures to measure an image codec on: expected at least one.")
    all_codes, sums = [], dict.fromkeys(("psnr", "ssim", "l1"), 0.0)
    for start in range(0, len(pictures), 64):
        rows = range(start, min(start + 64, len(pictures)))
        squares = [square_picture(pictures[row], codec.side) for row in rows]
        codes = codec.encode(squares)
        true, decoded = ((pixels_of(each) + 1) / 2 for each in (squares, codec.decode(codes)))
        error = true - decoded
        mean_squares = error.square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        sums["psnr"] += (-10 * mean_squares.log10()).sum().item()
        sums["ssim"] += ssim(true, decoded).sum().item()
        sums["l1"] += error.abs().mean(dim=(1, 2, 3)).sum().item()
        all_codes.append(codes)
    means = {name: value / len(pictures) for name, value in sums.items()}
    return means | {"pictures": len(pictures)} | _usage(torch.cat(all_codes), codec.num_codes)


def ssim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """
    Structural similarity (Wang, Bovik, Sheikh and Simoncelli, Image quality assessment: from error visibility to
    structural similarity, IEEE Transactions on Image Processing 13(4), 2004): Gaussian window of 11 x 11 pixels with
    sigma 1.5 (smaller where a picture is), K1 0.01, K2 0.03, each colour by itself.

    Args:
        first, second (`torch.FloatTensor` of shape `(B, C, height, width)`): from 0 to 1.

    Returns:
        `torch.FloatTensor` of shape `(B,)`: mean over windows and colours, 1 for equal pictures.
    """
    # Variances are differences of almost equal numbers, which float32 loses in flat parts.
    first, second = first.double(), second.double()
    channels, size = first.shape[1], min(11, *first.shape[2:])
    weights = torch.exp(-((torch.arange(size) - (size - 1) / 2) ** 2) / (2 * 1.5**2))
    window = torch.outer(weights, weights).to(first)
    window = (window / window.sum()).expand(channels, 1, size, size)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return F.conv2d(values, window, groups=channels)

    mean_1, mean_2 = mean(first), mean(second)
    variances = mean(first**2) - mean_1**2 + mean(second**2) - mean_2**2
    covariance = mean(first * second) - mean_1 * mean_2
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_1 * mean_2 + c1) / (mean_1**2 + mean_2**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean(dim=(1, 2, 3)).float()


def new_vq_model(settings: Any) -> Any:
    """A VQModel with random weights; full size and half size cost most and have the fewest channels."""
    levels = round(math.log2(settings.codec_side / settings.codec_grid)) + 1
    vq_model = vq_model_class()(
        block_out_channels=[settings.codec_width * 2 ** min(max(level - 1, 0), 2) for level in range(levels)],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=1,
        latent_channels=LATENT_WIDTH,
        vq_embed_dim=LATENT_WIDTH,
        num_vq_embeddings=settings.codec_codes,
        sample_size=settings.codec_side,
        norm_num_groups=NORM_GROUPS,
    )
    # With torch's own initialisation activations shrink from layer to layer, and colours are learnt last. Here
    # residual branches start at zero, and the convolutions between levels preserve norms.
    for name, module in vq_model.named_modules():
        if name.endswith(".conv2"):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Conv2d) and not name.endswith(".conv1"):
            nn.init.orthogonal_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    # VQModel asks for the form in which the weight of the commitment is on the codebook's term.
    vq_model.quantize.legacy = False
    return vq_model


class CodecTraining(nn.Module):
    """
    The objective around a VQModel: `|e| + 5 e**2 + |differences of e| / 2` of the error e in the pixels, and the
    codebook's and the commitment's terms.

    Attributes:
        quantizing (`bool`): whether the decoder sees codes; the codebook learns either way.
        latents_UD (`torch.FloatTensor`): the encoder's vectors of the latest batch.
        counts_K (`torch.LongTensor`): how many of them each code stood for.
    """

    latents_UD: torch.Tensor
    counts_K: torch.Tensor

    def __init__(self, vq_model: Any) -> None:
        super().__init__()
        self.vq_model = vq_model.train().to(memory_format=torch.channels_last)  # a sixth faster on CPUs
        self.quantizing = False

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        vq_model = self.vq_model
        vq_model.quantize.beta = COMMITMENT_WEIGHT if self.quantizing else 0.0
        latents = vq_model.encode(pixels.contiguous(memory_format=torch.channels_last)).latents
        quantized, codebook_loss, (_, _, indices) = vq_model.quantize(latents)
        decoded = vq_model.decoder(vq_model.post_quant_conv(quantized if self.quantizing else latents))
        self.latents_UD = latents.detach().permute(0, 2, 3, 1).flatten(0, 2)
        self.counts_K = torch.bincount(indices.flatten(), minlength=vq_model.config.num_vq_embeddings)
        error = decoded - pixels
        differences = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        loss = error.abs().mean() + SQUARE_WEIGHT * error.square().mean() + GRADIENT_WEIGHT * differences
        return {"loss": loss + codebook_loss}


class CodebookSchedule(TrainerCallback):
    """When the decoder begins to see codes, and which codes start anew; the same in all processes."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.unused_for_K: torch.Tensor | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.quantizing = state.global_step >= UNQUANTIZED_SHARE * state.max_steps
        if state.global_step > (1 - SETTLING_SHARE) * state.max_steps:
            return
        counts_K = reduce(model.counts_K, "sum")
        if self.unused_for_K is None:  # random vectors name nothing: all but those in use are dead at once
            self.unused_for_K = torch.full_like(counts_K, RESTART_AFTER)
        self.unused_for_K = torch.where(counts_K > 0, 0, self.unused_for_K + 1)
        dead = (self.unused_for_K > RESTART_AFTER).nonzero().flatten()
        if len(dead):
            self.unused_for_K[dead] = 0
            _replace(model.vq_model.quantize.embedding.weight, dead, model.latents_UD, self.generator)


class CodecBar(ProgressCallback):
    """The Trainer's bar with the loss on it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")


@torch.no_grad()
def revive_dead_codes(codec: ImageCodec, pictures: Sequence[Image.Image], seed: int) -> None:
    """Put vectors that are badly named in the place of codes that no picture uses, as far as there are such."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(REVIVALS):
        counts_K = torch.bincount(codec.encode(pictures).flatten(), minlength=codec.num_codes)
        dead = (reduce(counts_K.to(codec.vq_model.device), "sum") == 0).nonzero().flatten()
        if not len(dead):
            return
        latents = [
            codec.vq_model.encode(codec.pixels(pictures[start : start + 32]).to(codec.vq_model.device)).latents
            for start in range(0, len(pictures), 32)
        ]
        latents_UD = torch.cat(latents).permute(0, 2, 3, 1).flatten(0, 2)
        if not _replace(codec.vq_model.quantize.embedding.weight, dead, latents_UD, generator):
            return


@torch.no_grad()
def _replace(
    codebook_KD: torch.Tensor, dead: torch.Tensor, latents_UD: torch.Tensor, generator: torch.Generator
) -> bool:
    """
    Put vectors in the place of dead codes: drawn by their squared distance from the nearest code (k-means++), so that
    what is named well already is not named twice. Every process takes what the main one drew.

    Returns:
        `bool`: whether any code was replaced; vectors that lie on a code are not drawn.
    """
    before_KD = codebook_KD.clone()
    squares_U = torch.cdist(latents_UD, codebook_KD).amin(dim=1).square()
    squares_U[squares_U < 1e-6 * latents_UD.square().sum(dim=1).mean()] = 0  # rounding
    count = min(len(dead), int((squares_U > 0).sum()))
    if count:
        drawn = torch.multinomial(squares_U.cpu(), count, generator=generator)
        codebook_KD[dead[:count]] = latents_UD[drawn.to(latents_UD.device)]
    broadcast(codebook_KD)
    return not torch.equal(before_KD, codebook_KD)


def _usage(codes: torch.Tensor, num_codes: int) -> dict[str, Any]:
    counts = torch.bincount(codes.flatten(), minlength=num_codes)
    shares = counts[counts > 0].double() / counts.sum()
    perplexity = torch.exp(-(shares * shares.log()).sum()).item()
    return {"codes_used": len(shares), "num_codes": num_codes, "perplexity": perplexity}


def _split(squares: list[Image.Image], seed: int) -> tuple[list[Image.Image], list[Image.Image]]:
    """Held-out pictures and training pictures, each in their order."""
    count = max(MIN_HELD_OUT, round(HELD_OUT_SHARE * len(squares)))
    held_out = set(torch.randperm(len(squares), generator=torch.Generator().manual_seed(seed))[:count].tolist())
    return (
        [square for row, square in enumerate(squares) if row in held_out],
        [square for row, square in enumerate(squares) if row not in held_out],
    )


def _check(num_pictures: int, settings: Any) -> None:
    if num_pictures < MIN_PICTURES:
        raise ValueError(
            f"{num_pictures} pictures to train an image codec on: expected at least {MIN_PICTURES}, better hundreds. "
            "Add pictures, or name a trained codec in image_codec."
        )
    side, grid, width = settings.codec_side, settings.codec_grid, settings.codec_width
    levels = [grid * 2**level for level in range(1, 11)]
    if grid < 1 or side not in levels:
        raise ValueError(
            f"codec_side={side} and codec_grid={grid}: expected the grid times 2, 4, 8 or a higher power of two "
            "as the side, such as codec_side=64 with codec_grid=8."
        )
    if width < NORM_GROUPS or width % NORM_GROUPS:
        raise ValueError(f"codec_width={width}: expected a multiple of {NORM_GROUPS}.")
    if settings.codec_codes < 2 or settings.codec_steps < 1 or settings.codec_batch_size < 1:
        raise ValueError(
            f"codec_codes={settings.codec_codes}, codec_steps={settings.codec_steps} and codec_batch_size="
            f"{settings.codec_batch_size}: expected at least 2 codes, 1 step and 1 picture."
        )
