"""Circuits on what Qiskit 2 reaches through its `SamplerV2` primitive: Aer, the local fake devices, a real device by name.

One call is one job: one transpiled circuit with all rows of angles as one broadcast. `circuit.device` is `aer`, `fake_NAME`
(with that device's gates, couplings and noise) or the name of a device that the user's saved account may use; the account is
read by qiskit-ibm-runtime from its own file and never passes through here. Our qubit 0 is Qiskit's last, so that a bit string
reads as the number of a basis state.
"""

import sys
import time
import warnings
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, TypeVar

import numpy
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.exceptions import QiskitError
from qiskit.quantum_info import Statevector
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, depolarizing_error
from qiskit_ibm_runtime import QiskitRuntimeService
from qiskit_ibm_runtime.accounts import AccountNotFoundError, InvalidAccountError
from qiskit_ibm_runtime.api.exceptions import RequestsApiError
from qiskit_ibm_runtime.executor_sampler import Sampler as SamplerV2  # the primitive that IBM's devices go on with
from qiskit_ibm_runtime.fake_provider import FakeProviderForBackendV2
from requests.exceptions import RequestException
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter
from torch import Tensor

from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.cost import Usage
from qpa.core.circuits.estimate import Device, job_seed
from qpa.core.circuits.qasm import GATES
from qpa.errors import ConfigError

T = TypeVar("T")
LOST = (RequestException, ConnectionError, TimeoutError)
ATTEMPTS = 6  # waits of 1, 2, 4, ... seconds between them
CALIBRATION_SHOTS = 8192
MOST_EXECUTIONS = 10_000_000  # circuits times shots of one job, IBM's limit


def parametrised(ansatz: Ansatz, per_qubit: int, qubits: int) -> QuantumCircuit:
    """The circuit with `A Q` parameters in the order of angles `[A, Q]`, without measurements, up to a global phase."""
    angles = ParameterVector("angle", per_qubit * qubits)
    circuit = QuantumCircuit(qubits)
    for gate, wires, numbers in ansatz.operations(per_qubit, qubits):
        turned_by = [angles[number * qubits + wires[0]] for number in numbers]
        for method, *given in _simple(gate, *turned_by):
            getattr(circuit, method)(*[qubits - 1 - wires[part] if isinstance(part, int) else part for part in given])
    return circuit


def _simple(gate: str, *angles: Any) -> list[tuple[Any, ...]]:
    """As rotations, cx and cz of the gate's qubits 0 and 1.

    Qiskit would do it, but Aer 0.18 samples a parametrised crx, cry or crz wrongly, and the transpiler takes minutes for a parametrised cu.
    """
    if gate in ("CRX", "CRY", "CRZ"):
        turn, flip = gate[1:].lower(), "cz" if gate == "CRX" else "cx"  # which turns the rotation round where the control is 1
        return [(turn, angles[0] / 2, 1), (flip, 0, 1), (turn, -angles[0] / 2, 1), (flip, 0, 1)]
    if gate == "U3":
        theta, phi, lam = angles
        return [("rz", lam, 0), ("ry", theta, 0), ("rz", phi, 0)]
    if gate == "CU3":
        theta, phi, lam = angles
        outer = [("rz", (lam + phi) / 2, 0), ("rz", (lam - phi) / 2, 1)]
        inner = [("rz", -(lam + phi) / 2, 1), ("ry", -theta / 2, 1)]
        return [*outer, ("cx", 0, 1), *inner, ("cx", 0, 1), ("ry", theta / 2, 1), ("rz", phi, 1)]
    return [(GATES[gate], *angles, *range(2 if gate in ("CNOT", "CZ") else 1))]


def exact(ansatz: Ansatz) -> Device:
    """Qiskit's own exact probabilities, `[N, A, Q]` to `[N, 2**Q]`."""

    def probabilities(angles: Tensor) -> Tensor:
        """The device."""
        circuit = parametrised(ansatz, *angles.shape[1:])
        rows = angles.detach().flatten(1).double().cpu().numpy()
        return torch.tensor(numpy.stack([Statevector(circuit.assign_parameters(row)).probabilities() for row in rows])).to(angles)

    return probabilities


