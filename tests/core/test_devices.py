"""What generates is made where its numbers are, and never waits for a device; samples are drawn there."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from qpa.core.circuits import statevector
from qpa.core.circuits.ansatz import RY_CNOT
from qpa.core.circuits.estimate import Sampled, job_seed, multinomial, spsa, unsampled


@pytest.mark.slow
def test_circuits_and_generators_are_made_on_the_device_of_their_numbers() -> None:
    """In a process that gives torch a device without hardware; there is no other way to see it on this machine."""
    script = Path(__file__).parent / "elsewhere.py"
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "all there\n"), done.stderr[-3000:]


def test_samples_of_the_cpu_are_drawn_in_float64_from_the_seed_of_their_job() -> None:
    exact, angles = statevector.simulator(RY_CNOT), torch.linspace(0, 3, 12).view(2, 2, 3)
    random = torch.Generator().manual_seed(job_seed(5, angles))
    expected = (multinomial(exact(angles).double(), 1_000, random) / 1_000).float()
    assert torch.equal(Sampled(exact, shots=1_000, seed=5)(angles), expected)


def test_spsa_moves_the_angles_as_ever_whatever_torchs_default_device_is() -> None:
    simulate = spsa(unsampled(statevector.simulator(RY_CNOT)), 3)
    found = []
    for device in ("cpu", "meta"):
        angles = torch.linspace(0, 3, 12).view(2, 2, 3).requires_grad_()
        with torch.device(device):
            simulate(angles)[:, 0].sum().backward()
        found.append(angles.grad)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
