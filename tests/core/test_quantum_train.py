"""Mapper `quantum_train`: the published formula, and gradients that stay finite where it has none."""

import numpy as np
import pytest
import torch
from torch import Tensor

from qpa.core.circuits import statevector
from qpa.core.circuits.ansatz import RY_CNOT
from qpa.core.generator import Generator
from qpa.core.latents.circuits import Circuits
from qpa.core.layout import AdapterTensor, Layout, plan
from qpa.core.mappers.quantum_train import QuantumTrainMapper

PUBLISHED = {"activation": "none", "gain": 0.1, "bound": 0.8, "power": 0.3}
LAYOUT = plan([AdapterTensor("w", (5, 9), "m", along="first")], circuits="shared", qubits=None, chunk_size=1)


def mapper(layout: Layout = LAYOUT, *, from_zero: bool = False) -> QuantumTrainMapper:
    torch.manual_seed(0)
    return QuantumTrainMapper(layout, hidden=[4, 20, 4], from_zero=from_zero, **PUBLISHED)


def literally(probabilities: np.ndarray, layers: list[tuple[np.ndarray, np.ndarray]], weights: int) -> np.ndarray:
    """The published generator, state by state."""
    qubits = int(np.log2(len(probabilities)))
    squeezed = (0.8 * np.tanh(0.1 * 2 ** (qubits - 1) * probabilities[:weights])) ** 0.3
    squeezed = squeezed - squeezed.mean()
    found = np.zeros(weights)
    for state in range(weights):
        signs = [1.0 if bit == "1" else -1.0 for bit in np.binary_repr(state, qubits)]
        hidden = np.array([*signs, squeezed[state]])
        for weight, bias in layers:
            hidden = weight @ hidden + bias
        found[state] = hidden.item()
    return found - found.mean()


def test_weights_are_those_of_the_published_formula() -> None:
    simulate = statevector.simulator(RY_CNOT)
    circuits = Circuits(LAYOUT, RY_CNOT, layers=3, simulate=simulate)
    torch.manual_seed(0)  # a state of nearly no probability would come to what the mapper counts as none
    torch.nn.init.uniform_(circuits.angles, 0, 6.28)
    generator = Generator(LAYOUT, latents=circuits, mapper=mapper(), start=None).double()
    linear = [m for m in generator.modules() if isinstance(m, torch.nn.Linear)]
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in linear]
    expected = literally(simulate(circuits.angles)[0].detach().numpy(), layers, 45)
    assert [weight.shape for weight, _ in layers] == [(4, 7), (20, 4), (4, 20), (1, 4)]
    np.testing.assert_allclose(generator().detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("features", [torch.full((45,), -1.0), torch.full((45,), -5.0), torch.linspace(-3, 1e4, 45)])
def test_numbers_that_no_circuit_gives_leave_weights_and_gradients_finite(features: Tensor) -> None:
    features.requires_grad_()
    made = mapper()
    made(features).square().sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in made.parameters())


def test_gradient_equals_finite_differences() -> None:
    features = torch.rand(45, dtype=torch.float64).mul(3).sub(0.9).requires_grad_()
    assert torch.autograd.gradcheck(mapper().double(), (features,))


def test_first_output_is_the_start_exactly_and_its_rows_learn_from_it() -> None:
    start = torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(0))
    circuits = Circuits(LAYOUT, RY_CNOT, layers=2, simulate=statevector.simulator(RY_CNOT))
    generator = Generator(LAYOUT, latents=circuits, mapper=mapper(from_zero=True), start=start)
    found = generator()
    assert torch.equal(found, start)
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in generator.mapper.rows.parameters())


def test_chunks_of_several_weights_need_fewer_qubits() -> None:
    layout = plan([AdapterTensor("w", (5, 9), "m")], circuits="shared", qubits=None, chunk_size=8)
    assert layout.qubits == 3
    assert mapper(layout)(torch.zeros(len(layout.chunks))).shape == (48,)
