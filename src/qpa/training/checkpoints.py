"""Checkpoints: `best` by the task's metric on validation, `last`, and the `previous` one before it, each whole or not at all.

They hold what is trained, the optimizer, the schedule and Lightning's counters. Dropout and the order of examples depend on
seed and place alone (`module`, `tasks.loaders`), so that no random state is needed for a resumed run to equal an uninterrupted one.
"""

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from qpa.files import write_whole
from qpa.tasks.task import Metric, Value
from qpa.training.names import BEST, LAST, PREVIOUS

KEYS = {"state_dict", "global_step", "optimizer_states", "lr_schedulers", "loops", "callbacks"}


class DamagedError(Exception):
    """A file is not a checkpoint, or not as it was written."""


class WholeFiles(TorchCheckpointIO):
    """How Lightning writes a checkpoint: in one piece. `last` keeps the file that was there as `previous`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it; an error leaves the file that was there."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # torch's own writer hides why a disk refuses
        torch.save(checkpoint, content)
        write_whole(path, content.getbuffer(), previous=path.with_name(PREVIOUS) if path.name == LAST else None)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU, read without running any code in it.

    Raises:
        DamagedError: a check sum is wrong, a part is missing, or there is more in it than numbers and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the check sums
            wrong = archive.testzip()
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise DamagedError(str(error)) from error
    if wrong or not isinstance(content, dict) or not content.keys() >= KEYS:
        raise DamagedError(f"{wrong} is not as it was written" if wrong else "parts are missing")
    return content


class Checkpoints(Checkpoint):
    """Writes checkpoints: `last` every few steps and after each validation, `best` when validation finds a better one.

    Args:
        folder: where to.
        every: optimizer steps between two.
        val_every: optimizer steps between validations. Where one follows, `last` waits for it: Lightning does not repeat it.
        metric: what `best` is best by.
    """

    def __init__(self, folder: Path, *, every: int, val_every: int, metric: Metric) -> None:
        self.folder, self.every, self.val_every, self.metric = folder, every, val_every, metric
        self.score: float | None = None
        self.judged: int | None = None  # the last step that was, in this process
        self.scores: dict[str, Value] = {}  # all of that validation, if it was in this process: an earlier one may have read other windows

    @property
    def best(self) -> Path:
        """The checkpoint of the best step by validation."""
        return self.folder / BEST

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint to go on from, None where there is none yet."""
        return next((path for name in (LAST, PREVIOUS) if (path := self.folder / name).exists()), None)

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"score": self.score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over, as long as the checkpoint it belongs to can be read."""
        if state_dict.get("score") is None:
            return
        try:
            read(self.best)
            self.score = state_dict["score"]
        except DamagedError:
            print(f"qpa: {self.best} is missing or damaged; the best step is chosen among those to come", file=sys.stderr)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """An optimizer step may be complete."""
        complete = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if complete and trainer.global_step % self.every == 0 and trainer.global_step % self.val_every:
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation within training is complete."""
        if trainer.state.fn == "fit":
            self.judge(trainer, float(trainer.callback_metrics[f"val/{self.metric.name}"]))

    def judge(self, trainer: Trainer, value: float) -> None:
        """Write `best` if this is better than any before, then `last`."""
        self.judged = trainer.global_step
        if self.metric.improves(value, on=self.score):
            self.score, self.scores = value, dict(getattr(trainer.lightning_module, "validated", {}))
            trainer.save_checkpoint(self.best)
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write `last`, unless what is trained is no longer finite: not every step is looked at."""
        state = trainer.lightning_module.state_dict()
        if not all(tensor.isfinite().all() for tensor in state.values()):
            return
        trainer.save_checkpoint(self.folder / LAST)
