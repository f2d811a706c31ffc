"""Latents `circuit` and `frozen_circuit`: the method itself, and the same circuits with angles that nobody trains."""

import math

import torch
from torch import Tensor, nn

from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.cost import Usage
from qpa.core.circuits.states import Simulator
from qpa.core.latents.base import SPREAD, Latents
from qpa.core.layout import Layout
from qpa.errors import NonFiniteLossError


class Circuits(Latents):
    """`K` circuits (paper, section 3.1).

    The first layer's RY (or RX, or U3) start at pi / 2 and all other angles near 0: the uniform superposition, whose probabilities
    entanglers leave as they are. Scattered, and where they are not trained, the angles are drawn from [0, 2 pi).

    Args:
        layout: chunks and circuits.
        ansatz: of every circuit.
        layers: `L`, of every circuit.
        simulate: angles `[K, A, Q]` to probabilities `[K, S]`.
        shots: how many samples of every circuit `simulate` draws; None for exact probabilities.
        usage: what `simulate` counts its circuits and shots in; None where it samples nothing.
        trained: whether the angles are.
        scattered: whether they start at random.
    """

    def __init__(
        self,
        layout: Layout,
        ansatz: Ansatz,
        *,
        layers: int,
        simulate: Simulator,
        shots: int | None = None,
        usage: Usage | None = None,
        trained: bool = True,
        scattered: bool = False,
    ) -> None:
        super().__init__(layout)
        self.ansatz, self.simulate, self.shots, self.usage = ansatz, simulate, shots, usage
        self.angles: Tensor
        shape = (layout.circuits, ansatz.angles_per_qubit(layers), layout.qubits)
        if scattered or not trained:
            angles = 2 * math.pi * torch.rand(shape)
        else:
            angles = SPREAD * torch.randn(shape)
            angles[:, ansatz.starts_uniform()] += math.pi / 2
        if trained:
            self.angles = nn.Parameter(angles)
        else:
            self.register_buffer("angles", angles)

    def of_states(self) -> Tensor:
        """`S p - 1` of every basis state, `[K, S]`: zero for a uniform state.

        Of `n` samples among `N` in a state, Laplace's estimate `p = (n + 1) / (N + S)`: where there are fewer samples than states,
        their frequencies are mostly noise, and `S p - 1` would be as large as it.
        """
        if self.shots is not None and not torch.isfinite(self.angles).all():
            raise NonFiniteLossError("circuit angles are not finite, and cannot be sampled; lower optimizer.lr")
        probabilities = self.simulate(self.angles)
        states = probabilities.shape[-1]
        trust = 1.0 if self.shots is None else self.shots / (self.shots + states)
        return trust * (probabilities * states - 1)


class FromCircuits(nn.Module):
    """A control that starts where scattered circuits do: their numbers, which stay, and its own beside them.

    Args:
        first: the circuits, not trained.
        control: what is trained in their place.
    """

    def __init__(self, first: Circuits, control: nn.Module) -> None:
        super().__init__()
        self.first, self.control = first, control
        self._kept: tuple[object, Tensor] | None = None

    def forward(self) -> Tensor:
        """A number for every chunk, `[N]`."""
        angles = self.first.angles
        state = (angles._version, angles.dtype, angles.device)
        if self._kept is None or self._kept[0] != state:
            with torch.no_grad():
                self._kept = state, self.first()
        return self._kept[1] + self.control()
