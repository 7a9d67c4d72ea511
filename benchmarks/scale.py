"""What grows with a shop, and how: made-up shops of up to millions of items, from their tables to a night of answers.

python -m benchmarks.scale --items 10000 100000 --interactions 100000 1000000 --json benchmarks/results/scale.json
OMP_NUM_THREADS=1 python -m benchmarks.scale --items 1000000 --interactions 10000000 --folder runs/scale

Items have titles of Zipf words, a brand, a category and a colour; popularity is Zipf's, half of what a shopper takes
is of two categories of theirs. Each step runs in a process of its own, so that its peak memory is its own; seconds are
of the step alone, without the import and without reading what earlier steps wrote, and in brackets those that the
processor worked, which others on the machine change less. Nothing is trained: a network with random weights takes as
long.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from modeling_unimp import PersonalizationPipeline, UniMPForConditionalGeneration
from modeling_unimp.ranking import rank_items
from modeling_unimp.training.closed_form import closed_form_scores
from modeling_unimp.training.epoch_rows import EpochRows, EpochSampler, RandomOrder
from modeling_unimp.training.experiment import (
    evaluation_cases_of,
    load_shop,
    mixture_of,
    model_of,
    processor_of,
    split_histories,
)
from modeling_unimp.training.hybrid_fitting import fit_closed_form
from modeling_unimp.training.recipe import parse_recipe
from processing_unimp import Catalogue, Histories, UniMPCollator, UniMPProcessor

BLOCK = 1_000_000  # rows of a table that are drawn at once
EVENTS = 50  # of a history that is read
WIDTH = 128  # of the rows of items
BATCH = 64
RUNS = 21
COLOURS = ("red", "blue", "teal", "black", "white", "grey")
MODEL = {"fusion": "none", "item_rows": "content", "tie_item_rows": True, "label_softmax": "group"}
OPTIONS = {
    "history_format": "compact",
    "history_length": EVENTS,
    "windows": "whole",
    "query_attribute": "category",
    "text_model": "micro",
    "vision_model": "none",
    "image_codec": "none",
    "k_core": 0,
    "report_to": "none",
    "use_cpu": "true",
    "unimp": json.dumps(MODEL),
}
TASKS = ("recommend", "search", "rate", "select")
NOT_MEASURED = "not measured: its start takes most of the time"


# --------------------------------------------------------------------------------------------------------- the shop


def zipf_shares(number: int, exponent: float) -> np.ndarray:
    """Cumulated shares of `number` things by their rank."""
    cumulated = np.cumsum(1 / (np.arange(number) + 10) ** exponent)
    return np.asarray(cumulated / cumulated[-1])


def items_of(first: int, stop: int, num_items: int) -> pa.Table:
    """Rows of the items table; what an item is depends on its number and the size of the shop alone."""
    rng = np.random.default_rng((0, first, num_items))
    words = np.array([f"word{number}" for number in range(max(1_000, num_items // 10))])
    shares = zipf_shares(len(words), 1.0)
    size = stop - first
    drawn = words[np.searchsorted(shares, rng.random((size, 5)))]
    titles = drawn[:, 0]
    for place in range(1, 5):
        titles = np.char.add(np.char.add(titles, " "), drawn[:, place])
    numbers = np.arange(first, stop)
    return pa.table(
        {
            "item_id": pa.array([f"item-{number}" for number in numbers]),
            "title": pa.array(titles),
            "brand": pa.array([f"brand {number}" for number in rng.integers(max(num_items // 50, 2), size=size)]),
            "category": pa.array([f"category {number}" for number in category_of(numbers, num_items)]),
            "colour": pa.array(np.array(COLOURS)[rng.integers(len(COLOURS), size=size)]),
        }
    )


def num_categories(num_items: int) -> int:
    return max(3, int(np.sqrt(num_items)))


def category_of(items: np.ndarray, num_items: int) -> np.ndarray:
    return items % num_categories(num_items)


def interactions_of(first: int, stop: int, num_items: int, a_user: int) -> pa.Table:
    """Rows of the interactions table: `a_user` of each shopper on average, a geometric number."""
    rng = np.random.default_rng((1, first, num_items))
    size = stop - first
    users = np.cumsum(rng.random(size) < 1 / a_user) + first  # the next shopper begins with one chance in `a_user`
    items = np.searchsorted(zipf_shares(num_items, 0.8), rng.random(size)).clip(max=num_items - 1)
    # Half of them are moved to one of the two categories that the shopper likes.
    categories = num_categories(num_items)
    liked = (users * 7919 + rng.integers(2, size=size) * 104_729) % categories
    moved = (items - items % categories + liked).clip(max=num_items - 1)
    items = np.where(rng.random(size) < 0.5, moved, items)
    return pa.table(
        {
            "user_id": pa.array([f"user-{number}" for number in users]),
            "item_id": pa.array([f"item-{number}" for number in items]),
            "timestamp": pa.array(np.sort(rng.integers(1_600_000_000, 1_700_000_000, size=size))),
            "rating": pa.array(rng.integers(1, 6, size=size).astype(np.float64)),
        }
    )


def write_shop(folder: Path, num_items: int, num_interactions: int) -> None:
    """items.parquet and interactions.parquet."""
    tables: dict[str, tuple[int, Callable[[int, int], pa.Table]]] = {
        "items": (num_items, lambda first, stop: items_of(first, stop, num_items)),
        "interactions": (num_interactions, lambda first, stop: interactions_of(first, stop, num_items, 10)),
    }
    for name, (size, rows) in tables.items():
        writer = None
        for first in range(0, size, BLOCK):
            block = rows(first, min(first + BLOCK, size))
            writer = writer or pq.ParquetWriter(folder / f"{name}.parquet", block.schema)
            writer.write_table(block)
        assert writer is not None
        writer.close()


# -------------------------------------------------------------------------------------------------------- the steps


@contextmanager
def timed(found: dict[str, Any], name: str) -> Iterator[None]:
    started = np.array([time.perf_counter(), time.process_time()])
    yield
    found[name] = (np.array([time.perf_counter(), time.process_time()]) - started).tolist()


def p50_ms(run: Callable[[], Any], parts: int = 1, runs: int = RUNS) -> list[float]:
    """Milliseconds of one of the parts of a run, the first left out."""
    seconds: dict[str, Any] = {}
    for number in range(runs):
        with timed(seconds, str(number)):
            run()
    return (1e3 / parts * np.median(list(seconds.values())[1:], axis=0)).tolist()


class Shop:
    """A shop as a step finds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tables = {"items": folder / "items.parquet", "interactions": folder / "interactions.parquet"}
        given = OPTIONS | tables | {"output_dir": folder / "run"}
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        # A recipe is read from the command line, which in this process is nobody else's.
        sys.argv = ["train.py", *words, "--tasks", *TASKS]
        self.data_args, self.model_args, self.args = parse_recipe()

    def loaded(self) -> tuple[Catalogue, Histories]:
        return load_shop(self.data_args)

    def split(self) -> Any:
        catalogue, histories = self.loaded()
        return split_histories(histories, catalogue, self.data_args)


