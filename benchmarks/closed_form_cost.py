"""What closed-form scores cost by the size of a catalogue: made once, added to a ranking, told of a new item.

python -m benchmarks.closed_form_cost --items 2000 20000 50000
Items have words by a power law and a brand, three times as many shoppers as items ten interactions each, no pictures.
"""

import argparse
import resource
import time

import numpy as np
import torch

from modeling_unimp.training.hybrid_fitting import closed_form_scores
from processing_unimp import Catalogue, Histories


def cost(num_items: int) -> str:
    """One line of numbers."""
    rng = np.random.default_rng(0)
    words = np.minimum(rng.zipf(1.3, size=(num_items, 3)), 5_000)
    items = [
        {"item_id": str(number), "title": " ".join(f"w{word}" for word in row), "brand": f"b{number % 500}"}
        for number, row in enumerate(words)
    ]
    catalogue = Catalogue.from_items(items)
    taken = rng.zipf(1.2, size=(3 * num_items, 10)) % num_items
    rows = [
        {"user_id": str(user), "item_id": str(item), "timestamp": time_}
        for user, own in enumerate(taken.tolist())
        for time_, item in enumerate(own)
    ]
    train = Histories.from_interactions(rows, catalogue)

    started = time.perf_counter()
    hybrid = closed_form_scores(train, None, "brand", True)
    made = time.perf_counter() - started
    weighted = hybrid.with_weights({"search": [1.0] * (1 + len(hybrid.scores))}, None)
    logits, history = torch.zeros(1, num_items), [taken[0].tolist()]
    weighted.add("search", logits, history, ["w7 w9"])
    started = time.perf_counter()
    for _ in range(10):
        weighted.add("search", logits, history, ["w7 w9"])
    added = (time.perf_counter() - started) / 10
    started = time.perf_counter()
    for number in range(10):
        weighted.with_items(added={num_items + number: items[number]})
    told = (time.perf_counter() - started) / 10
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return f"{num_items:>9,} {made:>12.1f} {1e3 * added:>14.1f} {1e3 * told:>14.1f} {memory:>10.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[2_000, 20_000, 50_000])
    print("    items     made (s)   a search (ms)  a new item (ms)   GB (peak)")
    for num_items in parser.parse_args().items:
        print(cost(num_items), flush=True)


if __name__ == "__main__":
    main()
