"""A folder as a training leaves it, to be published and loaded again."""

import hashlib
import json
from pathlib import Path
from typing import Any

from shop import make_histories, make_imagining_model, make_model, make_model_processor
from transformers import AutoModel, AutoProcessor

from hub_cards.run_record import write_results
from modeling_unimp import DataArguments, ModelArguments, PersonalizationPipeline, UniMPTrainingArguments
from processing_unimp import TaskMixture, leave_last_out

METRICS = {
    "recommend": {"hr@10": 0.5, "ndcg@10": 0.25},
    "search": {"hr@10": 0.5, "ndcg@10": 0.25},
    "rate": {"mae": 1.0, "rmse": 1.25},
    "explain": {"rougeL": 0.5},
    "select": {"f1": 0.5},
    "imagine": {"gain": 0.01, "similarity": 0.5},
}


def save(folder: Path, model: Any, processor: Any, **model_arguments: Any) -> Path:
    """What train.py leaves behind, and what else lies about in such a folder."""
    model.save_pretrained(folder, max_shard_size="1MB")
    processor.save_pretrained(folder)
    catalogue = processor.catalogue
    split = leave_last_out(make_histories(catalogue))
    data_args = DataArguments(items="/home/ada/shop/items.parquet", interactions="data/shop", tasks=list(METRICS))
    args = UniMPTrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", save_total_limit=None)
    mixture = TaskMixture(split.train, catalogue, ["recommend"], seed=0)
    results = {
        task: {
            "cases": 3,
            "skipped": 0,
            "headline": list(metrics)[-1],
            "interval": (0.1, 0.9),
            "model": metrics,
            "baselines": {"chance": {name: 0.0 for name in metrics}},
        }
        for task, metrics in METRICS.items()
    }
    model_args = ModelArguments(vision_model=None, feature_store="/home/ada/features", **model_arguments)
    write_results(folder, {"test": results}, split, mixture, data_args, model_args, args, minutes=1.5)
    (folder / "report.html").write_text("<p>ada bought m1")
    (folder / "interactions.jsonl").write_text('{"user_id": "ada", "item_id": "m1"}')
    for name in ("checkpoint-3", "runs", "vision_features"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"old")
    (folder / "training_args.bin").write_bytes(b"pickle")
    return folder


def answers_of(unimp: Any, requests: list[dict]) -> list[dict]:
    """As JSON, to the last bit."""
    answers = unimp(requests)
    for answer in answers:
        if "picture" in answer:
            answer["picture"] = hashlib.sha256(answer["picture"].tobytes()).hexdigest()
    return json.loads(json.dumps(answers))


def answers_here(folder: Path, requests: list[dict]) -> list[dict]:
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    return answers_of(PersonalizationPipeline(model=model, processor=processor, device="cpu"), requests)


def save_imagining(folder: Path) -> Path:
    """All six tasks, weights in several files."""
    return save(folder, *make_imagining_model(item_rows="both"))


def save_plain(folder: Path) -> Path:
    """All tasks but imagine."""
    processor = make_model_processor()
    return save(folder, make_model(processor), processor)
