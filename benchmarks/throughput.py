"""What the time goes into: a training step, a ranking, the import; one table, one JSON.

python -m benchmarks.throughput --json benchmarks/results/throughput.json
python -m benchmarks.throughput --recipe recipes/demo.yaml --steps 50

Each row is measured in a process of its own, so that its peak memory is its own, on the threads that torch takes
(OMP_NUM_THREADS). A loader here is no worker of its own: its share is what a step would wait for without any.
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_unimp import PersonalizationPipeline, UniMPTrainer
from modeling_unimp.focal_loss import NEXT_ITEM, TASK
from modeling_unimp.training.experiment import (
    evaluation_cases_of,
    load_shop,
    mixture_of,
    model_of,
    processor_of,
    split_histories,
)
from modeling_unimp.training.recipe import parse_recipe
from processing_unimp import TASK_NAMES, UniMPCollator

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
    "predictions_per_second": "predictions/s",
    "tokens_per_second": "tokens/s",
    "rank_p50_ms": "rank one p50 ms",
    "rank_p95_ms": "p95 ms",
    "peak_gb": "peak GB",
}


def measure(recipe: str, options: dict[str, Any], steps: int, users: int) -> dict[str, float]:
    """One row: `steps` training steps, then a ranking for each of `users` test shoppers, one at a time."""
    with tempfile.TemporaryDirectory() as folder:
        given = {"config": recipe, "output_dir": folder, "image_codec": "none", "task_shares": "{}"}
        given |= {"report_to": "none", "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": "false"}
        words = [word for name, value in (given | options).items() for word in (f"--{name}", str(value))]
        # A recipe is read from the command line, which in this process is nobody else's.
        sys.argv = ["train.py", *words, "--tasks", "recommend", "search", "rate", "select"]
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
        training = _training(trainer, mixture, collator, steps)
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


def _training(trainer: UniMPTrainer, mixture: Any, collator: UniMPCollator, steps: int) -> dict[str, float]:
    optimizer = trainer.create_optimizer()
    model, size = trainer.model.train(), trainer.args.per_device_train_batch_size
    rows = np.random.default_rng(0).permutation((WARM_UP + steps) * size) % len(mixture)
    loading, stepping, labels, tokens = 0.0, 0.0, 0, 0
    for step, chosen in enumerate(rows.reshape(-1, size)):
        started = time.perf_counter()
        batch = collator([mixture[int(row)] for row in chosen])
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
    whole = loading + stepping
    return {
        "step_ms": 1e3 * stepping / steps,
        "loader_share": loading / whole,
        "predictions_per_second": labels / whole,
        "tokens_per_second": tokens / whole,
    }


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
    rows = {}
    for name, options in ROWS.items():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
            rows[name] = apart.submit(measure, recipe, options, steps, users).result()
    return {
        "recipe": recipe,
        "steps": steps,
        "users": users,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "import_seconds": min(import_seconds() for _ in range(3)),
        "rows": rows,
    }


def table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['recipe']}, {found['steps']} steps and {found['users']} shoppers, {found['threads']} threads, torch "
        f"{found['torch']}; import {found['import_seconds']:.1f} s.",
        "",
        "| row | " + " | ".join(COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for name, row in found["rows"].items():
        cells = [f"{100 * row[key]:.0f} %" if key == "loader_share" else f"{row[key]:,.1f}" for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/demo.yaml")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--users", type=int, default=100, help="Test shoppers that are ranked for, one at a time.")
    parser.add_argument("--peer", choices=["none"], default="none", help="Whom to run beside; so far nobody.")
    parser.add_argument("--json", type=Path, help="Where to write the numbers.")
    chosen = parser.parse_args()
    found = run(chosen.recipe, chosen.steps, chosen.users)
    print(table(found))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
