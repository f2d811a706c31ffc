"""Trained circuits as OpenQASM 3 (Cross et al. 2022, arXiv 2104.14722)."""

from torch import Tensor

from qpa.core.circuits.ansatz import Ansatz

GATES = {gate: gate.lower() for gate in ("RX", "RY", "RZ", "U3", "CZ", "CRX", "CRY", "CRZ")} | {"CNOT": "cx", "CU3": "cu"}
PHASE = {"CU3": [0.0]}  # an angle more, of the control alone: `cu` has four, and there is no `cu3`


def program(ansatz: Ansatz, angles: Tensor) -> str:
    """One circuit with angles `[A, Q]` in radians, without measurements.

    Our qubit 0 is `q[Q-1]`: a bit string `q[Q-1] ... q[0]`, as Qiskit prints it, is then the number of a basis state.
    """
    per_qubit, qubits = angles.shape
    values = angles.tolist()
    lines = ["OPENQASM 3.0;", 'include "stdgates.inc";', f"qubit[{qubits}] q;"]
    for gate, wires, numbers in ansatz.operations(per_qubit, qubits):
        turned_by = [values[number][wires[0]] for number in numbers] + PHASE.get(gate, [])
        turned = f"({', '.join(map(repr, turned_by))})" if turned_by else ""
        lines.append(f"{GATES[gate]}{turned} {', '.join(f'q[{qubits - 1 - wire}]' for wire in wires)};")
    return "\n".join(lines) + "\n"
