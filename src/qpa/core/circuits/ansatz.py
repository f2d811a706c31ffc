"""An ansatz as data: layers of rotations on every qubit and an entangler, each layer with its own angles.

A layer's rotations are one or more of RX, RY, RZ, U3, applied to every qubit in the order given; then its two-qubit gates along the
entangler's pairs. Angles are `[K, A, Q]` in radians, `A` for each qubit: `R` of a layer's rotations and `G` of the two-qubit gate that
the qubit controls, so `A = L (R + G)`, and `R` more where last rotations follow without an entangler. For the paper's ansatz, RY and a
CNOT chain, `A = L`; for U3 and CU3 on a ring `A = 6 L`.
"""

import itertools
import math
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


# How many angles a gate has; a controlled one's are those of what it does to its target.
ANGLES = {"RX": 1, "RY": 1, "RZ": 1, "U3": 3, "CNOT": 0, "CZ": 0, "CRX": 1, "CRY": 1, "CRZ": 1, "CU3": 3}


class Operation(NamedTuple):
    """One gate: its name, its qubits, and the numbers of its angles among its first qubit's `A`."""

    gate: str
    qubits: tuple[int, ...]
    angles: tuple[int, ...]


class Shift(NamedTuple):
    """A term `weight (p(t + by) - p(t - by))` of the derivative of probabilities `p` by an angle `t`."""

    by: float
    weight: float


# Generators with two eigenvalues that differ by 1 (Mitarai et al. 2018, arXiv 1803.00745; controlled phases too), and those with a third in
# the middle, the controlled rotations (Anselmetti et al. 2021, arXiv 2104.05695).
TWO_TERMS = (Shift(math.pi / 2, 1 / 2),)
FOUR_TERMS = tuple(Shift(by * math.pi / 2, sign * (math.sqrt(2) + sign) / (4 * math.sqrt(2))) for by, sign in ((1, 1), (3, -1)))


@dataclass(frozen=True)
class Ansatz:
    """What a layer is made of.

    Attributes:
        rotations: of every qubit, `RX`, `RY`, `RZ` or `U3`, in the order they are applied.
        entangler: one of `ENTANGLERS`; `ring` for gates with angles, so that every qubit controls one.
        gate: `CNOT` (the pair's first qubit controls), `CZ`, `CRX`, `CRY`, `CRZ` or `CU3`.
        final_rotations: whether rotations follow the last layer.
    """

    rotations: tuple[str, ...] = ("RY",)
    entangler: str = "linear"
    gate: str = "CNOT"
    final_rotations: bool = False

    def __post_init__(self) -> None:
        """Angles that no gate has would be counted."""
        if self.trained_pairs and self.entangler != "ring":
            raise ValueError(f"gate={self.gate} has angles, of every qubit as the control of one gate: entangler=ring")

    @property
    def trained_pairs(self) -> bool:
        """Whether two-qubit gates have angles."""
        return ANGLES[self.gate] > 0

    @property
    def real(self) -> bool:
        """Whether all amplitudes are real: RY, CNOT, CZ and CRY are real matrices."""
        return set(self.rotations) == {"RY"} and self.gate in ("CNOT", "CZ", "CRY")

    @property
    def angles_per_qubit_and_layer(self) -> int:
        """`R + G`."""
        return self._angles_of_rotations + ANGLES[self.gate]

    @property
    def _angles_of_rotations(self) -> int:
        return sum(ANGLES[gate] for gate in self.rotations)

    def angles_per_qubit(self, layers: int) -> int:
        """`A` of `L` layers."""
        return self.angles_per_qubit_and_layer * layers + self._angles_of_rotations * self.final_rotations

    def pairs(self, qubits: int) -> list[Pair]:
        """The qubits that a layer's two-qubit gates act on, in order; each of two controls the other where it has angles."""
        return [(0, 1), (1, 0)] if self.trained_pairs and qubits == 2 else ENTANGLERS[self.entangler](qubits)

    def starts_uniform(self) -> int:
        """Which of a qubit's angles at pi / 2, all others zero, gives every basis state the same probability.

        The gates after it only permute basis states or turn phases.
        """
        turning = next(gate for gate in ("RY", "RX", "U3") if gate in self.rotations)
        return sum(ANGLES[gate] for gate in self.rotations[: self.rotations.index(turning)])

    def operations(self, per_qubit: int, qubits: int) -> Iterator[Operation]:
        """All gates of a circuit of `Q` qubits with `A` angles for each, in order."""
        numbers = iter(range(per_qubit))
        for left in range(per_qubit, 0, -self.angles_per_qubit_and_layer):
            for gate in self.rotations:
                angles = tuple(itertools.islice(numbers, ANGLES[gate]))
                yield from (Operation(gate, (qubit,), angles) for qubit in range(qubits))
            if not (self.final_rotations and left == self._angles_of_rotations):
                angles = tuple(itertools.islice(numbers, ANGLES[self.gate]))
                yield from (Operation(self.gate, pair, angles) for pair in self.pairs(qubits))

    def shifts(self, per_qubit: int) -> list[tuple[Shift, ...]]:
        """For each of a qubit's `A` angles, what the derivative of the probabilities is made of.

        Of a CU3, a controlled phase, a controlled RY and another controlled phase, the first angle alone is one of a controlled rotation.
        """
        controlled = {"CU3": [FOUR_TERMS, TWO_TERMS, TWO_TERMS]}.get(self.gate, [FOUR_TERMS] * ANGLES[self.gate])
        layer = [TWO_TERMS] * self._angles_of_rotations + controlled
        return list(itertools.islice(itertools.cycle(layer), per_qubit))


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
