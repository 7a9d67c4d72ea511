"""A step of training, a top-10 and written text: OpenFlamingo 2.0.1 and this model at the same shapes, in one run.

pip install --no-deps --target runs/open_flamingo open_flamingo==2.0.1 einops-exts==0.0.4
python -m benchmarks.peer --peer runs/open_flamingo --dtype bfloat16
python -m benchmarks.peer --peer runs/open_flamingo --shape paper --device cuda --dtype bfloat16 --batch 16 --compile

UniMP's first release builds on OpenFlamingo: items are words of its language model, and a top-10 is a beam search of
10. Its package is read from a folder of its own, for it asks for a torch of 2023; it runs with today's as it stands.
Weights are random: no time depends on them. Both learn what their releases let learn: the peer its resampler,
cross-attention and all input embeddings, this model resampler, cross-attention and rows of items. The peer has no way
to take stored features of pictures, so that all its rows begin with pixels; this model writes words alone, as its
pipeline has it.

Each side is a process of its own, so that peak memory is its own. On a CPU they take turns, and on a GPU, whose memory
does not hold both and which nobody shares, one comes after the other. The ratio of a row is the median of the rounds'
quotients. `--compile` compiles the layers of this model, as `ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION=true` and
`--torch_compile true` do in a training.
"""

import abc
import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, CLIPVisionConfig, GPTNeoXConfig

from modeling_unimp import UniMPConfig, UniMPForConditionalGeneration
from modeling_unimp.focal_loss import IGNORED, focal
from modeling_unimp.gated_cross_attention import find_decoder_layers
from modeling_unimp.partial_training import hold_frozen_as_multiplied

NEW_TOKENS = 64
TOP = 10
PICTURES = {"latents": "pictures seen before", "features": "stored features", "pixels": "pixels"}
# An item and the end of its answer: the least that a beam search has to write.
BEAM_TOKENS = 2
# Seconds: of the first call the caches of the processor hold what the other side left.
LEAST_TURN = 1.0


class Shape(NamedTuple):
    width: int
    layers: int
    heads: int
    words: int
    items: int
    tower: str  # as open_clip calls it
    vision: dict[str, Any]
    batch: int
    pictures: int  # of a row
    tokens: int  # of a row


SHAPES = {
    # A language model, tower and batch that two cores can train.
    "small": Shape(
        512, 8, 8, 50_000, 24_000, "ViT-S-16",
        {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 16}, 2, 5, 256,
    ),
    # RedPajama-INCITE-3B and CLIP ViT-L/14, as in recipes/paper and in OpenFlamingo-4B.
    "paper": Shape(
        2560, 32, 32, 50_432, 10_000, "ViT-L-14",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}, 3, 5, 512,
    ),
    # For trying this program.
    "tiny": Shape(
        64, 2, 2, 300, 50, "ViT-S-16",
        {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 16}, 2, 2, 32,
    ),
}  # fmt: skip


class Batch(NamedTuple):
    """A history of items a row: token of the item, picture, words, end; then the item that is asked for."""

    input_ids: torch.Tensor  # (B, T)
    labels: torch.Tensor  # (B, T); words of items, as the context loss has them, and the item that is asked for
    item_labels: torch.Tensor  # (B, T); items alone
    media_index: torch.Tensor  # (B, T)
    pixels: torch.Tensor  # (B * pictures, 3, 224, 224)
    features: torch.Tensor  # (B * pictures, patches, width of the tower), as a store holds them


