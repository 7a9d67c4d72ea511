"""Transformers over item ids, fitted with RecTools on exactly the cases on which UniMP recommends.

python -m benchmarks.transformer_baselines export --config recipes/h_and_m/tiny.yaml --image_root H_AND_M/images \
  --output split
python -m venv rectools_env && rectools_env/bin/pip install "rectools[torch]==0.19.0" "pyarrow<23"
rectools_env/bin/python benchmarks/transformer_baselines.py fit --data split --model sasrec --session_length 12

The first command runs in our environment, the last in one of its own, because RecTools holds numpy below 2.
Models: `sasrec`, `esasrec` (SASRec with LiGR layers), `bert4rec` and `hstu` (without its attention to times, which the
split does not have). They read item ids alone: no text, no picture, no other task. Every point of the grid is trained
to the plateau of NDCG@10 on validation (or to `--max_epochs`), its best epoch is kept, and the best point of all is
ranked on the other parts, once. Grid: `--factors` x `--dropout` x `--learning_rate`, 64 and 128 x 0.2 and 0.4 x 0.001
unless said otherwise. Not tuned: `--blocks`, `--heads`, one seed, no training on the validation interactions. RecTools
trains on the latest `--session_length` interactions of a user, and on no others.

Tried so far, with 64 factors at 0.003 in batches of 32, on one busy core:
- H&M, the latest 12 interactions: `sasrec` with both dropouts. At 0.001 and dropout 0.2 validation was at 0.038 after
  18 epochs, where 0.003 was after 9. `esasrec` (64 negatives, dropout 0.4) was at 0.040 after 27, still rising.
- MovieLens, the latest 50: `sasrec` and `esasrec` (64 negatives) with both dropouts. `bert4rec` (dropout 0.2) was at
  0.094 after 20 epochs and at 0.080 after 25.
Runs that were cut short were not ranked on the test. 128 factors, longer histories and more negatives were not run.
"""

import argparse
import itertools
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MODELS = ("sasrec", "esasrec", "bert4rec", "hstu")
RESAMPLES = 500
BATCH = 256  # of cases that are ranked

logger = logging.getLogger("transformer_baselines")


# --- in our environment ---


def export(folder: Path) -> None:
    """Writes the split of the recipe on the command line.

    `items.parquet` holds what is ranked, `train.parquet` what may be learnt from (users' interactions by position,
    oldest first), and each of `validation.parquet`, `test.parquet`, `new_users.parquet` and `new_domain.parquet` that
    the split has a row a case: `user_id`, `position`, `history` (oldest first), `item_id` (the true one) and `hidden`
    (items left out of the ranking). `split.json` tells the protocol, the cases and how many were skipped.
    """
    from modeling_unimp.training.experiment import evaluation_cases_of, load_shop, split_histories
    from modeling_unimp.training.recipe import parse_recipe

    data_args, _, args = parse_recipe()
    if "recommend" not in data_args.tasks:
        named = ", ".join(data_args.tasks) or "none"
        raise ValueError(f"tasks: {named}: expected recommend among them, which is what is ranked here.")
    catalogue, histories = load_shop(data_args)
    split = split_histories(histories, catalogue, data_args)
    folder.mkdir(parents=True, exist_ok=True)
    train, ids = split.train, pa.array(catalogue.item_ids, pa.string())
    pq.write_table(pa.table({"item_id": ids}), folder / "items.parquet")
    of_users = pa.array(train.users, pa.string()).take(pa.array(train.user_numbers))
    positions = np.arange(train.num_interactions) - np.repeat(train.starts[:-1], train.lengths)
    columns = {"user_id": of_users, "position": positions, "item_id": ids.take(pa.array(train.item_numbers))}
    pq.write_table(pa.table(columns), folder / "train.parquet")

    # As in `baselines.py`: all of validation.
    parts = {
        "validation": (split.validation, None),
        "test": (split.test, data_args.max_test_cases),
        "new_users": (split.new_users, data_args.max_test_cases),
        "new_domain": (split.new_domain, data_args.max_test_cases),
    }
    written: dict[str, dict[str, int]] = {}
    for part, (targets, max_cases) in parts.items():
        (folder / f"{part}.parquet").unlink(missing_ok=True)  # of an earlier export
        if targets is None:
            continue
        by_task = evaluation_cases_of(targets, data_args, catalogue, max_cases)
        cases = next(cases for cases in by_task if cases.task.name == "recommend")
        if not len(cases):
            logger.info(f"{part} is left out: no case ({cases.skipped} skipped)")
            continue
        seen = [cases.cases.item_ids_before(index) for index in range(len(cases))]
        rows = {
            "user_id": pa.array([cases.cases.histories.users[user] for user in cases.cases.users], pa.string()),
            "position": pa.array(cases.cases.positions),
            "history": pa.array(seen, pa.list_(pa.string())),
            "item_id": pa.array([request["answer"] for request in cases.requests], pa.string()),
            "hidden": pa.array(seen if cases.exclude_seen else [[]] * len(cases), pa.list_(pa.string())),
        }
        pq.write_table(pa.table(rows), folder / f"{part}.parquet")
        written[part] = {"cases": len(cases), "skipped": cases.skipped}
    record = {
        "split": split.name,
        "leaks": split.leaks,
        "removed": split.removed,
        "parts": written,
        "catalogue": catalogue.fingerprint,
        "split_seed": data_args.split_seed,
    }
    (folder / "split.json").write_text(json.dumps(record, indent=2) + "\n")
    logger.info(f"{folder}: {train.num_interactions} interactions to train on; {written}")


