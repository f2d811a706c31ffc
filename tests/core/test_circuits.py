"""Every ansatz on every backend: against dense matrices in float64, against one another, and their gradients."""

import math
import sys

import numpy
import pytest
import torch
import yaml
from conftest import ROOT

from qpa.core.circuits import backends, blocks, ry_cnot, statevector
from qpa.core.circuits.ansatz import RY_CNOT, Ansatz
from qpa.core.circuits.cost import circuits_per_step
from qpa.core.circuits.estimate import Sampled, multinomial, parameter_shift, spsa, unsampled
from qpa.core.circuits.execution import Execution
from qpa.core.circuits.states import Simulator

CONF = ROOT / "conf" / "circuit"
SHIPPED = [file.stem for file in sorted(CONF.glob("[a-z]*.yaml"))]
RINGS = ["u3_cu3_ring", "ry_crx_ring", "ry_cry_ring", "ry_crz_ring"]  # whose two-qubit gates have angles
I = torch.eye(2, dtype=torch.complex128)  # noqa: E741
X = torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128)
Y = torch.tensor([[0, -1j], [1j, 0]], dtype=torch.complex128)
Z = torch.diag(torch.tensor([1, -1], dtype=torch.complex128))
UP, DOWN = (I + Z) / 2, (I - Z) / 2


def words(name: str) -> dict:
    """Of a YAML file."""
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


def shipped(name: str) -> Ansatz:
    own = words(name)
    return Ansatz(tuple(own["rotations"]), own["entangler"], own["gate"], own["final_rotations"])


def simulator(name: str, backend: str, device: str | None = None) -> Simulator:
    return backends.simulator(shipped(name), Execution(backend, device), seed=0)[0]


def random_angles(circuits: int, per_qubit: int, qubits: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * qubits + per_qubit)
    return (torch.rand(circuits, per_qubit, qubits, generator=generator, dtype=torch.float64) * 2 * math.pi).to(dtype)


