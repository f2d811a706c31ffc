"""The same circuits on other simulators: each a function from angles `[L, Q]` to probabilities `[2**Q]`, differentiable by torch.

As their documentation would have a user write it, without tricks; imported only when asked for.
"""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

MOST_SHIFTED = 128  # angles; with more, the parameter-shift rule takes minutes and gigabytes
MOST_FUSED = 12  # qubits; with more, fastqml's fused layers take tens of gigabytes
Peer = Callable[[Tensor], Tensor]


def torchquantum() -> Peer:
    """torchquantum 0.1.8, one circuit at a time."""
    from qpa.circuits import backend

    simulate = backend("torchquantum")
    return lambda angles: simulate(angles[None])[0]


def torchquantum_batched() -> Peer:
    """torchquantum with all circuits in one device."""
    from qpa.circuits import backend

    return backend("torchquantum")


def _pennylane(device: str, diff_method: str) -> Peer:
    import pennylane as qml

    @cache
    def node(qubits: int) -> Peer:
        @qml.qnode(qml.device(device, wires=qubits), interface="torch", diff_method=diff_method)
        def circuit(angles: Tensor) -> Tensor:
            for block in angles:
                for qubit in range(qubits):
                    qml.RY(block[qubit], wires=qubit)
                for qubit in range(qubits - 1):
                    qml.CNOT(wires=[qubit, qubit + 1])
            return qml.probs(wires=range(qubits))

        return circuit

    return lambda angles: node(angles.shape[-1])(angles)


def default_qubit() -> Peer:
    """PennyLane default.qubit, backpropagation."""
    return _pennylane("default.qubit", "backprop")


def lightning_qubit() -> Peer:
    """PennyLane lightning.qubit: adjoint differentiation has no probabilities, so the parameter-shift rule."""
    simulate = _pennylane("lightning.qubit", "parameter-shift")

    def limited(angles: Tensor) -> Tensor:
        if angles.numel() > MOST_SHIFTED:
            raise ValueError(f"{2 * angles.numel():,} circuits for one gradient")
        return simulate(angles)

    return limited


def pyqtorch() -> Peer:
    """pyqtorch, automatic differentiation."""
    import pyqtorch as pyq

    @cache
    def circuit(qubits: int, layers: int) -> pyq.QuantumCircuit:
        blocks = [
            gate
            for layer in range(layers)
            for gate in (
                *(pyq.RY(q, f"{layer}_{q}") for q in range(qubits)),
                *(pyq.CNOT(q, q + 1) for q in range(qubits - 1)),
            )
        ]
        return pyq.QuantumCircuit(qubits, blocks)

    def simulate(angles: Tensor) -> Tensor:
        layers, qubits = angles.shape
        values = {f"{layer}_{q}": angles[layer, q] for layer in range(layers) for q in range(qubits)}
        state = pyq.run(circuit(qubits, layers), pyq.zero_state(qubits), values)
        return state.flatten(0, -2)[:, 0].abs().square().to(angles.dtype)

    return simulate


def deepquantum() -> Peer:
    """deepquantum, angles given as data."""
    import deepquantum as dq

    @cache
    def circuit(qubits: int, layers: int) -> dq.QubitCircuit:
        found = dq.QubitCircuit(qubits)
        for _ in range(layers):
            for qubit in range(qubits):
                found.ry(qubit, encode=True)
            for qubit in range(qubits - 1):
                found.cnot(qubit, qubit + 1)
        return found

    def simulate(angles: Tensor) -> Tensor:
        layers, qubits = angles.shape
        return circuit(qubits, layers)(data=angles.flatten()).flatten().abs().square()

    return simulate


def tensorcircuit() -> Peer:
    """tensorcircuit-ng on its torch backend."""
    import tensorcircuit as tc

    tc.set_backend("pytorch")

    def simulate(angles: Tensor) -> Tensor:
        layers, qubits = angles.shape
        circuit = tc.Circuit(qubits)
        for layer in range(layers):
            for qubit in range(qubits):
                circuit.ry(qubit, theta=angles[layer, qubit])
            for qubit in range(qubits - 1):
                circuit.cnot(qubit, qubit + 1)
        return circuit.state().abs().square().to(angles.dtype)

    return simulate


def fastqml() -> Peer:
    """fastqml: a layer's rotations fused into one matrix; it has no fused CNOT chain, so that is a permutation as ours is."""
    from fastqml.gate_fusion import apply_su2_layer, build_ry_gates

    def simulate(angles: Tensor) -> Tensor:
        layers, qubits = angles.shape
        if qubits > MOST_FUSED:
            raise ValueError(f"a matrix of 2**{qubits} x 2**{qubits} for every block")
        real = torch.zeros(1, 2**qubits)
        real[0, 0] = 1
        imaginary = torch.zeros_like(real)
        index = torch.arange(2**qubits)
        order = index ^ (index >> 1)
        for layer in range(layers):
            real, imaginary = apply_su2_layer(real, imaginary, *build_ry_gates(angles[layer]))
            real, imaginary = real[:, order], imaginary[:, order]
        return (real.square() + imaginary.square())[0]

    return simulate


PEERS = {
    "torchquantum": torchquantum,
    "PennyLane default.qubit, backprop": default_qubit,
    "PennyLane lightning.qubit, parameter-shift": lightning_qubit,
    "pyqtorch": pyqtorch,
    "tensorcircuit-ng": tensorcircuit,
    "deepquantum": deepquantum,
    "fastqml": fastqml,
}


def load(name: str) -> Peer | str:
    """A peer, or why it is not there."""
    warnings.filterwarnings("ignore")
    try:
        return PEERS[name]()
    except Exception as error:  # a peer may fail in any way of its own; the table says so
        return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
