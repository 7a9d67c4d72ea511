"""SIGTERM, which a scheduler sends before it takes a machine away: a checkpoint is saved and the training ends."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Several processes have to agree, for which a GPU waits.
STEPS_TO_AGREE = 5


class SaveOnTermination(TrainerCallback):
    """After the step at hand, with several processes after at most five, all of them are to save and stop.

    Args:
        accelerator (`Accelerator`): of the Trainer.

    Attributes:
        was_asked (`bool`): whether the training ended so.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.was_asked = False
        self._signal_came = False
        self._before: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.was_asked = self._signal_came = False
        # Python lets nobody but the main thread listen.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signal_came = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._all_are_to_stop(state.global_step):
            logger.warning("SIGTERM came: the training saves a checkpoint and ends.")
            self.was_asked = True
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False  # who goes on from the checkpoint does it

    def _all_are_to_stop(self, step: int) -> bool:
        return self.came() if self.accelerator.num_processes == 1 or step % STEPS_TO_AGREE == 0 else False

    def came(self) -> bool:
        """Whether SIGTERM came to any of the processes, all of which ask."""
        if self.accelerator.num_processes == 1:
            return self._signal_came
        came = torch.tensor(float(self._signal_came), device=self.accelerator.device)
        total: Any = self.accelerator.reduce(came, reduction="sum")
        return bool(total > 0)

    def stop_listening(self) -> None:
        """Leave SIGTERM to whoever had it before the training."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None


def begin_worker(training: int, begin: Callable[[int], None] | None, number: int) -> None:
    """Begin a worker of a data loader, which ends when the training says so or ends, and at nobody else's SIGTERM.

    A scheduler, a shell and torchrun send theirs to all processes of a job, and a training whose worker is gone fails
    before its checkpoint.

    Args:
        training (`int`): the id of its process, which may have left the forking to another.
        begin (`Callable`, *optional*): what a worker begins with otherwise.
        number (`int`): of the worker.
    """
    if begin is not None:
        begin(number)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none: there a worker ends
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(training,), daemon=True).start()


def _end_with(training: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != training:
        pass
    os._exit(0)
