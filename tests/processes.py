"""Processes for tests, forked from one that has imported what takes ten seconds: see conftest.py."""

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORKED = multiprocessing.get_context("forkserver")


def start(function: Callable[..., Any], *args: Any, output: Path, **environment: str) -> Any:
    """Start `function` of a module; what it writes to stdout and stderr goes to the file `output`."""
    process = FORKED.Process(target=_run, args=(function, args, str(output), environment))
    process.start()
    return process


def start_ranks(function: Callable[..., Any], *args: Any, output: Path) -> list[Any]:
    """Two processes with the environment that torchrun gives its own; they write to `output` with .0 and .1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        same = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    return [
        start(function, *args, output=output.with_suffix(f".{rank}"), RANK=str(rank), LOCAL_RANK=str(rank), **same)
        for rank in range(2)
    ]


def run_module(name: str, options: list[str]) -> None:
    """What `python -m name` does with these options."""
    sys.argv = [name, *options]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run(function: Callable[..., Any], args: tuple[Any, ...], output: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    function(*args)
