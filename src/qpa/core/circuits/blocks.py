"""Exact simulation of ansätze with trained two-qubit gates: a few gates fused to one matrix, backward by the inverse circuit.

Around a ring, layer after layer, the gates on qubits (0, 1), (1, 2), ..., (Q-1, 0), (0, 1), ... are one spiral. Each takes the
rotations before it into its 4 x 4 matrix. `BLOCK` qubits in a row, wherever on the ring they begin, hold `BLOCK - 1` gates that follow one
another: a block, one small matrix `U` of `[s, s]`, `s = 2**BLOCK`. The state is kept with the block's qubits in front, `[s, r]`. The next
block begins with the last qubit of this one, so the product is written as `[2, r, s / 2]`: that qubit first, those before it last. No
amplitude is moved otherwise; the spiral is filled up with gates that do nothing, and the state is turned to begin with qubit 0 at the end.

Backward takes state and adjoint back through the blocks together (as Jones and Gacon 2020, arXiv 2009.02823). With `x` the state before a
block and `h` the adjoint there, the gradient of `U` is `U h x^H`, one product; from there to angles autograd does it, on small
matrices made anew. Nothing but the final state is kept.

Shapes: `K` circuits, `T` gates, `B` blocks, `Q` qubits.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from qpa.core.circuits import matrices
from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.ry_cnot import suited_threads

BLOCK = 4  # qubits: of 3, 4 and 5 the fastest on one processor core, forward and backward at 13 and 19 qubits
MOST_NUMBERS = 1 << 20  # of blocks' matrices that there are at once


def probabilities(ansatz: Ansatz, angles: Tensor) -> Tensor:
    """Measurement probabilities of every basis state, `[K, 2**Q]`, of angles `[K, A, Q]`; each row sums to 1."""
    return _Probabilities.apply(ansatz, angles)  # pyright: ignore[reportReturnType]


def amplitudes(ansatz: Ansatz, angles: Tensor) -> Tensor:
    """The states themselves, `[K, 2**Q]`, real or complex, without gradient."""
    with torch.no_grad():
        return _final(gates(ansatz, angles), angles.shape[2])


def gates(ansatz: Ansatz, angles: Tensor) -> Tensor:
    """The spiral: `[T, K, 2, 2, 2, 2]`, the new values of a gate's first and second qubit, then the old ones; `T` fills its blocks.

    A layer's first gate takes the rotations of both its qubits, the others that of the second; the last finds its second turned.
    """
    turns, turned = matrices.rotations(ansatz, angles), matrices.targets(ansatz, angles)
    nothing = torch.eye(2, dtype=turns.dtype, device=turns.device).expand_as(turns)
    first = torch.cat([turns[:, :, :1], nothing[:, :, 1:]], 2)
    second = torch.cat([turns[:, :, 1:], nothing[:, :, :1]], 2)
    by_control = torch.stack([second, turned @ second], 3)  # [L, K, Q, 2, 2, 2]
    spiral = (first[..., :, None, :, None] * by_control[..., :, :, None, :]).transpose(1, 2).flatten(0, 1)
    idle = torch.eye(4, dtype=turns.dtype, device=turns.device).view(2, 2, 2, 2).expand_as(spiral)
    return torch.cat([spiral, idle[: -len(spiral) % _held(angles.shape[2])]])


def _held(qubits: int) -> int:
    """How many gates a block holds."""
    return min(BLOCK, qubits) - 1


class _Probabilities(torch.autograd.Function):
    """Squared amplitudes, and their gradient by the inverse circuit."""

    @staticmethod
    def forward(ctx: Any, ansatz: Ansatz, angles: Tensor) -> Tensor:
        """Probabilities `[K, 2**Q]` of angles `[K, A, Q]`."""
        ctx.ansatz = ansatz
        state = _final(gates(ansatz, angles), angles.shape[2])
        ctx.save_for_backward(angles, state)
        return state.abs().square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of the angles, from that of the probabilities."""
        angles, state = ctx.saved_tensors
        with torch.enable_grad():
            trained = angles.detach().requires_grad_()
            spiral = gates(ctx.ansatz, trained)
        found = _back(spiral.detach(), torch.stack([state.conj(), 2 * state * gradient]), angles.shape[2])
        return None, torch.autograd.grad(spiral, trained, found)[0]


