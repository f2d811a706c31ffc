"""Mapper `paper`: the published one, an MLP that reads a basis state's bits and its probability."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qpa.core.circuits.states import basis_bits
from qpa.core.layout import Layout
from qpa.core.mappers.rows import SharedRows, Start

ACTIVATIONS = {"tanh": nn.Tanh, "silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU, "none": nn.Identity}


class PaperMapper(nn.Module):
    """The paper's mapper (section 3.2): an MLP from a basis state's `Q` bits and the circuit's number to the chunk.

    Sizes `Q + 1 -> hidden[0] -> ... -> C`, an activation after each hidden layer.
    """

    def __init__(self, layout: Layout, *, hidden: Sequence[int], activation: str, from_zero: bool = True) -> None:
        super().__init__()
        sizes = [layout.qubits + 1, *hidden]
        steps: list[nn.Module] = []
        for size, following in itertools.pairwise(sizes):
            steps += [nn.Linear(size, following), ACTIVATIONS[activation]()]
        self.hidden = nn.Sequential(*steps)
        self.rows = SharedRows(layout, sizes[-1], bias=True, from_zero=from_zero)
        states = torch.tensor([chunk.state for chunk in layout.chunks])
        self.register_buffer("bits", basis_bits(states, layout.qubits), persistent=False)
        self.bits: Tensor

    def forward(self, features: Tensor, start: Start | None = None) -> Tensor:
        """The circuit's numbers `[N]` -> all chunks as one flat vector; `start` as in `SharedRows`."""
        hidden = self.hidden(torch.cat([self.labels(), features[:, None]], dim=1))
        return self.rows(hidden, start)

    def labels(self) -> Tensor:
        """What the MLP reads of each chunk beside its number: the bits of its basis state as -1 and +1, `[N, Q]`."""
        return self.bits
