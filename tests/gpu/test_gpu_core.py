"""Circuits and generators on a card: against float64 on the CPU, which tests/core holds against dense matrices; and nothing waits."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
import torch
from conftest import ROOT, build

from qpa.analysis.gradient_variance import shipped
from qpa.config import Config
from qpa.core.adaptation import GeneratedAdaptation
from qpa.core.circuits import statevector
from qpa.core.circuits.ansatz import RY_CNOT
from qpa.core.circuits.entanglement import bond_entropies, meyer_wallach
from qpa.core.circuits.estimate import Sampled, parameter_shift, spsa, unsampled
from qpa.core.circuits.states import Simulator

pytestmark = pytest.mark.gpu
CARD = "cuda"
SHIPPED = [file.stem for file in sorted((ROOT / "conf" / "circuit").glob("[a-z]*.yaml"))]
SIZES = [(3, 2, 1), (2, 40, 4), (64, 8, 8), (210, 2, 4), (2, 3, 13)]  # K, L, Q
PACKAGES = ("torchquantum", "torchdiffeq", "opt_einsum", "dill", "scipy")  # that torchquantum is made of here
needs_torchquantum = pytest.mark.skipif(any(find_spec(name) is None for name in PACKAGES), reason="torchquantum is not installed")


def random_angles(name: str, circuits: int, layers: int, qubits: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(qubits)
    return torch.rand(circuits, shipped(name).angles_per_qubit(layers), qubits, generator=random, dtype=torch.float64) * 2 * math.pi


def found(simulate: Simulator, angles: torch.Tensor) -> list[torch.Tensor]:
    """Probabilities, and the gradient of a weighted sum of them, where they were computed."""
    angles = angles.clone().requires_grad_()
    probabilities = simulate(angles)
    weights = torch.linspace(-1, 1, probabilities.shape[1], dtype=torch.float64).to(probabilities)
    (gradient,) = torch.autograd.grad((probabilities * weights).sum(), angles)
    return [probabilities.detach(), gradient]


@contextmanager
def never_waiting() -> Iterator[None]:
    """Whatever waits for the card raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_ansatz_has_the_probabilities_and_gradients_of_float64(name: str, dtype: torch.dtype, tolerance: float) -> None:
    simulate = statevector.simulator(shipped(name))
    for size in SIZES[shipped(name).trained_pairs :]:  # whose first is of one qubit
        angles = random_angles(name, *size)
        for ours, right in zip(found(simulate, angles.to(CARD, dtype)), found(simulate, angles), strict=True):
            assert (ours.device.type, ours.dtype) == (CARD, dtype)
            torch.testing.assert_close(ours.cpu().double(), right, atol=tolerance, rtol=tolerance, msg=lambda text, s=size: f"{s}: {text}")


