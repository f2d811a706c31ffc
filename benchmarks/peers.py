"""The same circuits on other simulators: each a function from angles `[K, L, Q]` to probabilities `[K, 2**Q]`, differentiable by torch.

As their documentation would have a user write it, without tricks, several circuits in the simulator's own batch where it has one;
imported only when asked for.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

MOST_SHIFTED = 128  # angles; with more, the parameter-shift rule takes minutes and gigabytes
MOST_FUSED = 8  # qubits; with more, fastqml's fused layers, dense matrices, are slower than its gates
Peer = Callable[[Tensor], Tensor]


def torchquantum() -> Peer:
    """torchquantum 0.1.8, all circuits in one device."""
    from qpa.core.circuits.torchquantum import imported

    tq = imported()

    def simulate(angles: Tensor) -> Tensor:
        circuits, _, qubits = angles.shape
        device = tq.QuantumDevice(n_wires=qubits, bsz=circuits, device=angles.device)
        for layer in angles.unbind(1):
            for qubit in range(qubits):
                tq.functional.ry(device, wires=[qubit], params=layer[:, qubit, None])
            for qubit in range(qubits - 1):
                tq.functional.cnot(device, wires=[qubit, qubit + 1])
        return device.get_states_1d().abs().square()

    return simulate


def _pennylane(device: str, diff_method: str) -> Peer:
    import pennylane as qml

    @cache
    def node(qubits: int) -> Peer:
        @qml.qnode(qml.device(device, wires=qubits), interface="torch", diff_method=diff_method)
        def circuit(angles: Tensor) -> Tensor:
            for layer in angles.unbind(-2):
                for qubit in range(qubits):
                    qml.RY(layer[..., qubit], wires=qubit)
                for qubit in range(qubits - 1):
                    qml.CNOT(wires=[qubit, qubit + 1])
            return qml.probs(wires=range(qubits))

        return circuit

    def simulate(angles: Tensor) -> Tensor:
        found = node(angles.shape[-1])(angles if len(angles) > 1 else angles[0])
        return found.view(len(angles), -1).to(angles.dtype)

    return simulate


def default_qubit() -> Peer:
    """PennyLane default.qubit, backpropagation."""
    return _pennylane("default.qubit", "backprop")


def lightning_qubit() -> Peer:
    """PennyLane lightning.qubit: adjoint differentiation has no probabilities, so the parameter-shift rule."""
    simulate = _pennylane("lightning.qubit", "parameter-shift")

    def limited(angles: Tensor) -> Tensor:
        if angles.numel() > MOST_SHIFTED:
            raise ValueError(f"{2 * angles.numel():,} circuits for one gradient, one after the other")
        return simulate(angles)

    return limited


def pyqtorch() -> Peer:
    """pyqtorch, automatic differentiation."""
    import pyqtorch as pyq

    @cache
    def circuit(qubits: int, layers: int) -> pyq.QuantumCircuit:
        gates = [
            gate
            for layer in range(layers)
            for gate in (
                *(pyq.RY(q, f"{layer}_{q}") for q in range(qubits)),
                *(pyq.CNOT(q, q + 1) for q in range(qubits - 1)),
            )
        ]
        return pyq.QuantumCircuit(qubits, gates)

    def simulate(angles: Tensor) -> Tensor:
        circuits, layers, qubits = angles.shape
        values = {f"{layer}_{q}": angles[:, layer, q] for layer in range(layers) for q in range(qubits)}
        zero = pyq.zero_state(qubits, batch_size=circuits, dtype=torch.complex64)
        state = pyq.run(circuit(qubits, layers).to(dtype=torch.complex64), zero, values)
        return state.flatten(0, -2).T.abs().square()

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
        circuits, layers, qubits = angles.shape
        data = angles.flatten(1) if circuits > 1 else angles.flatten()
        return circuit(qubits, layers)(data=data).view(circuits, -1).abs().square()

    return simulate


def tensorcircuit() -> Peer:
    """tensorcircuit-ng on its torch backend."""
    import tensorcircuit as tc

    tc.set_backend("pytorch")

    def one(angles: Tensor) -> Tensor:
        layers, qubits = angles.shape
        circuit = tc.Circuit(qubits)
        for layer in range(layers):
            for qubit in range(qubits):
                circuit.ry(qubit, theta=angles[layer, qubit])
            for qubit in range(qubits - 1):
                circuit.cnot(qubit, qubit + 1)
        return circuit.state().abs().square().to(angles.dtype)

    several = tc.backend.vmap(one)
    return lambda angles: several(angles) if len(angles) > 1 else one(angles[0])[None]


def fastqml() -> Peer:
    """fastqml, the faster of its ways: one circuit of few qubits with a layer's rotations fused, else gate by gate.

    It has no fused CNOT chain: there that is a permutation, as ours is.
    """
    from fastqml.gate_fusion import apply_su2_layer, build_ry_gates
    from fastqml.torch_sim_real import apply_cnot, apply_ry

    def fused(angles: Tensor, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        index = torch.arange(real.shape[1])
        order = index ^ (index >> 1)
        for layer in angles[0]:
            real, imaginary = apply_su2_layer(real, imaginary, *build_ry_gates(layer))
            real, imaginary = real[:, order], imaginary[:, order]
        return real, imaginary

    def gates(angles: Tensor, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        circuits, _, qubits = angles.shape
        real, imaginary = (part.view(circuits, *[2] * qubits) for part in (real, imaginary))
        for layer in angles.unbind(1):
            for qubit in range(qubits):
                real, imaginary = apply_ry(real, imaginary, layer[:, qubit], qubit, qubits)
            for qubit in range(qubits - 1):
                real, imaginary = apply_cnot(real, imaginary, qubit, qubit + 1, qubits)
        return real.flatten(1), imaginary.flatten(1)

    def simulate(angles: Tensor) -> Tensor:
        circuits, _, qubits = angles.shape
        real = torch.zeros(circuits, 2**qubits)
        real[:, 0] = 1
        way = fused if circuits == 1 and qubits <= MOST_FUSED else gates
        real, imaginary = way(angles, real, torch.zeros_like(real))
        return real.square() + imaginary.square()

    return simulate


def torchquantum_of_ring() -> Peer:
    """torchquantum, U3 on every qubit and CU3 around the ring, of one circuit: its CU3 takes no batch. Angles `[1, 6 L, Q]`."""
    from qpa.core.circuits.torchquantum import imported

    tq = imported()

    def simulate(angles: Tensor) -> Tensor:
        qubits = angles.shape[2]
        device = tq.QuantumDevice(n_wires=qubits, bsz=1, device=angles.device)
        for u3, cu3 in angles[0].unflatten(0, (-1, 2, 3)):
            for qubit in range(qubits):
                tq.functional.u3(device, wires=[qubit], params=u3[None, :, qubit])
            for qubit in range(qubits):
                tq.functional.cu3(device, wires=[qubit, (qubit + 1) % qubits], params=cu3[None, :, qubit])
        return device.get_states_1d().abs().square()

    return simulate


def default_qubit_of_ring() -> Peer:
    """PennyLane default.qubit, backpropagation, the same circuit."""
    import pennylane as qml

    @cache
    def node(qubits: int) -> Peer:
        @qml.qnode(qml.device("default.qubit", wires=qubits), interface="torch", diff_method="backprop")
        def circuit(angles: Tensor) -> Tensor:
            for u3, cu3 in angles.unflatten(0, (-1, 2, 3)):
                for qubit in range(qubits):
                    qml.U3(*u3[:, qubit], wires=qubit)
                for qubit in range(qubits):
                    qml.ctrl(qml.U3, control=qubit)(*cu3[:, qubit], wires=(qubit + 1) % qubits)
            return qml.probs(wires=range(qubits))

        return circuit

    return lambda angles: node(angles.shape[2])(angles[0])[None].to(angles.dtype)


PEERS = {
    "torchquantum": torchquantum,
    "PennyLane default.qubit, backprop": default_qubit,
    "PennyLane lightning.qubit, parameter-shift": lightning_qubit,
    "pyqtorch": pyqtorch,
    "tensorcircuit-ng": tensorcircuit,
    "deepquantum": deepquantum,
    "fastqml": fastqml,
}
PEERS_OF_RING = {"torchquantum": torchquantum_of_ring, "PennyLane default.qubit, backprop": default_qubit_of_ring}