def _final(gates: Tensor, qubits: int) -> Tensor:
    """The state after all gates, `[K, 2**Q]`."""
    state = gates.new_zeros(gates.shape[1], 2**qubits)
    state[:, 0] = 1
    free = torch.empty_like(state)  # memory asked for anew at every block would take longer than the products
    with suited_threads(state):
        for few in _few(gates, qubits):
            for block in _blocks(few, qubits):
                size = block.shape[-1]
                before, after = state.view(-1, 1, size, 2**qubits // size).mT, free.view(-1, 2, 2**qubits // size, size // 2)
                torch.matmul(before, block.mT, out=after)
                state, free = free, state
    return _moved(state, -len(gates) % qubits)


def _back(gates: Tensor, both: Tensor, qubits: int) -> Tensor:
    """The gates' gradients, `[T, K, 2, 2, 2, 2]`, from the final state's conjugate and the adjoint there, `[2, K, 2**Q]`."""
    found: list[Tensor] = []
    both = _moved(both, len(gates) % qubits)
    free = torch.empty_like(both)
    with suited_threads(both), torch.enable_grad():
        for few in reversed(_few(gates, qubits)):
            trained = few.detach().requires_grad_()
            made = _blocks(trained, qubits)
            gradients, both, free = _through(made.detach(), both, free)
            found += torch.autograd.grad(made, trained, gradients)
    return torch.cat(found[::-1])


def _through(blocks: Tensor, both: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Back through some blocks: their gradients, state and adjoint before them, and memory that is free again."""
    circuits, size, overlaps = blocks.shape[1], blocks.shape[-1], []
    for inverse in reversed(torch.cat([blocks.mT, blocks.mH], 1).unbind()):  # [2 K, 2, s, s / 2]
        after, before = both.view(2 * circuits, 2, -1, size // 2).mT, free.view(2 * circuits, size, -1)
        torch.bmm(inverse[:, 0], after[:, 0], out=before).baddbmm_(inverse[:, 1], after[:, 1])
        state, adjoint = before.view(2, circuits, size, -1)
        overlaps.append(adjoint @ state.mT)
        both, free = free, both
    return (blocks.flatten(2, 3) @ torch.stack(overlaps[::-1])).view_as(blocks), both, free


def _few(gates: Tensor, qubits: int) -> list[Tensor]:
    """The gates of some blocks after the other."""
    blocks = max(1, MOST_NUMBERS // (gates.shape[1] * 4 ** (_held(qubits) + 1)))
    return list(gates.split(blocks * _held(qubits)))


def _blocks(gates: Tensor, qubits: int) -> Tensor:
    """Gates that follow one another as one matrix for every block, the last qubit's new values in front: `[B, K, 2, s / 2, s]`."""

    def joined(earlier: Tensor, gate: Tensor) -> Tensor:
        """`[..., m, 2, n]`, the last qubit's new values in the middle, and one gate more: `[..., 2 m, 2, 2 n]`."""
        return torch.einsum("...iajb,...mjn->...mianb", gate, earlier).flatten(-2).flatten(-4, -3)

    first, *others = gates.unflatten(0, (-1, _held(qubits))).unbind(1)
    return reduce(joined, others, first.flatten(-2)).transpose(-3, -2)


def _moved(states: Tensor, count: int) -> Tensor:
    """States `[..., 2**Q]` with the first `count` qubits behind the others."""
    return states.unflatten(-1, (2**count, -1)).mT.flatten(-2)