def make_batch(shape: Shape, config: UniMPConfig, size: int, device: str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.words, (size, shape.tokens), generator=generator)
    labels, media_index = ids.clone(), torch.zeros_like(ids)
    image, end, answer = config.image_token_id, config.image_token_id + 1, config.image_token_id + 2
    first_item = config.group_slices["items"][0]
    span = (shape.tokens - 3) // shape.pictures
    for picture in range(shape.pictures):
        start, stop = picture * span, (picture + 1) * span
        ids[:, start] = first_item + torch.randint(shape.items, (size,), generator=generator)
        ids[:, start + 1], ids[:, stop - 1] = image, end
        labels[:, start : start + 2] = IGNORED
        labels[:, stop - 1] = IGNORED
        media_index[:, start + 1 : stop] = 1 + picture + shape.pictures * torch.arange(size)[:, None]
    ids[:, shape.pictures * span :] = answer
    ids[:, -2] = first_item + torch.randint(shape.items, (size,), generator=generator)
    ids[:, -1] = end
    labels[:, shape.pictures * span :] = IGNORED
    labels[:, -2] = ids[:, -2]
    item_labels = ids.masked_fill(ids < first_item, IGNORED)
    pixels = torch.randn(size * shape.pictures, 3, 224, 224, generator=generator)
    patches = (224 // shape.vision["patch_size"]) ** 2 + 1
    features = torch.randn(size * shape.pictures, patches, shape.vision["hidden_size"], generator=generator)
    return Batch(*(each.to(device) for each in (ids, labels, item_labels, media_index, pixels, features.half())))


def config_of(shape: Shape) -> UniMPConfig:
    # With the activation that the towers of open_clip have.
    vision = CLIPVisionConfig(
        image_size=224, intermediate_size=4 * shape.vision["hidden_size"], hidden_act="gelu", **shape.vision
    )
    return UniMPConfig(
        text_config=_text_config(shape, shape.words), vision_config=vision, num_items=shape.items,
        vision_feature_size=shape.vision["hidden_size"], cross_attention_every=2, initial_gate=0.5,
    )  # fmt: skip


def _text_config(shape: Shape, words: int) -> GPTNeoXConfig:
    return GPTNeoXConfig(
        vocab_size=words, hidden_size=shape.width, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width, max_position_embeddings=2048,
    )  # fmt: skip


class Side(abc.ABC):
    """One of the two in its process: built once, then asked for one thing after the other."""

    def __init__(self, shape: Shape, batch: int, device: str, dtype: torch.dtype):
        self.shape, self.device, self.dtype = shape, device, dtype
        self.config = config_of(shape)
        torch.manual_seed(0)
        with torch.device(device):
            # What open_clip makes is on the CPU whatever is said.
            self.model: Any = self.build().to(device)
        self.batch = make_batch(shape, self.config, batch, device)
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learning, lr=1e-5, fused=True)

    @abc.abstractmethod
    def build(self) -> Any:
        """The model, with what of it learns."""

    @abc.abstractmethod
    def loss(self, batch: Batch, labels: torch.Tensor, source: str) -> torch.Tensor:
        """Of one step."""

    @abc.abstractmethod
    def top(self, rows: Batch, source: str) -> list[list[int]]:
        """The `TOP` best items of each row."""

    @abc.abstractmethod
    def write(self, rows: Batch, source: str) -> torch.Tensor:
        """Each row with `NEW_TOKENS` more."""

    def _autocast(self) -> Any:
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)

    def step(self, source: str, labelled: str) -> None:
        self.model.train()
        labels = self.batch.labels if labelled == "words" else self.batch.item_labels
        with self._autocast():
            loss = self.loss(self.batch, labels, source)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def answer(self, source: str, what: str) -> None:
        """To the first row."""
        # Of weights that learn, products alone are of that type; who only answers holds them in it.
        self.model.eval().to(self.dtype)
        pictures = (each[: self.shape.pictures] for each in (self.batch.pixels.to(self.dtype), self.batch.features))
        rows = Batch(*(each[:1] for each in self.batch[:4]), *pictures)
        # Up to the token after which an item is asked for.
        rows = rows._replace(input_ids=rows.input_ids[:, :-2], media_index=rows.media_index[:, :-2])
        with torch.inference_mode():
            self.top(rows, source) if what == "top" else self.write(rows, source)

    def flops(self, source: str, labelled: str) -> int:
        """As they are done, forward, backward and update of one step."""
        with FlopCounterMode(display=False) as counter:
            self.step(source, labelled)
        return int(counter.get_total_flops())


class Ours(Side):
    latents: torch.Tensor | None = None

    def build(self) -> Any:
        model = UniMPForConditionalGeneration(self.config)
        model.freeze_backbones("new")
        if self.dtype != torch.float32:
            hold_frozen_as_multiplied(model, self.dtype)  # as the Trainer does
        return model

    def compile_layers(self) -> None:
        _, layers = find_decoder_layers(self.model.model.language_model, self.shape.layers)
        for layer in [*layers, *self.model.model.resampler.blocks]:
            layer.compile()

    def _pictures(self, batch: Batch, source: str) -> dict[str, torch.Tensor]:
        if source == "pixels":
            return {"pixel_values": batch.pixels}
        if source == "latents":
            # What a server keeps of each picture that it has looked at.
            if self.latents is None:
                self.latents = self.model(vision_features=batch.features).media_states
            return {"media_states": self.latents}
        return {"vision_features": batch.features}

    def loss(self, batch: Batch, labels: torch.Tensor, source: str) -> torch.Tensor:
        outputs = self.model(
            input_ids=batch.input_ids,
            attention_mask=torch.ones_like(batch.input_ids),
            media_index=batch.media_index,
            labels=labels,
            **self._pictures(batch, source),
        )
        return focal(outputs.nll, 2.0).mean()

    def top(self, rows: Batch, source: str) -> list[list[int]]:
        logits = self.model.answer_logits(
            "items", input_ids=rows.input_ids, attention_mask=torch.ones_like(rows.input_ids),
            media_index=rows.media_index, **self._pictures(rows, source),
        )  # fmt: skip
        best: list[list[int]] = logits[:, -1].topk(TOP).indices.tolist()
        return best

    def write(self, rows: Batch, source: str) -> torch.Tensor:
        written: torch.Tensor = self.model.generate(
            input_ids=rows.input_ids, attention_mask=torch.ones_like(rows.input_ids), media_index=rows.media_index,
            answer_group="words", min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS, do_sample=False,
            **self._pictures(rows, source),
        )  # fmt: skip
        return written


