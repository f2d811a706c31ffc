"""Which chunks and circuits settings give, and whether they can be run here; no torch, so that what cannot work is refused fast."""

from collections.abc import Sequence

import psutil

from qpa.config import CircuitConfig, Settings
from qpa.core import layout as layouts
from qpa.core.circuits import backends
from qpa.core.circuits.cost import state_bytes
from qpa.core.layout import AdapterTensor, Layout
from qpa.errors import ConfigError
from qpa.library.circuit import ansatz, execution


def layout_of(settings: Settings, tensors: Sequence[AdapterTensor]) -> Layout:
    """Where each number of the tensors comes from, whether or not it can be run here.

    Raises:
        ConfigError: chunks and qubits do not fit, or a single qubit has to control another.
    """
    qubits, chunk_size = settings.circuit.qubits, settings.mapper.chunk_size
    found = layouts.plan(tensors, circuits=settings.generator.circuits, qubits=qubits, chunk_size=chunk_size)
    if found.qubits == 1 and ansatz(settings.circuit).trained_pairs:
        problem = "has angles of every qubit as the control of another, and these circuits have one; circuit.qubits=2, or gate=CNOT or CZ"
        raise ConfigError("circuit.gate", settings.circuit.gate, problem)
    return found


def layout_for_here(settings: Settings, tensors: Sequence[AdapterTensor]) -> Layout:
    """The same, of circuits that can be run.

    Raises:
        ConfigError: chunks and qubits do not fit, the circuits do not fit the memory, or nothing there can run them.
    """
    found = layout_of(settings, tensors)
    check_memory(settings.circuit, circuits=found.circuits, qubits=found.qubits)
    if settings.runs_circuits:
        backends.check(execution(settings.circuit), qubits=found.qubits)
    return found


def check_memory(circuit: CircuitConfig, *, circuits: int, qubits: int) -> None:
    """Refuse circuits whose states do not fit half of this machine's memory.

    Raises:
        ConfigError: how many qubits would.
    """
    room = psutil.virtual_memory().total // 2
    how = execution(circuit)
    per_state = state_bytes(ansatz(circuit), layers=circuit.layers, qubits=qubits, circuits=circuits, execution=how)
    needed = per_state << qubits
    if needed > room:
        most = max(1, (room // per_state).bit_length() - 1)
        size = f"{needed / 2**30:,.0f} GiB" if qubits < 64 else f"2**{needed.bit_length() - 31} GiB"
        shifted = ", those of circuit.gradient=parameter_shift with them," if how.rule == "parameter_shift" else ""
        problem = f"{circuits} circuit(s) of {qubits} qubits{shifted} need {size} of memory; at most {most} qubits fit here"
        raise ConfigError("circuit.qubits", qubits, problem)
