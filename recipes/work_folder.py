"""A folder for the time of one run: nothing outlives the run in it, and what a killed run left is cleared by the next.

A lock inside tells a living run from a killed one; the system takes it back from a process that ends in any way.
"""

import errno
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

PREFIX = ".preparing-"
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def work_folder(place: Path, is_shared: bool = False) -> Iterator[Path]:
    """Makes a folder in `place` (which is made too if need be), and removes it at the end, also after SIGTERM.

    Args:
        place (`Path`): where. Folders of this kind that killed runs left there are removed.
        is_shared (`bool`, *optional*, defaults to `False`): whether other runs may be at work in `place`.

    Raises:
        ValueError: `place` cannot be written to, another run is at work in it, or the disk got full meanwhile.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        folder, lock = _locked_folder(place)
    except OSError as error:
        raise ValueError(
            f"cannot write to the output or temporary folder {str(place)!r}: {error}. Choose another one."
        ) from error
    try:
        if clear_left_over(place) != [folder] and not is_shared:
            raise ValueError(
                f"another run is at work in {str(place)!r}. Wait until it has ended, or choose another folder."
            )
        with _end_on_sigterm():
            yield folder
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ValueError(f"the disk is full: {error}. Free some space, then run this again.") from error
        raise
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def clear_left_over(place: Path) -> list[Path]:
    """Removes the folders that killed runs left in a place, and returns those of runs that are at work there."""
    return [folder for folder in place.glob(f"{PREFIX}*") if not _cleared(folder)]


def _locked_folder(place: Path) -> tuple[Path, FileLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        lock = FileLock(folder / "lock", timeout=0)
        try:
            lock.acquire()
            if (folder / "lock").exists():
                return folder, lock
        except (Timeout, FileNotFoundError, FileExistsError):
            pass  # a run that began just now took it for one that is left over
        lock.release()


def _cleared(folder: Path) -> bool:
    """Removes the folder of a run that is no more; False where it is alive."""
    if folder.is_symlink() or not folder.is_dir():
        return True  # none of ours
    try:
        with FileLock(folder / "lock", timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        return False
    except OSError:  # another run has cleared it meanwhile
        pass
    return True


@contextmanager
def _end_on_sigterm() -> Iterator[None]:
    """Lets SIGTERM, which batch systems send, unwind the program as Ctrl-C does."""

    def end(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