class Peer(Side):
    def build(self) -> Any:
        import open_clip
        from open_flamingo.src.flamingo import Flamingo
        from open_flamingo.src.flamingo_lm import FlamingoLMMixin
        from open_flamingo.src.utils import extend_instance

        class MaskMayBeLeftOut(FlamingoLMMixin):
            """Of one row without padding, today's `generate` makes no mask."""

            def forward(self, input_ids: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
                return super().forward(input_ids, attention_mask, **kwargs)

        clip = open_clip.create_model(self.shape.tower, pretrained=None)
        clip.visual.output_tokens = True
        # Items are words, which is all that the first release does to know them.
        words: Any = AutoModelForCausalLM.from_config(_text_config(self.shape, self.config.vocab_size))
        extend_instance(words, MaskMayBeLeftOut)
        words.set_decoder_layers_attr_name("gpt_neox.layers")
        image = self.config.image_token_id
        model = Flamingo(
            clip, words, image + 1, image, vis_dim=self.shape.vision["hidden_size"], cross_attn_every_n_layers=2
        )
        model.requires_grad_(False)
        model.perceiver.requires_grad_(True)
        model.lang_encoder.gated_cross_attn_layers.requires_grad_(True)
        model.lang_encoder.get_input_embeddings().requires_grad_(True)
        return model

    def _pixels(self, batch: Batch) -> torch.Tensor:
        return batch.pixels.unflatten(0, (-1, self.shape.pictures)).unsqueeze(2)

    def loss(self, batch: Batch, labels: torch.Tensor, source: str) -> torch.Tensor:
        mask = torch.ones_like(batch.input_ids)
        loss: torch.Tensor = self.model(self._pixels(batch), batch.input_ids, mask, labels=labels).loss
        return loss

    def _generate(self, rows: Batch, **options: Any) -> torch.Tensor:
        mask = torch.ones_like(rows.input_ids)
        written: torch.Tensor = self.model.generate(
            self._pixels(rows), rows.input_ids, mask, do_sample=False, pad_token_id=0, **options
        )
        return written

    def top(self, rows: Batch, source: str) -> list[list[int]]:
        beams = self._generate(rows, num_beams=TOP, num_return_sequences=TOP, max_new_tokens=BEAM_TOKENS)
        found: list[list[int]] = beams[:, rows.input_ids.shape[1]].unflatten(0, (-1, TOP)).tolist()
        return found

    def write(self, rows: Batch, source: str) -> torch.Tensor:
        return self._generate(rows, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS)


class Row(NamedTuple):
    """One thing that both are asked for; this model's pictures come as `source` says, the peer's as pixels."""

    name: str
    method: str  # of Side
    source: str
    rest: tuple[Any, ...]


# Memory only grows, so that what takes least of it comes first.
TRAINING = [
    Row(f"a step of training, {what} labelled, {PICTURES[source]}", "step", source, (labelled,))
    for labelled, what in (("items", "items alone"), ("words", "words of items"))
    for source in ("features", "pixels")
]
ANSWERS = [
    Row(f"{name}, {PICTURES[source]}", "answer", source, (what,))
    for name, what in (("one shopper's top-10 (peer: 10 beams)", "top"), (f"{NEW_TOKENS} words written", "write"))
    for source in PICTURES
]
_SIDE: Side  # of this process


def _begin(which: str, chosen: argparse.Namespace) -> None:
    global _SIDE
    sys.path.append(str(chosen.peer))
    made = Ours if which == "ours" else Peer
    _SIDE = made(SHAPES[chosen.shape], chosen.batch, chosen.device, getattr(torch, chosen.dtype))
    if chosen.compile and isinstance(_SIDE, Ours):
        for row in TRAINING:
            _gflop(row.source, *row.rest)  # nothing is seen of what is compiled
        _SIDE.compile_layers()
    if chosen.device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _seconds(method: str, *args: Any) -> float:
    """Of a call, the mean of a turn."""
    calls, spent, started = 0, 0.0, time.perf_counter()
    while spent < LEAST_TURN:
        getattr(_SIDE, method)(*args)
        if _SIDE.device == "cuda":
            torch.cuda.synchronize()
        calls, spent = calls + 1, time.perf_counter() - started
    return spent / calls


def _peak_gb() -> float:
    if _SIDE.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


@functools.cache
def _gflop(*args: Any) -> float:
    return _SIDE.flops(*args) / 1e9


def _peak_gflops() -> float:
    return peak_gflops(_SIDE.device, _SIDE.dtype)


def peak_gflops(device: str, dtype: torch.dtype) -> float:
    """A second, of the largest product: the most that this machine gives."""
    side = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    fastest = np.inf
    for _ in range(8):
        started = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - started)
    return float(2 * side**3 / fastest / 1e9)


