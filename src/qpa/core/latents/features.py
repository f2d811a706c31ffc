"""Latents `random_features`: fixed random features of a basis state, and only their weights trained."""

import math

import torch
from torch import Tensor, nn

from qpa.core.latents.base import SPREAD, Latents
from qpa.core.layout import Layout
from qpa.core.walsh import walsh_sums


class RandomFeatures(Latents):
    """`K` linear models of fixed random features (Rahimi and Recht, NIPS 2007).

    The features of a basis state are Walsh functions of its bits, products of some of their signs, drawn from all but the constant one.
    They are orthogonal: a random subspace of all functions of a state.

    Args:
        layout: chunks and circuits.
        budget: how many features at most, `A Q`.
    """

    def __init__(self, layout: Layout, *, budget: int) -> None:
        super().__init__(layout)
        states = 2**layout.qubits
        count = min(budget, states - 1)
        self.register_buffer("chosen", 1 + torch.randperm(states - 1)[:count], persistent=False)
        self.chosen: Tensor
        self.states = states
        self.weights = nn.Parameter(SPREAD / math.sqrt(count) * torch.randn(layout.circuits, count))

    def of_states(self) -> Tensor:
        """The models' numbers, `[K, S]`."""
        return walsh_sums(self.weights.new_zeros(len(self.weights), self.states).index_copy(1, self.chosen, self.weights))
