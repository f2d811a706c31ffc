"""Real Qiskit primitives: Aer, fake devices, what is wrong with a name, and what a lost connection costs."""

import math
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from qpa.core.circuits import backends, statevector
from qpa.core.circuits.ansatz import RY_CNOT
from qpa.core.circuits.execution import Execution
from qpa.errors import ConfigError

pytest.importorskip("qiskit_ibm_runtime")
from conftest import ROOT, command_line
from qiskit_ibm_runtime.api.exceptions import RequestsApiError
from qiskit_ibm_runtime.exceptions import RuntimeJobFailureError
from test_circuits import RINGS, SHIPPED, angles_of, random_angles, shipped, sizes

from qpa.core.circuits import qiskit as qiskit_backend

TOKEN = "planted-token-0123456789abcdef"


def sampler(device: str, **changed: object) -> qiskit_backend.Sampler:
    chosen = {"shots": 4096, "noise": None, "mitigated": False, "seed": 1} | changed
    return qiskit_backend.Sampler(RY_CNOT, device=device, **chosen)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Total variation, the mean over circuits."""
    return float((found - expected).abs().sum(1).mean() / 2)


def test_aer_without_noise_samples_the_exact_probabilities() -> None:
    angles = random_angles(3, 2, 4)
    exact = statevector.simulator(RY_CNOT)(angles)
    found = sampler("aer", shots=20_000)(angles)
    deviation = (exact * (1 - exact) / 20_000).sqrt()
    assert ((found - exact).abs() <= 5 * deviation + 1e-9).all()


def test_noise_moves_samples_away_from_the_exact_probabilities_the_more_the_stronger_it_is() -> None:
    angles = random_angles(4, 4, 4)
    exact = statevector.simulator(RY_CNOT)(angles)
    distances = [distance(sampler("aer", noise=noise)(angles), exact) for noise in (None, 0.02, 0.3)]
    assert distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize("name", RINGS)
def test_gates_with_angles_are_sampled_as_they_are_and_noise_acts_on_them(name: str) -> None:
    angles = angles_of(name, circuits=3, layers=2, qubits=3)
    exact, distances = statevector.simulator(shipped(name))(angles), []
    for noise in (None, 0.02, 0.3):
        device = qiskit_backend.Sampler(shipped(name), device="aer", shots=20_000, noise=noise, mitigated=False, seed=1)
        distances.append(distance(device(angles), exact))
    assert distances[0] < 0.02
    assert distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize("name", RINGS)
def test_gates_with_angles_run_on_a_fake_device(name: str) -> None:
    device = qiskit_backend.Sampler(shipped(name), device="fake_manila", shots=2048, noise=None, mitigated=False, seed=1)
    angles = angles_of(name, circuits=2, layers=1, qubits=3)
    assert distance(device(angles), statevector.simulator(shipped(name))(angles)) < 0.35


def test_a_fake_device_runs_its_own_gates_and_is_noisy() -> None:
    device = sampler("fake_manila")
    angles = random_angles(4, 4, 4)
    found = device(angles)
    gates = {instruction.operation.name for instruction in device._transpiled(4, 4).data} - {"barrier"}
    assert gates <= set(device.backend.operation_names)
    exact = statevector.simulator(RY_CNOT)(angles)
    assert 0.02 < distance(found, exact) < 0.5
    torch.testing.assert_close(found.sum(1), torch.ones(4, dtype=torch.float64))


def test_readout_mitigation_brings_samples_nearer_to_the_exact_probabilities() -> None:
    angles = math.pi * torch.tensor([[[1, 0, 0, 1, 1]]], dtype=torch.float64)  # one basis state, 11101, which readout errors spread
    exact = statevector.simulator(RY_CNOT)(angles)
    plain, mitigated = (distance(sampler("fake_manila", mitigated=way)(angles), exact) for way in (False, True))
    assert mitigated < 0.6 * plain


@pytest.mark.parametrize("name", SHIPPED)
def test_the_exported_program_read_back_by_qiskit_gives_the_same_probabilities(name: str) -> None:
    from qiskit import qasm3
    from qiskit.quantum_info import Statevector

    from qpa.core.circuits import qasm

    for qubits in sizes(name, 1, 2, 5):
        angles = angles_of(name, circuits=1, layers=2, qubits=qubits)
        read = torch.tensor(Statevector(qasm3.loads(qasm.program(shipped(name), angles[0]))).probabilities())
        torch.testing.assert_close(read, statevector.simulator(shipped(name))(angles)[0], atol=1e-12, rtol=0)


def test_a_local_device_draws_the_same_samples_for_the_same_seed() -> None:
    angles = random_angles(2, 2, 3)
    first, second, other = (sampler("aer", seed=seed)(angles) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_packed_bits_of_more_than_eight_qubits_are_counted_by_their_basis_state() -> None:
    bits = numpy.array([[[1, 3], [1, 3], [0, 7]]], dtype=numpy.uint8)
    (found,) = qiskit_backend.frequencies(bits, 9)
    assert {place: found[place] for place in found.nonzero()[0].tolist()} == {259: pytest.approx(2 / 3), 7: pytest.approx(1 / 3)}


def test_more_executions_than_a_device_takes_at_once_are_several_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qiskit_backend, "MOST_EXECUTIONS", 250)
    device = sampler("aer", shots=100)
    assert device(random_angles(5, 1, 2)).shape == (5, 4)
    assert (device.usage.jobs, device.usage.circuits) == (3, 5)


class Service:
    """What a real device's backend has: its service, which knows jobs by their number. Runs on Aer."""

    def __init__(self, lost: int) -> None:
        self.kept: object = None
        self.left, self.asked = lost, 0

    def job(self, number: str) -> object:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise RequestsApiError(f"token={TOKEN}", status_code=-1)
        return self.kept


