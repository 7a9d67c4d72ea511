"""What the time goes into: a training step, an answer, a start; what is saved by not computing twice; and a peer.

python -m benchmarks.throughput --json benchmarks/results/throughput.json --plots benchmarks/results
python -m benchmarks.throughput --recipe recipes/demo.yaml --steps 50
python -m benchmarks.throughput --only savings --repeats 15

Each row is measured in a process of its own, so that its peak memory is its own, on the threads that torch takes
(OMP_NUM_THREADS). A loader here is no worker of its own: its share is what a step would wait for without any.
Operations are those that are done, forward and backward; the most that the machine gives is by the largest product, in
the same process. `--plots` needs matplotlib, which the extra `dev` brings.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from modeling_unimp import PersonalizationPipeline, UniMPForConditionalGeneration, UniMPTrainer
from modeling_unimp.focal_loss import NEXT_ITEM, TASK
from modeling_unimp.packing import Packing
from modeling_unimp.training.experiment import (
    evaluation_cases_of,
    image_codec_of,
    load_shop,
    mixture_of,
    model_of,
    processor_of,
    split_histories,
)
from modeling_unimp.training.feature_store import FeatureStore
from modeling_unimp.training.recipe import DataArguments, UniMPTrainingArguments, parse_recipe
from processing_unimp import TASK_NAMES, Catalogue, Split, UniMPProcessor

from . import peer
from .savings import savings

MEASURED_TASKS = ("recommend", "search", "rate", "select")
# Without a warm-up the first step pays for what all others use.
WARM_UP = 3
TOGETHER = (1, 32)  # shoppers that are ranked for at once
WRITTEN_TOGETHER, NEW_TOKENS = 8, 32
PADDED = "padded"  # no option of a recipe
# What is measured: the form of a history, and the answers that a row learns from; then one technique left out.
ROWS = {
    "full, answers alone": {"history_format": "full", "next_item_weight": 0},
    "full, next item everywhere": {"history_format": "full", "next_item_weight": 1},
    "compact, answers alone": {"history_format": "compact", "next_item_weight": 0},
    "compact, next item everywhere": {"history_format": "compact", "next_item_weight": 1},
    "the same, rows padded": {"history_format": "compact", "next_item_weight": 1, PADDED: True},
}
COLUMNS = {
    "step_ms": "step ms",
    "loader_share": "loader's share",
    "padding": "padding",
    "predictions_per_second": "predictions/s",
    "tokens_per_second": "tokens/s",
    "gflop": "GFLOP a step",
    "of_the_peak": "of the peak",
    "rank_p50_ms": "rank one p50 ms",
    "rank_p95_ms": "p95 ms",
    "peak_gb": "peak GB",
}
SHARES = ("loader_share", "padding", "of_the_peak")


class Shop(NamedTuple):
    """What a recipe asks for, with an untrained model."""

    data_args: DataArguments
    args: UniMPTrainingArguments
    catalogue: Catalogue
    split: Split
    processor: UniMPProcessor
    model: UniMPForConditionalGeneration
    features: FeatureStore | None


def shop_of(recipe: str, folder: str, tasks: Sequence[str], options: Mapping[str, Any]) -> Shop:
    """The shop of a recipe with those of its tasks that are named, and with other options."""
    read = yaml.safe_load(Path(recipe).read_text())
    tasks = [name for name in read["tasks"] if name in tasks]
    given = {"config": recipe, "output_dir": folder}
    given |= {
        "dataloader_num_workers": "0",
        "dataloader_persistent_workers": "false",
        "report_to": "none",
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": "false",
    }
    words = [word for name, value in (given | dict(options)).items() for word in (f"--{name}", str(value))]
    # A recipe is read from the command line, which in this process is nobody else's.
    sys.argv = ["train.py", *words, "--tasks", *tasks]
    data_args, model_args, args = parse_recipe()
    catalogue, histories = load_shop(data_args)
    codec, _ = image_codec_of(catalogue, data_args, model_args, args)
    split = split_histories(histories, catalogue, data_args)
    processor = processor_of(catalogue, split, codec, data_args, model_args)
    model, features = model_of(processor, codec, model_args, args)
    return Shop(data_args, args, catalogue, split, processor, model, features)


def trainer_of(shop: Shop) -> UniMPTrainer:
    """What trains the model of a shop on its own mixture of tasks."""
    mixture = mixture_of(shop.split, shop.catalogue, shop.data_args, shop.args.seed)
    return UniMPTrainer(
        shop.model, shop.args, train_dataset=mixture, processing_class=shop.processor, vision_features=shop.features
    )


@contextmanager
def rows_padded() -> Iterator[None]:
    """Rows of unequal length go through the language model padded, not packed."""
    of = Packing.of
    Packing.of = staticmethod(lambda attention_mask: None)  # type: ignore[assignment]
    try:
        yield
    finally:
        Packing.of = of  # type: ignore[method-assign]


def measure(recipe: str, options: dict[str, Any], steps: int, users: int) -> dict[str, float]:
    """One row: `steps` training steps, then a ranking for each of `users` test shoppers, one at a time."""
    options = {"image_codec": "none"} | options
    padded = rows_padded() if options.pop(PADDED, False) else nullcontext()
    with tempfile.TemporaryDirectory() as folder, padded:
        shop = shop_of(recipe, folder, MEASURED_TASKS, options)
        trainer = trainer_of(shop)
        training = _training(trainer, steps)
        pipeline = PersonalizationPipeline(model=trainer.bare_model.eval(), processor=shop.processor)
        seconds = []
        for request in requests_of(shop, "recommend", users):
            started = time.perf_counter()
            pipeline(request, vision_features=shop.features)
            seconds.append(time.perf_counter() - started)
    p50, p95 = 1e3 * np.quantile(seconds[1:], [0.5, 0.95])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return training | {"rank_p50_ms": float(p50), "rank_p95_ms": float(p95), "peak_gb": peak / 1e9}


def requests_of(shop: Shop, task: str, most: int) -> list[dict[str, Any]]:
    """Requests of test shoppers."""
    cases = evaluation_cases_of(shop.split.test, shop.data_args, shop.catalogue, max_cases=most)
    of_task = next(each for each in cases if each.task.name == task)
    return [{name: value for name, value in request.items() if name != "answer"} for request in of_task.requests]


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
    with FlopCounterMode(display=False) as counter:
        trainer.compute_loss(model, batch).backward()
    optimizer.zero_grad()
    gflop = counter.get_total_flops() / 1e9
    return {
        "step_ms": 1e3 * stepping / steps,
        "loader_share": loading / whole,
        "predictions_per_second": labels / whole,
        "tokens_per_second": tokens / whole,
        "padding": 1 - tokens / places,
        "gflop": gflop,
        "of_the_peak": gflop / (stepping / steps) / peer.peak_gflops(trainer.args.device.type, torch.float32),
    }


def answers(recipe: str, users: int, starts: int = 3) -> dict[str, float]:
    """How fast a saved model answers, from the start of a process on; untrained, which changes no time.

    Args:
        recipe (`str`): of a model with closed-form scores or without, as it comes: without.
        users (`int`): test shoppers that are asked for, the first 32 of them once as a warm-up.
        starts (`int`, *optional*, defaults to 3): of a process, of which the fastest counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        shop = shop_of(recipe, folder, TASK_NAMES, {"codec_steps": 1})
        saved = Path(folder) / "model"
        PersonalizationPipeline(model=shop.model.eval(), processor=shop.processor).save_pretrained(saved)
        recommend = requests_of(shop, "recommend", users)
        found = _fresh_process(saved, recommend[0], starts)
        unimp = PersonalizationPipeline(
            model=UniMPForConditionalGeneration.from_pretrained(saved),
            processor=UniMPProcessor.from_pretrained(saved),
            device="cpu",
        )
        for size in TOGETHER:
            groups = [recommend[start : start + size] for start in range(0, len(recommend), size)]
            seconds = [_seconds(partial(unimp, group, batch_size=size)) for group in [groups[0], *groups]]
            p50, p95 = np.quantile(seconds[1:], [0.5, 0.95])
            found |= {
                f"{size} ranked together: shoppers/s": len(recommend) / sum(seconds[1:]),
                f"{size} ranked together: p50 (ms)": 1e3 * p50,
                f"{size} ranked together: p95 (ms)": 1e3 * p95,
            }
        written = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
        for task, what, num, options in (
            ("explain", "tokens", NEW_TOKENS, written),
            ("imagine", "pictures", 1, {}),
        ):
            if task in shop.data_args.tasks:
                asked = requests_of(shop, task, WRITTEN_TOGETHER)
                unimp(asked, **options)
                spent = _seconds(partial(unimp, asked, **options))
                found[f"{task}, {len(asked)} together: {what}/s"] = num * len(asked) / spent
    return found


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _fresh_process(model: Path, request: Mapping[str, Any], starts: int) -> dict[str, float]:
    """Until the class of the pipeline is there, the model is loaded, and the first answer is given."""
    program = (
        "import json, sys, time; times = [time.perf_counter()]\n"
        "from modeling_unimp import PersonalizationPipeline; times.append(time.perf_counter())\n"
        "from transformers import pipeline; unimp = pipeline('personalization', model=sys.argv[1], device='cpu')\n"
        "times.append(time.perf_counter()); unimp(json.loads(sys.argv[2])); times.append(time.perf_counter())\n"
        "print(*(later - earlier for earlier, later in zip(times, times[1:])))"
    )
    command = [sys.executable, "-c", program, str(model), json.dumps(request)]
    tries = []
    for _ in range(starts):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        tries.append([float(word) for word in done.stdout.split()[-3:]])
    imported, loaded, answered = np.min(tries, axis=0).tolist()
    return {"import (s)": imported, "load (s)": loaded, "first answer (ms)": 1e3 * answered}


