"""Controls of equal count: random subspaces, tables and features that nothing of a circuit shapes."""

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from qpa.core.latents.features import RandomFeatures
from qpa.core.latents.table import SharedTable
from qpa.core.layout import AdapterTensor, Layout, plan
from qpa.core.mappers import subspace
from qpa.core.mappers.quantum_train import QuantumTrainMapper
from qpa.core.mappers.rows import Start
from qpa.core.mappers.subspace import SubspaceMapper
from qpa.core.walsh import walsh_sums

WEIGHTS = plan([AdapterTensor("w", (5, 9), "m", along="first")], circuits="shared", qubits=None, chunk_size=1)
ROWS = plan([AdapterTensor(f"l.{i}.{t}", s, f"l.{i}") for i in "01" for t, s in {"A": (4, 24), "B": (16, 4)}.items()],
            circuits="per_module", qubits=None, chunk_size=None)  # fmt: skip


def test_walsh_sums_are_products_with_a_hadamard_matrix() -> None:
    numbers = torch.randn(3, 2, 32, dtype=torch.float64, requires_grad=True)
    expected = numbers.detach().numpy() @ hadamard(32)
    np.testing.assert_allclose(walsh_sums(numbers).detach().numpy(), expected, atol=1e-12)
    assert torch.autograd.gradcheck(walsh_sums, (numbers,))


@pytest.mark.parametrize("layout", [WEIGHTS, ROWS], ids=["weights", "rows"])
@pytest.mark.parametrize("dense", [True, False])
def test_weights_of_a_subspace_are_linear_in_its_numbers_and_its_directions_independent(
    layout: Layout, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subspace, "DENSE", subspace.DENSE if dense else 0)
    torch.manual_seed(0)
    mapper = SubspaceMapper(layout, numbers=17)
    features = torch.zeros(len(layout.chunks))
    directions = torch.stack([made_by(mapper, features, unit) for unit in torch.eye(17)])
    assert torch.linalg.matrix_rank(directions) == 17
    torch.testing.assert_close(directions.abs(), torch.full_like(directions, 17**-0.5))
    numbers = torch.randn(17)
    torch.testing.assert_close(made_by(mapper, features, numbers), numbers @ directions)
    doubled = torch.cat([made.new_full((chunk.length,), 2.0) for made, chunk in zip(features, layout.chunks, strict=True)])
    torch.testing.assert_close(made_by(mapper, features + 1, numbers), doubled * (numbers @ directions))
    first = torch.randn(layout.size)
    torch.testing.assert_close(mapper(features, Start(layout, first)), first + mapper(features))


def made_by(mapper: SubspaceMapper, features: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    mapper.numbers.data = numbers
    return mapper(features).detach()


def test_a_subspace_has_no_more_numbers_than_there_are_weights() -> None:
    assert SubspaceMapper(WEIGHTS, numbers=10**6).numbers.shape == (45,)


@pytest.mark.parametrize("kind", [SharedTable, RandomFeatures])
@pytest.mark.parametrize("layout", [WEIGHTS, ROWS], ids=["weights", "rows"])
def test_control_trains_no_more_than_circuits_have_angles_and_all_of_it_acts(kind: type, layout: Layout) -> None:
    torch.manual_seed(0)
    latents = kind(layout, budget=6)
    trained = [*latents.parameters()]
    assert sum(p.numel() for p in trained) == 6 * layout.circuits
    numbers = latents()
    assert numbers.shape == (len(layout.chunks),)
    assert numbers.abs().max() < 0.05
    (numbers * torch.randn(len(numbers))).sum().backward()
    assert all((p.grad != 0).all() for p in trained if p.grad is not None)


def test_random_features_are_orthogonal_signs_that_sum_to_zero() -> None:
    torch.manual_seed(0)
    latents = RandomFeatures(WEIGHTS, budget=20)
    columns = []
    for place in range(20):
        latents.weights.data = torch.eye(20)[place : place + 1]
        columns.append(latents.of_states()[0].detach())
    features = torch.stack(columns)
    assert set(features.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(features @ features.t(), 64 * torch.eye(20))
    assert (features.sum(1) == 0).all()


def labelled(seed: int) -> QuantumTrainMapper:
    torch.manual_seed(seed)
    return QuantumTrainMapper(
        WEIGHTS, hidden=[4], activation="none", gain=0.1, bound=0.8, power=0.3, random_labels=True, from_zero=False
    )  # fmt: skip


def test_random_labels_change_with_what_is_trained_and_with_nothing_else() -> None:
    mapper = labelled(0)
    first = mapper.labels()
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    assert first.shape == mapper.bits.shape
    torch.randn(3)
    assert torch.equal(mapper.labels(), first)
    assert torch.equal(labelled(0).double().labels(), first.double())
    with torch.no_grad():
        next(mapper.parameters()).flatten()[0] += 1e-3
    assert not torch.equal(mapper.labels(), first)
