"""A micro-batch's forward and backward as one CUDA graph: a GPU then waits for nothing that Python does within a step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from qpa.core import recorded
from qpa.tasks.task import Batch

Read = tuple[Tensor, Tensor]  # a summed loss, and what it is summed over


class Captured:
    """Reads micro-batches that are all of one size.

    Args:
        read: forward and backward of a micro-batch; gradients are added to those of `trained`.
        trained: the model's parameters that have gradients. These stay where they are from now on.
        batch: the first one.
        alone: whether a step has no other: its gradients are then written, not added.

    Raises:
        RuntimeError: the model cannot be recorded; in torch's or CUDA's words.
    """

    def __init__(self, read: Callable[[Batch], Read], trained: Sequence[nn.Parameter], batch: Batch, *, alone: bool) -> None:
        self.trained = trained
        tensors, self.form = tree_flatten(batch)
        self.batch = [part.clone() if isinstance(part, Tensor) else part for part in tensors]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)

        def once() -> tuple[Read, list[Tensor | None]]:
            for parameter in trained if alone else ():
                parameter.grad = None
            return read(tree_unflatten(self.batch, self.form)), [parameter.grad for parameter in trained]

        (self.replay,) = recorded.record(once)
        self.gradients = [parameter.grad for parameter in trained]

    def fits(self, batch: Batch) -> bool:
        """Whether a batch is as the first one was."""
        tensors, form = tree_flatten(batch)
        return form == self.form and all(_alike(one, other) for one, other in zip(tensors, self.batch, strict=True))

    def begin_step(self) -> None:
        """Gradients to zero, in their place."""
        self._put_back()
        torch._foreach_zero_(self._there())

    def __call__(self, batch: Batch) -> Read:
        """Forward and backward. What comes back is overwritten the next time."""
        for mine, given in zip(self.batch, tree_flatten(batch)[0], strict=True):
            if isinstance(mine, Tensor):
                mine.copy_(given, non_blocking=True)
        read, self.gradients = self.replay()
        self._put_back()
        torch.autograd.graph.increment_version(self._there())  # a replay does not, and who looks for new gradients goes by it
        return read

    def _put_back(self) -> None:
        for parameter, gradient in zip(self.trained, self.gradients, strict=True):
            parameter.grad = gradient

    def _there(self) -> list[Tensor]:
        return [gradient for gradient in self.gradients if gradient is not None]


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    return type(one) is type(other) and one == other