class Sampler:
    """A device in the sense of `qpa.core.circuits.estimate`.

    Args:
        ansatz: of the circuits.
        device: `aer`, `fake_NAME`, or a real device's name.
        shots: per circuit.
        noise: of Aer alone: depolarising probability of every two-qubit gate, a tenth of it for the others; None for none.
        mitigated: whether frequencies are corrected for readout errors (M3, Nation et al. 2021, arXiv 2108.12518).
        seed: of local simulators.
    """

    def __init__(self, ansatz: Ansatz, *, device: str, shots: int, noise: float | None, mitigated: bool, seed: int) -> None:
        self.ansatz, self.shots, self.mitigated, self.seed = ansatz, shots, mitigated, seed
        self.usage = Usage()
        self.name, self.noise = device, noise
        self._circuits: dict[tuple[int, int], QuantumCircuit] = {}
        self._mitigations: dict[tuple[int, ...], Any] = {}

    @cached_property
    def backend(self) -> Any:
        """The device itself."""
        return find(self.name, self.noise)

    def __call__(self, angles: Tensor) -> Tensor:
        """Relative frequencies, `[N, 2**Q]`; one job, or as many as a device's limit asks for."""
        _, per_qubit, qubits = angles.shape
        circuit = self._transpiled(per_qubit, qubits)
        correct = self._correction(per_qubit, qubits) if self.mitigated else None  # a job of its own, once
        rows, seed = angles.detach().flatten(1).double().cpu().numpy(), job_seed(self.seed, angles)
        most = max(1, MOST_EXECUTIONS // self.shots)
        found = []
        for first in range(0, len(rows), most):
            measured = self._run(circuit, rows[first : first + most], seed=seed + first)
            found.append(correct(measured) if correct else frequencies(measured.array, qubits))
        return torch.from_numpy(numpy.concatenate(found)).to(angles)

    def _run(self, circuit: QuantumCircuit, rows: numpy.ndarray, *, seed: int) -> Any:
        """The bits that one job has measured. After a lost connection it is looked up by its number, not run again."""
        service = getattr(self.backend, "service", None)  # of a real device
        sampler = SamplerV2(mode=self.backend)
        if service is None:
            sampler.options.simulator.seed_simulator = seed  # pyright: ignore[reportAttributeAccessIssue]
        started = time.perf_counter()
        job = retried(lambda: sampler.run([(circuit, rows)], shots=self.shots), self.name)  # pyright: ignore[reportArgumentType]
        number = job.job_id()
        result = retried(lambda: (service.job(number) if service else job).result(), self.name)
        self.usage.add(len(rows), self.shots, time.perf_counter() - started if service is None else self._charged(service, number))
        return result[0].data.meas  # pyright: ignore[reportAttributeAccessIssue]

    def _charged(self, service: Any, number: str) -> float:
        """Seconds that a real device counts for a job; 0, and a line, where its service does not tell: the samples are there."""
        try:
            return float(retried(lambda: service.job(number).usage(), self.name) or 0)
        except ConfigError:
            print(f"qpa: {self.name} does not say what job {number} cost; it is not in the record's seconds", file=sys.stderr)
            return 0.0

    def _transpiled(self, per_qubit: int, qubits: int) -> QuantumCircuit:
        if (per_qubit, qubits) not in self._circuits:
            circuit = parametrised(self.ansatz, per_qubit, qubits)
            circuit.measure_all()
            passes = generate_preset_pass_manager(optimization_level=3, backend=self.backend, seed_transpiler=self.seed)
            self._circuits[per_qubit, qubits] = passes.run(circuit)
        return self._circuits[per_qubit, qubits]

    def _correction(self, per_qubit: int, qubits: int) -> Callable[[Any], numpy.ndarray]:
        """From measured bits to the nearest probabilities that readout errors would turn into them, `[N, 2**Q]`."""
        from mthree import M3Mitigation  # seconds
        from mthree.utils import final_measurement_mapping

        mapping: dict[int, int] = final_measurement_mapping(self._transpiled(per_qubit, qubits))  # pyright: ignore[reportAssignmentType]
        measured_qubits = tuple(mapping.values())
        if measured_qubits not in self._mitigations:
            self._mitigations[measured_qubits] = M3Mitigation(self.backend)
            self._mitigations[measured_qubits].cals_from_system(list(measured_qubits), shots=CALIBRATION_SHOTS)
        mitigation = self._mitigations[measured_qubits]

        def correct(measured: Any) -> numpy.ndarray:
            """Of every circuit by itself."""
            found = numpy.zeros((measured.shape[0], 2**qubits))
            for row in range(len(found)):
                quasi = mitigation.apply_correction(measured.get_counts(row), mapping)
                for bits, probability in quasi.nearest_probability_distribution().items():
                    found[row, int(bits, 2)] = probability
            return found

        return correct


def frequencies(bits: numpy.ndarray, qubits: int) -> numpy.ndarray:
    """Packed bit strings `[N, shots, bytes]`, most significant first, as relative frequencies `[N, 2**Q]`."""
    place = 256 ** numpy.arange(bits.shape[2])[::-1]
    return numpy.stack([numpy.bincount(row @ place, minlength=2**qubits) for row in bits]) / bits.shape[1]


def retried(call: Callable[[], T], device: str) -> T:
    """What a call returns, after some more tries where the connection to a device was lost.

    Raises:
        ConfigError: it stayed lost, or the service refused; without its words, which may hold an account's name.
    """
    again = Retrying(retry=retry_if_exception(_lost), stop=stop_after_attempt(ATTEMPTS), wait=wait_exponential_jitter(), reraise=True)
    try:
        return again(call)
    except (*LOST, QiskitError) as error:
        problem = f"a job did not come back ({type(error).__name__}); ckpt=last goes on from the last checkpoint"
        raise ConfigError("circuit.device", device, problem) from None


def _lost(error: BaseException) -> bool:
    """Whether trying again can mend it: no connection, or the service's own fault or load."""
    code = error.status_code if isinstance(error, RequestsApiError) else None
    return isinstance(error, LOST) or code == -1 or code == 429 or (code is not None and code >= 500)


@cache
def find(device: str, noise: float | None) -> Any:
    """The device of a name.

    Raises:
        ConfigError: there is none, or no saved account; the text says what there is.
    """
    if device == "aer":
        return AerSimulator(noise_model=None if noise is None else _depolarising(noise))
    if device.startswith("fake_"):
        with warnings.catch_warnings(action="ignore"):  # one of them warns that its errors are no real device's
            there = {str(backend.name): backend for backend in FakeProviderForBackendV2().backends()}
        if device not in there:
            raise ConfigError("circuit.device", device, f"there is no such fake device; there are {', '.join(sorted(there))}")
        return there[device]
    return _real(device)


def _depolarising(probability: float) -> NoiseModel:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(probability, 2), ["cx", "cz"])
    model.add_all_qubit_quantum_error(depolarizing_error(probability / 10, 1), ["rx", "ry", "rz"])
    return model


def _real(device: str) -> Any:
    try:
        service = QiskitRuntimeService()
        there = [str(backend.name) for backend in service.backends()]
    except (AccountNotFoundError, InvalidAccountError, ValueError):  # the last where the account's file is damaged
        raise ConfigError(
            "circuit.device",
            device,
            "is not aer or fake_NAME, and a real device needs a saved account, of which there is none that can be used; once, in Python: "
            "qiskit_ibm_runtime.QiskitRuntimeService.save_account(token=...)",
        ) from None
    except (*LOST, QiskitError) as error:
        raise ConfigError("circuit.device", device, f"the saved account does not reach IBM's service ({type(error).__name__})") from None
    if device not in there:
        raise ConfigError("circuit.device", device, f"the saved account has no such device; it has {', '.join(sorted(there)) or 'none'}")
    return service.backend(device)
