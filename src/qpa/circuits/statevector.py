"""Exact simulation in real arithmetic: a block's rotations are Kronecker products, its CNOT chain is one permutation.

RY and CNOT are real matrices, so the whole state is real. The chain CNOT(0,1), CNOT(1,2), ... sends basis state `b` to the
one whose bit `j` is `b_0 xor ... xor b_j`; its inverse is the Gray code, so the new amplitude at `i` is the old one at
`i xor (i >> 1)`.
"""

import torch
from torch import Tensor

FACTOR_QUBITS = 4  # qubits of one Kronecker factor: 16 x 16 matrices, few products without 2**Q x 2**Q ones; not tuned yet


def probabilities(angles: Tensor) -> Tensor:
    """Measurement probabilities of every basis state.

    Args:
        angles: `[K, L, Q]`, radians, float32 or float64.

    Returns:
        `[K, 2**Q]` in the angles' dtype; each row sums to 1.
    """
    circuits, layers, qubits = angles.shape
    factors = [_rotations(part) for part in angles.split(FACTOR_QUBITS, dim=-1)]
    state = angles.new_zeros(circuits, 2**qubits)
    state[:, 0] = 1
    after_chain = gray_code(qubits, angles.device)
    for layer in range(layers):
        state = _apply(state, [f[:, layer] for f in factors])[:, after_chain]
    return state.square()


def gray_code(qubits: int, device: torch.device) -> Tensor:
    """Where the amplitude of each basis state comes from in a CNOT chain, `[2**qubits]`."""
    index = torch.arange(2**qubits, device=device)
    return index ^ (index >> 1)


def _rotations(angles: Tensor) -> Tensor:
    """Kronecker product of the RY matrices of a few neighbouring qubits: `[K, L, q]` -> `[K, L, 2**q, 2**q]`."""
    half = angles / 2
    cos, sin = half.cos(), half.sin()
    gates = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # [K, L, q, 2, 2]
    product = gates[:, :, 0]
    for gate in gates.unbind(2)[1:]:
        product = torch.einsum("klab,klcd->klacbd", product, gate).flatten(-4, -3).flatten(-2, -1)
    return product


def _apply(state: Tensor, factors: list[Tensor]) -> Tensor:
    """Multiply `[K, 2**Q]` states by the factors, the first on the most significant qubits."""
    circuits, size = state.shape
    left = 1
    for factor in factors:
        width = factor.shape[-1]
        state = factor[:, None] @ state.view(circuits, left, width, -1)
        left *= width
        state = state.reshape(circuits, size)
    return state