def loading(shop: Shop) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with timed(found, "items, read"):
        catalogue = Catalogue.load(str(shop.data_args.items))
    with timed(found, "interactions, read"):
        histories = Histories.load(str(shop.data_args.interactions), catalogue)
    with timed(found, "split"):
        split_histories(histories, catalogue, shop.data_args)
    return found


def making(shop: Shop) -> dict[str, Any]:
    found: dict[str, Any] = {}
    split = shop.split()
    with timed(found, "tokenizer and terms"):
        processor = processor_of(split.train.catalogue, split, None, shop.data_args, shop.model_args)
    with timed(found, "model"):
        model, _ = model_of(processor, None, shop.model_args, shop.args)
    with timed(found, "saved"):
        model.save_pretrained(shop.folder / "model")
        processor.save_pretrained(shop.folder / "model")
    return found


def training_rows(shop: Shop) -> dict[str, Any]:
    found: dict[str, Any] = {}
    split = shop.split()
    processor = UniMPProcessor.from_pretrained(shop.folder / "model")
    with timed(found, "mixture of tasks"):
        mixture = mixture_of(split, processor.catalogue, shop.data_args, shop.args.seed)
    collator = UniMPCollator(processor, next_item=True)
    rows, indices = EpochRows(mixture), EpochSampler(mixture, RandomOrder(len(mixture), 0))
    with timed(found, "first batch of an epoch"):
        order = iter(indices)
        collator([rows[index] for index in islice(order, BATCH)])
    some = list(islice(order, 100))
    found["a row drawn, p50 (ms)"] = p50_ms(lambda: [rows[index] for index in some], len(some))
    ids = processor.catalogue.item_ids
    long = [
        {
            "task": "recommend",
            "history": [{"item_id": ids[37 * (EVENTS * row + place) % len(ids)]} for place in range(EVENTS)],
            "answer": ids[0],
            "next": ids[0],
        }
        for row in range(BATCH)
    ]
    found[f"a row of {EVENTS} events, collated (ms)"] = p50_ms(lambda: collator(long), BATCH)
    return found


