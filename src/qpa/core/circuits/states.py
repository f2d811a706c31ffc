"""What all simulators share: their type, and how a basis state's number is read."""

from collections.abc import Callable

import torch
from torch import Tensor

Simulator = Callable[[Tensor], Tensor]


def basis_bits(states: Tensor, qubits: int) -> Tensor:
    """The bits of basis states' numbers as -1 / +1, qubit 0 first, `[..., Q]`."""
    places = torch.arange(qubits - 1, -1, -1, device=states.device)
    return ((states[..., None] >> places) & 1).float() * 2 - 1
