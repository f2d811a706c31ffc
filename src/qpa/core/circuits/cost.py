"""What a step's circuits cost: how many they are, memory, shots; counted beforehand and while a run goes on. No torch here."""

from dataclasses import dataclass

from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.execution import Execution

REAL_NUMBERS = 56  # float32 for every basis state, that `statevector` takes with all it needs at any `L` (measured, 18 to 23 qubits)
NUMBERS_OF_BLOCKS = 12  # likewise, where two-qubit gates have angles (7 to 11 measured, 18 to 22 qubits)
COMPLEX_NUMBERS = 2  # that torchquantum keeps for every basis state and gate
SECONDS_PER_SHOT = 300e-6  # a superconducting device's usual delay between shots (250 us on IBM's), reset, gates and readout


@dataclass
class Usage:
    """What was run so far; `seconds` of a real device as it counts them, of a local one by the clock, 0 for drawn samples."""

    jobs: int = 0
    circuits: int = 0
    shots: int = 0
    seconds: float = 0.0

    def add(self, circuits: int, shots: int, seconds: float) -> None:
        """Count one job of `shots` per circuit."""
        self.jobs += 1
        self.circuits += circuits
        self.shots += circuits * shots
        self.seconds += seconds


def circuits_per_step(ansatz: Ansatz, rule: str, *, layers: int, qubits: int) -> int:
    """How many circuits one circuit and its gradient need."""
    of_layer, of_two = (sum(map(len, ansatz.shifts(ansatz.angles_per_qubit(n)))) for n in (1, 2))  # last rotations are in both
    terms = of_layer + (layers - 1) * (of_two - of_layer)
    return {"exact": 1, "parameter_shift": 1 + 2 * terms * qubits, "spsa": 3}[rule]


def state_bytes(ansatz: Ansatz, *, layers: int, qubits: int, circuits: int, execution: Execution) -> int:
    """Bytes of memory for every basis state, of which there are `2**Q`: of all circuits of one step, and of their gradient.

    Args:
        ansatz: of every circuit.
        layers: `L`.
        qubits: `Q`.
        circuits: `K`.
        execution: what runs them.
    """
    at_once = circuits * circuits_per_step(ansatz, execution.rule, layers=layers, qubits=qubits)
    if execution.backend == "statevector":
        numbers, signs = (NUMBERS_OF_BLOCKS, 0) if ansatz.trained_pairs else (REAL_NUMBERS, 4 * 2 * qubits)  # signs: of the gradient, once
        return at_once * 4 * numbers * (1 if ansatz.real else 2) + signs
    turned = (len(ansatz.rotations) + ansatz.trained_pairs) * layers + len(ansatz.rotations) * ansatz.final_rotations
    gates = turned * qubits if execution.rule == "exact" else 1
    return at_once * 8 * COMPLEX_NUMBERS * gates
