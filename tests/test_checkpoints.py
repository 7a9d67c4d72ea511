"""Checkpoints that a kill or a full disk cut off are passed over, and damage is told by the name of the file."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from processes import start, start_ranks
from shop import ITEMS, make_model_processor
from tiny_training import assert_close, losses, make_trainer, weights_of
from tokenizers import Tokenizer
from transformers import TrainerCallback

from modeling_unimp.training.checkpoints import SIZES, check_whole, last_checkpoint, missing_state, note_whole
from processing_unimp import Catalogue


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the checkpoints 2 and 4 of a straight run, and its trainer."""
    folder = tmp_path_factory.mktemp("trained")
    trainer = make_trainer(folder)
    trainer.train()
    return folder, trainer


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    return tmp_path / "run"


def test_the_latest_is_whole(folder):
    assert last_checkpoint(folder) == str(folder / "checkpoint-4")
    assert not missing_state(folder / "checkpoint-4")
    assert last_checkpoint(folder / "nowhere") is None


def test_a_checkpoint_cut_off_anywhere_is_passed_over(folder, caplog):
    """The files in the order in which they were written: cut off after each of them, and in the middle of each."""
    latest = folder / "checkpoint-4"
    files = sorted((each for each in latest.iterdir() if each.is_file()), key=lambda each: each.stat().st_mtime_ns)
    assert files[-1].name == SIZES and len(files) > 10
    contents = {file: file.read_bytes() for file in files}
    for cut in range(len(files)):
        for in_the_middle in (False, True):
            for number, file in enumerate(files):
                file.unlink(missing_ok=True)
                if number < cut:
                    file.write_bytes(contents[file])
                elif number == cut and in_the_middle:
                    file.with_suffix(".unfinished" if file.name == SIZES else file.suffix).write_bytes(
                        contents[file][: len(contents[file]) // 2]
                    )
            caplog.clear()
            found = last_checkpoint(folder)
            if "trainer_state.json" in {file.name for file in files[:cut]}:
                # Only what says that all is there is not there.
                assert found == str(latest)
            else:
                assert found == str(folder / "checkpoint-2")
                assert "passed over: the checkpoint" in caplog.text and "checkpoint-4" in caplog.text


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda each: (each / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda each: (each / "scheduler.pt").write_bytes(b""), "scheduler.pt has 0 bytes"),
        (lambda each: flip(each / "model.safetensors"), "model.safetensors is not what was written"),
        (lambda each: (each / SIZES).write_text("{"), "damaged"),
        (lambda each: shutil.rmtree(each), "there is no checkpoint"),
    ],
)
def test_damage_is_told(folder, damage, words):
    damage(folder / "checkpoint-4")
    with pytest.raises(ValueError, match=words):
        check_whole(folder / "checkpoint-4")
    with pytest.raises(ValueError, match=words):
        make_trainer(folder).train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert last_checkpoint(folder) == str(folder / "checkpoint-2")


def flip(file: Path) -> None:
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_resuming_takes_the_latest_whole_one_and_comes_out_the_same(folder, trained):
    (folder / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
    resumed = make_trainer(folder)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(trained[1])
    assert_close(weights_of(resumed), weights_of(trained[1]), atol=0)
    shutil.rmtree(folder / "checkpoint-2")
    (folder / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="no whole checkpoint to resume from"):
        make_trainer(folder).train(resume_from_checkpoint=True)


def other_items():
    """The same number of items, so that the weights have the same shapes."""
    return make_model_processor(catalogue=Catalogue.from_items([dict(item) for item in reversed(ITEMS)]))


def other_words():
    """Two words that have changed places."""
    processor = make_model_processor()
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = sorted(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    processor.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(tokenizer))
    return processor


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: {"processor": other_items()}, "of another catalogue"),
        (lambda: {"processor": other_words()}, "of another tokenizer"),
        (lambda: {"new_users": 0.4}, "of other interactions"),
    ],
    ids=["catalogue", "tokenizer", "split"],
)
def test_what_learnt_from_something_else_is_not_gone_on_with(folder, change, words):
    changed = make_trainer(folder, **change())
    with pytest.raises(ValueError, match=words):
        changed.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=words):
        changed.check_checkpoint(str(folder / "checkpoint-2"))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_state_that_is_missing_is_said(folder, caplog, name):
    (folder / "checkpoint-2" / name).unlink()
    make_trainer(folder, max_steps=3).train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert f"checkpoint-2 has no {name}: " in caplog.text


