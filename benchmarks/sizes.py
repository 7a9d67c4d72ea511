"""Parameters, memory a GPU and steps a day of the paper's model: the tables of docs/sizes.md, computed, not measured.

python -m benchmarks.sizes

CLIP ViT-L/14 and RedPajama-INCITE-Instruct-3B, resampler, cross-attention and batch of recipes/paper, on 8 A100s.
"""

import argparse
from dataclasses import dataclass
from typing import NamedTuple

GB = 1e9
WAYS = ("DDP", "ZeRO-2", "FSDP2", "ZeRO-3")
NUM_ITEMS = (10_000, 1_000_000, 10_000_000)
CARDS = (40, 80)  # GB
# What recipes/paper trains on: histories of 5 items with their attributes, 3 shoppers a GPU.
SHOPPERS, TOKENS, PICTURES, SHARE_LABELLED = 3, 512, 5, 0.75
# Assumed of an A100: dense bf16 FLOP/s and the share of it that training reaches, bytes a second that one GPU
# exchanges with the others over NVLink and that its memory moves, and the share of the memory that is not lost to
# fragments, CUDA and NCCL.
PEAK, UTILISATION, LINK, MEMORY_SPEED, USABLE = 312e12, 0.4, 200e9, 1.5e12, 0.9
LOGITS_AT_ONCE = 2**27  # see modeling_unimp/focal_loss.py


@dataclass(frozen=True)
class Shape:
    """Widths and depths of the paper's model."""

    words: int = 50_432
    width: int = 2560
    layers: int = 32
    vision_width: int = 1024
    vision_layers: int = 24
    patches: int = 256  # 16 x 16 of 14 x 14 pixels
    latents: int = 64
    resampler_layers: int = 6
    inner: int = 8 * 64  # heads x their width, of resampler and cross-attention
    gated_layers: int = 16
    control_tokens: int = 12


PAPER = Shape()


class Parameters(NamedTuple):
    """How many; language model and vision tower are frozen, all else learns."""

    vision: int
    language_layers: int
    words: int  # embeddings, head and final norm of the language model
    resampler: int
    gated: int
    rows: int  # in and out, of items and control tokens

    @property
    def total(self) -> int:
        return sum(self)

    @property
    def trained(self) -> int:
        return self.resampler + self.gated + self.rows


def parameters_of(num_items: int, shape: Shape = PAPER) -> Parameters:
    """Parameters by part, for a catalogue with a free row in and out an item."""
    d, w, inner = shape.vision_width, shape.width, shape.inner
    # By layer of the resampler: norms, queries, keys and values, output, feed-forward.
    resampler = 4 * d + d * inner + 2 * d * inner + inner * d + 2 * d + 8 * d * d
    gated = 2 * w + w * inner + 2 * d * inner + inner * w + 1 + 2 * w + 8 * w * w + 1
    return Parameters(
        vision=d + 3 * 14 * 14 * d + (shape.patches + 1) * d + 2 * d + shape.vision_layers * _layer(d) + 2 * d,
        language_layers=shape.layers * _layer(w),
        words=2 * shape.words * w + 2 * w,
        resampler=shape.latents * d + shape.resampler_layers * resampler + 2 * d,
        gated=shape.gated_layers * gated,
        rows=2 * (num_items + shape.control_tokens) * w,
    )


def _layer(width: int) -> int:
    """A transformer layer: four attention projections, two norms, a feed-forward of four times the width, biases."""
    return 4 * (width * width + width) + 4 * width + 8 * width * width + 5 * width


def memory_of(num_items: int, way: str, num_gpus: int = 8, shape: Shape = PAPER) -> dict[str, float]:
    """Bytes a GPU by what takes them; see docs/sizes.md for the formulas."""
    if way not in WAYS:
        raise ValueError(f"way={way!r}: expected one of {', '.join(WAYS)}.")
    sizes = parameters_of(num_items, shape)
    total, trained = sizes.total, sizes.trained
    # What FSDP2 gathers at the beginning of a step, and ZeRO-3 beside a layer: rows of items and words.
    apart = total - sizes.language_layers - sizes.gated
    layer = (sizes.language_layers + sizes.gated) / shape.layers
    weights, gradients, gathered = {
        "DDP": (4 * total, 8 * trained, 0.0),
        "ZeRO-2": (2 * total + 4 * trained / num_gpus, 4 * trained / num_gpus, 0.0),
        "FSDP2": (4 * total / num_gpus, 4 * trained / num_gpus, 2 * (apart + trained - sizes.gated) + 4 * layer),
        "ZeRO-3": ((2 * total + 4 * trained) / num_gpus, 4 * trained / num_gpus, 2 * (sizes.rows + sizes.words)),
    }[way]
    labelled = SHOPPERS * TOKENS * SHARE_LABELLED
    logits = min(LOGITS_AT_ONCE, labelled * (shape.words + shape.control_tokens + num_items))
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": 8 * trained / (1 if way == "DDP" else num_gpus),
        "gathered": gathered,
        # Output rows in bf16, and their gradient while the parts of the logits are added up: part, sum, float32.
        "rows in use": (2 + 2 + 2 + 4) * num_items * shape.width,
        "activations": 34 * shape.width * (shape.layers + shape.gated_layers) * SHOPPERS * TOKENS,
        "logits": (2 + 4 + 4) * logits,
    }


