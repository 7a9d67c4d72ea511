"""Items that came after the training: a share of a shop's items is kept from it, and the model is told of them then.

python -m benchmarks.cold_items --data data/h-and-m --output_dir runs/cold --image_root H_AND_M/images \
  --config recipes/h_and_m/tiny.yaml --vision_model MOBILENET

What is not known here goes on to train.py. `data` is a folder of items.parquet and interactions.parquet, as `prepare`
writes them. Items are drawn; both tables are written without them, a model is trained on these, and `add_items` brings
them in. Cases of several draws (`--seeds`) stand in one table. Asked is the last of them that each shopper took after
something else, from what came before: among all items, and among the added ones alone. It is no split in time: what
shoppers took later was trained on, as with `held_out_domain`. Similarity of texts and of pictures is tried with three
half-lives, and the best on these cases is shown, which flatters it.

Shapes: N items, C cases.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modeling_unimp import PersonalizationPipeline, UniMPForConditionalGeneration
from modeling_unimp.answering import outputs_of
from modeling_unimp.training.item_similarity import term_vectors
from processing_unimp import Catalogue, Histories, UniMPProcessor
from processing_unimp.metrics.ranking import ndcg

from .experiments import paired_ratio

RESAMPLES = 2_000
HALF_LIVES = (1.0, 4.0, math.inf)  # of an item of the history, in places


class Case(NamedTuple):
    """The numbers of the items of a history, the latest last, and of the item that is asked for."""

    history: list[int]
    truth: int


def without(items: pa.Table, interactions: pa.Table, share: float, seed: int) -> tuple[pa.Table, pa.Table, list[str]]:
    """Both tables without a share of the items, and the ids of these."""
    ids = np.array(items["item_id"].to_pylist())
    is_cold = np.random.default_rng(seed).random(len(ids)) < share
    cold = pa.array(ids[is_cold].tolist(), type=interactions.schema.field("item_id").type)
    is_kept = pc.invert(pc.is_in(interactions["item_id"], value_set=cold))
    return items.filter(pa.array(~is_cold)), interactions.filter(is_kept), cold.to_pylist()


def cases_of(histories: Histories, is_cold: np.ndarray) -> list[Case]:
    """For each shopper the last cold item after another one, with the others before it."""
    found = []
    for user in range(len(histories)):
        numbers = histories.items_of(user).tolist()
        warm = [place for place, number in enumerate(numbers) if not is_cold[number]]
        asked = [place for place, number in enumerate(numbers) if is_cold[number] and warm and place > warm[0]]
        if asked:
            found.append(Case([numbers[place] for place in warm if place < asked[-1]], numbers[asked[-1]]))
    return found


def rank_of(scores: np.ndarray, case: Case, among: np.ndarray | None = None) -> int:
    """The place of the right item in its list, from 1: ties count against it, items of the history are left out."""
    competes = np.ones(len(scores), dtype=bool) if among is None else among.copy()
    competes[case.history] = False
    competes[case.truth] = False
    return 1 + int((scores[competes] >= scores[case.truth]).sum())


def alike(vectors: Any, cases: Sequence[Case], half_life: float) -> Iterator[np.ndarray]:
    """How alike each item `(N,)` is to those of a history: the weighted sum of cosines."""
    for case in cases:
        weights = np.exp2(np.arange(1 - len(case.history), 1) / half_life)
        taste = vectors[case.history].T @ weights
        yield np.asarray(vectors @ taste).ravel()


def scores_of(
    model: UniMPForConditionalGeneration, processor: UniMPProcessor, cases: Sequence[Case], catalogue: Catalogue
) -> Iterator[np.ndarray]:
    """What the model scores, with its closed form where it has one, in the order of `catalogue`."""
    places = [processor.catalogue.number(item_id) for item_id in catalogue.item_ids]
    requests = [
        {"task": "recommend", "history": [{"item_id": catalogue.item_ids[number]} for number in case.history]}
        for case in cases
    ]
    for logits in outputs_of(model, processor, requests, "items", batch_size=64):
        yield logits[places]


def gains_of(ranks: np.ndarray) -> np.ndarray:
    """NDCG@10 of each case `(C,)`."""
    return np.array([ndcg(np.array([rank]), 10) for rank in ranks])


def mean_and_interval(ranks: np.ndarray) -> str:
    """NDCG@10 and its 95 % interval when cases are drawn anew."""
    gains = gains_of(ranks)
    rng = np.random.default_rng(0)
    drawn = [gains[rng.integers(len(gains), size=len(gains))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{gains.mean():.4f} [{low:.4f} - {high:.4f}]"


def by_chance(num_items: int) -> float:
    """NDCG@10 of a random order."""
    return sum(1 / math.log2(rank + 1) for rank in range(1, min(10, num_items) + 1)) / num_items


def table(ranks: Mapping[str, tuple[np.ndarray, np.ndarray]], chances: tuple[float, float]) -> str:
    """Markdown: a row for each that was asked, with its ranks `(C,)` among all items and among the added ones; and how
    often as good the first of them is, in pairs of cases."""
    lines = [
        "| NDCG@10 [95 %] | among all items | UniMP / that | among the added ones | UniMP / that |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    first, ours = next(iter(ranks.items()))
    for name, each in ranks.items():
        cells = [name]
        for own, theirs in zip(ours, each, strict=True):
            cells.append(mean_and_interval(theirs))
            if name == first:
                cells.append("")
            else:
                ratio, low, high = paired_ratio(gains_of(own), gains_of(theirs), is_rmse=False)
                cells.append(f"{ratio:.2f} [{low:.2f} - {high:.2f}]")
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"| random | {chances[0]:.4f} | | {chances[1]:.4f} | |")
    return "\n".join(lines) + "\n"


def measured(given: argparse.Namespace, others: Sequence[str], seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One draw of items: by who was asked, the ranks `(2, C)` among all items and among the added ones; and NDCG@10 by
    chance of both."""
    warm, model_folder = given.output_dir / str(seed) / "warm", given.output_dir / str(seed) / "model"
    warm.mkdir(parents=True, exist_ok=True)
    tables = [pq.read_table(given.data / f"{name}.parquet") for name in ("items", "interactions")]
    items, interactions, cold_ids = without(tables[0], tables[1], given.share, seed)
    pq.write_table(items, warm / "items.parquet")
    pq.write_table(interactions, warm / "interactions.parquet")
    pictures = given.image_root or str(given.data)
    if not (model_folder / "results.json").is_file():
        command = [sys.executable, "train.py", *others, "--items", warm, "--interactions", warm]
        command += ["--output_dir", model_folder, "--image_root", pictures]
        subprocess.run(list(map(str, command)), check=True)

    catalogue = Catalogue.load(given.data, image_root=pictures)
    histories = Histories.load(given.data, catalogue)
    model = UniMPForConditionalGeneration.from_pretrained(model_folder).eval()
    processor = UniMPProcessor.from_pretrained(model_folder)
    unimp = PersonalizationPipeline(model=model, processor=processor)
    unimp.add_items(catalogue.item(item_id) | {"image": catalogue.picture(item_id)} for item_id in cold_ids)
    is_cold = np.isin(catalogue.item_ids, cold_ids)
    cases = cases_of(histories, is_cold)

    def ranks_by(scores: Iterable[np.ndarray]) -> np.ndarray:
        return np.array(
            [(rank_of(each, case), rank_of(each, case, is_cold)) for case, each in zip(cases, scores, strict=True)]
        ).T

    found = {"UniMP": ranks_by(scores_of(model, processor, cases, catalogue))}
    hybrid, model.hybrid_scores = model.hybrid_scores, None
    if hybrid is not None:
        found["network alone"] = ranks_by(scores_of(model, processor, cases, catalogue))
    content = {"alike in words": term_vectors(catalogue)}
    places = [processor.catalogue.number(item_id) for item_id in catalogue.item_ids]
    seen = model.model.item_embeddings.content_pictures
    content["alike in pictures"] = None if seen is None else seen[places].numpy()
    for name, vectors in content.items():
        if vectors is not None:
            each = [ranks_by(alike(vectors, cases, half_life)) for half_life in HALF_LIVES]
            found[name] = max(each, key=lambda ranks: ndcg(ranks[0], 10))
    print(f"draw {seed}: {len(cases)} cases, {len(cold_ids)} of {len(catalogue)} items added", flush=True)
    return found, np.array([by_chance(len(catalogue)), by_chance(len(cold_ids))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--image_root", help="folder of the pictures; by default that of the tables")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the draws of items")
    given, others = parser.parse_known_args()
    draws, chances = zip(*(measured(given, others, seed) for seed in given.seeds), strict=True)
    found = {name: np.concatenate([draw[name] for draw in draws], axis=1) for name in draws[0]}
    words = table({name: (each[0], each[1]) for name, each in found.items()}, tuple(np.mean(chances, axis=0)))
    (given.output_dir / "cold_items.md").write_text(words)
    print(words)


if __name__ == "__main__":
    main()
