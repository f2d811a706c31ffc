"""Latents `table`: no structure at all, one learned number per chunk."""

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
