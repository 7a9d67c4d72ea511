"""What the time goes into: a training step, a ranking, the import; and what is saved by not computing twice.

python -m benchmarks.throughput --json benchmarks/results/throughput.json
python -m benchmarks.throughput --recipe recipes/demo.yaml --steps 50
python -m benchmarks.throughput --only savings --repeats 15

Each row is measured in a process of its own, so that its peak memory is its own, on the threads that torch takes
(OMP_NUM_THREADS). A loader here is no worker of its own: its share is what a step would wait for without any.
Savings are ratios of two ways that take turns in one process on the CPU: the median of the quotients of their seconds
of the processor, in which no other program counts. The network is from scratch, for no time depends on the weights.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from modeling_unimp import (
    PersonalizationPipeline,
    UniMPForConditionalGeneration,
    UniMPTrainer,
    load_image_processor,
)
from modeling_unimp.focal_loss import NEXT_ITEM, TASK
from modeling_unimp.gated_cross_attention import MediaKeysValues
from modeling_unimp.training.experiment import (
    evaluation_cases_of,
    load_shop,
    mixture_of,
    model_of,
    processor_of,
    split_histories,
)
from modeling_unimp.training.recipe import parse_recipe
from processing_unimp import TASK_NAMES, Catalogue, UniMPCollator, UniMPProcessor, make_demo_shop

from . import peer

MEASURED_TASKS = ("recommend", "search", "rate", "select")
# Without a warm-up the first step pays for what all others use.
WARM_UP = 3
# What is measured: the form of a history, and the answers that a row learns from.
ROWS = {
    "full, answers alone": {"history_format": "full", "next_item_weight": 0},
    "full, next item everywhere": {"history_format": "full", "next_item_weight": 1},
    "compact, answers alone": {"history_format": "compact", "next_item_weight": 0},
    "compact, next item everywhere": {"history_format": "compact", "next_item_weight": 1},
}
COLUMNS = {
    "step_ms": "step ms",
    "loader_share": "loader's share",
    "padding": "padding",
    "predictions_per_second": "predictions/s",
    "tokens_per_second": "tokens/s",
    "rank_p50_ms": "rank one p50 ms",
    "rank_p95_ms": "p95 ms",
    "peak_gb": "peak GB",
}
SHARES = ("loader_share", "padding")


def measure(recipe: str, options: dict[str, Any], steps: int, users: int) -> dict[str, float]:
    """One row: `steps` training steps, then a ranking for each of `users` test shoppers, one at a time."""
    with tempfile.TemporaryDirectory() as folder:
        # Without the tasks that write, and of the others those that the recipe has data for.
        read = yaml.safe_load(Path(recipe).read_text())
        tasks = [name for name in read["tasks"] if name in MEASURED_TASKS]
        shares = {name: share for name, share in read.get("task_shares", {}).items() if name in tasks}
        given = {"config": recipe, "output_dir": folder, "image_codec": "none", "task_shares": json.dumps(shares)}
        given |= {
            "dataloader_num_workers": "0",
            "dataloader_persistent_workers": "false",
            "report_to": "none",
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": "false",
        }
        words = [word for name, value in (given | options).items() for word in (f"--{name}", str(value))]
        # A recipe is read from the command line, which in this process is nobody else's.
        sys.argv = ["train.py", *words, "--tasks", *tasks]
        data_args, model_args, args = parse_recipe()
        catalogue, histories = load_shop(data_args)
        split = split_histories(histories, catalogue, data_args)
        processor = processor_of(catalogue, split, None, data_args, model_args)
        model, features = model_of(processor, None, model_args, args)
        mixture = mixture_of(split, catalogue, data_args, args.seed)
        next_item = args.next_item_weight > 0
        collator = UniMPCollator(processor, args.context_loss, next_item=next_item, vision_features=features)
        trainer = UniMPTrainer(
            model, args, task_names=TASK_NAMES, train_dataset=mixture, data_collator=collator,
            processing_class=processor, vision_features=features,
        )  # fmt: skip
        training = _training(trainer, steps)
        recommend = next(
            cases
            for cases in evaluation_cases_of(split.test, data_args, catalogue, max_cases=users)
            if cases.task.name == "recommend"
        )
        pipeline = PersonalizationPipeline(model=trainer.bare_model.eval(), processor=processor)
        seconds = []
        for request in recommend.requests:
            del request["answer"]
            started = time.perf_counter()
            pipeline(request, vision_features=features)
            seconds.append(time.perf_counter() - started)
    p50, p95 = 1e3 * np.quantile(seconds[1:], [0.5, 0.95])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return training | {"rank_p50_ms": float(p50), "rank_p95_ms": float(p95), "peak_gb": peak / 1e9}


def _training(trainer: UniMPTrainer, steps: int) -> dict[str, float]:
    optimizer = trainer.create_optimizer()
    model = trainer.model.train()
    batches = itertools.chain.from_iterable(trainer.get_train_dataloader() for _ in itertools.count())
    loading, stepping, labels, tokens, places = 0.0, 0.0, 0, 0, 0
    for step in range(WARM_UP + steps):
        started = time.perf_counter()
        batch = next(batches)
        loaded = time.perf_counter()
        trainer.compute_loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        done = time.perf_counter()
        if step >= WARM_UP:
            loading, stepping = loading + loaded - started, stepping + done - loaded
            # A prediction is an answer or a next item; words of the context are not what is asked for.
            labels += int(((batch["label_kinds"] == TASK) | (batch["label_kinds"] == NEXT_ITEM)).sum())
            tokens += int(batch["attention_mask"].sum())
            places += batch["attention_mask"].numel()
    whole = loading + stepping
    return {
        "step_ms": 1e3 * stepping / steps,
        "loader_share": loading / whole,
        "predictions_per_second": labels / whole,
        "tokens_per_second": tokens / whole,
        "padding": 1 - tokens / places,
    }


def savings(size: str, num_items: int, repeats: int) -> dict[str, float]:
    """How long one way takes, as a share or multiple of another: see the names.

    Args:
        size (`str`): of the language model, from scratch.
        num_items (`int`): of the shopper's history, each with a picture and all its attributes.
        repeats (`int`): how often both ways are timed.
    """
    unimp, history, others = _server(size, num_items, "exclusive")
    five = [
        {"task": "recommend", "history": history},
        {"task": "search", "history": history, "query": "mug"},
        {"task": "rate", "history": history, "item": others[0]},
        {"task": "select", "history": history, "candidates": others[:4]},
        {"task": "explain", "history": history, "item": others[0]},
    ]
    one_word = {"max_new_tokens": 1}  # what comes after is written alike, whatever was read before
    state = unimp.read(history)
    from_state = [request | {"history": state} for request in five]
    found = {
        "five tasks of one shopper, in one call / the first of them": _ratio(
            lambda: unimp(five, **one_word), lambda: unimp(five[0]), repeats
        ),
        "the same, one call each / the first of them": _ratio(
            lambda: [unimp(request, **one_word) for request in five], lambda: unimp(five[0]), repeats
        ),
        "the same, one call each from a state / the first of them": _ratio(
            lambda: [unimp(request, **one_word) for request in from_state], lambda: unimp(five[0]), repeats
        ),
        "a state extended by an event / all of it read again": _ratio(
            lambda: unimp.extend(state, others[0]), lambda: unimp.read([*history, others[0]]), repeats
        ),
    }
    for fusion in ("all", "late"):
        unimp, history, others = _server(size, num_items, fusion)
        request = {"task": "explain", "history": history, "item": others[0]}
        inputs: dict[str, Any] = dict(unimp.processor(requests=[request]))
        inputs["media_states"] = unimp.model(pixel_values=inputs.pop("pixel_values")).media_states
        options: dict[str, Any] = {"min_new_tokens": 64, "max_new_tokens": 64, "do_sample": False}

        def write(inputs: Any = inputs, unimp: Any = unimp, options: Any = options) -> None:
            unimp.model.generate(**inputs, **options)

        def write_as_the_peer(write: Any = write) -> None:
            once = MediaKeysValues.of
            MediaKeysValues.of = lambda self, block, media: (block.k_proj(media), block.v_proj(media))  # type: ignore
            try:
                write()
            finally:
                MediaKeysValues.of = once  # type: ignore[method-assign]

        name = f"64 tokens, fusion {fusion}: keys and values of the pictures made anew for each / once"
        found[name] = _ratio(write_as_the_peer, write, repeats)
    return found


def _server(size: str, num_items: int, fusion: str) -> tuple[PersonalizationPipeline, list[str], list[str]]:
    """A model that reads whole histories of so many items, the one of a shopper, and other items."""
    items, _ = make_demo_shop(max(num_items + 20, 24), 5)
    catalogue = Catalogue.from_items(items)
    pictured = [item_id for item_id in catalogue.item_ids if catalogue.has_picture(item_id)]
    torch.manual_seed(0)
    processor = UniMPProcessor.from_backbones(
        size, load_image_processor("small"), catalogue, history_length=num_items + 1, max_length=4096
    )
    model = UniMPForConditionalGeneration.from_backbones(
        size, "small", catalogue, processor, fusion=fusion, initial_gate=0.5
    )
    unimp = PersonalizationPipeline(model=model.eval(), processor=processor, device="cpu")
    return unimp, (pictured * num_items)[:num_items], pictured[-5:]


@torch.inference_mode()
def _ratio(way: Callable[[], Any], other: Callable[[], Any], repeats: int) -> float:
    """The median of `seconds of way / seconds of other`, after a turn that is not counted."""
    quotients = []
    for turn in range(repeats + 1):
        seconds = []
        for each in (way, other):
            started = time.process_time()
            each()
            seconds.append(time.process_time() - started)
        if turn:
            quotients.append(seconds[0] / seconds[1])
    return float(np.median(quotients))


def import_seconds() -> float:
    """Until a fresh process has the model's class and the pipeline's."""
    names = "UniMPForConditionalGeneration, PersonalizationPipeline"
    program = (
        f"import time; t = time.perf_counter(); from modeling_unimp import {names}; print(time.perf_counter() - t)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def run(recipe: str, steps: int, users: int) -> dict[str, Any]:
    """All rows, and under which conditions."""
    rows = {name: _apart(measure, recipe, options, steps, users) for name, options in ROWS.items()}
    return {
        "recipe": recipe,
        "steps": steps,
        "users": users,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "import_seconds": min(import_seconds() for _ in range(3)),
        "rows": rows,
    }


def _apart(function: Callable[..., Any], *args: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        return apart.submit(function, *args).result()


def run_savings(size: str, num_items: int, repeats: int) -> dict[str, Any]:
    """The ratios, and under which conditions."""
    loads = [os.getloadavg()[0]]
    ratios = _apart(savings, size, num_items, repeats)
    loads.append(os.getloadavg()[0])
    conditions = {"size": size, "items": num_items, "repeats": repeats, "threads": torch.get_num_threads()}
    return conditions | {"torch": torch.__version__, "load": loads, "ratios": ratios}


def table_of_savings(found: dict[str, Any]) -> str:
    lines = [
        f"{found['size']}, a history of {found['items']} items, median of {found['repeats']}, {found['threads']} "
        f"threads, torch {found['torch']}, load {found['load'][0]:.1f} to {found['load'][1]:.1f}.",
        "",
        "| one way / another | times |",
        "| --- | ---: |",
    ]
    return "\n".join(lines + [f"| {name} | {ratio:.2f} |" for name, ratio in found["ratios"].items()])


def table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['recipe']}, {found['steps']} steps and {found['users']} shoppers, {found['threads']} threads, torch "
        f"{found['torch']}; import {found['import_seconds']:.1f} s.",
        "",
        "| row | " + " | ".join(COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for name, row in found["rows"].items():
        cells = [f"{100 * row[key]:.0f} %" if key in SHARES else f"{row[key]:,.1f}" for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/demo.yaml")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--users", type=int, default=100, help="Test shoppers that are ranked for, one at a time.")
    parser.add_argument(
        "--peer", type=Path, help="A folder with open_flamingo, to be run beside; see benchmarks/peer.py."
    )
    parser.add_argument("--only", choices=["steps", "savings", "peer"], help="One of the tables; all without it.")
    parser.add_argument("--size", default="base", help="Of the language model that savings are measured on.")
    parser.add_argument("--items", type=int, default=50, help="Of the history that savings are measured on.")
    parser.add_argument("--repeats", type=int, default=7, help="How often a saving is measured.")
    parser.add_argument("--json", type=Path, help="Where to write the numbers.")
    chosen = parser.parse_args()
    if chosen.only == "peer" and chosen.peer is None:
        parser.error("--only peer: name the folder of open_flamingo with --peer.")
    found = {}
    if chosen.only in (None, "steps"):
        found = run(chosen.recipe, chosen.steps, chosen.users)
        print(table(found))
    if chosen.only in (None, "savings"):
        found["savings"] = run_savings(chosen.size, chosen.items, chosen.repeats)
        print(table_of_savings(found["savings"]))
    if chosen.peer is not None and chosen.only in (None, "peer"):
        found["peer"] = peer.run(peer.parse(["--peer", str(chosen.peer)]))
        print(peer.table(found["peer"]))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
