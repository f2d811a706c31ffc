"""What the analyses say of states, gradients and runs whose answer is known."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from conftest import build, planned, train_run
from peft.tuners.lora import LoraLayer
from scipy import stats

from qpa.adapters.saved import load_adapter
from qpa.analysis import gradient_variance, spectrum
from qpa.commands import analysis
from qpa.commands.export import main as export
from qpa.core.circuits import statevector
from qpa.core.circuits.ansatz import RY_CNOT
from qpa.core.circuits.entanglement import bond_entropies, meyer_wallach
from qpa.errors import ConfigError, NonFiniteLossError
from qpa.runs.record import load_config, save_config

ROOT_HALF = math.sqrt(0.5)


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def states(*rows: dict[int, float], qubits: int = 3) -> torch.Tensor:
    made = torch.zeros(len(rows), 2**qubits, dtype=torch.float64)
    for row, amplitudes in zip(made, rows, strict=True):
        for place, value in amplitudes.items():
            row[place] = value
    return made


def test_entanglement_of_states_whose_value_is_known() -> None:
    product, ghz, w = {5: 1.0}, {0: ROOT_HALF, 7: ROOT_HALF}, {place: 3**-0.5 for place in (1, 2, 4)}
    made = states(product, ghz, w)
    torch.testing.assert_close(meyer_wallach(made), torch.tensor([0, 1, 8 / 9], dtype=torch.float64))
    third = -(1 / 3) * math.log2(1 / 3) - (2 / 3) * math.log2(2 / 3)
    torch.testing.assert_close(bond_entropies(made), torch.tensor([[0, 0], [1, 1], [third, third]], dtype=torch.float64))


def test_variance_of_one_qubits_gradient_is_the_integral() -> None:
    angles = (2 * math.pi * torch.rand(20_000, 1, 1, generator=torch.Generator().manual_seed(0))).requires_grad_()
    cost = 1 - statevector.simulator(RY_CNOT)(angles)[:, 0]  # sin(t / 2)^2, whose slope sin(t) / 2 has variance 1 / 8
    assert gradient_variance.variance(cost, angles) == pytest.approx(1 / 8, rel=0.03)


def test_gradients_of_the_global_cost_vanish_with_qubits_and_those_of_the_mapper_do_not(tmp_path: Path) -> None:
    sizes = ["ansaetze=[ry_cnot]", "qubits=[2,8]", "layers=[8]", "samples=50", f"out={tmp_path}"]
    analysis.main(["what=gradient_variance", *sizes])
    few, many = json.loads((tmp_path / "gradient_variance.json").read_text())["ry_cnot"]
    assert many["global"] < few["global"] / 100
    assert many["feature"] > few["feature"] / 10
    assert is_png(tmp_path / "gradient_variance.png")


def test_an_unknown_ansatz_and_a_missing_run_get_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ansaetze=nothing: .*there are brick"):
        analysis.main(["what=gradient_variance", "ansaetze=[nothing]", f"out={tmp_path}"])
    with pytest.raises(ConfigError, match=r"run=None: what=spectrum looks at a finished run"):
        analysis.main(["what=spectrum"])
    with pytest.raises(ConfigError, match=r"no run folder"):
        analysis.main(["what=spectrum", f"run={tmp_path}"])


def test_singular_values_are_those_of_the_product() -> None:
    down, up = torch.randn(4, 30), torch.randn(50, 4)
    folder_values = spectrum.spectra_of({"m.lora_A.weight": down, "m.lora_B.weight": up})["m"]
    expected = torch.linalg.svdvals((up @ down).double())[:4]
    torch.testing.assert_close(folder_values, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def run(finished: Path, make_config: Callable) -> Path:
    if not finished.exists():
        config = make_config("circuit.qubits=4", "optimizer.lr=5e-2", "trainer.max_steps=8", f"run_dir={finished}")
        train_run(config)
        save_config(finished, config)
    return finished


def test_the_contribution_of_a_runs_circuits_is_measured_against_its_own_test_perplexity(run: Path) -> None:
    analysis.main(["what=contribution", f"run={run}", "draws=2"])
    found = json.loads((run / "analysis" / "contribution.json").read_text())
    tested = json.loads((run / "result.json").read_text())["qpa"]["test"]["perplexity"]
    assert found["perplexity"]["trained"]["mean"] == pytest.approx(tested, rel=1e-5)
    assert 0 < found["circuit_share"] < 1
    assert len(found["perplexity"]["shuffled"]["draws"]) == 2
    assert is_png(run / "analysis" / "contribution.png")


def test_entanglement_before_and_after_brackets_what_the_run_logged(run: Path) -> None:
    analysis.main(["what=entanglement", f"run={run}"])
    found = json.loads((run / "analysis" / "entanglement.json").read_text())
    validated = [row for row in csv.DictReader((run / "metrics.csv").open()) if row["val/perplexity"]]
    best = min(validated, key=lambda row: float(row["val/perplexity"]))  # whose weights the run keeps
    assert found["after"]["meyer_wallach"] == pytest.approx(float(best["circuit/meyer_wallach"]), rel=1e-5)
    assert found["after"]["bond_entropies"][1] == pytest.approx(float(best["circuit/half_chain_entropy"]), rel=1e-5)
    logged = [value for _, value in found["over_training"]["circuit/meyer_wallach"]]
    assert logged == [float(row["circuit/meyer_wallach"]) for row in validated]
    assert len(logged) == 4  # every second of eight steps
    untrained = build(load_config(run)).adaptation.generator.latents
    expected = meyer_wallach(statevector.amplitudes(RY_CNOT, untrained.angles)).mean().item()
    assert found["before"]["meyer_wallach"] == pytest.approx(expected, rel=1e-5)
    assert is_png(run / "analysis" / "entanglement.png")


def test_the_spectrum_of_a_run_is_that_of_what_its_adapter_adds_to_every_module(run: Path) -> None:
    analysis.main(["what=spectrum", f"run={run}"])
    (numbers,) = json.loads((run / "analysis" / "spectrum.json").read_text()).values()
    adapted = load_adapter(planned(load_config(run)).task.base(), run / "adapter")
    layers = [m for m in adapted.modules() if isinstance(m, LoraLayer)]
    values = [numpy.linalg.svd(layer.get_delta_weight("default").float().numpy(), compute_uv=False)[:8] for layer in layers]
    shares = [v / v.sum() for v in values]
    assert numbers["modules"] == len(layers) == 14
    assert numbers["effective_rank"] == pytest.approx(numpy.mean([math.exp(stats.entropy(share)) for share in shares]), rel=1e-3)
    assert numbers["frobenius_norm"] == pytest.approx(numpy.mean([numpy.linalg.norm(v) for v in values]), rel=1e-3)
    assert is_png(run / "analysis" / "spectrum.png")


def test_exported_circuits_are_the_trained_ones(run: Path) -> None:
    export([f"run={run}", "circuits=true"])
    folder = run / "circuits"
    probabilities = json.loads((folder / "probabilities.json").read_text())
    assert len(probabilities["circuits"]) == len(probabilities["after"]) == 14
    first = probabilities["circuits"][0]
    assert (folder / f"{first}.qasm").read_text().startswith("OPENQASM 3")
    uniform = torch.tensor(probabilities["before"])
    assert (uniform * 16 - 1).abs().max() < 0.2
    assert probabilities["after"] != probabilities["before"]
    assert is_png(folder / "probabilities.png")


def test_a_sampled_runs_checkpoint_exports_the_adapter_that_was_tested(make_config: Callable, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    config = make_config("circuit.qubits=4", "circuit.shots=50", f"run_dir={tmp_path}/sampled")
    train_run(config)
    file = tmp_path / "sampled" / "adapter" / "adapter_model.safetensors"
    tested = load_file(file)
    export([f"run={tmp_path}/sampled"])
    exported = load_file(file)
    assert all(torch.equal(tested[name], exported[name]) for name in tested)


def test_circuit_angles_that_are_not_finite_are_one_line(make_config: Callable) -> None:
    latents = build(make_config("circuit.qubits=4", "circuit.shots=50")).adaptation.generator.latents
    latents.angles.data.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"lower optimizer\.lr"):
        latents()


def test_controls_do_not_need_the_circuits_backend(make_config: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "qpa.core.circuits.qiskit", None)
    config = make_config("circuit.qubits=4", "latents=zeros", "circuit.backend=qiskit", "circuit.shots=50")
    assert build(config).plan.counts.trainable > 0
