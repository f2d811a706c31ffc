"""From an `Execution` to a simulator or device, imported only now; and what can be known to be wrong beforehand."""

import logging
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.cost import Usage
from qpa.core.circuits.execution import Execution
from qpa.errors import ConfigError

if TYPE_CHECKING:
    from qpa.core.circuits.estimate import Device
    from qpa.core.circuits.states import Simulator

EXTRAS = {"pennylane": ("pennylane",), "qiskit": ("qiskit", "qiskit_aer", "qiskit_ibm_runtime", "mthree", "tenacity")}


def simulator(ansatz: Ansatz, execution: Execution, *, seed: int) -> "tuple[Simulator, Usage | None]":
    """A backend as a differentiable function, and where it counts what it has run (None: it samples nothing).

    Args:
        ansatz: of the circuits.
        execution: what runs them, and how.
        seed: of samples.
    """
    if execution.rule == "exact":
        return _exact(ansatz, execution), None
    from qpa.core.circuits.estimate import parameter_shift, spsa  # torch: seconds

    device = _device(ansatz, execution, seed=seed)
    differentiable = spsa(device, seed) if execution.rule == "spsa" else parameter_shift(ansatz, device)
    return differentiable, getattr(device, "usage", None)


def _exact(ansatz: Ansatz, execution: Execution) -> "Simulator":
    module = import_module(f"qpa.core.circuits.{execution.backend}")
    device = [execution.device or "default.qubit"] if execution.backend == "pennylane" else []
    return module.simulator(ansatz, *device)


def _device(ansatz: Ansatz, execution: Execution, *, seed: int) -> "Device":
    from qpa.core.circuits.estimate import Sampled, unsampled

    shots = execution.shots
    if execution.backend != "qiskit":
        exact = _exact(ansatz, execution)
        return unsampled(exact) if shots is None else Sampled(exact, shots=shots, seed=seed)
    qiskit, name = _qiskit(), execution.device or "aer"
    if shots is None:
        return qiskit.exact(ansatz)
    return qiskit.Sampler(ansatz, device=name, shots=shots, noise=execution.noise, mitigated=execution.mitigate_readout, seed=seed)


def _qiskit() -> ModuleType:
    for talkative in ("qiskit", "qiskit_ibm_runtime"):  # else a line for every pass and every job, from its import on
        logging.getLogger(talkative).setLevel(logging.WARNING)
    return import_module("qpa.core.circuits.qiskit")


def check(execution: Execution, *, qubits: int | None) -> None:
    """Whether the backend is installed, the device is there, and it has the `qubits`.

    Raises:
        ConfigError: it is not; the text says what would be.
    """
    if execution.backend == "torchquantum" and find_spec("torchquantum") is None:  # no extra: its metadata asks for what cannot be
        raise ConfigError("circuit.backend", execution.backend, "is not installed; pip install --no-deps torchquantum==0.1.8")
    missing = [package for package in EXTRAS.get(execution.backend, ()) if find_spec(package) is None]
    if missing:
        raise ConfigError("circuit.backend", execution.backend, f"needs {', '.join(missing)}; run make setup EXTRAS={execution.backend}")
    if execution.backend == "pennylane":
        import_module("qpa.core.circuits.pennylane").check(execution.device or "default.qubit")
    if execution.backend == "qiskit" and execution.device not in (None, "aer"):
        device = _qiskit().find(execution.device, None)
        if qubits is not None and qubits > device.num_qubits:
            raise ConfigError("circuit.device", execution.device, f"has {device.num_qubits} qubits, the circuits have {qubits}")
