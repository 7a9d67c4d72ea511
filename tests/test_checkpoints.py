"""Checkpoints that a kill or a full disk cut off are passed over, and damage is told by the name of the file."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from processes import start, start_ranks
from tiny_training import assert_close, losses, make_trainer, weights_of
from transformers import TrainerCallback

from modeling_unimp.training.checkpoints import SIZES, check_whole, last_checkpoint, missing_state, note_whole


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


class Tell(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        os.write(1, f"STEP {state.global_step}\n".encode())


def train_until_stopped(folder):
    torch.set_num_threads(1)
    trainer = make_trainer(folder, max_steps=400, save_strategy="no", save_total_limit=1)
    trainer.add_callback(Tell())
    trainer.train()
    os.write(1, b"NOT STOPPED")


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