def seconds_of(num_items: int, way: str, num_gpus: int = 8, shape: Shape = PAPER) -> dict[str, float]:
    """Seconds of a step by what takes them, none overlapped; pictures come as stored features."""
    if way not in WAYS:
        raise ValueError(f"way={way!r}: expected one of {', '.join(WAYS)}.")
    sizes = parameters_of(num_items, shape)
    tokens, d = SHOPPERS * TOKENS, shape.vision_width
    attention = 12 * TOKENS * shape.width * shape.layers * tokens
    # A frozen weight takes two of the three products that a trained one takes.
    language = 4 * sizes.language_layers * tokens + 6 * sizes.gated * tokens + attention
    of_latents = 2 * d * shape.inner + 8 * d * d
    of_both = 2 * d * shape.inner * (1 + shape.patches / shape.latents)
    resampler = 6 * shape.resampler_layers * (of_latents + of_both) * shape.latents * SHOPPERS * PICTURES
    # Logits that do not fit at once are made again for the gradient.
    classes = shape.words + shape.control_tokens + num_items
    labelled = tokens * SHARE_LABELLED
    again = 2 if labelled * classes > LOGITS_AT_ONCE else 0
    head = shape.width * labelled * ((4 + again) * shape.words + (6 + again) * (classes - shape.words))
    shared = (num_gpus - 1) / num_gpus
    exchanged = {
        "DDP": 2 * 4 * sizes.trained,
        "ZeRO-2": 2 * sizes.trained + 2 * sizes.trained,
        "FSDP2": 2 * (2 * sizes.total) + 4 * sizes.trained,
        "ZeRO-3": 2 * (2 * sizes.total) + 2 * sizes.trained,
    }[way]
    updated = sizes.trained / (1 if way == "DDP" else num_gpus)
    return {
        "language model": language / (PEAK * UTILISATION),
        "resampler": resampler / (PEAK * UTILISATION),
        "head": head / (PEAK * UTILISATION),
        "exchange": exchanged * shared / LINK,
        "optimizer": 28 * updated / MEMORY_SPEED,
    }


def parameters_table() -> str:
    lines = ["| items | frozen | trained | of these rows of items | all |", "| ---: | ---: | ---: | ---: | ---: |"]
    for num_items in NUM_ITEMS:
        sizes = parameters_of(num_items)
        frozen = sizes.total - sizes.trained
        numbers = (frozen, sizes.trained, sizes.rows, sizes.total)
        lines.append(f"| {num_items:,} | " + " | ".join(f"{number / 1e9:.2f} B" for number in numbers) + " |")
    return "\n".join(lines)


def runs_table() -> str:
    lines = [
        "| items | way | weights | gradients | optimizer | gathered | the rest | GB a GPU | fits 40 / 80 GB "
        "| s a step | steps a day |",
        "| ---: | --- |" + " ---: |" * 6 + " --- | ---: | ---: |",
    ]
    for num_items in NUM_ITEMS:
        for way in WAYS:
            memory, seconds = memory_of(num_items, way), sum(seconds_of(num_items, way).values())
            named = [memory.pop(name) for name in ("weights", "gradients", "optimizer", "gathered")]
            parts = [*named, sum(memory.values())]
            fits = [sum(parts) <= USABLE * card * GB for card in CARDS]
            cells = [f"{num_items:,}", way, *(f"{part / GB:.1f}" for part in parts), f"{sum(parts) / GB:.0f}"]
            cells += [" / ".join("yes" if each else "no" for each in fits)]
            # What does not fit has no speed.
            cells += [f"{seconds:.2f}", f"{86_400 / seconds:,.0f}"] if any(fits) else ["-", "-"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(parameters_table(), runs_table(), sep="\n\n")
