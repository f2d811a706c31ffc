"""The matrices of gates with angles, differentiable by autograd: those of one qubit, and what controlled ones do to their targets.

`U3(t, p, l) = [[cos(t/2), -e^(il) sin(t/2)], [e^(ip) sin(t/2), e^(i(p+l)) cos(t/2)]]`, as torchquantum, Qiskit's `UGate` and PennyLane
have it. Shapes: `K` circuits, `L` layers (last rotations are one more), `Q` qubits.
"""

from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import pad

from qpa.core.circuits.ansatz import ANGLES, Ansatz


def rotations(ansatz: Ansatz, angles: Tensor) -> Tensor:
    """The product of all rotations of a qubit within a layer, `[L, K, Q, 2, 2]`, of angles `[K, A, Q]`."""
    counts = [ANGLES[gate] for gate in ansatz.rotations]
    parts = _by_layer(ansatz, angles)[: sum(counts)].split(counts)
    gates = [_matrix(gate, part, real=ansatz.real) for gate, part in zip(ansatz.rotations, parts, strict=True)]
    return reduce(lambda earlier, later: later @ earlier, gates)


def targets(ansatz: Ansatz, angles: Tensor) -> Tensor:
    """What a layer's controlled gates do to their targets where their controls, one each of the `Q`, are 1: `[L, K, Q, 2, 2]`."""
    return _matrix(ansatz.gate.removeprefix("C"), _by_layer(ansatz, angles)[-ANGLES[ansatz.gate] :], real=ansatz.real)


def _by_layer(ansatz: Ansatz, angles: Tensor) -> Tensor:
    """Angles `[K, A, Q]` as `[A / L, L, K, Q]`; the gates after last rotations are turned by 0."""
    missing = ANGLES[ansatz.gate] if ansatz.final_rotations else 0
    return pad(angles, (0, 0, 0, missing)).unflatten(1, (-1, ansatz.angles_per_qubit_and_layer)).permute(2, 1, 0, 3)


def _matrix(gate: str, angles: Tensor, *, real: bool) -> Tensor:
    """Of angles `[1 or 3, ...]`: `[..., 2, 2]`, for RX, RY and RZ `exp(-i angle sigma / 2)`."""
    cos, sin, none = (angles[0] / 2).cos(), (angles[0] / 2).sin(), torch.zeros_like(angles[0])
    if gate == "RY":
        found = torch.stack([cos, -sin, sin, cos], -1)
        found = found if real else torch.complex(found, torch.zeros_like(found))
    elif gate == "RX":
        found = torch.complex(torch.stack([cos, none, none, cos], -1), torch.stack([none, -sin, -sin, none], -1))
    elif gate == "RZ":
        found = torch.complex(torch.stack([cos, none, none, cos], -1), torch.stack([-sin, none, none, sin], -1))
    else:
        _, phi, lam = angles
        phases = torch.stack([none, lam, phi, phi + lam], -1)
        found = torch.stack([cos, -sin, sin, cos], -1) * torch.complex(phases.cos(), phases.sin())
    return found.unflatten(-1, (2, 2))
