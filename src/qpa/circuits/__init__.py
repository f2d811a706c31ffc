"""Parametrised quantum circuits: angles in, measurement probabilities out.

The default ansatz (paper, section 3.1) has `L` blocks, each an RY on every qubit and then CNOT(0,1), CNOT(1,2), ...,
CNOT(Q-2,Q-1). A backend is a function from angles `[K, L, Q]` in radians to probabilities `[K, 2**Q]`, differentiable by
autograd; qubit 0 is the most significant bit of a basis state's number.
"""

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

Backend = Callable[[Tensor], Tensor]


def backend(name: str) -> Backend:
    """The simulator called `name` (`statevector` or `torchquantum`), imported only now."""
    return import_module(f"qpa.circuits.{name}").probabilities


def basis_bits(states: Tensor, qubits: int) -> Tensor:
    """The bits of basis states' numbers as -1 / +1, qubit 0 first, `[..., Q]`."""
    places = torch.arange(qubits - 1, -1, -1, device=states.device)
    return ((states[..., None] >> places) & 1).float() * 2 - 1
