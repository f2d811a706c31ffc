"""From config group `circuit` to a simulator or device, imported only now; and what can be known to be wrong beforehand."""

import logging
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from qpa.config import CircuitConfig
from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.cost import Usage
from qpa.errors import ConfigError

if TYPE_CHECKING:
    from qpa.core.circuits.estimate import Device
    from qpa.core.circuits.states import Simulator

EXTRAS = {"pennylane": ("pennylane",), "qiskit": ("qiskit", "qiskit_aer", "qiskit_ibm_runtime", "mthree", "tenacity")}


def ansatz(circuit: CircuitConfig) -> Ansatz:
    """The config's ansatz."""
    return Ansatz(tuple(circuit.rotations), circuit.entangler, circuit.gate, circuit.final_rotations)


def simulator(circuit: CircuitConfig, *, seed: int) -> "tuple[Simulator, Usage | None]":
    """The config's backend as a differentiable function, and where it counts what it has run (None: it samples nothing).

    Args:
        circuit: the config group.
        seed: of samples outside training.
    """
    if circuit.rule == "exact":
        return _exact(circuit), None
    from qpa.core.circuits.estimate import RULES  # torch: seconds

    device = _device(circuit, seed=seed)
    return RULES[circuit.rule](device), getattr(device, "usage", None)


def exactly(circuit: CircuitConfig) -> CircuitConfig:
    """The same circuits, simulated exactly by what is always there."""
    here = {"backend": "statevector", "device": None, "shots": None, "gradient": None, "noise": None, "mitigate_readout": False}
    return circuit.model_copy(update=here)


def _exact(circuit: CircuitConfig) -> "Simulator":
    module = import_module(f"qpa.core.circuits.{circuit.backend}")
    device = [circuit.device or "default.qubit"] if circuit.backend == "pennylane" else []
    return module.simulator(ansatz(circuit), *device)


def _device(circuit: CircuitConfig, *, seed: int) -> "Device":
    from qpa.core.circuits.estimate import Sampled, unsampled

    if circuit.backend != "qiskit":
        exact = _exact(circuit)
        return unsampled(exact) if circuit.shots is None else Sampled(exact, shots=circuit.shots, seed=seed)
    qiskit, shape, name = _qiskit(), ansatz(circuit), circuit.device or "aer"
    if circuit.shots is None:
        return qiskit.exact(shape)
    return qiskit.Sampler(shape, device=name, shots=circuit.shots, noise=circuit.noise, mitigated=circuit.mitigate_readout, seed=seed)


def _qiskit() -> ModuleType:
    for talkative in ("qiskit", "qiskit_ibm_runtime"):  # else a line for every pass and every job, from its import on
        logging.getLogger(talkative).setLevel(logging.WARNING)
    return import_module("qpa.core.circuits.qiskit")


def check(circuit: CircuitConfig, *, qubits: int | None) -> None:
    """Whether the backend is installed, the device is there, and it has the `qubits`.

    Raises:
        ConfigError: it is not; the text says what would be.
    """
    missing = [package for package in EXTRAS.get(circuit.backend, ()) if find_spec(package) is None]
    if missing:
        raise ConfigError("circuit.backend", circuit.backend, f"needs {', '.join(missing)}; run make setup EXTRAS={circuit.backend}")
    if circuit.backend == "pennylane":
        import_module("qpa.core.circuits.pennylane").check(circuit.device or "default.qubit")
    if circuit.backend == "qiskit" and circuit.device not in (None, "aer"):
        device = _qiskit().find(circuit.device, None)
        if qubits is not None and qubits > device.num_qubits:
            raise ConfigError("circuit.device", circuit.device, f"has {device.num_qubits} qubits, the circuits have {qubits}")
