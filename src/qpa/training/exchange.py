"""What the processes that train one run together send each other: the gradient of what is trained, and two numbers of the loss.

Everything else is the same in all of them without a word: the frozen model, the start (drawn from the seed), the order of windows.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qpa.errors import LostProcessError


class Exchange:
    """Sums over all processes; alone, everything stays as it is.

    Attributes:
        sent: bytes that every process has put into sums so far.
    """

    def __init__(self) -> None:
        self.sent = 0

    @property
    def processes(self) -> int:
        """How many there are."""
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    def losses(self, loss: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """A summed loss and what it is summed over, of all processes: 16 bytes."""
        if self.processes == 1:
            return loss.detach(), count
        both = torch.stack([loss.detach().double(), count.double()])
        self._sum(both)
        return both[0], both[1]

    def any(self, here: bool, device: torch.device) -> bool:
        """Whether something is so in one of them at least: 8 bytes."""
        if self.processes == 1:
            return here
        there = torch.tensor(int(here), device=device)
        self._sum(there)
        return bool(there)

    def gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of all processes, as one flat vector: 4 bytes for each trained number."""
        if self.processes == 1:
            return
        trained = list(parameters)
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained])
        self._sum(flat)
        for parameter, summed in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(summed.view_as(parameter))

    def _sum(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor)
        self.sent += tensor.nbytes


@contextmanager
def losses_named() -> Iterator[None]:
    """Say in one line that another process is gone, whoever was talking to it: Lightning and torchmetrics do as well.

    Raises:
        LostProcessError: with gloo's or NCCL's own words, without their place in the source.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).splitlines()[0].rpartition("] ")[2]
        line = f"another process of this run is gone ({reason}); ckpt=last goes on from the last good checkpoint"
        raise LostProcessError(line) from error
