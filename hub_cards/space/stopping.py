"""Answers that take their time end when nobody waits for them any more, and when they take too long."""

import contextvars
import functools
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from transformers import StoppingCriteria

SECONDS = 300.0  # that a request may hold the model
BEAT = 0.25  # seconds between two looks whether somebody waits

# One answer is made at a time: the next begins when one that was given up has ended.
_maker = ThreadPoolExecutor(1)
_END = object()


class NobodyWaits(Exception):
    """Ends the making of an answer; nobody hears of it."""


class Stop(StoppingCriteria):
    """Asked by `generate` before each token.

    Raises:
        NobodyWaits: the answer was given up.
        ValueError: it takes longer than `SECONDS`.
    """

    def __init__(self) -> None:
        self.given_up = threading.Event()
        self._latest = time.monotonic() + SECONDS

    def check(self) -> None:
        if self.given_up.is_set():
            raise NobodyWaits
        if time.monotonic() > self._latest:
            raise ValueError(f"The answer takes longer than {SECONDS:.0f} seconds here. Try a shorter history.")

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        self.check()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]


# A variable of the context, since the functions between a page and the pipeline need not know of it.
_stop: contextvars.ContextVar[Stop | None] = contextvars.ContextVar("stop", default=None)


def stopping() -> dict[str, Any]:
    """What lets the pipeline write words and pictures as long as somebody waits: arguments of its call."""
    stop = _stop.get()
    return {} if stop is None else {"stopping_criteria": [stop]}


def stoppable(function: Callable[..., Any], meanwhile: Any = None) -> Callable[..., Iterator[Any]]:
    """A generator of what a function returns, or of what a generator yields, that can be closed at any moment.

    Gradio closes the generators of a page that was left, and of a call whose client has gone, where they yield.

    Args:
        function (`Callable`): makes answers, with [`stopping`].
        meanwhile (*optional*): is yielded while nothing is new.
    """
    is_generator = inspect.isgeneratorfunction(function)

    @functools.wraps(function)
    def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
        stop, context = Stop(), contextvars.copy_context()
        context.run(_stop.set, stop)
        made = function(*args, **kwargs) if is_generator else (function(*args, **kwargs) for _ in range(1))

        def step() -> Any:
            stop.check()
            return next(made, _END)

        try:
            while True:
                coming = _maker.submit(context.run, step)
                while not wait([coming], BEAT).done:
                    yield meanwhile
                value = coming.result()
                if value is _END:
                    return
                yield value
        finally:
            stop.given_up.set()

    return steps
