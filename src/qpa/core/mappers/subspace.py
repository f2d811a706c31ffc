"""Mapper `subspace`: all weights in a random subspace (Li et al. 2018, arXiv 1804.08838), which nothing of a circuit shapes."""

import math

import torch
from torch import Tensor, nn

from qpa.core.layout import Layout
from qpa.core.mappers.rows import Start
from qpa.core.walsh import walsh_sums

DENSE = 1 << 26  # entries of a projection that is kept as it is
FIRST = 0.1  # of weights that start from nothing


class SubspaceMapper(nn.Module):
    """`w = P t`, times `1 + f` of each chunk: `P` fixed and random with orthogonal columns or nearly, `t` trained.

    `P` is of random signs, or where that is too large, random signs times randomly chosen columns of a Hadamard matrix. Its columns have
    length `sqrt(size / numbers)`, so that weights are as large as the numbers `t`.

    Args:
        layout: chunks.
        numbers: how many are trained, at most the weights.
        from_zero: start at zero, else at random.
    """

    def __init__(self, layout: Layout, *, numbers: int, from_zero: bool = True) -> None:
        super().__init__()
        count = min(numbers, layout.size)
        self.gain = 1 / math.sqrt(count)
        self.numbers = nn.Parameter(torch.zeros(count) if from_zero else FIRST * torch.randn(count))
        self.size = layout.size
        dense = layout.size * count <= DENSE
        self.register_buffer("signs", _signs(layout.size, count if dense else 1), persistent=False)
        padded = 1 << math.ceil(math.log2(layout.size))
        self.register_buffer("columns", None if dense else torch.randperm(padded)[:count], persistent=False)
        self.register_buffer("lengths", torch.tensor([chunk.length for chunk in layout.chunks]), persistent=False)
        self.padded = padded
        self.signs: Tensor
        self.columns: Tensor | None
        self.lengths: Tensor

    def forward(self, features: Tensor, start: Start | None = None) -> Tensor:
        """The circuit's numbers `[N]` -> all chunks as one flat vector; `start` is added."""
        if self.columns is None:
            made = self.signs @ self.numbers
        else:
            placed = self.numbers.new_zeros(self.padded).index_copy(0, self.columns, self.numbers)
            made = self.signs.squeeze(1) * walsh_sums(placed)[: self.size]
        made = self.gain * made * (1 + features).repeat_interleave(self.lengths, output_size=self.size)
        return made if start is None else start.added(made)


def _signs(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape) * 2.0 - 1
