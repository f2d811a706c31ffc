"""Trained circuits as OpenQASM 3 (Cross et al. 2022, arXiv 2104.14722)."""

from torch import Tensor

from qpa.core.circuits.ansatz import Ansatz

GATES = {"CNOT": "cx", "CZ": "cz", "RX": "rx", "RY": "ry", "RZ": "rz"}


def program(ansatz: Ansatz, angles: Tensor) -> str:
    """One circuit with angles `[A, Q]` in radians, without measurements.

    Our qubit 0 is `q[Q-1]`: a bit string `q[Q-1] ... q[0]`, as Qiskit prints it, is then the number of a basis state.
    """
    per_qubit, qubits = angles.shape
    values = angles.tolist()
    lines = ["OPENQASM 3.0;", 'include "stdgates.inc";', f"qubit[{qubits}] q;"]
    for gate, wires, angle in ansatz.operations(per_qubit, qubits):
        turned = "" if angle is None else f"({values[angle][wires[0]]!r})"
        lines.append(f"{GATES[gate]}{turned} {', '.join(f'q[{qubits - 1 - wire}]' for wire in wires)};")
    return "\n".join(lines) + "\n"
