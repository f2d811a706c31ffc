"""From config to generator: who draws which random numbers, and what the circuits are run by."""

import math
from collections.abc import Callable

import pytest
import torch
from conftest import ROOT

from qpa.config import IDENTITY, Config
from qpa.core.circuits.execution import Execution
from qpa.core.draws import drawn
from qpa.core.generator import Generator
from qpa.core.layout import AdapterTensor, plan
from qpa.library.circuit import exactly, execution
from qpa.library.recipe import make_generator

LAYOUT = plan([AdapterTensor(f"m.{i}.t", (11, 4), f"m.{i}") for i in range(3)], circuits="per_module", qubits=None, chunk_size=4)
CONTROLS = sorted({path.stem for path in (ROOT / "conf" / "latents").glob("[!_]*.yaml")} - {"circuit"})
MakeConfig = Callable[..., Config]


def made(config: Config) -> Generator:
    return make_generator(config.settings, LAYOUT, torch.zeros(LAYOUT.size))


def states(module: torch.nn.Module) -> list[torch.Tensor]:
    return list(module.state_dict().values())


@pytest.mark.parametrize("mapper", ["codes", "paper"])
def test_a_mapper_starts_from_the_same_numbers_whatever_is_before_it(make_config: MakeConfig, mapper: str) -> None:
    choices = ["circuit.layers=3", "circuit=rx_ry_rz", *(f"latents={kind}" for kind in CONTROLS)]
    expected = states(made(make_config(f"mapper={mapper}")).mapper)
    assert any(len(values.unique()) > 1 for values in expected)
    for choice in choices:
        torch.testing.assert_close(states(made(make_config(f"mapper={mapper}", choice)).mapper), expected, rtol=0, atol=0)


@pytest.mark.parametrize("latents", ["circuit", "frozen_circuit", "mlp", "mps", "random"])
def test_latents_start_from_the_same_numbers_whatever_is_behind_them(make_config: MakeConfig, latents: str) -> None:
    tied, codes, other_seed = (
        states(made(make_config(f"latents={latents}", *others)).latents) for others in ([], ["mapper=codes"], ["seed=2"])
    )
    torch.testing.assert_close(tied, codes, rtol=0, atol=0)
    assert any(not torch.equal(one, other) for one, other in zip(tied, other_seed, strict=True))


def test_trained_angles_are_the_first_numbers_of_the_seeds_own_stream(make_config: MakeConfig) -> None:
    torch.manual_seed(7)
    expected = 0.01 * torch.randn(LAYOUT.circuits, 2, LAYOUT.qubits)
    expected[:, 0] += math.pi / 2
    assert torch.equal(made(make_config("seed=7", "circuit.layers=2")).latents.angles, expected)


def test_streams_of_parts_differ_and_leave_torchs_own_as_it_was() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    found = []
    for seed, part in ((1, None), (1, "mapper"), (1, "latents"), (2, "mapper")):
        with drawn(seed, part):
            found.append(torch.rand(2).tolist())
    assert len({tuple(numbers) for numbers in found}) == 4
    assert torch.equal(torch.rand(3), expected)


def test_circuits_of_a_config_are_run_as_it_says_or_exactly(make_config: MakeConfig) -> None:
    circuit = make_config("circuit.backend=torchquantum", "circuit.shots=10", "circuit.gradient=spsa").circuit
    assert execution(circuit) == Execution("torchquantum", shots=10, gradient="spsa")
    assert execution(exactly(circuit)) == execution(make_config().circuit) == Execution()
    assert exactly(circuit).rotations == circuit.rotations


@pytest.mark.parametrize("latents", ["table", "shared_table", "random_features", "mlp", "mps", "mps_equal"])
def test_controls_of_a_random_start_begin_where_the_circuits_do(make_config: MakeConfig, latents: str) -> None:
    random = ["latents.start=random", "circuit.layers=3"]
    circuits = made(make_config(*random)).latents()
    control = made(make_config(f"latents={latents}", *random)).latents
    assert circuits.std() > 0.3  # scattered, not uniform
    torch.testing.assert_close(control(), circuits, atol=0.5 if latents == "mlp" else 0.1, rtol=0.05)
    assert all(not name.startswith("first") for name, _ in control.named_parameters())
    before = control()
    for parameter in control.parameters():
        parameter.data += 0.3
    assert not torch.equal(control(), before)


def test_what_starts_at_random_is_another_run_and_known_by_its_circuits(make_config: MakeConfig) -> None:
    def known(*overrides: str) -> set[str]:
        return set(IDENTITY.effective(make_config(*overrides).model_dump(by_alias=True)))

    assert "latents.start" not in known("latents=table")
    assert "circuit.layers" not in known("latents=table")
    assert {"latents.start", "circuit.layers", "circuit.rotations"} <= known("latents=table", "latents.start=random")
    assert "circuit.layers" not in known("latents=zeros", "latents.start=random")
