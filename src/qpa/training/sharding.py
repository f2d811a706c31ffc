"""The frozen model shared out over the processes of a run: each holds its part, and they put a block together while they read with it.

torch's `fully_shard` does the work. A reading begins in no forward of the model's own: the task calls body and head by themselves, and
the head once for every piece of the loss. So all of a reading runs within the forward of one small module around the model, which the
hooks of `fully_shard` take for the model's: what is in no block (embedding, last norm, head) is whole from there until the backward
is over, and each block while it is run, in the forward and once more in the backward.

The adapter is whole everywhere. Nothing frozen has a gradient, so nothing but the adaptation's gradient is summed (`exchange`).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from qpa.errors import ConfigError
from qpa.tasks.task import Batch, Learner

T = TypeVar("T")


class Around(nn.Module):
    """A model, and in its place whatever reads with it.

    Args:
        model: any.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, read: Callable[[], T]) -> T:
        """Read."""
        return read()

    def _apply(self, fn: Any, recurse: bool = True) -> "Around":
        """Once the model is shared out, every part stays where it is: Lightning moves a module whenever it takes one up."""
        return self if isinstance(self, FSDPModule) else super()._apply(fn, recurse)


class Sharded(Learner):
    """Reads as another learner does, with a model that the processes have shared out among them.

    Each reading asks every process for its part, so all have to read equally often. In training they do. Of held-out batches some may
    have fewer than others, who say before each of theirs that there is one more, until `level` is told by all that there is none.

    Args:
        learner: of the task, its model whole and in main memory.
        whole: what of the model every process keeps.

    Raises:
        ConfigError: the model does not say what its blocks are.
    """

    def __init__(self, learner: Learner, whole: Iterable[nn.Parameter]) -> None:
        self.learner, self.model = learner, Around(learner.model)
        self.whole = {*whole, *(p for p in self.model.parameters() if p.ndim == 0)}  # numbers have no parts
        self._last: tuple[Batch, str] | None = None  # the held-out batch that was read last
        if not learner.blocks():
            kind = type(learner.model).__name__
            raise ConfigError("trainer.strategy", "fsdp", f"{kind} does not name its layers, to be shared out; use trainer=ddp")

    def spread(self, device: torch.device) -> None:
        """Keep this process's part alone, on its device, block by block: the device never holds the whole model."""
        if isinstance(self.model, FSDPModule):
            return
        mesh = dist.device_mesh.init_device_mesh(device.type, (dist.get_world_size(),))
        for module in (*self.learner.blocks(), self.model):
            fully_shard(module, mesh=mesh, ignored_params=self.whole)
        for parameter in self.whole:
            parameter.data = parameter.to(device)

    def drop(self) -> None:
        """Free this process's part; nothing is read any more."""
        assert isinstance(self.model, FSDPModule)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        for parameter in self.model.parameters():
            if isinstance(parameter, DTensor):
                parameter.to_local().untyped_storage().resize_(0)

    def level(self, device: torch.device) -> None:
        """Read the last batch again, and count it nowhere, as long as another process has one to read."""
        while _reading(0, device):
            assert self._last is not None  # every process reads one at least
            self._score(*self._last, self.scores().to(device))

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As the learner's."""
        return self.model(lambda: self.learner.loss(batch))

    def scores(self) -> nn.ModuleDict:
        """As the learner's."""
        return self.learner.scores()

    def score(self, batch: Batch, split: str, scores: nn.ModuleDict) -> None:
        """As the learner's."""
        _reading(1, next(self.model.parameters()).device)
        self._last = batch, split
        self._score(batch, split, scores)

    def _score(self, batch: Batch, split: str, scores: nn.ModuleDict) -> None:
        self.model(lambda: self.learner.score(batch, split, scores))

    def outputs(self, batch: Batch) -> Tensor:
        """As the learner's."""
        return self.model(lambda: self.learner.outputs(batch))

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """As the learner's."""
        return self.learner.to_device(batch, device)

    def state(self) -> dict[str, Any]:
        """As the learner's."""
        return self.learner.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """As the learner's."""
        self.learner.load_state(state)

    def told(self) -> dict[str, float]:
        """As the learner's."""
        return self.learner.told()

    def changes_from_step_to_step(self) -> str:
        """Each step gathers the model anew."""
        return "processes share the model out (trainer=fsdp)"

    def blocks(self) -> list[nn.Module]:
        """As the learner's."""
        return self.learner.blocks()


def _reading(here: int, device: torch.device) -> Tensor:
    """How many processes have a held-out batch to read; 8 bytes, and nobody waits for the number who does not look at it."""
    there = torch.full((), here, device=device)
    dist.all_reduce(there)
    return there
