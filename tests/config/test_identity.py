"""What runs are told apart by: their folder, their setting in a report, their baseline, their checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import fingerprint, planned, train_run
from safetensors.torch import load_file, save_file

from qpa.config import IDENTITY, Config
from qpa.config.identity import Part
from qpa.errors import ConfigError
from qpa.report.runs import find
from qpa.runs import record

MakeConfig = Callable[..., Config]


def folder_of(config: Config) -> Path:
    """Where a run of it would lie, its own `run_dir` left out."""
    return planned(config.model_copy(update={"run_dir": None})).folder


def test_every_key_says_one_thing_of_a_run(make_config: MakeConfig) -> None:
    effective = IDENTITY.effective(make_config().model_dump(by_alias=True))
    shown = ("name", "run_dir", "ckpt", "logger.mode", "trainer.strategy", "data.train_files", "data.cache_hidden", "study")
    assert not set(shown) & set(effective)
    assert {IDENTITY.part(key) for key in effective} == set(Part) - {Part.SHOWN}


@pytest.mark.parametrize("fast", [True, False])
def test_runs_that_compute_in_other_numbers_lie_apart(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr("qpa.tasks.numerics.fast_in_bf16", lambda _: fast)
    left_to_the_machine = folder_of(make_config())
    bf16 = folder_of(make_config("model.dtype=bfloat16", "trainer.precision=bf16-mixed"))
    fp32 = folder_of(make_config("model.dtype=float32", "trainer.precision=32-true"))
    assert bf16 != fp32
    assert left_to_the_machine == (bf16 if fast else fp32)


def test_run_in_other_numbers_is_another_task_and_no_baseline(make_config: MakeConfig, tmp_path: Path) -> None:
    for name, dtype in (("bf16", "bfloat16"), ("fp32", "float32")):
        train_run(make_config(f"run_dir={tmp_path}/runs/{name}", f"model.dtype={dtype}", "generator=none"))
        assert record.load_config(tmp_path / "runs" / name).model.dtype == dtype
    bf16, fp32 = find(tmp_path / "runs").finished
    assert bf16.task != fp32.task
    assert bf16.setting != fp32.setting
    with pytest.raises(ConfigError, match=r"baseline=.*model\.dtype=bfloat16, this one has float32"):
        train_run(make_config(f"baseline={tmp_path}/runs/bf16", "model.dtype=float32"))


def test_same_text_under_two_paths_is_one_setting_and_one_run(make_config: MakeConfig, tmp_path: Path, text_file: Path) -> None:
    other = tmp_path / "elsewhere.txt"
    other.write_bytes(text_file.read_bytes())
    moved = f"data.train_files=[{other}]"
    assert folder_of(make_config(moved)) == folder_of(make_config())
    other.write_text("another text " * 500)
    assert folder_of(make_config(moved)) != folder_of(make_config())


@pytest.mark.few(1)
@pytest.mark.parametrize("override", ["data.cache_hidden=false", "data.cache_hidden_gib=3.0", "trainer.checkpoint_every=3", "name=x"])
def test_keys_that_change_no_result_do_not_split_a_settings_seeds(make_config: MakeConfig, tmp_path: Path, override: str) -> None:
    for seed in (1, 2):
        own = [override] if seed == 2 else []
        train_run(make_config(f"run_dir={tmp_path}/runs/{seed}", f"seed={seed}", "trainer.max_steps=2", *own))
    first, second = find(tmp_path / "runs").finished
    assert (first.setting, first.task) == (second.setting, second.task)


def test_seed_rate_and_what_stands_in_the_circuits_place_are_told_step_by_step(make_config: MakeConfig) -> None:
    def parts(*overrides: str) -> tuple[str, ...]:
        config = make_config(*overrides).model_dump(by_alias=True)
        return tuple(json.dumps(found, sort_keys=True) for found in (IDENTITY.effective(config), IDENTITY.place(config)))

    (circuit, place), (rate, rate_place), (zeros, zeros_place) = parts(), parts("optimizer.lr=0.5"), parts("latents=zeros")
    assert circuit != rate
    assert circuit != zeros
    assert place == rate_place == zeros_place
    assert place != parts("mapper.width=3")[1]
    assert place != parts("circuit.qubits=9")[1]


def test_keys_without_effect_do_not_tell_runs_apart(make_config: MakeConfig) -> None:
    def known(*overrides: str) -> str:
        return fingerprint(make_config(*overrides))

    assert known("generator=none", "mapper.width=3", "circuit.layers=3") == known("generator=none")
    assert known("latents=zeros", "circuit.layers=3") == known("latents=zeros")
    assert known("latents=mps", "circuit.layers=3") != known("latents=mps")  # its bond dimension follows from them
    assert known("latents=mps", "circuit.gate=CZ") == known("latents=mps")
    of_ring = known("latents=mps", "circuit=ry_cry_ring")
    assert of_ring != known("latents=mps")  # gates with angles count
    assert known("latents=zeros", "circuit=ry_cry_ring") == known("latents=zeros", "circuit=ry_cnot")
    assert known("circuit.layers=3") != known()


def test_run_of_an_older_computation_is_not_taken_for_finished(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config("trainer.max_steps=2")
    train_run(config)
    assert record.finished(Path(config.run_dir), planned(config).fingerprint)
    monkeypatch.setattr("qpa.runs.plan.COMPUTATION", 10**6)
    assert not record.finished(Path(config.run_dir), planned(config).fingerprint)


@pytest.mark.parametrize("lineage", [None, {"peft": "0123abcd", "seed": "0123abcd"}])
def test_checkpoint_of_an_older_computation_is_not_gone_on_from(make_config: MakeConfig, lineage: dict[str, str] | None) -> None:
    config = make_config("trainer.max_steps=2", "trainer.val_every=1")
    train_run(config)
    path = Path(config.run_dir) / "checkpoints" / "last.ckpt"
    torch.save(torch.load(path, weights_only=True) | {"lineage": lineage}, path)
    with pytest.raises(ConfigError, match=r"ckpt=.*of an older qpa, whose steps came to other numbers"):
        train_run(make_config("trainer.max_steps=3", "trainer.val_every=1", f"ckpt={path}", "force=true"))


def test_another_model_saved_in_the_place_of_one_is_another_run(make_config: MakeConfig, saved_base: Callable[..., Path]) -> None:
    base = saved_base("smollm2")
    config = make_config("model.weights=published", f"model.path={base}", "model.num_layers=null")
    before = fingerprint(config)
    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"].zero_()
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(config) != before


def test_key_of_a_later_version_counts(make_config: MakeConfig) -> None:
    plain = make_config().model_dump(by_alias=True)
    assert IDENTITY.effective(plain | {"later": 1}) != IDENTITY.effective(plain)
