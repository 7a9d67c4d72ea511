"""The trainer: its objective by hand, and the runs that must come out alike."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import start, start_ranks
from shop import make_model, make_model_processor
from tiny_training import THREE_EPOCHS, Seen, assert_close, losses, make_trainer, norms, weights_of
from transformers import TrainerCallback, TrainingArguments
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from modeling_unimp import UniMPTrainer, UniMPTrainingArguments
from modeling_unimp.focal_loss import focal
from modeling_unimp.training.feature_store import tower_fingerprint
from processing_unimp import TASK_NAMES, Catalogue


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


@pytest.mark.parametrize("strategy, workers", [("random", 0), ("random", 2)])
def test_a_run_resumed_at_any_step_is_the_straight_run(tmp_path, strategy, workers):
    """To the last bit of every weight; the best checkpoint is not loaded, which would hide a difference."""
    options = THREE_EPOCHS | {
        "train_sampling_strategy": strategy,
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": workers > 0,
        "accumulation": 1 + (workers > 0),
        "batch_size": 6 - workers,
        "save_steps": 1,
        "save_total_limit": None,
    }
    straight = make_trainer(tmp_path, **options)
    straight.train()
    num_steps = straight.state.global_step
    assert num_steps == (12 if workers == 0 else 9)
    for step in range(1, num_steps, 2 if workers == 0 else 4):
        resumed = make_trainer(tmp_path, **options | {"save_strategy": "no"})
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert losses(straight) == losses(resumed)
        assert_close(weights_of(straight), weights_of(resumed), atol=0)


@pytest.mark.parametrize("strategy", ["random", "sequential"])
def test_each_epoch_has_every_row_once_and_is_another(tmp_path, strategy):
    trainer = make_trainer(tmp_path, **THREE_EPOCHS, train_sampling_strategy=strategy, save_strategy="no")
    mixture = trainer.train_dataset
    trainer.train_dataset = Seen(mixture, tmp_path)
    trainer.train()
    seen = [json.loads(line) for line in Seen.by(tmp_path)]
    assert sorted((epoch, row) for epoch, row, _ in seen) == [(e, row) for e in range(3) for row in range(21)]
    for epoch, row, request in seen:
        mixture.set_epoch(epoch)
        assert request == mixture[row]
    windows = [[request["history"] for epoch, _, request in seen if epoch == each] for each in range(3)]
    assert windows[0] != windows[1] != windows[2]


def test_an_item_that_nobody_took_yet_is_not_lowered(tmp_path):
    competing = torch.arange(6) != 4
    trainer = make_trainer(tmp_path, competing_items=competing)
    model, rows = trainer.model.train(), trainer.bare_model.model.item_embeddings.output_rows
    new = trainer.bare_model.config.group_slices["items"][0] + 4
    batches = [batch for batch in trainer.get_train_dataloader() if not (batch["labels"] == new).any()]
    for masked, changes in ((competing, False), (None, True)):
        trainer.competing_items = masked
        model.zero_grad()
        for batch in batches:
            trainer.compute_loss(model, batch).backward()
        assert rows.items.grad[4].any() == changes
        assert rows.items.grad[[0, 1, 2, 3, 5]].any(dim=1).all()
    # What is asked after the training competes with all.
    model.eval()
    losses = []
    for trainer.competing_items in (competing, None):
        losses.append(trainer.compute_loss(model, batches[0]).item())
    assert losses[0] == losses[1]


def test_data_seed_orders_the_rows_and_nothing_else(tmp_path):
    orders = []
    for options in ({}, {"data_seed": 1}, {"data_seed": 1, "seed": 9}):
        trainer = make_trainer(tmp_path, **THREE_EPOCHS, **options)
        orders.append([index.row for index in trainer.get_train_dataloader().batch_sampler.sampler])
    assert orders[0] != orders[1] == orders[2]


def test_an_iterable_data_set_is_read_by_one_process(tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield {"task": "recommend", "history": ["m1"], "answer": "s1"}

    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.train_dataset = Endless()
    trainer.train()
    assert trainer.state.global_step == 2


def test_activation_checkpointing_changes_nothing(tmp_path):
    plain, checkpointed = make_trainer(tmp_path / "a"), make_trainer(tmp_path / "b", gradient_checkpointing=True)
    for trainer in (plain, checkpointed):
        trainer.train()
    assert losses(plain) == pytest.approx(losses(checkpointed), rel=1e-5)


class FrozenInFloat32(TrainerCallback):
    """Gives a training the frozen weights of another model in float32, and notes in which types it held its own."""

    def __init__(self, whole):
        self.whole, self.types = whole, set()

    def on_train_begin(self, args, state, control, model, **kwargs):
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                self.types.add(weight.dtype)
                weight.data = self.whole.get_parameter(name).data.clone()


def test_frozen_matrices_in_bfloat16_change_nothing(tmp_path):
    """Autocast would cast them at each step: losses, evaluations and weights are the same to the last bit."""
    held, cast = (make_trainer(tmp_path / name, train="new", bf16=True, evaluate=True) for name in "ab")
    original = make_trainer(tmp_path / "c").bare_model
    tower = tower_fingerprint(original.model.vision_tower)
    callback = FrozenInFloat32(original)
    cast.add_callback(callback)
    for trainer in (held, cast):
        trainer.train()
    assert callback.types == {torch.float32, torch.bfloat16}
    assert losses(held) == losses(cast)
    for first, second in zip(held.state.log_history, cast.state.log_history, strict=True):
        scores = {name for name in first if name.startswith("eval_") and "second" not in name}
        assert {name: first[name] for name in scores} == {name: second[name] for name in scores}
    for name, weight in held.bare_model.named_parameters():
        of_cast = cast.bare_model.get_parameter(name)
        assert weight.dtype == of_cast.dtype == torch.float32
        assert torch.equal(weight, of_cast if weight.requires_grad else original.get_parameter(name)), name
    # What did not learn is what it was, in the folder and in checkpoints too.
    held.save_merged_model(tmp_path / "saved")
    for folder in ("saved", "a/checkpoint-4"):
        saved = type(original).from_pretrained(tmp_path / folder)
        assert {weight.dtype for weight in saved.parameters()} == {torch.float32}
        for name, weight in held.bare_model.named_parameters():
            assert weight.requires_grad or torch.equal(saved.get_parameter(name), weight), name
    assert tower_fingerprint(saved.model.vision_tower) == tower


def test_frozen_weights_of_a_checkpoint_come_before_those_of_the_new_model(tmp_path):
    options = {"train": "new", "bf16": True, "max_steps": 4}
    first, resumed = make_trainer(tmp_path, **options), make_trainer(tmp_path, **options)
    frozen = [name for name, weight in first.bare_model.named_parameters() if not weight.requires_grad]
    with torch.no_grad():
        for name in frozen:
            resumed.bare_model.get_parameter(name).add_(1)
    first.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected = {name: weight for name, weight in weights_of(first).items() if name in frozen}
    saved = type(resumed.bare_model).from_pretrained(tmp_path / "checkpoint-4")  # the resumed training's, the later
    for model in (resumed.bare_model, saved):
        for name, weight in expected.items():
            torch.testing.assert_close(model.get_parameter(name), weight, rtol=2**-8, atol=0)


def test_weights_that_came_in_bfloat16_stay_in_it(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, train="new", bf16=True)
    trainer.model.to(torch.bfloat16)
    trainer.train()
    assert {weight.dtype for weight in trainer.bare_model.parameters()} == {torch.bfloat16}


def test_an_evaluation_answers_and_its_best_checkpoint_is_kept(tmp_path):
    trainer = make_trainer(tmp_path, evaluate=True)
    assert trainer.args.metric_for_best_model == "recommend_ndcg@10" and trainer.args.greater_is_better
    with CaptureLogger(logging.get_logger("transformers.trainer")) as said:
        trainer.train()
    assert "missing keys" not in said.out, "rows of words that are input and output rows are in a checkpoint once"
    evaluations = [entry for entry in trainer.state.log_history if "eval_recommend_ndcg@10" in entry]
    assert [entry["step"] for entry in evaluations] == [2, 4]
    for name in ("recommend_ndcg@10", "search_hr@5", "rate_rmse", "explain_rougeL", "select_f1"):
        assert f"eval_{name}" in evaluations[0]
    best = max(evaluations, key=lambda entry: entry["eval_recommend_ndcg@10"])
    assert trainer.state.best_metric == best["eval_recommend_ndcg@10"]
    assert Path(trainer.state.best_model_checkpoint).name == f"checkpoint-{trainer.state.best_global_step}"
    assert {"eval_rate_rmse", "eval_seconds"} <= set(trainer.evaluate())


@pytest.mark.parametrize(
    ("metric", "is_greater"), [("rate_rmse", False), ("eval_rate_mae", False), ("select_f1", True)]
)
def test_the_best_checkpoint_is_the_best_also_where_less_is_better(tmp_path, metric, is_greater):
    trainer = make_trainer(tmp_path, evaluate=True, metric_for_best_model=metric)
    assert trainer.args.greater_is_better is is_greater
    trainer.train()
    values = [
        each[f"eval_{metric.removeprefix('eval_')}"] for each in trainer.state.log_history if "eval_seconds" in each
    ]
    assert trainer.state.best_metric == (max if is_greater else min)(values)


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("imagine_gain", "of recommend, search, rate"),
        ("recommend_ndcg", "recommend_ and one of hr@5"),
        ("recommend_coverage@10", "recommend_ and one of hr@5"),
        ("f1", "no task"),
    ],
)
def test_a_metric_that_does_not_exist_is_told_before_the_training(tmp_path, metric, told):
    with pytest.raises(ValueError, match=told):
        make_trainer(tmp_path, evaluate=True, metric_for_best_model=metric)


def test_a_task_without_validation_cases_chooses_nothing(tmp_path):
    trainer = make_trainer(tmp_path / "given", evaluate=True)
    names = ("model", "train_dataset", "data_collator", "processing_class")
    parts = {name: getattr(trainer, name) for name in names}
    nobody = trainer.evaluation_cases[0].cases.take(np.zeros(0, int))
    empty = [dataclasses.replace(cases, cases=nobody) for cases in trainer.evaluation_cases]

    def made(cases, **options):
        args = UniMPTrainingArguments(
            output_dir=str(tmp_path / "made"), use_cpu=True, max_steps=1, report_to="none", **options
        )
        return UniMPTrainer(args=args, evaluation_cases=cases, **parts)

    # The first task has none: the next chooses.
    assert made([empty[0], *trainer.evaluation_cases[1:]]).args.metric_for_best_model == "search_ndcg@10"
    with pytest.raises(ValueError, match="of no task that is evaluated: expected TASK_METRIC, of search"):
        made([empty[0], trainer.evaluation_cases[1]], metric_for_best_model="recommend_ndcg@10")
    for given in ({}, {"metric_for_best_model": "recommend_ndcg@10"}):
        with CaptureLogger(logging.get_logger("modeling_unimp.training.trainer")) as told:
            last = made(empty, **given)
        assert "no validation case" in told.out and not last.args.load_best_model_at_end
    last.train()
    assert last.state.global_step == 1


def test_half_precision_of_a_cpu_is_bfloat16(tmp_path):
    with pytest.raises(ValueError, match="fp16: a CPU computes in float32 or bfloat16"):
        make_trainer(tmp_path, fp16=True)


def test_padding_stays_the_models_own(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    padding = trainer.model.config.padding_token_id
    trainer.train()
    assert trainer.model.generation_config.pad_token_id == padding
    histories = (["m1"], ["m1", "m2", "s1", "h1"])
    batch = trainer.processing_class(requests=[{"task": "explain", "history": h, "item": "s1"} for h in histories])
    expected = trainer.model.generate(**batch, max_new_tokens=3)
    batch.pop("attention_mask")
    assert torch.equal(trainer.model.generate(**batch, max_new_tokens=3), expected)


def test_evaluate_and_predict_say_what_they_take(tmp_path):
    trainer = make_trainer(tmp_path, evaluate=True)
    for wrong in ({"a": trainer.evaluation_cases}, trainer.evaluation_cases[0], trainer.train_dataset):
        with pytest.raises(ValueError, match="expected a list of EvaluationCases"):
            trainer.evaluate(eval_dataset=wrong)
    with pytest.raises(ValueError, match="predict has no meaning here: ask `evaluate` for metrics"):
        trainer.predict(trainer.evaluation_cases)


def test_the_log_tells_tasks_kinds_gates_and_speed(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3)
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"loss/recommend_answer", "loss/rate_context", "loss/explain_next_item"} <= logged
    assert {"gate/2_attention", "gate/4_feed_forward", "tokens_per_second", "share_supervised"} <= logged


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["recommend", "search", "rate", "explain", "select"]),
        ({"task_weights": {"rate": 0.0}}, ["recommend", "search", "explain", "select"]),
    ],
)
def test_the_config_notes_what_was_trained(tmp_path, options, expected):
    trainer = make_trainer(tmp_path, max_steps=1, **options)
    assert trainer.model.config.trained_tasks is None
    trainer.train()
    assert trainer.model.config.trained_tasks == expected
    trainer.model.config.trained_tasks = ["imagine"]  # of an earlier training
    trainer.train()
    assert trainer.model.config.trained_tasks == [*expected, "imagine"]


def test_fillers_are_not_counted(tmp_path):
    trainer = make_trainer(tmp_path)
    model, rows = trainer.model.train(), [trainer.train_dataset[index] for index in range(3)]
    shares = []
    for fillers in (0, 3):
        batch = trainer.data_collator(rows + [rows[0] | {"is_filler": True}] * fillers)
        trainer.compute_loss(model, batch)
        trainer.log({"loss": 0.0})
        shares.append(trainer.state.log_history[-1]["share_supervised"])
    assert 0 < shares[0] == shares[1]


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


@pytest.mark.parametrize(
    "option",
    [
        {"label_smoothing_factor": 0.1}, {"average_tokens_across_devices": False}, {"use_liger_kernel": True},
        {"enable_jit_checkpoint": True},
        {"remove_unused_columns": True}, {"length_column_name": "size"}, {"label_names": ["labels"]},
        {"prediction_loss_only": True}, {"eval_do_concat_batches": False}, {"eval_use_gather_object": True},
        {"eval_accumulation_steps": 2}, {"include_for_metrics": ["inputs"]}, {"batch_eval_metrics": True},
        {"train_sampling_strategy": "batch_rebalance"}, {"accelerator_config": {"dispatch_batches": True}},
    ],
)  # fmt: skip
def test_options_that_nothing_would_come_of_are_refused(tmp_path, option):
    ((name, _),) = option.items()
    with pytest.raises(ValueError, match=f"{name}|dispatch_batches"):
        UniMPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **option)


@pytest.mark.parametrize(
    "name", ["compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics", "eval_dataset"]
)
def test_arguments_that_nothing_would_come_of_are_refused(tmp_path, name):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match=f"{name} has no effect"):
        UniMPTrainer(trainer.model, trainer.args, **{name: [{}]})


def test_a_trainer_makes_the_collator_of_its_arguments(tmp_path):
    given = make_trainer(tmp_path / "given", context_loss="attributes", next_item_weight=1.0)
    made = make_trainer(tmp_path / "made", context_loss="attributes", next_item_weight=1.0)
    made = UniMPTrainer(
        made.model, made.args, train_dataset=made.train_dataset, processing_class=made.processing_class
    )
    assert given.train().training_loss == made.train().training_loss


def test_arguments_and_processors_of_another_kind_or_shop_are_told(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match="args is a TrainingArguments: expected UniMPTrainingArguments"):
        UniMPTrainer(trainer.model, TrainingArguments(str(tmp_path), use_cpu=True))
    for strange in (None, trainer.processing_class.tokenizer):
        with pytest.raises(ValueError, match=r"processing_class is a .*: expected a UniMPProcessor"):
            UniMPTrainer(trainer.model, trainer.args, processing_class=strange)
    with pytest.raises(ValueError, match=r"task_names=\['rate'\]: expected \['recommend'"):
        UniMPTrainer(trainer.model, trainer.args, processing_class=trainer.processing_class, task_names=["rate"])
    other = make_model_processor(catalogue=Catalogue.from_items([{"item_id": "another", "title": "one"}]))
    with pytest.raises(ValueError, match="catalogue"):
        UniMPTrainer(trainer.model, trainer.args, processing_class=other)


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
        UniMPTrainer(frozen, args, processing_class=processor)
    with pytest.raises(ValueError, match="do not go together"):
        UniMPTrainer(add_lora(frozen, r=2, alpha=4), args, processing_class=processor)


def train_and_tell(folder, batch_size):
    torch.set_num_threads(1)
    at_the_end = {"evaluate": True, "eval_steps": 12, "save_steps": 12}
    trainer = make_trainer(folder, batch_size=batch_size, **at_the_end, **THREE_EPOCHS)
    trainer.train_dataset = Seen(trainer.train_dataset, folder)
    trainer.train()
    if trainer.is_world_process_zero():
        entries = [entry for log in trainer.state.log_history for entry in log.items()]
        found = {
            "world": trainer.args.world_size,
            "losses": losses(trainer),
            "norms": norms(trainer),
            "shares": [entry["share_supervised"] for entry in trainer.state.log_history if "loss" in entry],
            "checksum": sum(p.double().abs().sum().item() for p in trainer.bare_model.parameters()),
            "eval": {name: value for name, value in entries if name.startswith("eval_recommend")},
        }
        (Path(folder) / "found.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Over gloo, as torchrun starts them."""
    alone = start(train_and_tell, str(tmp_path / "out_1"), 6, output=tmp_path / "said")
    alone.join(300)
    for process in [alone, *start_ranks(train_and_tell, str(tmp_path / "out_2"), 3, output=tmp_path / "said")]:
        process.join(300)
        assert process.exitcode == 0, "".join(file.read_text()[-3000:] for file in tmp_path.glob("said*"))
    one, two = (json.loads((tmp_path / folder / "found.json").read_text()) for folder in ("out_1", "out_2"))
    assert (one["world"], two["world"]) == (1, 2)
    assert len(one["losses"]) == 12
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-4)
    assert one["norms"] == pytest.approx(two["norms"], rel=1e-3)
    assert one["shares"] == two["shares"]
    assert one["checksum"] == pytest.approx(two["checksum"], rel=1e-5)
    assert one["eval"] == pytest.approx(two["eval"])
    # The last batches are uneven: both processes fill them up, with row 0.
    fillers = (-21 % 6) * 3
    alone, together = Seen.by(tmp_path / "out_1"), Seen.by(tmp_path / "out_2")
    assert len(alone) == 63 and len(together) == 63 + fillers and set(together) == set(alone)


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
