"""What each technique is worth: a training step or an answer without it, in parts of the same with it.

OMP_NUM_THREADS=1 python -m benchmarks.techniques --repeats 15 --json benchmarks/results/techniques.json

Both ways take turns in one process on the CPU, as in [`benchmarks.savings`]; those that compute the same are compared
before they are timed. Two shops: that of recipes/demo.yaml, whose histories hold texts and pictures, and one without
pictures that is made here, whose histories hold items alone.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from modeling_unimp import PersonalizationPipeline, UniMPTrainer

from .savings import ratio
from .scale import OPTIONS, write_shop
from .throughput import MEASURED_TASKS, Shop, requests_of, rows_padded, shop_of, trainer_of

DEMO = "recipes/demo.yaml"
RESAMPLER = json.dumps({"resampler_depth": 6, "num_latents": 64, "initial_gate": 0.5})  # as the paper's
LARGE = {"text_model": "nano", "next_item_weight": "1", "sampled_items": "1024"}
TOLERANCE = 1e-4  # of two losses, as a share of them


class Way(NamedTuple):
    """One way to the same end: a batch, and what is different while it is computed."""

    batch: dict[str, Any]
    optimizer: torch.optim.Optimizer
    is_packed: bool = True


def techniques(
    num_items: int, num_interactions: int, repeats: int, batch_sizes: tuple[int, int] = (16, 64)
) -> dict[str, float]:
    """Seconds without a technique over those with it, by name.

    Args:
        num_items, num_interactions (`int`): of the shop that is made.
        repeats (`int`): how often both ways are timed.
        batch_sizes (`tuple[int, int]`, *optional*, defaults to `(16, 64)`): rows a step in either shop.
    """
    found: dict[str, float] = {}
    sizes = [{"per_device_train_batch_size": str(size)} for size in batch_sizes]
    full = {"image_codec": "none", "unimp": RESAMPLER} | sizes[0]
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(shop_of(DEMO, folder, MEASURED_TASKS, full))
        batch, fused = _batch_of(trainer), trainer.create_optimizer()
        usual = Way(batch, fused)
        found |= {
            "full history: each picture of a row looked at, not each of a batch once": _of_a_step(
                trainer, Way(pictures_apart(batch), fused), usual, repeats
            ),
            "full history: rows padded, not packed": _of_a_step(trainer, Way(batch, fused, False), usual, repeats),
            "full history: AdamW not fused": _of_a_step(trainer, Way(batch, _unfused(trainer)), usual, repeats),
        }
        large = _made_shop(Path(folder), num_items, num_interactions, LARGE | sizes[1])
        trainer = trainer_of(large)
        batch, fused = _batch_of(trainer), trainer.create_optimizer()
        usual = Way(batch, fused)
        size = f"{num_items:,} items"
        found |= {
            f"{size}: rows padded, not packed": _of_a_step(trainer, Way(batch, fused, False), usual, repeats),
            f"{size}: AdamW not fused": _of_a_step(trainer, Way(batch, _unfused(trainer)), usual, repeats),
        }
        step = _step(trainer, usual)

        def step_with(sampled_items: int) -> None:
            trainer.args.sampled_items = sampled_items
            step()

        found[f"{size}: all compete in the loss, not 1,024 drawn ones"] = ratio(
            lambda: step_with(0), lambda: step_with(1024), repeats
        )
        found[f"{size}, one shopper ranked: rows of items made for each request, not once"] = _of_kept_rows(
            large, repeats
        )
    return found


def pictures_apart(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with a copy of each picture for each row that sees it: the model takes them for different ones."""
    index = batch["media_index"]
    rows_pictures, places = (torch.arange(len(index))[:, None] * (index.max() + 1) + index).unique(return_inverse=True)
    seen = rows_pictures % (index.max() + 1)
    names = [name for name in ("pixel_values", "vision_features") if name in batch]
    # Of each row's "no picture" there is none: number 0 stays 0.
    number = torch.zeros_like(seen)
    number[seen > 0] = torch.arange(1, int((seen > 0).sum()) + 1)
    return batch | {name: batch[name][seen[seen > 0] - 1] for name in names} | {"media_index": number[places]}


def _made_shop(folder: Path, num_items: int, num_interactions: int, options: dict[str, str]) -> Shop:
    write_shop(folder, num_items, num_interactions)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"tasks": list(MEASURED_TASKS)}))
    tables = {name: str(folder / f"{name}.parquet") for name in ("items", "interactions")}
    return shop_of(str(folder / "recipe.yaml"), str(folder / "run"), MEASURED_TASKS, OPTIONS | tables | options)


def _batch_of(trainer: UniMPTrainer) -> dict[str, Any]:
    batch: dict[str, Any] = next(iter(trainer.get_train_dataloader()))
    return batch


def _unfused(trainer: UniMPTrainer) -> torch.optim.Optimizer:
    learning = [parameter for parameter in trainer.bare_model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(learning, lr=trainer.args.learning_rate)


def _of_a_step(trainer: UniMPTrainer, without: Way, usual: Way, repeats: int) -> float:
    losses = [_loss(trainer, way) for way in (without, usual)]
    if abs(losses[0] - losses[1]) > TOLERANCE * abs(losses[1]):
        raise RuntimeError(f"the two ways do not compute the same: their losses are {losses}.")
    return ratio(_step(trainer, without), _step(trainer, usual), repeats)


@torch.no_grad()
def _loss(trainer: UniMPTrainer, way: Way) -> float:
    trainer.model.eval()
    with nullcontext() if way.is_packed else rows_padded():
        return float(trainer.compute_loss(trainer.model, way.batch))


def _step(trainer: UniMPTrainer, way: Way) -> Callable[[], None]:
    def step() -> None:
        trainer.model.train()
        with nullcontext() if way.is_packed else rows_padded():
            trainer.compute_loss(trainer.model, way.batch).backward()
        way.optimizer.step()
        way.optimizer.zero_grad()

    return step


def _of_kept_rows(shop: Shop, repeats: int) -> float:
    """One request answered with rows of items that are made anew, and with those that a pipeline keeps."""
    pipeline = PersonalizationPipeline(model=shop.model.eval(), processor=shop.processor)
    (request,) = requests_of(shop, "recommend", 1)

    def answer(keeps_rows: bool) -> None:
        pipeline.model.model.item_embeddings.keeps_rows = keeps_rows
        pipeline(request)

    return ratio(lambda: answer(False), lambda: answer(True), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--interactions", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="Where to write the numbers.")
    chosen = parser.parse_args()
    found = techniques(chosen.items, chosen.interactions, chosen.repeats)
    print(f"Threads {torch.get_num_threads()}, {os.cpu_count()} cores, torch {torch.__version__}.\n")
    print("| without | times |\n| --- | ---: |")
    for name, times in found.items():
        print(f"| {name} | {times:.2f} |")
    if chosen.json is not None:
        record = {"threads": torch.get_num_threads(), "torch": torch.__version__, "times": found}
        chosen.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
