"""The paper's ansatz, exactly and fast: real arithmetic, forward and backward by hand, memory that does not grow with the layers.

RY and CNOT are real matrices, so the whole state is real: a matrix `[l, r]` over the basis states of the first and of the last
half of the qubits. A layer's rotations are one Kronecker factor from the left and one from the right. Its CNOT chain sends basis
state `b` to the one whose bit `j` is `b_0 xor ... xor b_j`; the inverse of that is the Gray code, so the new amplitude at `i` is
the old one at `i xor (i >> 1)`. For `[l, r]` this is a permutation of the rows, and one of the columns that depends on the last
bit of `l` alone. Both are applied to the factors, not to the state: a layer is two matrix products. For the second to be one
batched product, the left half's last qubit is put first.

Backward runs the inverse circuit from the final state (as Jones and Gacon 2020, arXiv 2009.02823): a layer is orthogonal, so
state and adjoint go back through it together, and no layer's state is kept. With `J = [[0, -1], [1, 0]]` on qubit `q`,
`d RY(t) / dt = J RY(t) / 2`, so an angle's gradient is `<adjoint| J_q |state> / 2` after its layer's rotations.

Shapes: `K` circuits, `L` layers, `Q` qubits; `l` and `r` the sizes of the two halves, `p = 2` the values of that last bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor

MOST_LAYERS = 16  # whose factors and overlaps are computed at once
AT_ONCE = 4  # qubits whose Kronecker product is looked up in one step
FEW_NUMBERS = 1 << 12  # of all states, which one thread turns faster than several (benchmarks.circuits)
MOST_NUMBERS = 1 << 20  # in one such batch of factors; so memory is flat in the number of layers at any size


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
        """Layer after layer in two buffers."""
        circuits, _, qubits = angles.shape
        half = halves(qubits, angles.device, angles.dtype)
        state = angles.new_zeros(circuits, half.left, half.right)
        state[:, 0, 0] = 1
        turned = torch.empty_like(state)
        by_bit = (2 * circuits, half.left // 2, half.right)
        turned_by_bit, state_by_bit = turned.view(by_bit), state.view(by_bit)
        with suited_threads(state):
            for batch in _batches(angles):
                lefts, rights = half.factors(batch)
                for left, right in zip(lefts.unbind(), rights.mT.unbind(), strict=True):
                    torch.bmm(left, state, out=turned)
                    torch.bmm(turned_by_bit, right, out=state_by_bit)
        ctx.save_for_backward(angles, state)
        return half.ordered(state).square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of the angles, from that of the probabilities."""
        angles, state = ctx.saved_tensors
        half = halves(angles.shape[-1], angles.device, angles.dtype)
        adjoint = 2 * state * half.grouped(gradient)
        both = torch.stack([state, adjoint], dim=2)  # [K, l, 2, r]
        found = []
        with suited_threads(state):
            for batch in reversed(_batches(angles)):
                gradients, both = _back_through(half, batch, both)
                found.append(gradients)
        return torch.cat(found[::-1], dim=1)