def closed_forms(shop: Shop) -> dict[str, Any]:
    found: dict[str, Any] = {}
    split = shop.split()
    with timed(found, "closed form"):
        hybrid = closed_form_scores(split.train, None, "category", exclude_seen=True)
    validation = evaluation_cases_of(split.validation, shop.data_args, split.train.catalogue, max_cases=2_000)
    with timed(found, "closed form, fitted"):
        fitted = fit_closed_form(hybrid, validation, split.train)
    fitted.save_pretrained(shop.folder / "model")
    return found


def ranking(shop: Shop) -> dict[str, Any]:
    processor = UniMPProcessor.from_pretrained(shop.folder / "model")
    found: dict[str, Any] = {}
    with timed(found, "model, loaded"):
        model = UniMPForConditionalGeneration.from_pretrained(shop.folder / "model").eval()
    pipeline = PersonalizationPipeline(model=model, processor=processor)
    catalogue = processor.catalogue
    history = [catalogue.item_ids[37 * place % len(catalogue)] for place in range(EVENTS)]
    request = {"task": "recommend", "history": history}
    found["one shopper, p50 (ms)"] = p50_ms(lambda: pipeline(request))
    search = request | {"task": "search", "query": "category 2"}
    found["one search, p50 (ms)"] = p50_ms(lambda: pipeline(search))
    closed, model.hybrid_scores = model.hybrid_scores, None
    if closed is not None:
        new = {len(catalogue): catalogue.item(catalogue.item_ids[0])}
        found["closed form told of a new item, p50 (ms)"] = p50_ms(lambda: closed.with_items(new), runs=4)
    found["network alone, p50 (ms)"] = p50_ms(lambda: pipeline(request))
    rows, state = torch.randn(len(catalogue), WIDTH), torch.randn(1, WIDTH)
    with torch.inference_mode():
        allowed = torch.ones(1, len(catalogue), dtype=torch.bool)
        product = p50_ms(lambda: state @ rows.T)
        ranked = p50_ms(lambda: rank_items(state @ rows.T, 10, allowed))
        found[f"product of width {WIDTH} (ms)"] = product
        found["with the ranking, in parts of it"] = [
            of_both / alone for of_both, alone in zip(ranked, product, strict=True)
        ]
    return found


