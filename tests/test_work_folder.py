"""Folders of one run: cleared by the next where a run was killed, never where it is alive."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from recipes.work_folder import PREFIX, work_folder

FORK = multiprocessing.get_context("fork")


def _work(place: Path, is_shared: bool) -> None:
    with work_folder(place, is_shared) as folder:
        (folder / "large").mkdir()
        (folder / "large" / "table").write_bytes(b"x" * 1_000)
        (place / "begun").touch()
        time.sleep(60)


def begin(place: Path, is_shared: bool = False) -> int:
    """A run at work in another process."""
    process = FORK.Process(target=_work, args=(place, is_shared), daemon=True)
    process.start()
    while not (place / "begun").exists():
        assert process.is_alive()
        time.sleep(0.01)
    (place / "begun").unlink()
    assert process.pid is not None
    return process.pid


def end(pid: int, how: int) -> None:
    os.kill(pid, how)
    os.waitpid(pid, 0)


def test_a_folder_is_there_for_the_time_of_a_run(tmp_path: Path) -> None:
    place = tmp_path / "new" / "output"
    with work_folder(place) as folder:
        assert folder.parent == place and folder.name.startswith(PREFIX)
        (folder / "table").touch()
    assert list(place.iterdir()) == []
    with pytest.raises(KeyError), work_folder(place):
        raise KeyError
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_takes_its_folder_with_it(tmp_path: Path, how: int) -> None:
    end(begin(tmp_path), how)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    end(begin(tmp_path), signal.SIGKILL)
    (tmp_path / f"{PREFIX}old" / "raw.duckdb").mkdir(parents=True)  # without a lock
    (tmp_path / "own.txt").write_text("a person's file")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(outside)
    assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 3
    with work_folder(tmp_path) as folder:
        assert set(tmp_path.glob(f"{PREFIX}*")) == {folder, tmp_path / f"{PREFIX}link"}
    assert (tmp_path / "own.txt").exists() and (outside / "file").exists(), "nothing else is touched"


def test_a_second_run_at_the_same_time_refuses(tmp_path: Path) -> None:
    pid = begin(tmp_path)
    (theirs,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match="another run is at work in .*Wait until it has ended"), work_folder(tmp_path):
        raise AssertionError
    assert list(tmp_path.iterdir()) == [theirs] and (theirs / "large" / "table").stat().st_size == 1_000
    end(pid, signal.SIGKILL)
    with work_folder(tmp_path):
        assert not theirs.exists()


def test_a_shared_place_holds_several_runs(tmp_path: Path) -> None:
    end(begin(tmp_path, True), signal.SIGKILL)
    pid = begin(tmp_path, True)
    (theirs,) = tmp_path.iterdir()
    with work_folder(tmp_path, is_shared=True) as folder:
        assert set(tmp_path.iterdir()) == {theirs, folder}
    assert list(tmp_path.iterdir()) == [theirs]
    end(pid, signal.SIGTERM)


def test_many_that_begin_at_once_never_take_the_folder_of_another(tmp_path: Path) -> None:
    def run() -> None:
        for _ in range(20):
            with work_folder(tmp_path, is_shared=True) as folder:
                (folder / "file").touch()
                time.sleep(0.001)
                assert (folder / "file").exists()

    processes = [FORK.Process(target=run) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write to the output or temporary folder .*Choose another one"):
        with work_folder(tmp_path / "file"):
            raise AssertionError
