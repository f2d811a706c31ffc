"""Latents `mps`: a tensor network in every circuit's place."""

import itertools

import torch
from torch import Tensor, nn

from qpa.core.latents.base import SPREAD, Latents, largest
from qpa.core.layout import Layout


class MatrixProductStates(Latents):
    """`K` trained matrix-product states in the circuits' place (Schollwoeck 2011, arXiv 1008.3477), real, open ends.

    Core `q` of a state is `[left, 2, right]` with bonds of at most `bond_dimension`; the probabilities are the squared,
    normalised amplitudes. They start at the uniform superposition, as circuits do.

    Args:
        layout: chunks and circuits.
        bond_dimension: None for the largest whose numbers are no more than a circuit's `A Q` (at least 1).
        budget: `A Q`, a circuit's angles.
    """

    def __init__(self, layout: Layout, *, bond_dimension: int | None, budget: int) -> None:
        super().__init__(layout)
        bond = bond_dimension or largest(lambda d: sum(2 * a * b for a, b in _bonds(layout.qubits, d)), budget)
        self.cores = nn.ParameterList()
        for left, right in _bonds(layout.qubits, bond):
            core = SPREAD * torch.randn(layout.circuits, left, 2, right)
            core[:, 0, :, 0] += 1
            self.cores.append(nn.Parameter(core))

    def of_states(self) -> Tensor:
        """As for circuits, `[K, S]`."""
        state = self.cores[0].new_ones(len(self.cores[0]), 1, 1)
        for core in self.cores:
            state = torch.einsum("ksa,kaib->ksib", state, core).flatten(1, 2)
        weights = state.squeeze(-1).square()
        return weights / weights.mean(dim=1, keepdim=True) - 1


def _bonds(qubits: int, most: int) -> list[tuple[int, int]]:
    """Left and right bond of every core: no more than `most`, and no more than either side has basis states."""
    sizes = [min(most, 2**q, 2 ** (qubits - q)) for q in range(qubits + 1)]
    return list(itertools.pairwise(sizes))