def angles_of(name: str, *, circuits: int, layers: int, qubits: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return random_angles(circuits, shipped(name).angles_per_qubit(layers), qubits, dtype)


def sizes(name: str, *qubits: int) -> list[int]:
    """Those that an ansatz can have: gates with angles need two qubits."""
    return [count for count in qubits if count > 1 or not shipped(name).trained_pairs]


def kron(*factors: torch.Tensor) -> torch.Tensor:
    product = torch.eye(1, dtype=torch.complex128)
    for factor in factors:
        product = torch.kron(product, factor)
    return product


def on(qubits: int, **gates: torch.Tensor) -> torch.Tensor:
    """A product of one-qubit matrices: `q3=X`."""
    return kron(*[gates.get(f"q{q}", I) for q in range(qubits)])


def dense_probabilities(name: str, angles: torch.Tensor) -> torch.Tensor:
    """One circuit `[A, Q]` by multiplying full matrices, written from the YAML files' own words."""
    own = words(name)
    qubits = angles.shape[1]
    chain = [(q, q + 1) for q in range(qubits - 1)]
    entangler = {
        "linear": chain,
        "reverse_linear": chain[::-1],
        "ring": chain + ([(qubits - 1, 0)] if qubits > (2 if own["gate"] in ("CNOT", "CZ") else 1) else []),
        "brick": [(a, b) for a, b in chain if a % 2 == 0] + [(a, b) for a, b in chain if a % 2],
    }[own["entangler"]]
    state = torch.zeros(2**qubits, dtype=torch.complex128)
    state[0] = 1
    left = list(angles)
    while left:
        for rotation in own["rotations"]:
            turned_by = torch.stack([left.pop(0) for _ in range(3 if rotation == "U3" else 1)])
            state = kron(*[one_qubit(rotation, *of_qubit) for of_qubit in turned_by.T]) @ state
        if left or not own["final_rotations"]:
            count = {"CU3": 3, "CNOT": 0, "CZ": 0}.get(own["gate"], 1)
            turned_by = torch.stack([left.pop(0) for _ in range(count)]) if count else torch.empty(0, qubits)
            for a, b in entangler:
                turned = one_qubit(own["gate"].removeprefix("C"), *turned_by[:, a])
                state = (on(qubits, **{f"q{a}": UP}) + on(qubits, **{f"q{a}": DOWN, f"q{b}": turned})) @ state
    return state.abs() ** 2


def one_qubit(
    gate: str, theta: torch.Tensor | None = None, phi: torch.Tensor | None = None, lam: torch.Tensor | None = None
) -> torch.Tensor:
    """Its matrix; of U3 as a product of phases and RY."""
    if theta is None:
        return {"NOT": X, "Z": Z}[gate]
    if phi is not None and lam is not None:
        return phase(phi) @ one_qubit("RY", theta) @ phase(lam)
    return (theta / 2).cos() * I - 1j * (theta / 2).sin() * {"RX": X, "RY": Y, "RZ": Z}[gate]


def phase(angle: torch.Tensor) -> torch.Tensor:
    return torch.diag(torch.exp(1j * torch.stack([torch.zeros_like(angle), angle])))


COMPLEX = ("rx_ry_rz", "efficient_su2", "u3_cu3_ring", "ry_crx_ring", "ry_crz_ring")
BACKENDS = {
    "statevector": None,
    "torchquantum": None,
    "pennylane": "default.qubit",
    "pennylane lightning": "lightning.qubit",
    "qiskit": None,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SHIPPED)
def test_every_backend_gives_every_ansatz_the_probabilities_of_dense_matrices(name: str, backend: str) -> None:
    package = backend.split()[0]
    for module in backends.EXTRAS.get(package, ()):
        pytest.importorskip(module)
    simulate = simulator(name, package, BACKENDS[backend])
    for qubits in sizes(name, 1, 2, 3, 5):
        angles = angles_of(name, circuits=2, layers=3, qubits=qubits)
        expected = torch.stack([dense_probabilities(name, one) for one in angles])
        torch.testing.assert_close(simulate(angles).detach(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ["torchquantum", "pennylane", "pennylane lightning", "qiskit"])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_backend_gives_every_ansatz_the_gradient_of_ours(name: str, backend: str) -> None:
    package = backend.split()[0]
    for module in backends.EXTRAS.get(package, ()):
        pytest.importorskip(module)
    weights = torch.linspace(-1, 1, 8, dtype=torch.float64)
    found = []
    for other in ("statevector", package):
        angles = angles_of(name, circuits=2, layers=2, qubits=3).requires_grad_()
        device = BACKENDS[backend] if other == package else None
        (simulator(name, other, device)(angles) * weights).sum().backward()
        found.append(angles.grad)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SHIPPED)
def test_autograd_is_the_parameter_shift_rule_and_finite_differences(name: str) -> None:
    exact = statevector.simulator(shipped(name))
    angles = angles_of(name, circuits=2, layers=2, qubits=4).requires_grad_()
    weights = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda a: (exact(a) * weights).sum(), (angles,), atol=1e-7)
    by_rule = [
        torch.autograd.grad((simulate(angles) * weights).sum(), angles)[0]
        for simulate in (exact, parameter_shift(shipped(name), unsampled(exact)))
    ]
    torch.testing.assert_close(by_rule[0], by_rule[1], atol=1e-10, rtol=0)


def test_real_ansaetze_stay_real_and_complex_ones_do_not() -> None:
    for name in SHIPPED:
        angles = angles_of(name, circuits=1, layers=2, qubits=3, dtype=torch.float32)
        assert statevector.amplitudes(shipped(name), angles).is_complex() == (name in COMPLEX)


