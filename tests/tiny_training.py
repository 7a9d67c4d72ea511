"""Short training runs on the small shop, and what they leave to compare."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from shop import make_histories, make_model, make_model_processor

from modeling_unimp import UniMPTrainer, UniMPTrainingArguments
from processing_unimp import EvaluationCases, ExampleSource, TaskMixture, UniMPCollator, leave_last_out

TASKS = ["recommend", "search", "rate", "explain", "select"]
DEFAULTS = {
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_steps": 2,
    "eval_steps": 2,
    "save_strategy": "steps",
    "context_weight": 0.5,
    "next_item_weight": 0.7,
    "task_weights": {"rate": 2.0},
}
# Three epochs of 21 rows in batches of six: four steps an epoch, the last of three rows.
THREE_EPOCHS = {"max_steps": -1, "num_train_epochs": 3, "repeats": 7}


def make_trainer(
    folder,
    *,
    batch_size=6,
    accumulation=1,
    max_steps=4,
    evaluate=False,
    repeats=8,
    train=None,
    competing_items=None,
    processor=None,
    new_users=0.0,
    **kwargs,
) -> UniMPTrainer:
    processor = processor or make_model_processor()
    split = leave_last_out(make_histories(processor.catalogue), new_users=new_users, seed=0)
    source = {"query_attribute": "category", "num_candidates": 3}
    cases = [
        EvaluationCases.of(
            name,
            split.validation,
            ExampleSource(processor.catalogue, np.random.default_rng(0), **source),
            exclude_seen=True,
        )
        for name in TASKS
    ]
    args = UniMPTrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=max_steps,
        load_best_model_at_end=evaluate,
        report_to="none",
        disable_tqdm=True,
        **DEFAULTS | {"eval_strategy": "steps" if evaluate else "no"} | kwargs,
    )
    model = make_model(processor, item_rows="both")
    if train is not None:
        model.freeze_backbones(train)
    return UniMPTrainer(
        model=model,
        args=args,
        train_dataset=TaskMixture(split.train, processor.catalogue, TASKS, repeats=repeats, **source),
        evaluation_cases=cases if evaluate else (),
        data_collator=UniMPCollator(processor, context="attributes", next_item=True),
        processing_class=processor,
        competing_items=competing_items,
    )


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.bare_model.named_parameters()}


def assert_close(first, second, atol):
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def norms(trainer) -> list[float]:
    """Of the gradient; AdamW forgets how large it was."""
    return [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]


class Seen(torch.utils.data.Dataset):
    """A mixture that tells which rows of which epoch it was asked for, through a file, also from other processes."""

    def __init__(self, mixture, folder):
        self.mixture, self.folder = mixture, Path(folder)

    def __len__(self):
        return len(self.mixture)

    def set_epoch(self, epoch):
        self.mixture.set_epoch(epoch)

    def __getitem__(self, row):
        request = self.mixture[row]
        with (self.folder / f"seen-{os.getpid()}").open("a") as file:
            print(json.dumps([self.mixture.epoch, row, request], sort_keys=True), file=file)
        return request

    @staticmethod
    def by(folder):
        return sorted(line for path in Path(folder).glob("seen-*") for line in path.read_text().splitlines())
