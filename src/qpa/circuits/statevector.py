"""Exact simulation in real arithmetic, forward and backward by hand: memory does not grow with the number of blocks.

RY and CNOT are real matrices, so the whole state is real. A block's rotations are Kronecker products of a few qubits each; its
CNOT chain sends basis state `b` to the one whose bit `j` is `b_0 xor ... xor b_j`. The inverse of that is the Gray code, so the
new amplitude at `i` is the old one at `i xor (i >> 1)`: one permutation.

Backward runs the inverse circuit from the final state (as Jones and Gacon 2020, arXiv 2009.02823): a block is orthogonal, so
state and adjoint go back through it together, and no block's state is kept. With `J = [[0, -1], [1, 0]]` on qubit `q`,
`d RY(t) / dt = J RY(t) / 2`, so an angle's gradient is `<adjoint| J_q |state> / 2` after its block's rotations.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

FACTOR_QUBITS = 6  # most qubits of one Kronecker factor, 64 x 64: few products, none large (docs/performance.md)


def probabilities(angles: Tensor) -> Tensor:
    """Measurement probabilities of every basis state.

    Args:
        angles: `[K, L, Q]`, radians, float32 or float64.

    Returns:
        `[K, 2**Q]` in the angles' dtype; each row sums to 1.
    """
    return _Probabilities.apply(angles)  # pyright: ignore[reportReturnType]


class _Probabilities(torch.autograd.Function):
    """Squared amplitudes, and their gradient by the inverse circuit."""

    @staticmethod
    def forward(ctx: Any, angles: Tensor) -> Tensor:
        circuits, layers, qubits = angles.shape
        factors = _factors(angles)
        state = angles.new_zeros(circuits, 2**qubits)
        state[:, 0] = 1
        after_chain = gray_code(qubits, angles.device)
        for layer in range(layers):
            state = _apply(state, [f[layer] for f in factors]).index_select(1, after_chain)
        ctx.save_for_backward(angles, state)
        return state.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        angles, state = ctx.saved_tensors
        circuits, layers, qubits = angles.shape
        backward_factors = [f.transpose(-1, -2).repeat(1, 2, 1, 1) for f in _factors(angles)]
        before_chain = _inverse_gray_code(qubits, angles.device)
        both = torch.cat([state, 2 * gradient * state])  # [2K, S]: the state, then its adjoint
        overlaps = []
        for layer in reversed(range(layers)):
            both = both.index_select(1, before_chain)
            overlaps.append(_overlaps(both[:circuits], both[circuits:], qubits))
            both = _apply(both, [f[layer] for f in backward_factors])
        overlaps.reverse()
        parts = [torch.stack(of_factor, 1) for of_factor in zip(*overlaps, strict=True)]  # each [K, L, d * d]
        sizes = _split(qubits)
        return torch.cat([part @ _turns(size, angles.device, angles.dtype) for part, size in zip(parts, sizes, strict=True)], dim=-1)


@cache
def gray_code(qubits: int, device: torch.device) -> Tensor:
    """Where the amplitude of each basis state comes from in a CNOT chain, `[2**qubits]`."""
    index = torch.arange(2**qubits, device=device)
    return index ^ (index >> 1)


@cache
def _inverse_gray_code(qubits: int, device: torch.device) -> Tensor:
    """Where it goes."""
    return gray_code(qubits, device).argsort()


@cache
def _split(qubits: int) -> list[int]:
    """Qubits of each Kronecker factor: as few factors as `FACTOR_QUBITS` allows, of nearly equal size."""
    factors = math.ceil(qubits / FACTOR_QUBITS)
    return [qubits // factors + (i < qubits % factors) for i in range(factors)]


@cache
def _turns(qubits: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`J_q / 2` for each of a factor's qubits, as columns that an overlap matrix is multiplied by, `[d * d, qubits]`."""
    turn = torch.tensor([[0.0, -0.5], [0.5, 0.0]], device=device, dtype=dtype)
    eyes = [torch.eye(2**n, device=device, dtype=dtype) for n in range(qubits)]
    return torch.stack([torch.kron(torch.kron(eyes[q], turn), eyes[qubits - 1 - q]).flatten() for q in range(qubits)], dim=1)


def _factors(angles: Tensor) -> list[Tensor]:
    """The Kronecker factors of every block's rotations, each `[L, K, d, d]`."""
    half = (angles / 2).transpose(0, 1)  # [L, K, Q]
    cos, sin = half.cos(), half.sin()
    gates = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))  # [L, K, Q, 2, 2]
    return [_kronecker(part) for part in gates.split(_split(angles.shape[-1]), dim=2)]


def _kronecker(gates: Tensor) -> Tensor:
    """Product of neighbouring qubits' gates: `[L, K, q, 2, 2]` -> `[L, K, 2**q, 2**q]`."""
    product, *others = gates.unbind(2)
    for gate in others:
        product = (product[..., :, None, :, None] * gate[..., None, :, None, :]).flatten(-4, -3).flatten(-2, -1)
    return product


def _apply(state: Tensor, factors: list[Tensor]) -> Tensor:
    """Multiply `[K, 2**Q]` states by the factors `[K, d, d]`, the first on the most significant qubits."""
    circuits, size = state.shape
    left = 1
    for factor in factors:
        width = factor.shape[-1]
        right = size // (left * width)
        if right == 1:  # the last factor, from the right
            state = torch.bmm(state.view(circuits, left, width), factor.transpose(1, 2))
        elif left == 1:
            state = torch.bmm(factor, state.view(circuits, width, right))
        else:
            state = factor[:, None] @ state.view(circuits, left, width, right)
        left *= width
        state = state.reshape(circuits, size)
    return state


def _overlaps(state: Tensor, adjoint: Tensor, qubits: int) -> list[Tensor]:
    """By factor, `adjoint state^T` over all its other qubits, each `[K, d * d]`."""
    circuits, size = state.shape
    found, left = [], 1
    for width in (2**q for q in _split(qubits)):
        right = size // (left * width)
        if left == 1:
            matrix = torch.bmm(adjoint.view(circuits, width, right), state.view(circuits, width, right).transpose(1, 2))
        elif right == 1:
            matrix = torch.bmm(adjoint.view(circuits, left, width).transpose(1, 2), state.view(circuits, left, width))
        else:
            shape = (circuits, left, width, right)
            matrix = torch.einsum("kaib,kajb->kij", adjoint.view(shape), state.view(shape))
        found.append(matrix.flatten(1))
        left *= width
    return found