def scoring(shop: Shop) -> dict[str, Any]:
    """Shoppers a second of `unimp-recommend` without its start, by the clock and by the time of the processor."""
    found: dict[str, Any] = {}
    table = pq.ParquetFile(shop.folder / "interactions.parquet")
    rows = next(table.iter_batches(200_000)).to_pandas()
    histories = [{"user_id": user, "history": own["item_id"].tolist()} for user, own in rows.groupby("user_id")]
    num_items = pq.read_metadata(shop.folder / "items.parquet").num_rows

    def run(number: int, processes: int) -> np.ndarray:
        several = [] if processes == 1 else ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        some = list(islice(cycle(histories), number))
        pq.write_table(pa.Table.from_pylist(some), shop.folder / "histories.parquet")
        options = {"model": "model", "histories": "histories.parquet", "output": "best.parquet"}
        command = [sys.executable, *several, "-m", "modeling_unimp.serving.batch_scoring", "--restart"]
        command += [word for name, file in options.items() for word in (f"--{name}", str(shop.folder / file))]
        command += ["--shoppers_per_part", str(max(64, number // 16)), "--device", "cpu"]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        before = np.array([time.perf_counter(), _work_of_children()])
        done = subprocess.run(command, capture_output=True, text=True, env=one_thread)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return np.array([time.perf_counter(), _work_of_children()]) - before

    fewest = max(128, min(len(histories) // 4, 20_000_000 // num_items * 16))
    one, two = (speed_of(partial(run, processes=processes), fewest) for processes in (1, 2))
    found["shoppers/s, 1 process"], found["shoppers/s, 2 processes"] = one or NOT_MEASURED, two or NOT_MEASURED
    found["2 processes / 1"] = two[0] / one[0] if one and two else NOT_MEASURED
    return found


def speed_of(run: Callable[[int], np.ndarray], fewest: int) -> list[float] | None:
    """How many a second a command answers beside its start: from a short run and one that takes at least twice as
    long, so that the start, which is now a second longer and now shorter, does not outweigh the difference.

    Args:
        run (`Callable`): from how many to its seconds, one number or several a run.
        fewest (`int`): of the short run.

    Returns:
        `list[float]`: by each of the numbers of seconds; `None` if no run was long enough.
    """
    short = run(fewest)
    for times in (4, 16, 64, 256):
        long = run(times * fewest)
        if (long >= 2 * short).all():
            return ((times - 1) * fewest / (long - short)).tolist()
    return None


def _work_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _load() -> float:
    return os.getloadavg()[0]


STEPS = {
    "loading": loading,
    "making": making,
    "training": training_rows,
    "closed forms": closed_forms,
    "ranking": ranking,
    "scoring": scoring,
}


def step(name: str, folder: Path) -> dict[str, Any]:
    """One step in this process, with its peak memory: of its own or of the largest process that it started."""
    found = STEPS[name](Shop(folder))
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return found | {f"{name}, peak (GB)": max(peaks) * (1 if sys.platform == "darwin" else 1024) / 1e9}


def measure(folder: Path, num_items: int, num_interactions: int, steps: list[str]) -> dict[str, Any]:
    """All steps of one shop; one that fails says why, and the others go on."""
    found: dict[str, Any] = {"items": num_items, "interactions": num_interactions, "load at the start": _load()}
    if not (folder / "interactions.parquet").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_shop(folder, num_items, num_interactions)
    for name in steps:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
            try:
                found |= apart.submit(step, name, folder).result()
            except Exception as error:
                found[f"{name}, failed"] = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def table(shops: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for shop in shops for name in shop if name not in ("items", "interactions")))
    heads = [f"{shop['items']:,} items, {shop['interactions']:,} interactions" for shop in shops]
    lines = [
        f"Threads {torch.get_num_threads()}, {os.cpu_count()} cores, torch {torch.__version__}; seconds where nothing "
        "else is said.",
        "",
        "| step | " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * len(shops),
    ]
    for name in names:
        values = [shop.get(name, "") for shop in shops]
        cells = [_cell(value) for value in values]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return f"{_cell(value[0])} ({_cell(value[1])})"
    return f"{value:,.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000])
    parser.add_argument("--interactions", type=int, nargs="+", default=[100_000], help="As many numbers as --items.")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--folder", type=Path, help="Where the shops are kept; without it they are thrown away.")
    parser.add_argument("--json", type=Path, help="Where to write the numbers.")
    chosen = parser.parse_args()
    if len(chosen.items) != len(chosen.interactions):
        parser.error(f"{len(chosen.items)} --items and {len(chosen.interactions)} --interactions: expected as many.")
    with tempfile.TemporaryDirectory() as thrown_away:
        shops = [
            measure((chosen.folder or Path(thrown_away)) / str(items), items, interactions, chosen.steps)
            for items, interactions in zip(chosen.items, chosen.interactions, strict=True)
        ]
    print(table(shops))
    if chosen.json is not None:
        found = {"threads": torch.get_num_threads(), "torch": torch.__version__, "shops": shops}
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
