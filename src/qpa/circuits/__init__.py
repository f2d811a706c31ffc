"""Parametrised quantum circuits: angles in, measurement probabilities out.

The default ansatz (paper, section 3.1) has `L` blocks, each an RY on every qubit and then CNOT(0,1), CNOT(1,2), ...,
CNOT(Q-2,Q-1). A backend is a function from angles `[K, L, Q]` in radians to probabilities `[K, 2**Q]`, differentiable by
autograd; qubit 0 is the most significant bit of a basis state's number.
"""

from collections.abc import Callable
from importlib import import_module

from torch import Tensor

Backend = Callable[[Tensor], Tensor]


def backend(name: str) -> Backend:
    """The simulator called `name` (`statevector` or `torchquantum`), imported only now."""
    return import_module(f"qpa.circuits.{name}").probabilities
