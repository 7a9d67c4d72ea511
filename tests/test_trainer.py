"""The trainer: its objective by hand, and the runs that must come out alike."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shop import make_histories, make_model, make_model_processor

from modeling_unimp import UniMPTrainer, UniMPTrainingArguments
from modeling_unimp.focal_loss import focal
from processing_unimp import TASK_NAMES, EvaluationCases, ExampleSource, TaskMixture, UniMPCollator, leave_last_out

TASKS = ["recommend", "search", "rate", "explain", "select"]


def make_trainer(folder, *, batch_size=6, accumulation=1, max_steps=4, evaluate=False, **kwargs) -> UniMPTrainer:
    import numpy as np

    processor = make_model_processor()
    split = leave_last_out(make_histories(processor.catalogue), new_users=0.0)
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
        save_steps=2,
        save_strategy="steps",
        eval_strategy="steps" if evaluate else "no",
        eval_steps=2,
        load_best_model_at_end=evaluate,
        logging_steps=1,
        learning_rate=1e-3,
        report_to="none",
        disable_tqdm=True,
        **({"context_weight": 0.5, "next_item_weight": 0.7, "task_weights": {"rate": 2.0}} | kwargs),
    )
    return UniMPTrainer(
        model=make_model(processor, item_rows="both"),
        args=args,
        task_names=TASK_NAMES,
        train_dataset=TaskMixture(split.train, processor.catalogue, TASKS, repeats=8, **source),
        evaluation_cases=cases if evaluate else (),
        data_collator=UniMPCollator(processor, context="attributes", next_item=True),
        processing_class=processor,
    )


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.bare_model.named_parameters()}


def assert_close(first, second, atol):
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("reduction", ["token", "sample"])
def test_the_objective_by_hand(tmp_path, reduction):
    trainer = make_trainer(tmp_path, loss_reduction=reduction)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, dict(batch)).item()
        inputs = {name: value for name, value in batch.items() if name not in ("task_ids", "label_kinds")}
        nll = trainer.model(**inputs).nll
    kind_weight = {1: 1.0, 2: 0.5, 3: 0.7}
    rows, columns = (batch["labels"][:, 1:] != -100).nonzero(as_tuple=True)
    total = 0.0
    for kind, weight in kind_weight.items():
        terms: dict[int, list[float]] = {}
        for row, column, token in zip(rows.tolist(), columns.tolist(), focal(nll, 2.0).tolist(), strict=True):
            if batch["label_kinds"][row, column + 1] == kind:
                task_weight = 2.0 if TASK_NAMES[batch["task_ids"][row]] == "rate" else 1.0
                terms.setdefault(row, []).append(task_weight * token)
        if reduction == "token":
            total += weight * sum(map(sum, terms.values())) / sum(map(len, terms.values()))
        else:
            total += weight * sum(sum(t) / len(t) for t in terms.values()) / len(terms)
    assert loss == pytest.approx(total, rel=1e-5)


def test_gradient_accumulation_changes_nothing(tmp_path):
    whole, parts = (
        make_trainer(tmp_path / "a", batch_size=6),
        make_trainer(tmp_path / "b", batch_size=2, accumulation=3),
    )
    for trainer in (whole, parts):
        trainer.train()
    assert losses(whole) == pytest.approx(losses(parts), rel=2e-5)
    assert_close(weights_of(whole), weights_of(parts), atol=2e-4)


def test_a_resumed_run_is_the_straight_run(tmp_path):
    straight = make_trainer(tmp_path / "a")
    straight.train()
    make_trainer(tmp_path / "b").train()
    resumed = make_trainer(tmp_path / "b")
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    assert losses(straight) == losses(resumed)
    assert_close(weights_of(straight), weights_of(resumed), atol=0)


def test_activation_checkpointing_changes_nothing(tmp_path):
    plain, checkpointed = make_trainer(tmp_path / "a"), make_trainer(tmp_path / "b", gradient_checkpointing=True)
    for trainer in (plain, checkpointed):
        trainer.train()
    assert losses(plain) == pytest.approx(losses(checkpointed), rel=1e-5)


def test_an_evaluation_answers_and_its_best_checkpoint_is_kept(tmp_path):
    trainer = make_trainer(tmp_path, evaluate=True)
    assert trainer.args.metric_for_best_model == "recommend_ndcg@10" and trainer.args.greater_is_better
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_recommend_ndcg@10" in entry]
    assert [entry["step"] for entry in evaluations] == [2, 4]
    for name in ("recommend_ndcg@10", "search_hr@5", "rate_rmse", "explain_rougeL", "select_f1"):
        assert f"eval_{name}" in evaluations[0]
    best = max(evaluations, key=lambda entry: entry["eval_recommend_ndcg@10"])
    assert trainer.state.best_metric == best["eval_recommend_ndcg@10"]
    assert Path(trainer.state.best_model_checkpoint).name == f"checkpoint-{trainer.state.best_global_step}"
    assert {"eval_rate_rmse", "eval_seconds"} <= set(trainer.evaluate())


def test_the_log_tells_tasks_kinds_gates_and_speed(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3)
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"loss/recommend_answer", "loss/rate_context", "loss/explain_next_item"} <= logged
    assert {"gate/2_attention", "gate/4_feed_forward", "tokens_per_second", "share_supervised"} <= logged


def test_checkpoints_leave_pictures_out_and_the_model_folder_has_them(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.train()
    trainer.save_merged_model(tmp_path)
    load = type(trainer.processing_class).from_pretrained
    assert load(tmp_path).catalogue.has_picture("m1")
    assert not load(tmp_path / "checkpoint-2").catalogue.has_picture("m1")


def test_task_weights_name_tasks(tmp_path):
    with pytest.raises(ValueError, match="buy"):
        make_trainer(tmp_path, task_weights={"buy": 1.0})


@pytest.mark.parametrize("options", [{"focal_gamma": -1}, {"context_loss": "all"}, {"loss_reduction": "user"}])
def test_bad_options(tmp_path, options):
    with pytest.raises(ValueError, match="expected"):
        UniMPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)


def test_weights_that_nothing_could_restore_are_not_left_out(tmp_path):
    from modeling_unimp import add_lora

    make_trainer(tmp_path, save_only_trained=True)  # all of it learns: nothing is left out
    processor = make_model_processor()
    frozen = make_model(processor).freeze_backbones(train="new", train_vision=True)
    args = UniMPTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, save_only_trained=True, report_to="none", eval_strategy="no",
        save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="nothing could restore it"):
        UniMPTrainer(frozen, args, task_names=TASK_NAMES, processing_class=processor)
    with pytest.raises(ValueError, match="do not go together"):
        UniMPTrainer(add_lora(frozen, r=2, alpha=4), args, task_names=TASK_NAMES, processing_class=processor)


RUN = """
import json, sys
sys.path.insert(0, {tests!r})
from test_trainer import losses, make_trainer
trainer = make_trainer({folder!r}, batch_size={batch_size}, max_steps=3, evaluate=True)
trainer.train()
if trainer.is_world_process_zero():
    checksum = sum(p.double().abs().sum().item() for p in trainer.bare_model.parameters())
    found = {{"world": trainer.args.world_size, "losses": losses(trainer), "checksum": checksum}}
    found["eval"] = {{k: v for e in trainer.state.log_history for k, v in e.items() if k.startswith("eval_recommend")}}
    print("FOUND", json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """`accelerate launch --cpu --num_processes 2` would run one process; torchrun runs two, over gloo."""
    found = []
    for processes, batch_size in ((1, 6), (2, 3)):
        script = tmp_path / f"run_{processes}.py"
        folder = str(tmp_path / f"out_{processes}")
        script.write_text(RUN.format(tests=str(Path(__file__).parent), folder=folder, batch_size=batch_size))
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0",
             "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", str(script)],
            capture_output=True, text=True, timeout=300, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        line = next((line for line in done.stdout.splitlines() if "FOUND" in line), None)
        assert line is not None, done.stderr[-3000:]
        found.append(json.loads(line[line.index("{") :]))
    one, two = found
    assert (one["world"], two["world"]) == (1, 2)
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-4)
    assert one["checksum"] == pytest.approx(two["checksum"], rel=1e-5)
    assert one["eval"] == pytest.approx(two["eval"])


