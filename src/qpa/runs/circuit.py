"""Config group `circuit` in the core's own words; no torch here, so that what cannot work is refused fast."""

from dataclasses import asdict
from importlib.util import find_spec

from qpa.config import CircuitConfig
from qpa.core.circuits import backends
from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.execution import Execution
from qpa.errors import ConfigError


def ansatz(circuit: CircuitConfig) -> Ansatz:
    """What a layer is made of."""
    return Ansatz(tuple(circuit.rotations), circuit.entangler, circuit.gate, circuit.final_rotations)


def execution(circuit: CircuitConfig) -> Execution:
    """What runs the circuits, and how."""
    return Execution(circuit.backend, circuit.device, circuit.shots, circuit.gradient, circuit.noise, circuit.mitigate_readout)


def exactly(circuit: CircuitConfig) -> CircuitConfig:
    """The same circuits, simulated exactly by what is always there."""
    return circuit.model_copy(update=asdict(Execution()))


def angles(circuit: CircuitConfig, qubits: int) -> int:
    """How many one circuit has, `A Q`."""
    return ansatz(circuit).angles_per_qubit(circuit.layers) * qubits


def check_there(circuit: CircuitConfig, *, qubits: int | None) -> None:
    """Whether what the config asks for is installed and has the `qubits`.

    Raises:
        ConfigError: it is not; the text says what would be.
    """
    if circuit.backend == "torchquantum" and find_spec("torchquantum") is None:  # no extra: its metadata asks for what cannot be
        raise ConfigError("circuit.backend", circuit.backend, "is not installed; pip install --no-deps torchquantum==0.1.8")
    backends.check(execution(circuit), qubits=qubits)