def test_an_older_one_is_deleted_when_the_next_is_whole(tmp_path, monkeypatch):
    whole_when_deleted = []
    rotate = shutil.rmtree

    def watch(path, **kwargs):
        kept = [each for each in Path(tmp_path).glob("checkpoint-*") if str(each) != str(path)]
        whole_when_deleted.append(all((each / SIZES).is_file() for each in kept) and len(kept) > 0)
        rotate(path, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", watch)
    make_trainer(tmp_path, save_steps=1, save_total_limit=1).train()
    assert whole_when_deleted == [True] * 3
    assert [each.name for each in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]


def test_a_checkpoint_of_another_trainer_ends_with_its_state(tmp_path):
    for name in ("checkpoint-1", "checkpoint-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text('{"epoch": 1')
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    note_whole(tmp_path / "checkpoint-2")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


# -------------------------------------------------------------------------------------------------------- terminations


class Terminate(TrainerCallback):
    """SIGTERM to itself, in a step or in the evaluation after it."""

    def __init__(self, step, moment="on_step_begin"):
        setattr(self, moment, lambda args, state, *_, **__: self.at(step, state))

    def at(self, step, state):
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)


def evaluations(trainer):
    """Step and metrics of each; not how long it took."""
    return [
        {name: value for name, value in entry.items() if name != "eval_seconds"}
        for entry in trainer.state.log_history
        if any(name.startswith("eval_") for name in entry)
    ]


@pytest.mark.parametrize(("strategy", "step"), [("steps", 4), ("epoch", 4), ("steps", 6)])
def test_a_step_that_sigterm_came_in_is_evaluated_by_who_goes_on(tmp_path, strategy, step):
    """Two steps an epoch: each of these steps is one to be evaluated."""
    # At this learning rate the best checkpoint is not the last one.
    common = {"evaluate": True, "batch_size": 12, "metric_for_best_model": "rate_rmse", "learning_rate": 0.1}
    common |= {"max_steps": -1, "num_train_epochs": 3, "save_strategy": strategy, "eval_strategy": strategy}
    straight = make_trainer(tmp_path / "straight", **common)
    straight.train()
    assert [entry["step"] for entry in evaluations(straight)] == [2, 4, 6]
    assert Path(straight.state.best_model_checkpoint).name == "checkpoint-4"
    stopped = make_trainer(tmp_path / "stopped", **common)
    stopped.add_callback(Terminate(step - 1))
    with pytest.raises(SystemExit, match="143"):
        stopped.train()
    assert [entry["step"] for entry in evaluations(stopped)] == [2, 4, 6][: step // 2 - 1]
    resumed = make_trainer(tmp_path / "stopped", **common)
    resumed.train(resume_from_checkpoint=True)
    assert evaluations(resumed) == evaluations(straight)
    assert Path(resumed.state.best_model_checkpoint).name == Path(straight.state.best_model_checkpoint).name
    assert_close(weights_of(resumed), weights_of(straight), atol=0)


def test_sigterm_in_the_last_evaluation_ends_the_run(tmp_path):
    trainer = make_trainer(tmp_path, evaluate=True)
    trainer.add_callback(Terminate(4, "on_evaluate"))
    with pytest.raises(SystemExit, match="143"):
        trainer.train()
    resumed = make_trainer(tmp_path, evaluate=True)
    resumed.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in evaluations(resumed)] == [2, 4]


def test_the_best_checkpoint_of_a_folder_that_was_moved(tmp_path):
    common = {"evaluate": True, "batch_size": 12, "metric_for_best_model": "rate_rmse", "learning_rate": 0.1}
    straight = make_trainer(tmp_path / "before", max_steps=6, **common)
    straight.train()
    best = Path(straight.state.best_model_checkpoint).name
    assert best == "checkpoint-4"
    (tmp_path / "before").rename(tmp_path / "after")
    resumed = make_trainer(tmp_path / "after", max_steps=6, **common)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.best_model_checkpoint == str(tmp_path / "after" / best)
    assert_close(weights_of(resumed), weights_of(straight), atol=0)


class Tell(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        os.write(1, f"STEP {state.global_step}\n".encode())


def train_until_stopped(folder):
    torch.set_num_threads(1)
    trainer = make_trainer(folder, max_steps=400, save_strategy="no", save_total_limit=1)
    trainer.add_callback(Tell())
    trainer.train()
    os.write(1, b"NOT STOPPED")


def train_with_a_worker_until_stopped(folder, keeps_worker):
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # so that the worker is of this job
    torch.set_num_threads(1)
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": keeps_worker}
    trainer = make_trainer(folder, max_steps=400, save_strategy="no", **workers)
    trainer.add_callback(Tell())
    trainer.train()


def train_saving_every_step(folder):
    torch.set_num_threads(1)
    trainer = make_trainer(folder, max_steps=1000, save_steps=1, save_total_limit=2)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_sigterm_saves_a_checkpoint_and_ends(tmp_path, num_processes):
    """With several processes only one of them may get the signal: all save and stop at the same step."""
    begin = start_ranks if num_processes > 1 else lambda *args, output: [start(*args, output=output)]
    running = begin(train_until_stopped, str(tmp_path / "out"), output=tmp_path / "said")
    files = [tmp_path / "said"] if num_processes == 1 else [tmp_path / "said.0", tmp_path / "said.1"]
    while all(each.is_alive() for each in running) and "STEP 3" not in said_in(files[-1]):
        time.sleep(0.01)
    running[-1].terminate()
    for each in running:
        each.join(120)
    said = "".join(map(said_in, files))
    assert [each.exitcode for each in running] == [128 + signal.SIGTERM] * num_processes, said
    assert "SIGTERM came: the training saves a checkpoint and ends" in said
    assert "Traceback" not in said and "NOT STOPPED" not in said
    checkpoint = Path(last_checkpoint(tmp_path / "out"))
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 3 <= step <= 20 and not missing_state(checkpoint) if num_processes == 1 else step % 5 == 0
    resumed = make_trainer(tmp_path / "out", max_steps=step + 1, batch_size=6)
    assert resumed.train(resume_from_checkpoint=True).global_step == step + 1


@pytest.mark.slow
@pytest.mark.parametrize("keeps_worker", [True, False])
def test_sigterm_to_the_whole_job_saves_a_checkpoint_too(tmp_path, keeps_worker):
    """As a scheduler sends it, a shell, and torchrun: to the workers of the data loader as well."""
    running = start(train_with_a_worker_until_stopped, str(tmp_path / "out"), keeps_worker, output=tmp_path / "said")
    while running.is_alive() and "STEP 3" not in said_in(tmp_path / "said"):
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGTERM)
    running.join(60)
    said = said_in(tmp_path / "said")
    assert running.exitcode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said and last_checkpoint(tmp_path / "out") is not None


def said_in(file: Path) -> str:
    return file.read_text() if file.exists() else ""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_checkpoint_to_go_on_from(tmp_path):
    """Five kills, each of a run that goes on from where the one before was killed, saving at every step."""
    reached = 0
    for kill in range(5):
        running = start(train_saving_every_step, str(tmp_path / "out"), output=tmp_path / "said")
        while running.is_alive() and (latest := _steps(tmp_path / "out")) <= reached:
            time.sleep(0.01)
        assert running.is_alive(), said_in(tmp_path / "said")
        time.sleep(0.1 * kill)
        running.kill()
        running.join()
        found = last_checkpoint(tmp_path / "out")
        # All but the one that was being written is whole.
        assert (found is None and latest == 1) or latest - 1 <= int(Path(found).name.removeprefix("checkpoint-"))
        reached = _steps(tmp_path / "out")
    assert reached >= 4


def _steps(folder: Path) -> int:
    return max((int(each.name.removeprefix("checkpoint-")) for each in folder.glob("checkpoint-*")), default=0)
