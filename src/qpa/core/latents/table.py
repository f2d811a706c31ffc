"""Latents `table` and `shared_table`: no structure at all, learned numbers, one per chunk or no more than a circuit has angles."""

import torch
from torch import Tensor, nn

from qpa.core.layout import Layout


class Table(nn.Module):
    """One learned number per chunk, `[N]`, started at zero."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(len(layout.chunks)))

    def forward(self) -> Tensor:
        """The numbers."""
        return self.numbers


class SharedTable(nn.Module):
    """As many learned numbers as the circuits have angles, `[K A Q]`, started at zero; every chunk takes one of them, drawn at random.

    So weights share values at random (HashedNets, Chen et al. 2015, arXiv 1504.04788).

    Args:
        layout: chunks and circuits.
        budget: `A Q`, a circuit's angles.
    """

    def __init__(self, layout: Layout, *, budget: int) -> None:
        super().__init__()
        count = min(budget * layout.circuits, len(layout.chunks))
        self.numbers = nn.Parameter(torch.zeros(count))
        self.register_buffer("taken", torch.randperm(len(layout.chunks)) % count, persistent=False)
        self.taken: Tensor

    def forward(self) -> Tensor:
        """The number of every chunk, `[N]`."""
        return self.numbers[self.taken]