def test_a_job_whose_connection_was_lost_is_looked_up_and_charged_as_the_service_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    device, angles = sampler("aer", shots=200), random_angles(1, 1, 2)
    submitted = []
    original = qiskit_backend.SamplerV2.run

    def run(self: object, *given: object, **named: object) -> object:
        job = original(self, *given, **named)
        submitted.append(job)
        monkeypatch.setattr(type(job), "usage", lambda _: 1.5, raising=False)
        device.backend.service.kept = job
        return job

    monkeypatch.setattr(qiskit_backend.SamplerV2, "run", run)
    device.backend.service = Service(lost=3)
    torch.testing.assert_close(device(angles).sum(1), torch.ones(1, dtype=torch.float64))
    assert len(submitted) == 1
    assert device.usage.seconds == 1.5
    assert device.backend.service.asked == 5  # three times lost, then the result, then the charge
    del device.backend.service


def test_a_job_that_failed_is_one_line_and_not_tried_again() -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise RuntimeJobFailureError(f"token={TOKEN}")

    with pytest.raises(ConfigError, match="RuntimeJobFailureError") as raised:
        qiskit_backend.retried(fail, "ibm_x")
    assert len(calls) == 1
    assert TOKEN not in str(raised.value)


class Flaky:
    """A call that loses its connection some times before it answers."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise RequestsApiError(f"token={TOKEN}", status_code=503)  # as IBM's client has it
        return "answer"


def test_a_lost_connection_is_tried_again_and_then_reported_without_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    assert qiskit_backend.retried(Flaky(qiskit_backend.ATTEMPTS - 1), "ibm_x") == "answer"
    with pytest.raises(ConfigError, match=r"circuit.device=ibm_x: .*RequestsApiError.*ckpt=last") as raised:
        qiskit_backend.retried(Flaky(qiskit_backend.ATTEMPTS), "ibm_x")
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    ("changed", "qubits", "words"),
    [
        ({"device": "fake_nothing"}, 4, ["circuit.device=fake_nothing", "fake_manila", "fake_torino"]),
        ({"device": "fake_manila"}, 6, ["circuit.device=fake_manila", "has 5 qubits", "6"]),
        ({"device": "ibm_somewhere"}, 4, ["circuit.device=ibm_somewhere", "saved account", "save_account"]),
    ],
)
def test_a_device_that_cannot_run_gets_one_line(
    changed: dict[str, str], qubits: int, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("qiskit_ibm_runtime.accounts.management._DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(tmp_path / "none.json"))
    with pytest.raises(ConfigError) as raised:
        backends.check(Execution("qiskit", shots=100, **changed), qubits=qubits)
    assert all(word in str(raised.value) for word in words)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("device", ["default.qutrit", "null.qubit", "default.nothing"])
def test_a_device_of_pennylanes_that_cannot_run_the_circuits_gets_one_line(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"circuit.device={device}: .*default.qubit"):
        backends.check(Execution("pennylane", device), qubits=4)


@pytest.mark.parametrize("package", ["pennylane", "qiskit"])
def test_a_missing_package_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"circuit.backend={package}: .*make setup EXTRAS={package}"):
        backends.check(Execution(package), qubits=4)


@pytest.mark.slow
def test_training_on_a_noisy_fake_device_lowers_the_loss_and_counts_what_it_ran(text_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    quantum = ["circuit.backend=qiskit", "circuit.device=fake_manila", "circuit.qubits=4", "circuit.shots=1024", "optimizer.lr=3e-2"]
    steps = ["trainer.max_steps=10", "trainer.val_every=5", "trainer.log_every_n_steps=1", "logger=none", f"run_dir={run}"]
    only = ["peft.target_modules=[q_proj,v_proj]"]
    command = [sys.executable, "train.py", *command_line(text_file, tmp_path), *quantum, *steps, *only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=None)
    assert done.returncode == 0, done.stderr
    import csv
    import json

    losses = [float(row["train/loss"]) for row in csv.DictReader((run / "metrics.csv").open()) if row["train/loss"]]
    assert sum(losses[-3:]) < sum(losses[:3])
    used = json.loads((run / "result.json").read_text())["qpa"]["usage"]
    per_step = 2 * (1 + 2 * 2 * 4)
    assert used["circuits"] == 11 * per_step + 2  # of the first weights, and after each step; then those of the best step alone
    assert used["shots"] == 1024 * used["circuits"]
    assert "circuits run" in done.stdout
