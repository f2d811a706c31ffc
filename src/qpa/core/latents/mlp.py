"""Latents `mlp`: a small network in every circuit's place."""

import math

import torch
from torch import Tensor, nn

from qpa.core.circuits.states import basis_bits
from qpa.core.latents.base import SPREAD, Latents, largest
from qpa.core.layout import Layout


class SmallMLPs(Latents):
    """`K` small networks from a basis state's bits to its number, `Q -> hidden -> 1`, tanh between.

    Args:
        layout: chunks and circuits.
        hidden: None for the most whose numbers are no more than a circuit's `A Q` (at least 1).
        budget: `A Q`, a circuit's angles.
    """

    def __init__(self, layout: Layout, *, hidden: int | None, budget: int) -> None:
        super().__init__(layout)
        circuits, qubits = layout.circuits, layout.qubits
        width = hidden or largest(lambda h: h * (qubits + 2) + 1, budget)
        self.first = nn.Parameter(torch.randn(circuits, qubits, width) / math.sqrt(qubits))
        self.first_bias = nn.Parameter(torch.zeros(circuits, 1, width))
        self.second = nn.Parameter(SPREAD * torch.randn(circuits, width))
        self.second_bias = nn.Parameter(torch.zeros(circuits, 1))
        self.register_buffer("bits", basis_bits(torch.arange(2**qubits), qubits), persistent=False)
        self.bits: Tensor

    def of_states(self) -> Tensor:
        """The networks' numbers, `[K, S]`."""
        hidden = torch.tanh(torch.einsum("sq,kqh->ksh", self.bits, self.first) + self.first_bias)
        return torch.einsum("ksh,kh->ks", hidden, self.second) + self.second_bias
