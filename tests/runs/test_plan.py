"""Counting before training: the paper's cases, any case against the real run, and the search under a budget."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, build
from conftest import planned as plan_of

from qpa.adapters import methods
from qpa.commands import plan
from qpa.config import Config
from qpa.errors import ConfigError
from qpa.runs import sizing
from qpa.tasks.language.advice import LITTLE

MakeConfig = Callable[..., Config]
KEYS = ["generated", "circuits", "qubits", "layers", "chunk_size", "circuit_params", "mapper_params", "trainable", "plain_peft", "ratio"]


def planned(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    plan.main([*arguments, "plan.output=json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("experiment", "trainable", "plain_peft", "qubits", "chunk_size"),
    [
        ("paper/gpt2_lora", 106_264, 204_100, 7, 2048),
        ("paper/gemma_lora", 173_888, 1_032_192, 8, 4096),
        ("paper/gemma2_lora", 173_888, 1_033_216, 8, 4096),
        ("paper/gpt2_prefix", 72_552, 393_216, 9, 1024),
    ],
)
def test_papers_experiments_are_counted_exactly(
    capsys: pytest.CaptureFixture, experiment: str, trainable: int, plain_peft: int, qubits: int, chunk_size: int
) -> None:
    found = planned(capsys, f"experiment={experiment}")
    assert {key: found[key] for key in ("trainable", "plain_peft", "generated", "qubits", "chunk_size", "layers", "circuits")} == {
        "trainable": trainable, "plain_peft": plain_peft, "generated": plain_peft, "qubits": qubits, "chunk_size": chunk_size,
        "layers": 8, "circuits": 1,
    }  # fmt: skip
    assert found["trainable"] == found["circuit_params"] + found["mapper_params"]
    assert found["ratio"] == trainable / plain_peft


VARIANTS = ["", "peft=vera", "peft=adapter", "latents=mps", "latents=table generator.circuits=shared", "mapper=paper", "generator=none"]


@pytest.mark.parametrize("overrides", VARIANTS)
def test_plan_counts_what_a_run_trains(make_config: MakeConfig, overrides: str) -> None:
    config = make_config(*overrides.split())
    found, built = plan_of(config), build(config)
    assert found.counts.trainable == sum(p.numel() for p in built.adaptation.parameters())
    plain = sum(p.numel() for p in methods.adapter_parameters(built.model).values())
    assert found.counts.plain_peft == plain
    assert (found.layout.generated if found.layout else plain) == plain
    assert set(KEYS) <= set(plan.record(found))


def test_optimizer_memory_is_what_the_optimizer_keeps(make_config: MakeConfig) -> None:
    for target, numbers in (("AdamW", 2), ("SGD", 0), ("Adagrad", 1)):
        config = make_config(f"optimizer._target_=torch.optim.{target}")
        found = plan_of(config)
        assert plan.optimizer_bytes(found) == 4 * numbers * found.counts.trainable


CASES = [("", r) for r in (0.5, 0.05, 0.01, 0.001)] + [("experiment=lm_head", r) for r in (0.5, 0.05, 0.01, 0.003)]
CASES += [("mapper=paper mapper.hidden=[32,32]", r) for r in (0.1, 0.005)] + [("peft=prompt model=gpt2", r) for r in (0.5, 0.1)]


@pytest.mark.few(2)
@pytest.mark.parametrize(("arguments", "ratio"), CASES)
def test_search_stays_under_the_budget_and_uses_it(capsys: pytest.CaptureFixture, arguments: str, ratio: float) -> None:
    arguments = arguments.split()
    found = planned(capsys, *arguments, f"plan.target_ratio={ratio}")
    assert found["ratio"] <= ratio
    assert found["ratio"] > 0.6 * ratio
    assert planned(capsys, *arguments, *found["overrides"]) == found | {"overrides": []}


def test_search_keeps_rows_whole_while_the_budget_pays_for_them(make_config: MakeConfig) -> None:
    config = make_config(model="gpt2")
    tensors = plan_of(config).tensors
    assert not [o for o in sizing.search(config, tensors, 0.5) if "chunk_size" in o]
    assert [o for o in sizing.search(config, tensors, 0.05) if "chunk_size" in o]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan.target_ratio=0"], "plan.target_ratio=0: .*greater than 0"),
        (["plan.target_ratio=1e-9"], "plan.target_ratio=1e-09: the smallest generator"),
        (["plan.target_ratio=0.1", "generator=none"], "plan.target_ratio=0.1: generator=none"),
        (["plan.output=xml"], "plan.output=xml: should be 'table' or 'json'"),
        (["mapper.chunk_size=99999999"], "mapper.chunk_size=99999999: larger than"),
        (["latents=mps", "latents.bond_dimension=0"], "latents.bond_dimension=0: .*greater than or equal to 1"),
        (["peft=prefix", "model.gradient_checkpointing=true"], "model.gradient_checkpointing=True: prefixes"),
        (["model=gpt2", "peft=prompt", "peft.num_virtual_tokens=900"], "data.context=256: .*num_virtual_tokens=900"),
    ],
)
def test_mistakes_are_named(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan.main(arguments)


def test_command_prints_one_json_object_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qpa.plan", "plan.output=json"], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert set(KEYS) <= set(json.loads(done.stdout))
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["circuit.layers=1000000000"], r"circuit\.layers=1000000000: .*GiB"),
        (["mapper=codes", "mapper.width=1000000000"], "mapper=codes: .*GiB"),
        (["latents=mlp", "latents.hidden=1000000000"], "latents=mlp: .*GiB"),
    ],
)
def test_generator_larger_than_memory_is_refused_before_it_is_made(make_config: MakeConfig, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_of(make_config(*overrides))


def test_reference_simulator_that_is_not_installed_is_refused_with_the_way_out(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchquantum", None)  # as Python has it: not to be imported
    with pytest.raises(ConfigError, match=r"circuit.backend=torchquantum: is not installed; pip install --no-deps torchquantum==0\.1\.8"):
        plan_of(make_config("circuit.backend=torchquantum"))


@pytest.mark.parametrize(
    ("size", "more", "words"),
    [
        (300_000, ["data.train_bytes=5000"], "about 5 kB to train on: with so little text"),
        (300_000, [], "about 270 kB to train on: with so much text"),
        (90_000, ["data.val_files=[a.txt]"], "about 90 kB to train on: with so little text"),
        (300_000, ["peft.target_modules=[lm_head]"], "on the output head"),
        (300_000, ["peft.target_modules=[q_proj]"], None),
        (300_000, ["data.train_files=[missing.txt]"], None),
    ],
)
def test_plan_says_what_pays_for_so_much_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, size: int, more: list[str], words: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a line\n" * (size // 7))
    advice = planned(capsys, "data=text", "data.train_files=[a.txt]", *more)["advice"]
    assert advice is None if words is None else advice.startswith(words)


def test_advice_is_in_the_table_of_the_results() -> None:
    results = " ".join((ROOT / "docs" / "results.md").read_text().split())
    assert results.index("## If you have") < results.index("In short")
    for words in (f"less than {LITTLE // 1000} kB", "mapper.width=2", "experiment=lm_head"):
        assert words in results[: results.index("In short")]
