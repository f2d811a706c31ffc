"""Measuring a model on held-out examples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from qpa.adapters import dora
from qpa.tasks.task import Batch, Learner, Value


@contextmanager
def as_stock_peft(device: torch.device) -> Iterator[None]:
    """Held-out examples are read as stock PEFT reads them with the exported adapter: no autocast, nothing compiled."""
    with torch.autocast(device.type, enabled=False), torch.compiler.set_stance("force_eager"):
        yield


class HeldOut(LightningModule):
    """The metrics of one model on each held-out split.

    Args:
        learner: reads with the model, adapted or not.
        splits: in the order of the dataloaders that `trainer.test` is given.
    """

    def __init__(self, learner: Learner, splits: Sequence[str]) -> None:
        super().__init__()
        self.learner, self.model, self.splits = learner, learner.model, tuple(splits)
        self.scores = nn.ModuleDict({split: learner.scores() for split in splits})

    def configure_model(self) -> None:
        """The processes are there now: share the model out, where that is asked for."""
        self.learner.spread(self.trainer.strategy.root_device)

    def test_step(self, batch: Batch, _: int, dataloader_idx: int = 0) -> None:
        """Count one batch."""
        split = self.splits[dataloader_idx]
        with as_stock_peft(self.device):
            self.learner.score(batch, split, self._of(split))

    def cpu(self) -> Self:
        """Stay: at its end Lightning would carry the frozen model into main memory."""
        return self

    def on_test_epoch_end(self) -> None:
        """All splits have been read."""
        self.learner.level(self.device)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """As the task has it."""
        return self.learner.to_device(batch, device)

    def found(self) -> dict[str, dict[str, Value]]:
        """By split, every metric over all batches and processes."""
        return {split: {name: plain(cast(Any, score).compute()) for name, score in self._of(split).items()} for split in self.splits}

    def _of(self, split: str) -> nn.ModuleDict:
        return cast(nn.ModuleDict, self.scores[split])


def plain(value: Tensor) -> Value:
    """A metric's value as Python has it."""
    return value.tolist() if value.ndim else value.item()


@torch.no_grad()
def outputs(learner: Learner, batch: Batch) -> Tensor:
    """What a model says of a batch, in fp32 on the CPU, computed as stock peft does."""
    learner.model.eval()
    device = next(learner.model.parameters()).device
    with as_stock_peft(device), dora.as_stock_peft(learner.model):
        return learner.outputs(learner.to_device(batch, device)).float().cpu()
