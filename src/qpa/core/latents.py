"""One number per chunk for the mapper: from circuits, or from what stands in their place to show whether circuits matter.

All give `f = S p - 1`-like numbers: zero (or nearly) at the start of training, of the same size at any `Q`; the mapper
after them is the same. Symbols: `K` circuits of `Q` qubits and `A` layers of rotations, `S = 2**Q` basis states, `N` chunks.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.cost import Usage
from qpa.core.circuits.states import Simulator, basis_bits
from qpa.core.layout import Layout
from qpa.errors import NonFiniteLossError

SPREAD = 0.01  # of what is trained around the uniform state; at 0.1 eight blocks have already scattered it (docs/log.md)


class Latents(nn.Module):
    """Base: picks the numbers of those basis states that stand for a chunk.

    Args:
        layout: chunks and circuits.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        places = [chunk.circuit * 2**layout.qubits + chunk.state for chunk in layout.chunks]
        self.register_buffer("places", torch.tensor(places), persistent=False)
        self.places: Tensor

    def of_states(self) -> Tensor:
        """A number for every basis state of every circuit, `[K, S]`."""
        raise NotImplementedError

    def forward(self) -> Tensor:
        """A number for every chunk, `[N]`."""
        return self.of_states().flatten()[self.places]


class Circuits(Latents):
    """`K` circuits (paper, section 3.1).

    Trained, the first block's RY (or RX) start at pi / 2 and all other angles near 0: the uniform superposition, whose
    probabilities entanglers leave as they are. Frozen, the angles are drawn from [0, 2 pi) and stay.

    Args:
        layout: chunks and circuits.
        ansatz: of every circuit.
        blocks: `L`, of every circuit.
        simulate: angles `[K, A, Q]` to probabilities `[K, S]`.
        shots: how many samples of every circuit `simulate` draws; None for exact probabilities.
        usage: what `simulate` counts its circuits and shots in; None where it samples nothing.
        trained: whether the angles are.
    """

    def __init__(
        self,
        layout: Layout,
        ansatz: Ansatz,
        *,
        blocks: int,
        simulate: Simulator,
        shots: int | None = None,
        usage: Usage | None = None,
        trained: bool = True,
    ) -> None:
        super().__init__(layout)
        self.ansatz, self.simulate, self.shots, self.usage = ansatz, simulate, shots, usage
        self.angles: Tensor
        shape = (layout.circuits, ansatz.rotation_layers(blocks), layout.qubits)
        if trained:
            angles = SPREAD * torch.randn(shape)
            angles[:, ansatz.starts_uniform()] += math.pi / 2
            self.angles = nn.Parameter(angles)
        else:
            self.register_buffer("angles", 2 * math.pi * torch.rand(shape))

    def of_states(self) -> Tensor:
        """`S p - 1` of every basis state, `[K, S]`: zero for a uniform state.

        Of `n` samples among `N` in a state, Laplace's estimate `p = (n + 1) / (N + S)`: where there are fewer samples than states,
        their frequencies are mostly noise, and `S p - 1` would be as large as it.
        """
        if self.shots is not None and not torch.isfinite(self.angles).all():
            raise NonFiniteLossError("circuit angles are not finite, and cannot be sampled; lower generator.lr")
        probabilities = self.simulate(self.angles)
        states = probabilities.shape[-1]
        trust = 1.0 if self.shots is None else self.shots / (self.shots + states)
        return trust * (probabilities * states - 1)


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
        bond = bond_dimension or _largest(lambda d: sum(2 * a * b for a, b in _bonds(layout.qubits, d)), budget)
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
        width = hidden or _largest(lambda h: h * (qubits + 2) + 1, budget)
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


class Table(nn.Module):
    """One learned number per chunk, `[N]`, started at zero."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(len(layout.chunks)))

    def forward(self) -> Tensor:
        """The numbers."""
        return self.numbers


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


def _bonds(qubits: int, most: int) -> list[tuple[int, int]]:
    """Left and right bond of every core: no more than `most`, and no more than either side has basis states."""
    sizes = [min(most, 2**q, 2 ** (qubits - q)) for q in range(qubits + 1)]
    return list(itertools.pairwise(sizes))


def _largest(count: Callable[[int], int], budget: int) -> int:
    """The largest size whose count stays within the budget, at least 1."""
    size = 1
    while size < budget and count(size + 1) <= budget:
        size += 1
    return size
