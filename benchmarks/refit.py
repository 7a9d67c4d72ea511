"""What training again on all interactions (`--refit true`) is worth to those who are served.

python -m benchmarks.refit --data data/h-and-m --output_dir runs/refit --image_root H_AND_M/images \
  --config recipes/h_and_m/tiny.yaml --vision_model MOBILENET

What is not known here goes on to train.py. Of each shopper of the core the last two interactions are kept aside. Two
models are made of what is before: one as it was tested, which has not learnt its own validation and test, and one that
was trained again on them. Both are asked for the first of the two kept aside, from all that is before it; the last,
which the test of the recipe asks for, is not touched.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modeling_unimp import UniMPForConditionalGeneration
from processing_unimp import Catalogue, Histories, UniMPProcessor, k_core

from .cold_items import Case, gains_of, mean_and_interval, rank_of, scores_of
from .experiments import paired_ratio

KEPT_ASIDE = 2
MODELS = {"as it was tested": "false", "trained again on all": "true"}  # and what `refit` says


def cases_of(histories: Histories) -> list[Case]:
    """For each shopper the first interaction kept aside, if it is no item of the history."""
    found = []
    for user in range(len(histories)):
        numbers = histories.items_of(user).tolist()
        history, truth = numbers[:-KEPT_ASIDE], numbers[-KEPT_ASIDE]
        if truth not in history:
            found.append(Case(history, truth))
    return found


def train(given: argparse.Namespace, others: Sequence[str], tables: Path, folder: Path, refit: str) -> None:
    if not (folder / "results.json").is_file():
        # The core was taken before.
        command = [sys.executable, "train.py", *others, "--items", given.data, "--interactions", tables]
        command += ["--k_core", 0, "--refit", refit, "--output_dir", folder, "--image_root", given.image_root]
        subprocess.run(list(map(str, command)), check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--image_root", help="folder of the pictures; by default that of the tables")
    given, others = parser.parse_known_args()
    given.image_root = given.image_root or str(given.data)
    catalogue = Catalogue.load(given.data, image_root=given.image_root)
    core = k_core(Histories.load(given.data, catalogue), 5)
    tables = given.output_dir / "before"
    tables.mkdir(parents=True, exist_ok=True)
    core.truncate(core.lengths - KEPT_ASIDE).to_dataset().to_parquet(str(tables / "interactions.parquet"))
    cases = cases_of(core)
    ranks = {}
    for number, (name, refit) in enumerate(MODELS.items()):
        folder = given.output_dir / f"model_{number}"
        train(given, others, tables, folder, refit)
        model = UniMPForConditionalGeneration.from_pretrained(folder).eval()
        scores = scores_of(model, UniMPProcessor.from_pretrained(folder), cases, catalogue)
        ranks[name] = np.array([rank_of(each, case) for case, each in zip(cases, scores, strict=True)])
    before, after = map(gains_of, ranks.values())
    ratio, low, high = paired_ratio(after, before, is_rmse=False)
    lines = ["| recommend, NDCG@10 [95 %] | all items |", "| --- | ---: |"]
    lines += [f"| {name} | {mean_and_interval(each)} |" for name, each in ranks.items()]
    lines.append(f"| ratio, in pairs of {len(cases)} cases | {ratio:.3f} [{low:.3f} - {high:.3f}] |")
    (given.output_dir / "refit.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