def test_embedding_rows_learn_at_a_rate_of_their_own(tmp_path):
    """One step of plain gradient descent: rows move five times as far, all else as far as without."""
    moved = {}
    for scale in (1.0, 5.0):
        plain = {"optim": "sgd", "max_grad_norm": 0.0, "weight_decay": 0.0, "warmup_steps": 0, "max_steps": 1}
        trainer = make_trainer(tmp_path, embedding_lr_scale=scale, **plain)
        before = weights_of(trainer)
        trainer.train()
        moved[scale] = {name: weight - before[name] for name, weight in weights_of(trainer).items()}
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        trainer.create_optimizer()  # which there is already
        assert [group["lr"] for group in trainer.optimizer.param_groups] == rates
        in_groups = [id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]]
        assert len(in_groups) == len(set(in_groups))
        assert set(in_groups) == {id(p) for p in trainer.model.parameters() if p.requires_grad}
    rows = {name for name in moved[1.0] if name.endswith(("embed_tokens.weight", "item_embeddings.read.tokens"))}
    assert len(rows) == 2
    for name, by in moved[1.0].items():
        expected = by * (5 if name in rows or name.endswith("write.tokens") else 1)
        torch.testing.assert_close(moved[5.0][name], expected, atol=1e-6, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    with pytest.raises(ValueError, match="embedding_lr_scale=0: expected more than 0"):
        make_trainer(tmp_path, embedding_lr_scale=0)
