"""A run that is asked to end does so after the step it is in, its checkpoint written: SIGTERM, SIGINT, and Slurm's SIGUSR1."""

import signal
import sys
import threading
from types import FrameType
from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer

from qpa.training.checkpoints import Checkpoints
from qpa.training.module import FineTuning

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Signals(Callback):
    """Ends training when one of the signals has come; Ctrl-C a second time ends it at once.

    Args:
        checkpoints: what writes the checkpoint.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.asked = 0
        self.ending = False
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, whose handler talks to the other processes from within a step."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in ASKING}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After a complete optimizer step, save; where a validation follows, that does."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        module = cast(FineTuning, pl_module)
        self.ending = module.exchange.any(bool(self.asked), module.device)  # all processes end, or none
        if self.ending and trainer.global_step % self.checkpoints.val_every:
            self.checkpoints.save(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """End before the next step: by now the last one is in the loggers."""
        self._end(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same after the last step."""
        self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        """With the exit code of a process that the signal has ended."""
        if not self.ending:
            return
        number = signal.Signals(self.asked or signal.SIGTERM)  # of the process that was asked; the others end with it
        if trainer.is_global_zero:
            print(f"qpa: {number.name}: stopped after step {trainer.global_step}; ckpt=last goes on", file=sys.stderr)
        sys.exit(128 + number)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