def _back_through(half: "Halves", angles: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a few layers' angles, `[K, L, Q]`, and state and adjoint before them, `[K, l, 2, r]`."""
    circuits, layers, _ = angles.shape
    lefts, rights = half.factors(angles)
    states = both.new_empty(layers + 1, *both.shape)  # before the first layer, and after each
    between = both.new_empty(layers, *both.shape)  # after a layer's left factor alone
    states[layers] = both
    by_column, by_row = (2 * circuits, half.left, half.right), (circuits, half.left, 2 * half.right)  # [p K, (l / p) 2, r], [K, l, 2 r]
    after, before = states.view(-1, *by_column).unbind(), states.view(-1, *by_row).unbind()
    turned, returned = between.view(-1, *by_column).unbind(), between.view(-1, *by_row).unbind()
    lefts, rights = lefts.mT.unbind(), rights.unbind()
    for layer in reversed(range(layers)):
        torch.bmm(after[layer + 1], rights[layer], out=turned[layer])
        torch.bmm(lefts[layer], returned[layer], out=before[layer])
    state, adjoint = between.view(-1, half.left, 2, half.right).unbind(2)
    of_left = torch.bmm(adjoint, state.mT).view(layers * circuits, -1) @ half.left_turns
    state, adjoint = states[1:].view(-1, half.left // 2, 2, half.right).unbind(2)
    of_right = torch.bmm(adjoint.mT, state).view(layers * circuits, -1) @ half.right_turns
    return torch.cat([of_left, of_right], dim=1).view(layers, circuits, -1).transpose(0, 1), states[0]


@contextmanager
def suited_threads(state: Tensor) -> Iterator[None]:
    """One thread for the time of products so small that several would wait for one another longer than they work."""
    several = torch.get_num_threads()
    few = state.device.type == "cpu" and state.numel() <= FEW_NUMBERS and several > 1
    if few:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if few:
            torch.set_num_threads(several)


def _batches(angles: Tensor) -> list[Tensor]:
    """The angles of a few layers after the other."""
    circuits, _, qubits = angles.shape
    return list(angles.split(max(1, min(MOST_LAYERS, MOST_NUMBERS // (circuits << qubits))), dim=1))


@dataclass(frozen=True)
class Halves:
    """A number of qubits in two halves, and all that does not depend on angles.

    Attributes:
        left: `l`, basis states of the first half, its last qubit put first.
        right: `r`, basis states of the second half (1 where there is none).
        left_factor: how the left factor is made of gates, its rows in the order that a CNOT chain leaves them in.
        right_factor: the right one's, in either order, for either value of the left half's last bit.
        left_turns: overlaps of adjoint and state to the angles' gradients, for the left half, `[l * l, its qubits]`.
        right_turns: the same for the right half, over both orders, `[p * r * r, its qubits]`.
    """

    left: int
    right: int
    left_factor: "Kronecker"
    right_factor: "Kronecker"
    left_turns: Tensor
    right_turns: Tensor

    def factors(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """A batch of layers' rotations with their CNOT chains: left `[L, K, l, l]`, right `[L, p K, r, r]`."""
        circuits, layers, qubits = angles.shape
        half = (angles / 2).permute(2, 1, 0).reshape(qubits, -1)  # [Q, L K]
        cos, sin = half.cos(), half.sin()
        gates = torch.stack([cos, -sin, sin, cos], 1).flatten(0, 1)  # [Q * 4, L K]
        left = self.left_factor(gates).view(layers, circuits, self.left, self.left)
        return left, self.right_factor(gates).view(layers, 2 * circuits, self.right, self.right)

    def ordered(self, state: Tensor) -> Tensor:
        """`[K, l, r]` as `[K, 2**Q]` in the order of basis states."""
        return state.view(-1, 2, self.left // 2, self.right).transpose(1, 2).reshape(len(state), -1)

    def grouped(self, values: Tensor) -> Tensor:
        """The inverse of `ordered`."""
        return values.view(-1, self.left // 2, 2, self.right).transpose(1, 2).reshape(-1, self.left, self.right)


@cache
def halves(qubits: int, device: torch.device, dtype: torch.dtype) -> Halves:
    """The halves of `qubits`, the first no smaller than the second."""
    left_qubits, right_qubits = (qubits + 1) // 2, qubits // 2
    left, right = 2**left_qubits, 2**right_qubits
    row = torch.arange(left, device=device)
    number = (row % (left // 2)) * 2 + row // (left // 2)  # the last qubit is stored first
    left_order = _stored(number ^ (number >> 1), left)
    column = torch.arange(right, device=device)
    gray = column ^ (column >> 1)
    right_orders = torch.stack([gray, gray ^ (right >> 1)])  # the second half of the chain starts from the left's last bit
    return Halves(
        left, right,
        Kronecker.of([left_qubits - 1, *range(left_qubits - 1)], left_order),
        Kronecker.of(list(range(left_qubits, qubits)), right_orders.flatten()),
        _turns([*range(left_qubits - 2, -1, -1), left_qubits - 1], left_order[None], dtype),
        _turns(list(range(right_qubits))[::-1], right_orders, dtype),
    )  # fmt: skip


@dataclass(frozen=True)
class Kronecker:
    """The Kronecker product of some qubits' gates, its rows in a given order, entry by entry.

    Attributes:
        parts: for a few qubits each, how many they are, which entries of their gates are multiplied to an entry of theirs,
            `[q * 4**q]`, and which of these an entry of the whole takes.
        entries: of the whole.
    """

    parts: tuple[tuple[int, Tensor, Tensor], ...]
    entries: int

    @staticmethod
    def of(places: list[int], order: Tensor) -> "Kronecker":
        """The product of the gates on the qubits `places`, row `i` of it being the one numbered `order[i]`."""
        qubits, device = len(places), order.device
        row, column = order[:, None].expand(-1, 2**qubits), torch.arange(2**qubits, device=device).expand(len(order), -1)
        parts = []
        for start in range(0, qubits, AT_ONCE):
            few = places[start : start + AT_ONCE]
            behind = qubits - start - len(few)
            mask = 2 ** len(few) - 1
            own = torch.arange(4 ** len(few), device=device)
            own_row, own_column = own >> len(few), own & mask
            look = [4 * q + (own_row >> n & 1) * 2 + (own_column >> n & 1) for n, q in zip(range(len(few))[::-1], few, strict=True)]
            take = ((row >> behind & mask) << len(few)) + (column >> behind & mask)
            parts.append((len(few), torch.cat(look), take.flatten()))
        return Kronecker(tuple(parts), row.numel())

    def __call__(self, gates: Tensor) -> Tensor:
        """Gates `[Q * 4, n]` -> `[n, entries]`."""
        count = gates.shape[1]
        parts = [gates.index_select(0, look).view(qubits, -1, count).prod(0).index_select(0, take) for qubits, look, take in self.parts]
        whole = reduce(torch.mul, parts) if parts else gates.new_ones(self.entries, count)
        return whole.t().contiguous()


def _stored(number: Tensor, size: int) -> Tensor:
    """Where the row of a basis state's number is stored: its last bit first."""
    return (number & 1) * (size // 2) + (number >> 1)


def _turns(bits: list[int], orders: Tensor, dtype: torch.dtype) -> Tensor:
    """From the overlaps of all rows of adjoint and state to `<adjoint| J_q |state> / 2` of some qubits: a matrix `[p * n * n, Q]`.

    `J_q` has one entry in each row, in the column whose number differs in the bit of `q`: -1 where that bit is 0, else 1.

    Args:
        bits: each qubit's place in a row's number.
        orders: the rows' numbers, in one or more orders, `[p, n]`.
        dtype: of the matrix.
    """
    groups, size = orders.shape
    group, row = torch.arange(groups, device=orders.device)[:, None], torch.arange(size, device=orders.device)
    found = orders.argsort(1)  # where a number stands
    matrix = orders.new_zeros(groups, size, size, len(bits), dtype=dtype)
    for qubit, bit in enumerate(bits):
        matrix[group, row, found.gather(1, orders ^ (1 << bit)), qubit] = (orders >> bit & 1).to(dtype) - 0.5
    return matrix.view(groups * size * size, len(bits))
