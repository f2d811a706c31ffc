"""What ends training before its last step: validation that finds nothing better (`trainer.patience`), and time (`trainer.max_time`).

Both are Lightning's own, and there in every run, so that what they have counted is in its checkpoints: a run that goes on ends where it
would have, and may be given another patience, more time or neither.
"""

import sys
from datetime import timedelta
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, Timer

from qpa.config import TrainerConfig
from qpa.tasks.task import Metric


class Patience(EarlyStopping):
    """Ends training after so many validations in a row that are no better than the best before them.

    Args:
        metric: by which they are.
        most: how many; None: it never does.
    """

    def __init__(self, metric: Metric, most: int | None) -> None:
        mode = "min" if metric.better == "lower" else "max"
        super().__init__(f"val/{metric.name}", patience=most or sys.maxsize, mode=mode, check_finite=False, check_on_train_epoch_end=False)
        self.most = most

    @property
    def reason(self) -> str | None:
        """That it has ended training, if it has."""
        enough = self.most is not None and self.wait_count >= self.most
        return f"trainer.patience={self.most}: no better validation" if enough else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on from its last step does not begin another."""
        trainer.should_stop = trainer.should_stop or self.reason is not None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What was counted before; not how much is enough."""
        super().load_state_dict(state_dict | {"patience": self.patience})


class TimeLimit(Timer):
    """Ends training when its time is over, after the optimizer step it is in.

    Args:
        most: how long; None: it never does.
    """

    def __init__(self, most: timedelta | None) -> None:
        super().__init__(most, verbose=False)
        self.most = most

    @property
    def reason(self) -> str | None:
        """That it has ended training, if it has."""
        over = self.most is not None and self.time_elapsed() >= self.most.total_seconds()
        return f"trainer.max_time={self.most} is over" if over else None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Not between micro-batches: what they have read would be lost."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer)


class Stopping:
    """Both of a run.

    Args:
        settings: config group `trainer`.
        metric: the task's.
    """

    def __init__(self, settings: TrainerConfig, metric: Metric) -> None:
        self.callbacks = Patience(metric, settings.patience), TimeLimit(settings.time)

    @property
    def reason(self) -> str | None:
        """Why training has ended before its last step."""
        return next(filter(None, (callback.reason for callback in self.callbacks)), None)