# --- in either environment ---


@dataclass
class Part:
    """Cases of one part of the split, items by their row in `items.parquet`."""

    users: list[str]
    positions: list[int]
    histories: list[np.ndarray]
    targets: np.ndarray
    hidden: list[np.ndarray]

    @classmethod
    def load(cls, path: Path, number_of: dict[str, int]) -> "Part":
        table = pq.read_table(path).to_pydict()

        def numbers(ids: Sequence[str]) -> np.ndarray:
            return np.array([number_of[item_id] for item_id in ids], dtype=np.int64)

        return cls(
            users=table["user_id"],
            positions=table["position"],
            histories=[numbers(ids) for ids in table["history"]],
            targets=numbers(table["item_id"]),
            hidden=[numbers(ids) for ids in table["hidden"]],
        )

    def __len__(self) -> int:
        return len(self.users)


# The metrics of `processing_unimp` again: its imports are not in the environment of RecTools. A test holds them equal.


def rank_of(scores: np.ndarray, target: int, hidden: np.ndarray) -> int:
    """1 + the number of items, `hidden` ones left out, that score at least as much as the target; scores `(N,)`."""
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN: the model has diverged.")
    ahead = scores >= scores[target]
    ahead[hidden] = False
    ahead[target] = False
    return 1 + int(ahead.sum())


def gains(ranks: np.ndarray, k: int = 10) -> np.ndarray:
    """NDCG@k of each case, which has one true item."""
    return np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)


