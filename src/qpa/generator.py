"""The generator: circuits and mapper, from a few trained numbers to all weights of an adapter (paper, section 3)."""

import math

import torch
from torch import Tensor, nn

from qpa.circuits import Backend
from qpa.errors import UserError
from qpa.layout import Layout
from qpa.mapper import Mapper

ANGLE_SPREAD = 0.01  # radians around the uniform state; at 0.1 eight blocks have already scattered it (docs/log.md)


class Circuits(nn.Module):
    """`K` circuits with trained angles; gives one number per chunk.

    The first block starts at pi / 2, all others near 0: every circuit starts at the uniform superposition, which the CNOT
    chains leave as it is.

    Args:
        layout: chunks and circuits.
        layers: `L`, blocks of every circuit.
        backend: the simulator.
    """

    def __init__(self, layout: Layout, *, layers: int, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        angles = ANGLE_SPREAD * torch.randn(layout.circuits, layers, layout.qubits)
        angles[:, 0] += math.pi / 2
        self.angles = nn.Parameter(angles)
        places = [chunk.circuit * 2**layout.qubits + chunk.state for chunk in layout.chunks]
        self.register_buffer("places", torch.tensor(places), persistent=False)
        self.places: Tensor

    def forward(self) -> Tensor:
        """`2**Q * p - 1` of every chunk's basis state, `[N]`: zero for a uniform state, its size independent of `Q`."""
        probabilities = self.backend(self.angles)
        return probabilities.flatten()[self.places] * probabilities.shape[-1] - 1


class Generator(nn.Module):
    """Weights of the whole adapter: a frozen start plus what circuits and mapper generate.

    Args:
        start: the PEFT method's own initial weights as one flat vector; drawn from the seed, not trained, not saved.
        circuits: one number per chunk.
        mapper: from these to all chunks.
    """

    def __init__(self, *, start: Tensor, circuits: Circuits, mapper: Mapper) -> None:
        super().__init__()
        self.circuits = circuits
        self.mapper = mapper
        self.register_buffer("start", start.clone(), persistent=False)
        self.start: Tensor
        self.register_buffer("start_sums", torch.stack([self.start.double().sum(), self.start.double().abs().sum()]))
        self.start_sums: Tensor
        self.register_load_state_dict_pre_hook(_check_start)

    def forward(self) -> Tensor:
        """All weights as one flat vector."""
        return self.start + self.mapper(self.circuits())


def _check_start(generator: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """The start is not saved but drawn again: refuse a checkpoint whose start was another."""
    saved = state.get(f"{prefix}start_sums")
    if saved is not None and not torch.allclose(saved.to(generator.start_sums), generator.start_sums, rtol=1e-6):  # pyright: ignore
        raise UserError(
            "this checkpoint was trained from other initial adapter weights than seed and config give here; "
            "use the seed, the config and the package versions in its run's result.json"
        )
