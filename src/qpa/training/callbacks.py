"""What watches a run: the clock of the optimizer steps, the circuits' entanglement, and the progress display."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar

from qpa.core.adaptation import GeneratedAdaptation
from qpa.core.circuits.entanglement import bond_entropies, meyer_wallach
from qpa.core.circuits.statevector import amplitudes
from qpa.core.latents.circuits import Circuits
from qpa.tasks.task import Metric

LOSS = "train/loss"
MOST_WATCHED = 1 << 18  # amplitudes of all circuits


class StepClock(Callback):
    """Seconds of every optimizer step, validation and checkpoints not counted.

    A GPU is only waited for where a number is read: every step counts as the mean of those up to one that is logged.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._steps = 0
        self._spent = 0.0
        self._started = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A micro-batch begins."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A micro-batch has ended; the last of a step completes it."""
        self._spent += time.perf_counter() - self._started
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._steps += 1
        if not self.seconds or trainer.global_step % trainer.log_every_n_steps == 0:  # pyright: ignore  # the first warms up, and counts by itself
            self._count()
            pl_module.log("train/seconds_per_step", self.seconds[-1])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The steps since the last that was logged count too."""
        if self._steps:
            self._count()

    def _count(self) -> None:
        self.seconds += [self._spent / self._steps] * self._steps
        self._steps, self._spent = 0, 0.0


class EntanglementLog(Callback):
    """Logs how entangled the circuits are at every validation, the mean over circuits; of circuits small enough to be looked at."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From the exact states, whatever the backend."""
        circuits = _watched(pl_module)
        if circuits is None:
            return
        states = amplitudes(circuits.ansatz, circuits.angles)
        pl_module.log("circuit/meyer_wallach", meyer_wallach(states).mean())
        if entropies := bond_entropies(states).mean(0).tolist():
            pl_module.log("circuit/half_chain_entropy", entropies[len(entropies) // 2])


def _watched(module: LightningModule) -> Circuits | None:
    adaptation = getattr(module, "adaptation", None)
    latents = adaptation.generator.latents if isinstance(adaptation, GeneratedAdaptation) else None
    if not isinstance(latents, Circuits) or len(latents.angles) << latents.angles.shape[-1] > MOST_WATCHED:
        return None
    return latents


class PlainProgress(Callback):
    """A line per tenth of the run, for output that is not a terminal.

    Args:
        metric: the task's.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print when a tenth is full."""
        every = max(1, trainer.max_steps // 10)
        step_done = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if step_done and (trainer.global_step % every == 0 or trainer.global_step == trainer.max_steps):
            loss = trainer.callback_metrics[LOSS]
            print(f"step {trainer.global_step}/{trainer.max_steps}  loss {loss:.3f}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what validation found."""
        name = self.metric.name
        print(f"step {trainer.global_step}/{trainer.max_steps}  validation {name} {trainer.callback_metrics[f'val/{name}']:.3f}")


class LiveProgress(RichProgressBar):
    """A bar whose numbers are read where they are logged: at each other step a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, Any] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Those of the last step that was logged."""
        if trainer.global_step % trainer.log_every_n_steps == 0:  # pyright: ignore
            loss = {LOSS: float(value)} if (value := trainer.callback_metrics.get(LOSS)) is not None else {}
            self.shown = {**super().get_metrics(trainer, pl_module), **loss}
        return self.shown


def progress(metric: Metric, *, live: bool) -> Callback:
    """A live bar in a terminal, plain lines elsewhere."""
    return LiveProgress() if live else PlainProgress(metric)
