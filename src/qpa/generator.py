"""The generator: circuits and mapper, from a few trained numbers to all weights of an adapter (paper, section 3)."""

import torch
from torch import Tensor, nn

from qpa.circuits import Backend
from qpa.layout import Layout
from qpa.mapper import Mapper


class Circuits(nn.Module):
    """`K` circuits with trained angles; gives one number per chunk.

    Args:
        layout: chunks and circuits.
        layers: `L`, blocks of every circuit.
        backend: the simulator.
    """

    def __init__(self, layout: Layout, *, layers: int, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.angles = nn.Parameter(torch.rand(layout.circuits, layers, layout.qubits) * 2 * torch.pi)
        used = [k * 2**layout.qubits + i for k, chunks in enumerate(layout.chunks) for i in range(chunks)]
        self.register_buffer("used", torch.tensor(used), persistent=False)
        self.used: Tensor

    def forward(self) -> Tensor:
        """`2**Q * p - 1` of every chunk's basis state, `[N]`: zero for a uniform state, its size independent of `Q`."""
        probabilities = self.backend(self.angles)
        return probabilities.flatten()[self.used] * probabilities.shape[-1] - 1


class Generator(nn.Module):
    """Weights of the whole adapter: a frozen start plus what the mapper makes of each chunk's basis state.

    Args:
        layout: chunks and circuits.
        start: `[N * C]`, the PEFT method's own initial weights; not trained, not saved.
        circuits: gives one number per chunk.
        mapper: `Q + 1` numbers (the basis state's bits as -1 / +1, and the circuit's number) -> `C` weights.
    """

    def __init__(self, *, layout: Layout, start: Tensor, circuits: Circuits, mapper: Mapper) -> None:
        super().__init__()
        self.circuits = circuits
        self.mapper = mapper
        self.register_buffer("start", start.clone(), persistent=False)
        self.register_buffer("bits", basis_bits(layout), persistent=False)
        self.start: Tensor
        self.bits: Tensor

    def forward(self) -> Tensor:
        """All weights as one flat vector, `[N * C]`."""
        features = torch.cat([self.bits, self.circuits()[:, None]], dim=1)
        return self.start + self.mapper(features).flatten()


def basis_bits(layout: Layout) -> Tensor:
    """The bits of every chunk's basis state as -1 / +1, the most significant first, `[N, Q]`."""
    states = torch.cat([torch.arange(chunks) for chunks in layout.chunks])
    places = torch.arange(layout.qubits - 1, -1, -1)
    return ((states[:, None] >> places) & 1).float() * 2 - 1