def run(recipe: str, steps: int, users: int) -> dict[str, Any]:
    """All rows, and under which conditions."""
    rows = {name: _apart(measure, recipe, options, steps, users) for name, options in ROWS.items()}
    return {"recipe": recipe, "steps": steps, "users": users, "rows": rows} | conditions()


def conditions() -> dict[str, Any]:
    return {"threads": torch.get_num_threads(), "torch": torch.__version__, "load": os.getloadavg()[0]}


def _apart(function: Callable[..., Any], *args: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        return apart.submit(function, *args).result()


def run_savings(size: str, num_items: int, repeats: int) -> dict[str, Any]:
    """The ratios, and under which conditions."""
    ratios = _apart(savings, size, num_items, repeats)
    return {"size": size, "items": num_items, "repeats": repeats, "ratios": ratios} | conditions()


def run_answers(recipe: str, users: int) -> dict[str, Any]:
    """The speeds, and under which conditions."""
    return {"recipe": recipe, "users": users, "speeds": _apart(answers, recipe, users)} | conditions()


def _conditions_in_words(found: Mapping[str, Any]) -> str:
    return f"{found['threads']} threads, torch {found['torch']}, load {found['load']:.1f}."


def table_of_savings(found: Mapping[str, Any]) -> str:
    what = f"{found['size']}, a history of {found['items']} items, median of {found['repeats']}"
    return _two_columns(what, found, ("one way / another", "times"), found["ratios"], 2)


def table_of_answers(found: Mapping[str, Any]) -> str:
    what = f"{found['recipe']}, {found['users']} shoppers"
    return _two_columns(what, found, ("answers of a saved model", ""), found["speeds"], 1)


def _two_columns(
    what: str, found: Mapping[str, Any], columns: tuple[str, str], values: Mapping[str, float], digits: int
) -> str:
    lines = [f"{what}, {_conditions_in_words(found)}", "", f"| {columns[0]} | {columns[1]} |", "| --- | ---: |"]
    return "\n".join([*lines, *(f"| {name} | {value:,.{digits}f} |" for name, value in values.items())])


def table(found: Mapping[str, Any]) -> str:
    lines = [
        f"{found['recipe']}, {found['steps']} steps and {found['users']} shoppers, {_conditions_in_words(found)}",
        "",
        "| row | " + " | ".join(COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for name, row in found["rows"].items():
        cells = [f"{100 * row[key]:.0f} %" if key in SHARES else f"{row[key]:,.1f}" for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Bars of each table that was measured, as `throughput_{table}.png`."""
    from matplotlib.figure import Figure

    bars: dict[str, tuple[str, dict[str, float]]] = {}
    if "rows" in found:
        bars["steps"] = (
            "predictions learnt from a second",
            {name: row["predictions_per_second"] for name, row in found["rows"].items()},
        )
    if "savings" in found:
        bars["savings"] = "times", found["savings"]["ratios"]
    if "answers" in found:
        speeds = found["answers"]["speeds"]
        bars["answers"] = "a second", {name: value for name, value in speeds.items() if name.endswith("/s")}
    if "peer" in found:
        rows = {name: each for name, each in found["peer"]["rows"].items() if "peer" in each}
        quotients = {
            name: float(np.median(np.divide(each["peer"]["seconds"], each["ours"]["seconds"])))
            for name, each in rows.items()
        }
        bars["peer"] = "times as fast as OpenFlamingo", quotients
    files = []
    for name, (unit, values) in bars.items():
        figure = Figure(figsize=(9, 1 + 0.4 * len(values)), layout="constrained")
        axes = figure.add_subplot(xlabel=unit, xscale="log" if name == "steps" else "linear")
        drawn = axes.barh(list(values), list(values.values()))
        axes.bar_label(drawn, fmt="{:,.2f}" if name == "savings" else "{:,.0f}" if name == "steps" else "{:,.1f}")
        axes.invert_yaxis()
        axes.margins(x=0.15)
        files.append(folder / f"throughput_{name}.png")
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(files[-1], dpi=120)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/demo.yaml")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--users", type=int, default=100, help="Test shoppers that are ranked for.")
    parser.add_argument(
        "--peer", type=Path, help="A folder with open_flamingo, to be run beside; see benchmarks/peer.py."
    )
    parser.add_argument("--only", choices=["steps", "answers", "savings", "peer"], help="One table; all without it.")
    parser.add_argument("--size", default="base", help="Of the language model that savings are measured on.")
    parser.add_argument("--items", type=int, default=50, help="Of the history that savings are measured on.")
    parser.add_argument("--repeats", type=int, default=7, help="How often a saving is measured.")
    parser.add_argument("--json", type=Path, help="Where to write the numbers.")
    parser.add_argument("--plots", type=Path, help="A folder for bars of them.")
    chosen = parser.parse_args()
    if chosen.only == "peer" and chosen.peer is None:
        parser.error("--only peer: name the folder of open_flamingo with --peer.")
    found: dict[str, Any] = {}
    if chosen.only in (None, "steps"):
        found = run(chosen.recipe, chosen.steps, chosen.users)
        print(table(found))
    if chosen.only in (None, "answers"):
        found["answers"] = run_answers(chosen.recipe, chosen.users)
        print(table_of_answers(found["answers"]))
    if chosen.only in (None, "savings"):
        found["savings"] = run_savings(chosen.size, chosen.items, chosen.repeats)
        print(table_of_savings(found["savings"]))
    if chosen.peer is not None and chosen.only in (None, "peer"):
        found["peer"] = peer.run(peer.parse(["--peer", str(chosen.peer)]))
        print(peer.table(found["peer"]))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if chosen.plots is not None:
        print(*plot(found, chosen.plots), sep="\n")


if __name__ == "__main__":
    main()
