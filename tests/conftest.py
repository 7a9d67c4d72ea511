"""Fixtures shared by the suite. The CPU is small: one thread a process unless told otherwise."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

# Before anything imports torch: threads that fight over two cores slow small tests down fortyfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A shell lets its background jobs ignore Ctrl-C, and all that they start; tests send it to programs.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A process of the start method "forkserver" is forked from one that has imported these, which takes ten seconds.
multiprocessing.set_forkserver_preload(
    ["modeling_unimp.training.trainer", "transformers.models.clip", "transformers.models.llama"]
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; tests that ask for it are skipped where it is absent."""
    folder = Path(os.environ.get("UNIMP_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set UNIMP_DATA_DIR to the folder that holds h-and-m/, amazon/, ...")
    return folder


# Folders as a training leaves them, one for each file of tests. What makes them takes seconds to import.


@pytest.fixture(scope="module")
def imagining(tmp_path_factory) -> Path:
    from trained_folder import save_imagining

    return save_imagining(tmp_path_factory.mktemp("all") / "unimp")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    from trained_folder import save_plain

    return save_plain(tmp_path_factory.mktemp("plain") / "unimp")


@pytest.fixture(scope="module")
def exported(imagining, tmp_path_factory) -> Path:
    from hub_cards.export import export_folder

    return export_folder(imagining, tmp_path_factory.mktemp("export") / "unimp", with_pictures=True)