@contextlib.contextmanager
def _process_of(which: str, chosen: argparse.Namespace) -> Iterator[Callable[..., Any]]:
    """Calls a function in a process that holds one side."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(which, chosen)) as process:
        yield lambda function, *args: process.submit(function, *args).result()


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """By row: seconds of each side in each round, peak memory and FLOPs after it."""
    names = ["ours", "peer"] if chosen.peer is not None else ["ours"]
    # What is compiled is a training's.
    asked = TRAINING if chosen.compile else [*TRAINING, *ANSWERS]
    rows: dict[str, dict[str, dict[str, Any]]] = {row.name: {} for row in asked}
    peak_gflops = 0.0
    for group in [names] if chosen.device == "cpu" else [[name] for name in names]:
        with contextlib.ExitStack() as processes:
            call = {name: processes.enter_context(_process_of(name, chosen)) for name in group}
            for row in asked:
                seconds: dict[str, list[float]] = {name: [] for name in group}
                # The first round pays for what all others use.
                for turn in range(chosen.rounds + 1):
                    for name in group:
                        spent = call[name](_seconds, row.method, row.source, *row.rest)
                        seconds[name] += [spent] if turn else []
                for name in group:
                    found = {"seconds": seconds[name], "peak_gb": call[name](_peak_gb)}
                    if row.method == "step":
                        found["gflop"] = call[name](_gflop, row.source, *row.rest)
                    rows[row.name][name] = found
                    print(f"{row.name}: {name} {np.median(found['seconds']):.3f} s", file=sys.stderr, flush=True)
            peak_gflops = max(peak_gflops, call[group[0]](_peak_gflops))
    return {
        "shape": chosen.shape, "batch": chosen.batch, "device": _device_name(chosen.device), "dtype": chosen.dtype,
        "compiled": chosen.compile, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "load": os.getloadavg()[0], "rounds": chosen.rounds, "peak_gflops": peak_gflops, "rows": rows,
    }  # fmt: skip


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores"


def table(found: dict[str, Any]) -> str:
    """Medians, and of the rounds' quotients the median."""
    shape = SHAPES[found["shape"]]
    sides = list(next(iter(found["rows"].values())))
    named = {"ours": "UniMP, layers compiled" if found["compiled"] else "UniMP", "peer": "OpenFlamingo"}
    lines = [
        f"{found['device']}, {found['dtype']}, {found['threads']} threads, load {found['load']:.1f}, torch "
        f"{found['torch']}, at most {found['peak_gflops']:,.0f} GFLOP/s; language model of {shape.layers} layers of "
        f"width {shape.width}, {shape.words:,} words, {shape.items:,} items, {shape.tower}; {found['batch']} rows of "
        f"{shape.pictures} pictures and {shape.tokens} tokens; median of {found['rounds']} rounds.",
        "",
        f"| | {' | '.join(named[side] for side in sides)} | times | GB | of the peak |",
        "| --- |" + " ---: |" * (len(sides) + 3),
    ]
    for name, by_side in found["rows"].items():
        cells = [f"{1e3 * np.median(by_side[side]['seconds']):,.0f} ms" for side in sides]
        times = ""
        if "peer" in by_side:
            times = f"{np.median(np.divide(by_side['peer']['seconds'], by_side['ours']['seconds'])):.1f}"
        cells += [times, " / ".join(f"{by_side[side]['peak_gb']:.1f}" for side in sides)]
        shares = [
            f"{found_of['gflop'] / np.median(found_of['seconds']) / found['peak_gflops']:.0%}"
            for found_of in by_side.values()
            if "gflop" in found_of
        ]
        lines.append(f"| {name} | {' | '.join([*cells, ' / '.join(shares)])} |")
    return "\n".join(lines)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="The folder that open_flamingo is in; this model alone without it.")
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--batch", type=int, help="Rows of a step; those of the shape without it.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="Of products.")
    parser.add_argument("--compile", action="store_true", help="Compile the layers of this model.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="Where to write the numbers.")
    chosen = parser.parse_args(words)
    chosen.batch = chosen.batch or SHAPES[chosen.shape].batch
    return chosen


def main() -> None:
    chosen = parse()
    found = run(chosen)
    print(table(found))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
