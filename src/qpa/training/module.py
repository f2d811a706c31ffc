"""One training step, and the validation between steps: the LightningModule around a task's learner and its adaptation."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from qpa.config import OptimizerConfig, TrainerConfig
from qpa.core import recorded
from qpa.core.adaptation import Adaptation
from qpa.core.optimizer import GENERATOR
from qpa.errors import ConfigError, NonFiniteLossError, line
from qpa.tasks.task import Batch, Learner, Value
from qpa.training.capture import Captured, Read
from qpa.training.exchange import Exchange
from qpa.training.held_out import as_stock_peft, plain
from qpa.training.optimizer import make_optimizer


@dataclass(frozen=True)
class Course:
    """How a run trains.

    Attributes:
        optimizer, trainer: the config groups.
        steps: of the optimizer in a whole run.
        seed: of dropout and whatever else a step draws.
        full: what the loss of a full micro-batch is summed over.
        counted: what that is, a name among the learner's scores.
        rank: which of the processes that train together this is.
        lineage: what a checkpoint has to share with a run that goes on from it.
    """

    optimizer: OptimizerConfig
    trainer: TrainerConfig
    steps: int
    seed: int
    full: int
    counted: str
    rank: int
    lineage: Mapping[str, Any]


class FineTuning(LightningModule):
    """Trains an adaptation of a frozen model.

    Its parameters, optimizer and checkpoints are those of the adaptation alone; the frozen model is only carried along.

    Args:
        learner: reads batches with the adapted model.
        adaptation: what is trained and how it reaches the model's adapter.
        course: how.
    """

    def __init__(self, learner: Learner, adaptation: Adaptation, course: Course) -> None:
        super().__init__()
        self.learner, self.course = learner, course
        self.model, self.adaptation, self.scores = learner.model, adaptation, learner.scores()
        self.optimizer, self.schedule = make_optimizer(course.optimizer, adaptation, steps=course.steps)
        self.exchange = Exchange()
        self.captured: Captured | None = None
        self.capturing = False
        self.validated: dict[str, Value] = {}  # all scores of the last validation
        self.last_checked = 0
        self.loss_read, self.count_read = torch.zeros(()), torch.zeros((), dtype=torch.int64)  # of the step so far

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of one micro-batch, per what a full one is summed over."""
        course, captured = self.course, self.captured
        place = (course.seed * 1_000_003 + index) * self.exchange.processes + course.rank
        torch.manual_seed(place)  # dropout depends on seed and place alone: a resumed run has the same
        if captured and index % course.trainer.accumulate_grad_batches == 0:
            captured.begin_step()
        replayed = captured is not None and captured.fits(batch)
        loss, count = captured(batch) if captured and replayed else self.learner.loss(batch)
        self.loss_read, self.count_read = self.loss_read + loss.detach(), self.count_read + count
        scaled = loss / course.full
        return scaled.requires_grad_() if replayed else scaled  # there has been a backward: that of this leads nowhere

    def on_train_start(self) -> None:
        """Whether steps are going to be captured; a word where they might have been."""
        if not (self.course.trainer.capture and recorded.possible(self.device)):
            return
        why_not = self.learner.changes_from_step_to_step()
        self.capturing = why_not is None
        if why_not and self.course.rank == 0:
            print(f"qpa: steps are not captured as CUDA graphs: {why_not}", file=sys.stderr)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Before the first micro-batch: record it and the generator, where that is wanted."""
        if self.capturing and self.captured is None:
            self._capture(batch)

    def on_train_end(self) -> None:
        """What a graph holds in memory is of no more use."""
        self.captured, self.capturing = None, False
        self.adaptation.zero_grad()

    def _capture(self, batch: Batch) -> None:
        course, trained = self.course, [p for p in self.model.parameters() if p.requires_grad]
        scale = course.full * course.trainer.accumulate_grad_batches

        def read(batch: Batch) -> Read:
            with self.trainer.precision_plugin.forward_context():
                loss, count = self.learner.loss(batch)
            (loss / scale).backward()
            return loss.detach(), count

        try:
            with torch.enable_grad():
                self.captured = Captured(read, trained, batch, alone=course.trainer.accumulate_grad_batches == 1)
                self.adaptation.record()
        except RuntimeError as error:
            raise ConfigError("trainer.capture", True, f"a step cannot be recorded ({line(error)}); set it to false") from error

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Not of what a captured micro-batch has left: by now it has run."""
        if self.captured is None:
            optimizer.zero_grad()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """After the last backward of a step: one vector-Jacobian product, and its mean over all micro-batches and processes.

        Each token, image or whatever is counted weighs alike, wherever it was read: the gradient is that of all examples of the step
        in one batch.
        """
        self.adaptation.collect()
        gradients = [p.grad for p in self.adaptation.parameters() if p.grad is not None]
        loss, count = self.exchange.losses(self.loss_read, self.count_read)
        self.exchange.gradients(self.adaptation.parameters())
        scale = self.course.full * self.course.trainer.accumulate_grad_batches  # Lightning has divided by the latter
        torch._foreach_mul_(gradients, scale / count)
        self.log("train/loss", loss / count)
        for name, value in self.learner.told().items():
            self.log(f"train/{name}", value)
        self.loss_read, self.count_read = torch.zeros_like(loss), torch.zeros_like(count)
        self._refuse_infinite(nn.utils.get_total_norm(gradients))

    def _refuse_infinite(self, norm: Tensor) -> None:
        """Stop before the optimizer uses a gradient whose norm is not finite."""
        self.log("train/gradient_norm", norm)
        step = self.global_step + 1
        if self._checked(step) and not torch.isfinite(norm):
            since = f" (step {self.last_checked} was the last that was checked)" if step > self.last_checked + 1 else ""
            kept = getattr(self.trainer.checkpoint_callback, "newest", None) or "none yet"
            problem = f"loss or gradient is not finite at step {step}{since}; the last good checkpoint is {kept}"
            raise NonFiniteLossError(f"{problem}; lower optimizer.lr={self.course.optimizer.lr}")
        self.last_checked = step if self._checked(step) else self.last_checked

    def _checked(self, step: int) -> bool:
        """Whether the program waits for the device at this step: it is logged, or a checkpoint follows, which must be a good one."""
        settings = self.course.trainer
        return step == self.course.steps or any(
            step % every == 0 for every in (settings.log_every_n_steps, settings.val_every, settings.checkpoint_every)
        )

    def configure_model(self) -> None:
        """The processes are there now: share the model out, where that is asked for."""
        self.learner.spread(self.trainer.strategy.root_device)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Count one held-out batch."""
        with as_stock_peft(self.device):
            self.learner.score(batch, "val", self.scores)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all of them."""
        self.learner.level(self.device)
        for name, score in self.scores.items():
            value = score.compute()  # pyright: ignore[reportCallIssue]
            self.validated[name] = plain(value)
            if name != self.course.counted and not value.ndim:
                self.log(name if "/" in name else f"val/{name}", value.float(), prog_bar=True)
            score.reset()  # pyright: ignore[reportCallIssue]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The config's optimizer over the adaptation's parameters, its rate changed every step."""
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": self.schedule, "interval": "step"}}

    def cpu(self) -> Self:
        """Stay: at its end Lightning would carry the frozen model into main memory."""
        return self

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """As the task has it."""
        return self.learner.to_device(batch, device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Whose it is, what the learner has counted; the generator's weights are in it once, not with the optimizer's state again."""
        checkpoint["lineage"] = dict(self.course.lineage)
        checkpoint["learner"] = self.learner.state()
        for state in checkpoint["optimizer_states"]:
            state.pop(GENERATOR, None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counterpart."""
        self.learner.load_state(checkpoint.get("learner", {}))  # of an earlier program it has none
        for state in checkpoint["optimizer_states"]:
            state[GENERATOR] = checkpoint["state_dict"]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Only what is trained: checkpoints do not hold the frozen model."""
        return self.adaptation.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """The counterpart, strict about every key."""
        return self.adaptation.load_state_dict(state_dict, strict=True, assign=assign)
