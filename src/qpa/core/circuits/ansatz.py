"""An ansatz as data: layers of rotations on every qubit and an entangler, each layer with its own angles.

A layer's rotations are one or more of RX, RY, RZ, applied to every qubit in the order given; then its two-qubit gates along the
entangler's pairs. Angles are `[K, A, Q]` in radians, `A` for each qubit: one for each of the `R` rotations of the `L` layers, so
`A = L R`, and `R` more where last rotations follow without an entangler. For the paper's ansatz, RY and a CNOT chain, `A = L`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Pair = tuple[int, int]


def _linear(qubits: int) -> list[Pair]:
    return list(itertools.pairwise(range(qubits)))


ENTANGLERS: dict[str, Callable[[int], list[Pair]]] = {
    "linear": _linear,
    "reverse_linear": lambda qubits: _linear(qubits)[::-1],  # Qiskit's default for efficient_su2 and real_amplitudes
    "ring": lambda qubits: _linear(qubits) + ([(qubits - 1, 0)] if qubits > 2 else []),
    "all_to_all": lambda qubits: list(itertools.combinations(range(qubits), 2)),
    "brick": lambda qubits: _linear(qubits)[::2] + _linear(qubits)[1::2],
}


class Operation(NamedTuple):
    """One gate: its name, its qubits, and for a rotation the number of its angle among its qubit's `A`."""

    gate: str
    qubits: tuple[int, ...]
    angle: int | None


@dataclass(frozen=True)
class Ansatz:
    """What a layer is made of.

    Attributes:
        rotations: of every qubit, `RX`, `RY` or `RZ`, in the order they are applied.
        entangler: one of `ENTANGLERS`.
        gate: `CNOT` (the pair's first qubit controls) or `CZ`.
        final_rotations: whether rotations follow the last layer.
    """

    rotations: tuple[str, ...] = ("RY",)
    entangler: str = "linear"
    gate: str = "CNOT"
    final_rotations: bool = False

    @property
    def real(self) -> bool:
        """Whether all amplitudes are real: RY, CNOT and CZ are real matrices."""
        return set(self.rotations) == {"RY"}

    def angles_per_qubit(self, layers: int) -> int:
        """`A` of `L` layers."""
        return len(self.rotations) * (layers + self.final_rotations)

    def pairs(self, qubits: int) -> list[Pair]:
        """The qubits that a layer's two-qubit gates act on, in order."""
        return ENTANGLERS[self.entangler](qubits)

    def starts_uniform(self) -> int:
        """Which of a qubit's angles at pi / 2, all others zero, gives every basis state the same probability.

        The gates after it only permute basis states or turn phases.
        """
        return self.rotations.index("RY" if "RY" in self.rotations else "RX")

    def operations(self, per_qubit: int, qubits: int) -> Iterator[Operation]:
        """All gates of a circuit of `Q` qubits with `A` angles for each, in order."""
        per_layer = len(self.rotations)
        for first in range(0, per_qubit, per_layer):
            for angle, axis in enumerate(self.rotations, start=first):
                yield from (Operation(axis, (qubit,), angle) for qubit in range(qubits))
            if not (self.final_rotations and first + per_layer == per_qubit):
                yield from (Operation(self.gate, pair, None) for pair in self.pairs(qubits))


RY_CNOT = Ansatz()


def entangled(pairs: Sequence[Pair], gate: str, qubits: int) -> tuple[list[int], list[int]]:
    """What an entangler does to amplitudes: entry `i` of the new state is `sign[i]` times entry `source[i]` of the old.

    Both of length `2**Q`; qubit 0 is the most significant bit of a basis state's number.
    """
    source, sign = list(range(2**qubits)), [1] * 2**qubits
    for first, second in pairs:
        control, target = 1 << (qubits - 1 - first), 1 << (qubits - 1 - second)
        if gate == "CNOT":
            source = [source[i ^ target] if i & control else source[i] for i in range(2**qubits)]
        else:
            sign = [-s if i & control and i & target else s for i, s in enumerate(sign)]
    return source, sign
