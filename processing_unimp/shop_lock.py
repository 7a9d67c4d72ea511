"""Many answers at once, or one change: every answer sees one consistent catalogue and a model that matches it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ShopLock:
    """Readers-writer lock of a catalogue and of all that is made from it, such as the item rows of a model.

    Attributes:
        preparing (`threading.Lock`): held while a change is prepared, which may take long and blocks no answer.
    """

    def __init__(self) -> None:
        self.preparing = threading.Lock()
        self._turn = threading.Condition()
        self._answering = 0
        self._is_changing = False
        self._num_waiting = 0
        self._of_thread = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return ShopLock, ()  # a copy is another shop's

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While something is answered: changes wait. May be entered again by the same thread."""
        depth = getattr(self._of_thread, "depth", 0)
        if depth == 0:
            with self._turn:
                self._turn.wait_for(lambda: not self._is_changing and not self._num_waiting)
                self._answering += 1
        self._of_thread.depth = depth + 1
        try:
            yield
        finally:
            self._of_thread.depth = depth
            if depth == 0:
                with self._turn:
                    self._answering -= 1
                    self._turn.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """While something is changed: answers that have begun are waited for, new ones wait."""
        with self._turn:
            self._num_waiting += 1
            try:
                self._turn.wait_for(lambda: not self._is_changing and not self._answering)
            finally:
                self._num_waiting -= 1
            self._is_changing = True
        try:
            yield
        finally:
            with self._turn:
                self._is_changing = False
                self._turn.notify_all()
