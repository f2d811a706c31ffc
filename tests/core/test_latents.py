"""What a mapper is given for every chunk: circuits against their controls."""

import itertools

import pytest
import torch

from qpa.core.circuits import statevector
from qpa.core.circuits.ansatz import RY_CNOT
from qpa.core.latents.circuits import Circuits
from qpa.core.latents.fixed import random, zeros
from qpa.core.latents.mlp import SmallMLPs
from qpa.core.latents.mps import MatrixProductStates
from qpa.core.latents.table import Table
from qpa.core.layout import AdapterTensor, Layout, plan

LAYOUT = plan([AdapterTensor(f"m.{i}.t", (11, 4), f"m.{i}") for i in range(3)], circuits="per_module", qubits=None, chunk_size=4)
BUDGET = 8 * LAYOUT.qubits


def make(kind: str, layout: Layout = LAYOUT, *, seed: int = 3) -> torch.nn.Module:
    torch.manual_seed(seed)
    return {
        "circuit": lambda: Circuits(layout, RY_CNOT, layers=8, simulate=statevector.simulator(RY_CNOT)),
        "frozen_circuit": lambda: Circuits(layout, RY_CNOT, layers=8, simulate=statevector.simulator(RY_CNOT), trained=False),
        "table": lambda: Table(layout),
        "mlp": lambda: SmallMLPs(layout, hidden=None, budget=BUDGET),
        "mps": lambda: MatrixProductStates(layout, bond_dimension=None, budget=BUDGET),
        "zeros": lambda: zeros(layout),
        "random": lambda: random(layout),
    }[kind]()


KINDS = ["circuit", "frozen_circuit", "table", "mlp", "mps", "zeros", "random"]


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_one_number_per_chunk_and_gradients_for_all_that_is_trained(kind: str) -> None:
    latents = make(kind)
    for parameter in latents.parameters():
        torch.nn.init.normal_(parameter)
    numbers = latents()
    assert numbers.shape == (len(LAYOUT.chunks),)
    if count(latents):
        (numbers * torch.randn_like(numbers)).sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in latents.parameters())


@pytest.mark.parametrize("kind", ["mlp", "mps"])
def test_control_costs_no_more_than_the_circuits_and_a_larger_one_would(kind: str) -> None:
    circuits = count(make("circuit"))
    larger = {
        "mlp": lambda: SmallMLPs(LAYOUT, hidden=make("mlp").second.shape[1] + 1, budget=0),
        "mps": lambda: MatrixProductStates(LAYOUT, bond_dimension=make("mps").cores[1].shape[-1] + 1, budget=0),
    }[kind]()
    assert count(make(kind)) <= circuits < count(larger)


@pytest.mark.parametrize("kind", ["frozen_circuit", "zeros", "random"])
def test_what_is_frozen_has_nothing_to_train_is_drawn_once_and_comes_back_with_a_checkpoint(kind: str) -> None:
    latents, other = make(kind), make(kind, seed=4)
    assert count(latents) == 0
    assert torch.equal(latents(), latents())
    assert torch.equal(latents(), other()) == (kind == "zeros")
    other.load_state_dict(latents.state_dict())
    assert torch.equal(latents(), other())


@pytest.mark.parametrize("kind", ["circuit", "table", "mlp", "mps", "zeros"])
def test_training_starts_near_the_uniform_state(kind: str) -> None:
    assert make(kind)().abs().max() < 0.5


@pytest.mark.parametrize("bond", [1, 2, 5])
def test_matrix_product_state_equals_its_contraction_by_hand(bond: int) -> None:
    latents = MatrixProductStates(LAYOUT, bond_dimension=bond, budget=0)
    for core in latents.cores:
        torch.nn.init.normal_(core)
    amplitudes = torch.zeros(LAYOUT.circuits, 2**LAYOUT.qubits)
    for circuit in range(LAYOUT.circuits):
        for state, bits in enumerate(itertools.product((0, 1), repeat=LAYOUT.qubits)):
            matrix = torch.ones(1, 1)
            for core, bit in zip(latents.cores, bits, strict=True):
                matrix = matrix @ core[circuit, :, bit]
            amplitudes[circuit, state] = matrix.item()
    probabilities = amplitudes.square() / amplitudes.square().sum(1, keepdim=True)
    torch.testing.assert_close(latents.of_states(), probabilities * 2**LAYOUT.qubits - 1, rtol=1e-4, atol=1e-4)


def test_full_bond_dimension_reaches_any_real_state() -> None:
    single = plan([AdapterTensor("t", (8, 4), "m")], circuits="shared", qubits=None, chunk_size=4)
    assert [tuple(c.shape[1:]) for c in MatrixProductStates(single, bond_dimension=99, budget=0).cores] == [(1, 2, 2), (2, 2, 2), (2, 2, 1)]


def test_random_numbers_have_the_spread_of_random_states() -> None:
    many = plan([AdapterTensor("t", (64, 256), "m")], circuits="shared", qubits=None, chunk_size=4)
    numbers = random(many)()
    amplitudes = torch.randn(4096)
    reference = amplitudes.square() / amplitudes.square().mean() - 1
    assert numbers.mean().abs() < 0.1
    assert numbers.std().item() == pytest.approx(reference.std().item(), rel=0.15)


def test_small_networks_read_the_bits_of_their_own_circuit() -> None:
    latents = make("mlp")
    with torch.no_grad():
        latents.second[1].zero_()
    per_circuit = latents.of_states()
    assert per_circuit[1].abs().max() == 0 < per_circuit[0].abs().max()


def test_numbers_of_sampled_circuits_are_laplaces_estimate() -> None:
    layout = plan([AdapterTensor("t", (8, 4), "m")], circuits="shared", qubits=3, chunk_size=None)
    counts = torch.tensor([[5.0, 3, 0, 0, 1, 1, 0, 0]])
    circuits = Circuits(layout, RY_CNOT, layers=1, simulate=lambda angles: counts / 10, shots=10)
    torch.testing.assert_close(circuits.of_states(), 8 * (counts + 1) / (10 + 8) - 1)
