"""What circuits and most controls share: numbers of basis states, and how large a control may be."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qpa.core.layout import Layout

SPREAD = 0.01  # of what is trained around the uniform state; at 0.1 circuits of eight layers have already scattered it (docs/log.md)


class Latents(nn.Module):
    """What gives a number to every basis state of every circuit, of which those that stand for a chunk are taken.

    Args:
        layout: chunks and circuits.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        places = [chunk.circuit * 2**layout.qubits + chunk.state for chunk in layout.chunks]
        self.register_buffer("places", torch.tensor(places), persistent=False)
        self.places: Tensor

    def of_states(self) -> Tensor:
        """A number for every basis state of every circuit, `[K, S]`; each kind has its own way."""
        raise NotImplementedError

    def forward(self) -> Tensor:
        """A number for every chunk, `[N]`."""
        return self.of_states().flatten()[self.places]


def largest(count: Callable[[int], int], budget: int) -> int:
    """The largest size whose count stays within the budget, at least 1."""
    size = 1
    while size < budget and count(size + 1) <= budget:
        size += 1
    return size