def summary(ranks: np.ndarray) -> dict[str, Any]:
    """NDCG@10 with its 95 % interval (bootstrap over cases) and HR@10."""
    rng, of_cases = np.random.default_rng(0), gains(ranks)
    drawn = [of_cases[rng.integers(len(ranks), size=len(ranks))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "cases": len(ranks),
        "ndcg@10": float(of_cases.mean()),
        "interval": [float(low), float(high)],
        "hr@10": float((ranks <= 10).mean()),
    }


# --- in the environment of RecTools ---


def new_model(args: argparse.Namespace, factors: int, dropout: float, learning_rate: float) -> Any:
    from rectools.models import BERT4RecModel, HSTUModel, SASRecModel
    from rectools.models.nn.item_net import IdEmbeddingsItemNet
    from rectools.models.nn.transformers.ligr import LiGRLayers

    options = {
        "n_factors": factors,
        "dropout_rate": dropout,
        # The place of the item that is asked for is one of BERT4Rec's.
        "session_max_len": args.session_length + (args.model == "bert4rec"),
        "n_blocks": args.blocks,
        "n_heads": args.heads,
        "batch_size": args.batch_size,
        "lr": learning_rate,
        "item_net_block_types": (IdEmbeddingsItemNet,),
    }
    if args.negatives:
        options |= {"loss": "sampled_softmax", "n_negatives": args.negatives}
    if args.model == "bert4rec":
        return BERT4RecModel(**options)
    if args.model == "hstu":
        # The split has an order and no times.
        return HSTUModel(**options, relative_time_attention=False)
    return SASRecModel(**options, **({"transformer_layers_type": LiGRLayers} if args.model == "esasrec" else {}))


def dataset_of(users: Any, items: Any, positions: Any) -> Any:
    """RecTools orders by time; a position, taken for a second, keeps our order."""
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset

    times = pd.to_datetime(np.asarray(positions), unit="s")
    rows = {Columns.User: users, Columns.Item: items, Columns.Weight: 1.0, Columns.Datetime: times}
    return Dataset.construct(pd.DataFrame(rows))


def cases_dataset(part: Part) -> Any:
    """The histories, each as a user of its own, named by the number of its case."""
    lengths = [len(history) for history in part.histories]
    positions = np.concatenate([np.arange(length) for length in lengths])
    return dataset_of(np.repeat(np.arange(len(part)), lengths), np.concatenate(part.histories), positions)


def ranks_of(model: Any, part: Part, dataset: Any, num_items: int) -> np.ndarray:
    """Rank of each true item among all items. Items that RecTools has not met in training score `-inf`, and a history
    of such items alone is answered with equal scores: both are ranked last."""
    import torch

    preparator, network = model.data_preparator, model.torch_model
    known = np.asarray(preparator.get_known_item_ids(), dtype=np.int64)
    columns = preparator.get_known_items_sorted_internal_ids()
    readable = preparator.transform_dataset_u2i(dataset, np.arange(len(part)))
    case_numbers = readable.user_id_map.get_external_sorted_by_internal()
    ranks = np.array([num_items - len(set(hidden.tolist())) for hidden in part.hidden], dtype=np.int64)
    network.eval()
    start = 0
    with torch.no_grad():
        rows = network.item_model.get_all_embeddings()
        towers = network.similarity_module
        for batch in preparator.get_dataloader_recommend(readable, BATCH):
            states = towers.session_tower_forward(network.encode_sessions(batch, rows)[:, -1])
            logits = (states @ towers.item_tower_forward(rows)[columns].T).numpy()
            scores = np.full((len(logits), num_items), -np.inf)
            scores[:, known] = logits
            for case, row in zip(case_numbers[start : start + len(logits)], scores, strict=True):
                ranks[case] = rank_of(row, part.targets[case], part.hidden[case])
            start += len(logits)
    return ranks


def train(args: argparse.Namespace, model: Any, dataset: Any, validation: Part, num_items: int) -> dict[str, Any]:
    """Trains to the plateau on validation and leaves the model at its best epoch."""
    histories = cases_dataset(validation)
    best: dict[str, Any] = {"validation": -1.0}
    for epoch in range(args.evaluate_every, args.max_epochs + 1, args.evaluate_every):
        model.fit_partial(dataset, args.evaluate_every, args.evaluate_every)
        value = float(gains(ranks_of(model, validation, histories, num_items)).mean())
        logger.info(f"epoch {epoch}: validation ndcg@10 {value:.4f}")
        if value > best["validation"]:
            state = {name: weights.clone() for name, weights in model.torch_model.state_dict().items()}
            best = {"validation": value, "epoch": epoch, "state": state}
        elif epoch - best["epoch"] >= args.patience * args.evaluate_every:
            break
    model.torch_model.load_state_dict(best.pop("state"))
    return best | {"epochs": epoch}


def check(args: argparse.Namespace) -> None:
    """Tell before the training what cannot be trained."""
    if not (args.data / "split.json").is_file():
        raise ValueError(f"data: {args.data} holds no split.json. Make the folder with `export` first.")
    if "validation" not in json.loads((args.data / "split.json").read_text())["parts"]:
        raise ValueError(f"data: {args.data} has no validation case, which chooses. Export a split that has.")
    for name in ("session_length", "blocks", "heads", "batch_size", "evaluate_every", "patience"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name}: {getattr(args, name)}: expected 1 or more.")
    if strange := [width for width in args.factors if width < 1 or width % args.heads]:
        raise ValueError(f"factors: {strange}: expected multiples of the {args.heads} attention heads, such as 64.")
    if strange := [share for share in args.dropout if not 0 <= share < 1]:
        raise ValueError(f"dropout: {strange}: expected shares from 0 to below 1, such as 0.2.")
    if args.negatives < 0:
        raise ValueError(f"negatives: {args.negatives}: expected 0 (all items compete) or more.")
    if args.max_epochs < args.evaluate_every:
        raise ValueError(
            f"max_epochs: {args.max_epochs}: expected at least the {args.evaluate_every} epochs of evaluate_every."
        )


def fit(args: argparse.Namespace) -> None:
    """Fits one kind of model over its grid; writes `MODEL.json` and the ranks of every case, `MODEL_PART.parquet`."""
    check(args)
    import pytorch_lightning
    import rectools

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    started = time.time()
    split = json.loads((args.data / "split.json").read_text())
    items = pq.read_table(args.data / "items.parquet")["item_id"].to_pylist()
    number_of = {item_id: number for number, item_id in enumerate(items)}
    parts = {part: Part.load(args.data / f"{part}.parquet", number_of) for part in split["parts"]}
    table = pq.read_table(args.data / "train.parquet").to_pydict()
    dataset = dataset_of(table["user_id"], [number_of[i] for i in table["item_id"]], table["position"])

    tried: list[dict[str, Any]] = []
    chosen = None
    for values in itertools.product(args.factors, args.dropout, args.learning_rate):
        point_started = time.time()
        pytorch_lightning.seed_everything(args.seed, verbose=False)
        point: dict[str, Any] = dict(zip(("factors", "dropout", "learning_rate"), values, strict=True))
        model = new_model(args, **point)
        point |= train(args, model, dataset, parts["validation"], len(items))
        point["seconds"] = round(time.time() - point_started, 1)
        logger.info(f"{args.model}: {point}")
        if chosen is None or point["validation"] > max(earlier["validation"] for earlier in tried):
            chosen = (point, model)
        tried.append(point)
    assert chosen is not None  # argparse takes no empty grid

    # Here, once, the parts beside validation are touched.
    results: dict[str, Any] = {}
    for part, cases in parts.items():
        ranks = ranks_of(chosen[1], cases, cases_dataset(cases), len(items))
        columns = {"user_id": cases.users, "position": cases.positions, "rank": ranks}
        pq.write_table(pa.table(columns), args.data / f"{args.model}_{part}.parquet")
        results[part] = summary(ranks)
    options = {name: value for name, value in vars(args).items() if name not in ("data", "command")}
    record = {
        "results": results,
        "chosen": chosen[0],
        "tried": tried,
        "options": options,
        "split": split,
        "rectools": rectools.__version__,
        "seconds": round(time.time() - started, 1),
    }
    (args.data / f"{args.model}.json").write_text(json.dumps(record, indent=2) + "\n")
    for part, found in results.items():
        low, high = found["interval"]
        print(
            f"{args.model}, {part}: {found['cases']} cases, ndcg@10 {found['ndcg@10']:.4f} [{low:.4f} - {high:.4f}], "
            f"hr@10 {found['hr@10']:.4f}"
        )
    print(f"{chosen[0]} of {len(tried)} points; {record['seconds']} s")


def main() -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    parser = argparse.ArgumentParser(description="Transformer baselines through RecTools.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export", allow_abbrev=False, help="all other options are those of train.py")
    exporting.add_argument("--output", type=Path, required=True)
    fitting = commands.add_parser("fit", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    fitting.add_argument("--data", type=Path, required=True, help="folder of `export`; results go there too")
    fitting.add_argument("--model", choices=MODELS, required=True)
    fitting.add_argument("--factors", type=int, nargs="+", default=[64, 128])
    fitting.add_argument("--dropout", type=float, nargs="+", default=[0.2, 0.4])
    fitting.add_argument("--learning_rate", type=float, nargs="+", default=[0.001], help="of Adam")
    fitting.add_argument("--session_length", type=int, default=100, help="interactions of a user that are read")
    fitting.add_argument("--negatives", type=int, default=0, help="of a sampled softmax; 0: all items compete")
    fitting.add_argument("--blocks", type=int, default=2)
    fitting.add_argument("--heads", type=int, default=2)
    fitting.add_argument("--batch_size", type=int, default=128)
    fitting.add_argument("--max_epochs", type=int, default=200)
    fitting.add_argument("--evaluate_every", type=int, default=5, help="epochs")
    fitting.add_argument("--patience", type=int, default=3, help="evaluations without a better one")
    fitting.add_argument("--seed", type=int, default=42)
    args, rest = parser.parse_known_args()
    if args.command == "export":
        sys.argv = [sys.argv[0], *rest]  # where `parse_recipe` reads
        export(args.output)
    elif rest:
        parser.error(f"unknown: {' '.join(rest)}")
    else:
        fit(args)


if __name__ == "__main__":
    main()