@pytest.mark.parametrize("name", ["efficient_su2", "real_amplitudes"])
def test_ansaetze_with_qiskits_names_are_qiskits(name: str) -> None:
    library = pytest.importorskip("qiskit.circuit.library")
    from qiskit.quantum_info import Statevector

    angles = angles_of(name, circuits=1, layers=3, qubits=4)
    theirs = Statevector(getattr(library, name)(4, reps=3).assign_parameters(angles[0].flatten().numpy()))
    expected = torch.tensor(theirs.probabilities(qargs=[3, 2, 1, 0]))  # our qubit 0 is the most significant bit
    torch.testing.assert_close(statevector.simulator(shipped(name))(angles)[0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("qubits", [2, 3, 5])
def test_u3_and_cu3_around_the_ring_are_torchquantums_layer(qubits: int) -> None:
    from qpa.core.circuits.torchquantum import imported

    tq = imported()
    theirs, device = tq.layer.U3CU3Layer0({"n_wires": qubits, "n_blocks": 3}), tq.QuantumDevice(n_wires=qubits)
    theirs(device)
    of_blocks = [torch.stack([op.params.detach()[0] for op in block.ops_all], 1) for block in theirs.layers_all]  # U3's, CU3's, U3's, ...
    angles = torch.cat(of_blocks)[None]
    assert angles.shape == (1, shipped("u3_cu3_ring").angles_per_qubit(3), qubits)
    ours = statevector.amplitudes(shipped("u3_cu3_ring"), angles)
    torch.testing.assert_close(ours, device.get_states_1d().detach(), atol=2e-6, rtol=0)


def test_quantum_trains_circuits_have_their_published_numbers_of_angles() -> None:
    assert [6 * qubits for qubits in (13, 19)] == [78, 114] == [qubits * shipped("u3_cu3_ring").angles_per_qubit(1) for qubits in (13, 19)]


@pytest.mark.parametrize("name", RINGS)
@pytest.mark.parametrize("qubits", [2, 3, 4, 5, 7])
def test_fused_gates_of_any_ring_have_the_gradients_of_finite_differences(name: str, qubits: int) -> None:
    """Last rotations and several rotations before the gate too, and blocks that a layer does not fill."""
    gate = shipped(name).gate
    for ansatz in (shipped(name), Ansatz(("RZ", "U3"), "ring", gate, final_rotations=True), Ansatz(("RY",), "ring", gate)):
        angles = random_angles(2, ansatz.angles_per_qubit(2), qubits).requires_grad_()
        weights = torch.randn(2, 2**qubits, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        exact = statevector.simulator(ansatz)
        (gradient,) = torch.autograd.grad((exact(angles) * weights).sum(), angles)
        direction = torch.randn(angles.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        above, below = ((exact(angles.detach() + step * direction) * weights).sum() for step in (1e-5, -1e-5))
        torch.testing.assert_close((gradient * direction).sum(), (above - below) / 2e-5, atol=1e-7, rtol=1e-7)


def test_blocks_made_a_few_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    angles, found = angles_of("u3_cu3_ring", circuits=2, layers=3, qubits=5).requires_grad_(), []
    for most in (blocks.MOST_NUMBERS, 1):
        monkeypatch.setattr(blocks, "MOST_NUMBERS", most)
        probabilities = statevector.simulator(shipped("u3_cu3_ring"))(angles)
        found.append([probabilities.detach(), torch.autograd.grad(probabilities.square().sum(), angles)[0]])
    torch.testing.assert_close(found[0], found[1], atol=1e-13, rtol=0)


def test_float32_stays_within_a_ten_thousandth_of_float64_over_many_layers() -> None:
    simulate, found = statevector.simulator(shipped("u3_cu3_ring")), []
    weights = torch.randn(1, 2**13, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float64):
        angles = angles_of("u3_cu3_ring", circuits=1, layers=16, qubits=13, dtype=torch.float32).to(dtype).requires_grad_()
        probabilities = simulate(angles)
        gradient = torch.autograd.grad((probabilities * weights.to(dtype)).sum(), angles)[0]
        found.append((probabilities.detach().double(), gradient.double()))
    for ours, right in zip(*found, strict=True):
        assert (ours - right).abs().max() <= 1e-4 * right.abs().max()


def test_angles_that_no_gate_has_are_refused() -> None:
    with pytest.raises(ValueError, match="entangler=ring"):
        Ansatz(("U3",), "linear", "CU3")


def test_an_entangler_between_all_qubits_is_what_it_says() -> None:
    assert Ansatz(entangler="all_to_all").pairs(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


@pytest.mark.parametrize("qubits", range(1, 9))
def test_the_papers_ansatz_has_a_fast_way_that_changes_nothing(qubits: int) -> None:
    angles = random_angles(3, 4, qubits).requires_grad_()
    weights = torch.linspace(-1, 1, 2**qubits, dtype=torch.float64)
    both = [ry_cnot.probabilities(angles), statevector.probabilities(RY_CNOT, angles)]
    torch.testing.assert_close(both[0], both[1], atol=1e-12, rtol=0)
    gradients = [torch.autograd.grad((p * weights).sum(), angles)[0] for p in both]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("circuits", "layers", "qubits"), [(2, 3, 1), (1, 4, 7), (3, 2, 6), (1, 1, 13), (2, 40, 4)])
def test_gradient_equals_finite_differences_in_float64(circuits: int, layers: int, qubits: int) -> None:
    angles = random_angles(circuits, layers, qubits).requires_grad_()
    weights = torch.randn(circuits, 2**qubits, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda a: (ry_cnot.probabilities(a) * weights).sum(), (angles,))


@pytest.mark.parametrize("name", ["ry_cnot", "brick", "u3_cu3_ring"])
def test_what_is_kept_for_backward_is_one_state_however_many_layers(name: str) -> None:
    kept = {}
    for layers in (2, 64):
        angles = angles_of(name, circuits=3, layers=layers, qubits=9).requires_grad_()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            statevector.simulator(shipped(name))(angles)
        kept[layers] = [size for size in sizes if size >= 3 * 2**9 and size % angles.numel()]
    assert kept[2] == kept[64] == [3 * 2**9]


def test_probabilities_of_every_circuit_sum_to_one_in_float32() -> None:
    for name in SHIPPED:
        total = statevector.simulator(shipped(name))(angles_of(name, circuits=16, layers=8, qubits=11, dtype=torch.float32)).sum(-1)
        torch.testing.assert_close(total, torch.ones(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_start_is_the_uniform_superposition(name: str) -> None:
    ansatz = shipped(name)
    angles = torch.zeros(1, ansatz.angles_per_qubit(3), 5, dtype=torch.float64)
    angles[:, ansatz.starts_uniform()] = math.pi / 2
    torch.testing.assert_close(statevector.simulator(ansatz)(angles), torch.full((1, 32), 1 / 32, dtype=torch.float64))


def test_the_error_of_sampled_probabilities_falls_with_the_root_of_the_shots() -> None:
    exact = statevector.simulator(RY_CNOT)
    angles = random_angles(64, 2, 4)
    errors = []
    shots = [100, 1_000, 10_000, 100_000]
    for n in shots:
        errors.append(float((Sampled(exact, shots=n, seed=1)(angles) - exact(angles)).square().mean().sqrt()))
    slope = numpy.polyfit(numpy.log(shots), numpy.log(errors), 1)[0]
    assert -0.55 < slope < -0.45
    variance = (exact(angles) * (1 - exact(angles)) / 1_000).mean().sqrt()  # of a relative frequency
    assert abs(errors[1] / float(variance) - 1) < 0.1


@pytest.mark.parametrize("shots", [7, 5_000])
def test_samples_have_the_means_and_covariances_of_a_multinomial(shots: int) -> None:
    probabilities = torch.tensor([0.4, 0.0, 0.03, 0.2, 1e-3, 0.3, 0.069, 0.0], dtype=torch.float64)
    found = multinomial(probabilities.expand(20_000, -1).contiguous(), shots, torch.Generator().manual_seed(0))
    assert (found.sum(1) == shots).all()
    assert (found[:, probabilities == 0] == 0).all()
    error = (shots * probabilities * (1 - probabilities) / len(found)).sqrt()
    assert ((found.mean(0) - shots * probabilities).abs() <= 4 * error).all()
    covariance = shots * (probabilities.diag() - probabilities.outer(probabilities))
    torch.testing.assert_close(found.T.cov(), covariance, atol=0.03 * float(covariance.max()), rtol=0)


def test_sampled_gradients_scatter_around_the_exact_one() -> None:
    exact = statevector.simulator(RY_CNOT)
    angles = random_angles(1, 2, 3).requires_grad_()
    weights = torch.linspace(-1, 1, 8, dtype=torch.float64)
    (expected,) = torch.autograd.grad((exact(angles) * weights).sum(), angles)
    draws = [parameter_shift(RY_CNOT, Sampled(exact, shots=1_000, seed=seed)) for seed in range(400)]
    found = [torch.autograd.grad((simulate(angles) * weights).sum(), angles)[0] for simulate in draws]
    torch.testing.assert_close(torch.stack(found).mean(0), expected, atol=0.005, rtol=0.05)


@pytest.mark.parametrize("qubits", [3, 9])
def test_spsa_points_along_the_gradient_on_average_and_is_damped_as_its_comment_says(qubits: int) -> None:
    exact = statevector.simulator(RY_CNOT)
    angles = random_angles(1, 2, qubits).requires_grad_()
    weights = torch.linspace(-1, 1, 2**qubits, dtype=torch.float64)
    (expected,) = torch.autograd.grad((exact(angles) * weights).sum(), angles)
    draws = [spsa(unsampled(exact), seed) for seed in range(2_000)]
    mean = torch.stack([torch.autograd.grad((simulate(angles) * weights).sum(), angles)[0] for simulate in draws]).mean(0)
    assert 0.65 < float((mean * expected).sum() / expected.square().sum()) < 1.0
    assert float(torch.cosine_similarity(mean.flatten(), expected.flatten(), dim=0)) > 0.97


def test_samples_follow_from_seed_and_angles_alone() -> None:
    device = Sampled(statevector.simulator(RY_CNOT), shots=50, seed=3)
    angles = random_angles(2, 2, 4)
    found = device(angles)
    torch.manual_seed(5)
    assert torch.equal(found, device(angles.clone()))
    assert not torch.equal(found, device(angles + 1e-6))
    assert not torch.equal(found, Sampled(statevector.simulator(RY_CNOT), shots=50, seed=4)(angles))


def test_a_step_counts_the_circuits_that_its_gradient_needs() -> None:
    of_ring = 2 * 3 * (2 * 5 + 4)  # of 2 layers and 3 qubits: five angles two circuits each, CU3's first four
    for name, rule, expected in (
        ("ry_cnot", "parameter_shift", 1 + 2 * 2 * 3),
        ("ry_cry_ring", "parameter_shift", 1 + 2 * 3 * (2 + 4)),
        ("u3_cu3_ring", "parameter_shift", 1 + of_ring),
        ("u3_cu3_ring", "spsa", 3),
    ):
        simulate, usage = backends.simulator(shipped(name), Execution(shots=10, gradient=rule), seed=0)
        simulate(angles_of(name, circuits=2, layers=2, qubits=3).requires_grad_()).sum().backward()
        assert usage is not None
        assert (usage.jobs, usage.circuits, usage.shots) == (1, 2 * expected, 20 * expected)
        assert circuits_per_step(shipped(name), rule, layers=2, qubits=3) == expected


def test_torchquantum_leaves_no_stand_in_behind() -> None:
    simulator("ry_cnot", "torchquantum")(random_angles(1, 1, 2, torch.float32))
    left = [name for name, module in sys.modules.items() if type(module).__name__ == "_Inert"]
    assert left == []
