"""Circuits against a dense matrix product in float64 and against torchquantum."""

import math
import sys

import pytest
import torch

from qpa.circuits import backend

statevector = backend("statevector")
X = torch.tensor([[0.0, 1], [1, 0]], dtype=torch.float64)
I = torch.eye(2, dtype=torch.float64)  # noqa: E741
UP, DOWN = torch.diag(torch.tensor([1.0, 0], dtype=torch.float64)), torch.diag(torch.tensor([0.0, 1], dtype=torch.float64))


def kron(*factors: torch.Tensor) -> torch.Tensor:
    product = torch.eye(1, dtype=torch.float64)
    for factor in factors:
        product = torch.kron(product, factor)
    return product


def dense_probabilities(angles: torch.Tensor) -> torch.Tensor:
    """One circuit `[L, Q]` by multiplying full matrices, straight from the equation in the paper."""
    layers, qubits = angles.shape
    state = torch.zeros(2**qubits, dtype=torch.float64)
    state[0] = 1
    for layer in range(layers):
        half = angles[layer] / 2
        state = kron(*[torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])]) for a in half]) @ state
        for q in range(qubits - 1):
            control = [I] * q + [UP] + [I] * (qubits - q - 1)
            flip = [I] * q + [DOWN, X] + [I] * (qubits - q - 2)
            state = (kron(*control) + kron(*flip)) @ state
    return state**2


def random_angles(circuits: int, layers: int, qubits: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * qubits + layers)
    return (torch.rand(circuits, layers, qubits, generator=generator, dtype=torch.float64) * 2 * math.pi).to(dtype)


@pytest.mark.parametrize("qubits", range(1, 9))
def test_statevector_equals_dense_matrices(qubits: int) -> None:
    angles = random_angles(3, 4, qubits)
    expected = torch.stack([dense_probabilities(a) for a in angles])
    torch.testing.assert_close(statevector(angles), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("qubits", range(1, 9))
@pytest.mark.parametrize("layers", [1, 5])
def test_backends_agree_in_probabilities_and_gradients(qubits: int, layers: int) -> None:
    weights = torch.linspace(-1, 1, 2**qubits)
    found = []
    for name in ("statevector", "torchquantum"):
        angles = random_angles(3, layers, qubits, torch.float32).requires_grad_()
        probabilities = backend(name)(angles)
        (probabilities * weights).sum().backward()
        found.append((probabilities.detach(), angles.grad))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("circuits", "layers", "qubits"), [(2, 3, 1), (1, 4, 7), (3, 2, 6), (1, 1, 13), (2, 40, 4)])
def test_gradient_equals_finite_differences_in_float64(circuits: int, layers: int, qubits: int) -> None:
    angles = random_angles(circuits, layers, qubits).requires_grad_()
    weights = torch.randn(circuits, 2**qubits, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda a: (statevector(a) * weights).sum(), (angles,))


def test_what_is_kept_for_backward_does_not_grow_with_the_blocks() -> None:
    kept = {}
    for layers in (2, 64):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            statevector(random_angles(3, layers, 9).requires_grad_())
        kept[layers] = sum(sizes) - 3 * layers * 9  # the angles themselves
    assert kept[2] == kept[64] == 3 * 2**9


def test_gradient_is_the_parameter_shift_rule() -> None:
    angles = random_angles(2, 3, 3)
    for place in [(0, 0, 0), (0, 2, 1), (1, 1, 2)]:
        jacobian = torch.autograd.functional.jacobian(statevector, angles)[:, :, *place]
        shift = torch.zeros_like(angles)
        shift[place] = math.pi / 2
        expected = (statevector(angles + shift) - statevector(angles - shift)) / 2
        torch.testing.assert_close(jacobian, expected, atol=1e-12, rtol=0)


def test_probabilities_of_every_circuit_sum_to_one_in_float32() -> None:
    total = statevector(random_angles(64, 8, 11, torch.float32)).sum(-1)
    torch.testing.assert_close(total, torch.ones(64), atol=1e-5, rtol=0)


def test_torchquantum_leaves_no_stand_in_behind() -> None:
    backend("torchquantum")(random_angles(1, 1, 2, torch.float32))
    left = [name for name, module in sys.modules.items() if type(module).__name__ == "_Inert"]
    assert left == []
