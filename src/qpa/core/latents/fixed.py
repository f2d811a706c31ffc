"""Latents `zeros` and `random`: numbers that nobody trains."""

import torch
from torch import Tensor, nn

from qpa.core.layout import Layout


class Fixed(nn.Module):
    """Numbers that are not trained, `[N]`."""

    def __init__(self, numbers: Tensor) -> None:
        super().__init__()
        self.register_buffer("numbers", numbers)
        self.numbers: Tensor

    def forward(self) -> Tensor:
        """The numbers."""
        return self.numbers


def zeros(layout: Layout) -> Fixed:
    """As of uniform states that are not trained."""
    return Fixed(torch.zeros(len(layout.chunks)))


def random(layout: Layout) -> Fixed:
    """`S p - 1` of random real states: squared Gaussians, less one."""
    return Fixed(torch.randn(len(layout.chunks)).square() - 1)
