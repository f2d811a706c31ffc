"""Exact simulation of any ansatz, real where it is real; backward by the inverse circuit, so memory does not grow with the layers.

The state is a matrix `[l, r]` over the basis states of the first and of the last half of the qubits. The rotations of a layer
are one 2 x 2 matrix per qubit, their Kronecker products one factor from the left and one from the right; its entangler moves
amplitudes and turns signs (`qpa.core.circuits.ansatz.entangled`). Backward takes state and adjoint back through the inverse
circuit together (as Jones and Gacon 2020, arXiv 2009.02823). With `t` the state after a layer's rotations and `g` the adjoint
there, the gradient of qubit `q`'s matrix `U` is `M U`, `M[a, c] = sum over the other qubits of g[a] conj(t[c])`; from matrices to
angles autograd does it. The paper's own ansatz has a faster way (`qpa.core.circuits.ry_cnot`), those whose two-qubit gates have angles
another (`qpa.core.circuits.blocks`).

Shapes: `K` circuits, `L` layers, `Q` qubits; `l` and `r` the sizes of the two halves.
"""

import string
from functools import cache, partial, reduce
from typing import Any

import torch
from torch import Tensor

from qpa.core.circuits import blocks, matrices, ry_cnot
from qpa.core.circuits.ansatz import RY_CNOT, Ansatz, entangled
from qpa.core.circuits.ry_cnot import suited_threads
from qpa.core.circuits.states import Simulator


def simulator(ansatz: Ansatz) -> Simulator:
    """From angles `[K, A, Q]`, float32 or float64, to probabilities `[K, 2**Q]` in their dtype, differentiable."""
    if ansatz == RY_CNOT:
        return ry_cnot.probabilities
    return partial(blocks.probabilities if ansatz.trained_pairs else probabilities, ansatz)


def probabilities(ansatz: Ansatz, angles: Tensor) -> Tensor:
    """Measurement probabilities of every basis state, `[K, 2**Q]`; each row sums to 1. Of gates without angles between qubits."""
    return _Probabilities.apply(ansatz, matrices.rotations(ansatz, angles))  # pyright: ignore[reportReturnType]


def amplitudes(ansatz: Ansatz, angles: Tensor) -> Tensor:
    """The states themselves of any ansatz, `[K, 2**Q]`, real or complex, without gradient."""
    if ansatz.trained_pairs:
        return blocks.amplitudes(ansatz, angles)
    with torch.no_grad():
        return _final(ansatz, matrices.rotations(ansatz, angles)).flatten(1)


class _Probabilities(torch.autograd.Function):
    """Squared amplitudes, and the gradient of every qubit's matrix by the inverse circuit."""

    @staticmethod
    def forward(ctx: Any, ansatz: Ansatz, gates: Tensor) -> Tensor:
        """Probabilities `[K, 2**Q]` of matrices `[L, K, Q, 2, 2]`."""
        ctx.ansatz = ansatz
        with suited_threads(gates):
            state = _final(ansatz, gates)
        ctx.save_for_backward(gates, state)
        return state.flatten(1).abs().square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of the matrices, from that of the probabilities."""
        gates, state = ctx.saved_tensors
        with suited_threads(state):
            return None, _back(ctx.ansatz, gates, state, gradient)


def _back(ansatz: Ansatz, gates: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
    """The matrices' gradients, `[L, K, Q, 2, 2]`, from the final state `[K, l, r]` and that of the probabilities `[K, 2**Q]`."""
    both = torch.stack([state, 2 * state * gradient.view(state.shape)])  # [2, K, l, r]
    found = torch.empty_like(gates)
    for layer in reversed(range(len(gates))):
        if _entangles(ansatz, layer, len(gates)):
            both = _moved(both, ansatz, gates.shape[2], back=True)
        left, right = _halves(gates[layer])
        after, adjoint = both
        overlaps = [adjoint @ after.mH, adjoint.mT @ after.conj()]  # of the left half's basis states, and of the right's
        found[layer] = torch.cat([_of_each_qubit(overlap) for overlap in overlaps if overlap.shape[-1] > 1], 1) @ gates[layer]
        both = left.mH @ both @ right.conj()
    return found


def _final(ansatz: Ansatz, gates: Tensor) -> Tensor:
    """The state after all layers, `[K, l, r]`."""
    layers, circuits, qubits = gates.shape[:3]
    state = gates.new_zeros(circuits, 2 ** ((qubits + 1) // 2), 2 ** (qubits // 2))
    state[:, 0, 0] = 1
    for layer in range(layers):
        left, right = _halves(gates[layer])
        state = left @ state @ right.mT
        if _entangles(ansatz, layer, layers):
            state = _moved(state, ansatz, qubits, back=False)
    return state


def _entangles(ansatz: Ansatz, layer: int, layers: int) -> bool:
    return not ansatz.final_rotations or layer < layers - 1


def _halves(gates: Tensor) -> tuple[Tensor, Tensor]:
    """The Kronecker products of the first and of the last half of the qubits' matrices `[K, Q, 2, 2]`: `[K, l, l]`, `[K, r, r]`."""
    circuits, qubits = gates.shape[:2]
    middle = (qubits + 1) // 2
    one = torch.ones(circuits, 1, 1, dtype=gates.dtype, device=gates.device)
    return reduce(_kronecker, gates[:, :middle].unbind(1)), reduce(_kronecker, gates[:, middle:].unbind(1), one)


def _kronecker(first: Tensor, second: Tensor) -> Tensor:
    """Of every circuit: `[K, m, m]` and `[K, n, n]` to `[K, m n, m n]`."""
    size = first.shape[-1] * second.shape[-1]
    return (first[:, :, None, :, None] * second[:, None, :, None, :]).reshape(-1, size, size)


def _of_each_qubit(overlap: Tensor) -> Tensor:
    """The overlaps of some qubits' basis states, `[K, n, n]`, summed over all qubits but one: `[K, q, 2, 2]`."""
    qubits = overlap.shape[-1].bit_length() - 1
    split = overlap.view(-1, *(2,) * (2 * qubits))
    letters = string.ascii_letters[:qubits]
    return torch.stack([torch.einsum(f"Z{letters}{letters.replace(q, 'Y')}->Z{q}Y", split) for q in letters], 1)


def _moved(state: Tensor, ansatz: Ansatz, qubits: int, *, back: bool) -> Tensor:
    """States `[..., l, r]` after the entangler, or before it: it moves amplitudes or turns signs, never both."""
    places, sign = _entangler(ansatz, qubits, state.device)
    flat = state.flatten(-2)
    moved = flat * sign if ansatz.gate == "CZ" else flat[..., places[1] if back else places[0]]
    return moved.view(state.shape)


@cache
def _entangler(ansatz: Ansatz, qubits: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each new amplitude comes from and where each old one goes, `[2, 2**Q]`, and signs, `[2**Q]`."""
    source, sign = (torch.tensor(values, device=device) for values in entangled(ansatz.pairs(qubits), ansatz.gate, qubits))
    return torch.stack([source, source.argsort()]), sign.float()
