"""Slow answers end when their request is abandoned, and when they take too long."""

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

MAX_SECONDS = 300.0  # that a request may use the model
POLL_SECONDS = 0.25  # between two checks whether the request was abandoned

# One answer is made at a time: the next begins when an abandoned one has ended.
_executor = ThreadPoolExecutor(1)
_END = object()


class RequestAbandoned(Exception):
    """Ends the generation of an answer that nobody will read."""


class Stop(StoppingCriteria):
    """Stops `generate` before the next token.

    Raises:
        RequestAbandoned: nobody waits for the answer any more.
        ValueError: it takes longer than `MAX_SECONDS`.
    """

    def __init__(self) -> None:
        self.is_abandoned = threading.Event()
        self._deadline = time.monotonic() + MAX_SECONDS

    def check(self) -> None:
        if self.is_abandoned.is_set():
            raise RequestAbandoned
        if time.monotonic() > self._deadline:
            raise ValueError(f"The answer takes longer than {MAX_SECONDS:.0f} seconds here. Try a shorter history.")

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        self.check()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]


# A context variable, so that the functions between the page and the pipeline need not pass it on.
_stop: contextvars.ContextVar[Stop | None] = contextvars.ContextVar("stop", default=None)


def stopping_options() -> dict[str, Any]:
    """Arguments of a call of the pipeline that let generation end with the request; none outside [`stoppable`]."""
    stop = _stop.get()
    return {} if stop is None else {"stopping_criteria": [stop]}


def stoppable(function: Callable[..., Any], meanwhile: Any = None) -> Callable[..., Iterator[Any]]:
    """A generator of what a function returns, or of what a generator yields, that can be closed at any moment.

    Gradio closes the generators of a page that was left, and of a call whose client has gone, where they yield.

    Args:
        function (`Callable`): makes answers, with [`stopping_options`].
        meanwhile (*optional*): yielded while there is nothing new.
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
                future = _executor.submit(context.run, step)
                while not wait([future], POLL_SECONDS).done:
                    yield meanwhile
                value = future.result()
                if value is _END:
                    return
                yield value
        finally:
            stop.is_abandoned.set()

    return steps