@needs_torchquantum
@pytest.mark.parametrize("name", SHIPPED)
def test_torchquantum_on_the_card_is_ours(name: str) -> None:
    from qpa.core.circuits import torchquantum

    for size in ((1, 2, 3), (64, 8, 8)):
        angles = random_angles(name, *size).to(CARD, torch.float32)
        theirs, ours = (found(module.simulator(shipped(name)), angles) for module in (torchquantum, statevector))
        assert theirs[0].device.type == CARD
        torch.testing.assert_close(theirs[0], ours[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(theirs[1], ours[1], atol=2e-5, rtol=0)


@needs_torchquantum
@pytest.mark.parametrize("backend", ["statevector", "torchquantum"])
def test_no_gate_waits_for_the_card(backend: str) -> None:
    from qpa.core.circuits import torchquantum

    simulate = {"statevector": statevector, "torchquantum": torchquantum}[backend].simulator
    for name in SHIPPED:
        angles = random_angles(name, 2, 2, 4).to(CARD, torch.float32)
        found(simulate(shipped(name)), angles)  # the first call builds what does not depend on angles
        with never_waiting():
            probabilities = simulate(shipped(name))(angles.requires_grad_())
            probabilities.square().sum().backward()


def test_entanglement_is_that_of_float64() -> None:
    for name in SHIPPED:
        angles = random_angles(name, 3, 3, 5)
        right, ours = (statevector.amplitudes(shipped(name), a) for a in (angles, angles.to(CARD, torch.float32)))
        for measure in (meyer_wallach, bond_entropies):
            torch.testing.assert_close(measure(ours).cpu().double(), measure(right), atol=1e-4, rtol=0)


def test_samples_are_drawn_on_the_card_and_scatter_as_a_multinomial() -> None:
    """Pearson's statistic of every circuit is near its degrees of freedom, and so is its mean over circuits."""
    exact, shots, circuits, states = statevector.simulator(RY_CNOT), 10_000, 256, 16
    angles = random_angles("ry_cnot", circuits, 3, 4).to(CARD, torch.float32)
    frequencies, probabilities = Sampled(exact, shots=shots, seed=1)(angles).double(), exact(angles).double()
    assert frequencies.device.type == CARD
    torch.testing.assert_close(frequencies.sum(1) * shots, torch.full_like(frequencies[:, 0], shots), atol=0.1, rtol=0)
    likely = (shots * probabilities).amin(1) >= 5  # where the statistic is chi-square
    statistic = (shots * (frequencies - probabilities).square() / probabilities).sum(1)[likely]
    freedom, count = states - 1, int(likely.sum())
    assert count > circuits // 4
    assert abs(float(statistic.mean()) - freedom) < 5 * math.sqrt(2 * freedom / count)
    assert float(statistic.max()) < freedom + 8 * math.sqrt(2 * freedom)


def test_samples_of_the_card_follow_from_seed_and_angles_alone() -> None:
    device, state = Sampled(statevector.simulator(RY_CNOT), shots=50, seed=3), torch.cuda.get_rng_state()
    angles = random_angles("ry_cnot", 2, 2, 4).to(CARD, torch.float32)
    first = device(angles)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(first, device(angles.clone()))
    assert not torch.equal(first, device(angles + 1e-3))
    assert not torch.equal(first, Sampled(statevector.simulator(RY_CNOT), shots=50, seed=4)(angles))


@pytest.mark.parametrize("rule", ["parameter_shift", "spsa"])
def test_gradients_by_rule_are_those_of_the_cpu(rule: str) -> None:
    device = unsampled(statevector.simulator(RY_CNOT))
    simulate = parameter_shift(RY_CNOT, device) if rule == "parameter_shift" else spsa(device, 3)
    angles = random_angles("ry_cnot", 2, 2, 3).float()
    if rule == "parameter_shift":
        angles = angles.double()  # spsa's signs follow from the angles' bytes, which a dtype changes
    ours, right = found(simulate, angles.to(CARD)), found(simulate, angles)
    for here, there in zip(ours, right, strict=True):
        torch.testing.assert_close(here.cpu(), there, atol=1e-5, rtol=0)


GENERATORS = [
    *([f"latents={name}"] for name in ("circuit", "frozen_circuit", "table", "mlp", "mps", "zeros", "random")),
    *([f"mapper={name}"] for name in ("tied", "codes", "paper")),
    *([f"circuit={name}"] for name in SHIPPED),
    ["generator=paper", "mapper=paper"],
    ["generator.circuits=shared"],
    ["circuit.qubits=4", "peft=dora"],
    pytest.param(["circuit.backend=torchquantum"], marks=needs_torchquantum),
]


@pytest.mark.parametrize("overrides", GENERATORS, ids=" ".join)
def test_a_generator_makes_on_the_card_what_it_makes_on_the_cpu(make_config: Callable[..., Config], overrides: list[str]) -> None:
    """Weights and gradients of two steps."""
    made = []
    for device in ("cpu", CARD):
        built = build(make_config(*overrides))
        built.model.to(device)
        adaptation = built.adaptation
        assert isinstance(adaptation, GeneratedAdaptation)
        optimizer = adaptation.optimizer(torch.optim.SGD, lr=0.1)
        adaptation.write()
        for _ in range(2):
            for number, parameter in enumerate(adaptation.leaves.parameters):
                parameter.grad = torch.linspace(-1, 1, parameter.numel()).view(parameter.shape).add(0.1 * number).to(device)
            if any(parameter.requires_grad for parameter in adaptation.generator.parameters()):
                optimizer.step()
        gradients = [parameter.grad for parameter in adaptation.generator.parameters() if parameter.grad is not None]
        made.append([adaptation.leaves.values(), *gradients])
    for here, there in zip(*made, strict=True):
        assert there.device.type == CARD
        torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=1e-4)


def test_a_generators_step_does_not_wait_for_the_card(make_config: Callable[..., Config]) -> None:
    built = build(make_config())
    built.model.to(CARD)
    adaptation = built.adaptation
    assert isinstance(adaptation, GeneratedAdaptation)
    optimizer = adaptation.optimizer(torch.optim.AdamW, lr=0.1, foreach=True)
    adaptation.write()

    def step() -> None:
        for parameter in adaptation.leaves.parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        optimizer.zero_grad()

    step()
    with never_waiting():
        step()
