"""The same circuits on any simulator of PennyLane (Bergholm et al. 2018, arXiv 1811.04968) that gives exact probabilities.

`circuit.device` is PennyLane's own device name: `default.qubit`, `lightning.qubit`, ...
"""

from functools import cache
from typing import Any

import pennylane
import torch
from pennylane.exceptions import DeviceError
from torch import Tensor

from qpa.core.circuits import statevector
from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.states import Simulator
from qpa.errors import ConfigError

BATCHED = "default.qubit"  # takes all circuits at once; others one after the other


def simulator(ansatz: Ansatz, device: str) -> Simulator:
    """From angles `[K, A, Q]` to probabilities `[K, 2**Q]` in their dtype, differentiable the way the device does best; on the CPU."""

    def probabilities(angles: Tensor) -> Tensor:
        """The simulator."""
        circuit = _node(ansatz, device, angles.shape[1], angles.shape[2])
        here = angles.cpu()
        found = circuit(here) if device == BATCHED and len(here) > 1 else torch.stack([circuit(one) for one in here])
        return found.to(angles)

    return probabilities


def check(device: str) -> None:
    """Whether there is such a device, and one small circuit comes out right on it.

    Raises:
        ConfigError: none; the text lists those there are.
    """
    trial = Ansatz(("RX", "RY", "RZ"))
    angles = torch.tensor([[[0.3, 0.1], [0.7, 1.1], [0.2, 0.4]]])
    try:
        right = torch.allclose(simulator(trial, device)(angles), statevector.probabilities(trial, angles), atol=1e-4)
    except (DeviceError, ImportError, NotImplementedError, ValueError):
        right = False
    if not right:
        known = ", ".join(sorted(pennylane.plugin_devices))
        raise ConfigError(
            "circuit.device", device, f"PennyLane has no such device here, or it cannot run these circuits; there are {known}"
        )


@cache
def _node(ansatz: Ansatz, device: str, per_qubit: int, qubits: int) -> Any:
    def circuit(angles: Tensor) -> Any:
        """Of angles `[A, Q]`, or of a batch of them."""
        for gate, wires, numbers in ansatz.operations(per_qubit, qubits):
            turned_by = [angles[..., number, wires[0]] for number in numbers]
            if gate == "CU3":
                theta, phi, lam = turned_by  # as three gates: PennyLane has no shift rule for a controlled U3
                pennylane.ControlledPhaseShift(lam, wires=wires)
                pennylane.CRY(theta, wires=wires)
                pennylane.ControlledPhaseShift(phi, wires=wires)
            else:
                getattr(pennylane, gate)(*turned_by, wires=wires)
        return pennylane.probs(wires=range(qubits))

    return pennylane.QNode(circuit, pennylane.device(device, wires=qubits), interface="torch", diff_method="best")
