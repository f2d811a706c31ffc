"""Whole runs on operators: what they report against neuraloperator's own network, from scratch, from a trained one, and resumed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, planned
from functions import arguments, config, run
from neuralop.models import FNO
from PIL import Image
from safetensors.torch import load_file

from qpa.commands import plan
from qpa.config import Config
from qpa.runs import evaluate, record
from qpa.tasks.operators.task import Operators


def task_of(found: Config) -> Operators:
    task = planned(found).task
    assert isinstance(task, Operators)
    return task


def stock_error(folder: Path, task: Operators, dimensions: int) -> float:
    """Of neuraloperator's network with the weights that a run has left, by numpy, on the test samples."""
    network = FNO(n_modes=(4,) * dimensions, in_channels=1, out_channels=1, hidden_channels=4, n_layers=2)
    network.load_state_dict(load_file(folder / "adapter" / "model.safetensors"))
    scale = json.loads((folder / "adapter" / "operator.json").read_text())["scale"]
    test = task.samples["test"]
    with torch.no_grad():
        said = network(torch.from_numpy((test.inputs - scale["input_mean"]) / scale["input_std"]).float()).numpy()
    wrong = said * scale["output_std"] + scale["output_mean"] - test.outputs
    return float(np.mean([np.linalg.norm(one) / np.linalg.norm(true) for one, true in zip(wrong, test.outputs, strict=True)]))


@pytest.mark.few(1)
@pytest.mark.parametrize("overrides", [[], ["generator=none"], ["peft=whole"]], ids=["added", "none", "whole"])
@pytest.mark.parametrize("data", ["burgers", "darcy"])
def test_what_is_reported_is_the_error_of_neuraloperators_own_network(tmp_path: Path, data: str, overrides: list[str]) -> None:
    found = config(tmp_path, *overrides, data=data)
    ours = run(found)
    expected = stock_error(tmp_path / "run", task_of(found), 1 if data == "burgers" else 2)
    assert ours["test"]["relative_l2"] == pytest.approx(expected, rel=1e-4)
    assert ours["test"]["samples"] == 6
    assert Image.open(tmp_path / "run" / "drawn.png").format == "PNG"


def test_complex_weights_are_generated_as_they_are(tmp_path: Path) -> None:
    found = config(tmp_path, "trainer.max_steps=2", "optimizer.lr=0.1")
    run(found)
    saved = load_file(tmp_path / "run" / "adapter" / "model.safetensors")
    first = task_of(found).base().state_dict()
    spectral = [name for name, tensor in saved.items() if tensor.is_complex()]
    assert len(spectral) == 2
    for name in spectral:
        moved = saved[name] - first[name]
        assert moved.real.abs().max() > 0 and moved.imag.abs().max() > 0


@pytest.mark.parametrize("method", ["peft=lora", "peft=lora generator=none", "peft=whole generator=none", "peft=whole_added", "peft=dora"])
@pytest.mark.few(1)
def test_a_trained_operator_is_adapted_in_its_own_scale(tmp_path: Path, method: str) -> None:
    """Before the first step it is the operator that was trained: at its own viscosity it has its own error."""
    before = run(config(tmp_path, "generator=none", "trainer.max_steps=12", "optimizer.lr=0.01"))
    again = ["model.path=" + str(tmp_path / "run"), f"run_dir={tmp_path}/adapted", *method.split()]
    same = run(config(tmp_path, *again))
    assert same["test"]["base_relative_l2"] == pytest.approx(before["test"]["relative_l2"], rel=1e-5)
    other = run(config(tmp_path, *again, "data.viscosity=0.2", "data.train=4", f"run_dir={tmp_path}/other"))
    assert other["test"]["base_relative_l2"] != pytest.approx(before["test"]["relative_l2"], rel=1e-2)
    assert other["protocol"]["base"] == "trained on other data"


@pytest.mark.slow
def test_evaluation_at_another_viscosity_keeps_the_scale_of_the_training(tmp_path: Path) -> None:
    """It is what the operator reaches there as the base model of another run."""
    found = config(tmp_path, "generator=none")
    run(found)
    other = ["data.viscosity=0.2", "data.train=4", f"run_dir={tmp_path}/other", f"model.path={tmp_path}/run"]
    base = run(config(tmp_path, "generator=none", *other, "trainer.max_steps=1"))["test"]["base_relative_l2"]
    _, measured = evaluate.evaluate(config(tmp_path, "generator=none", *other[:2]), tmp_path / "run")
    assert measured["test"]["relative_l2"] == pytest.approx(base, rel=1e-5)


def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    fixed = ["trainer.val_every=4", "trainer.checkpoint_every=2"]
    whole = run(config(tmp_path, *fixed))
    checkpoint = tmp_path / "run" / "checkpoints" / "previous.ckpt"
    resumed = run(config(tmp_path, *fixed, f"run_dir={tmp_path}/half", f"ckpt={checkpoint}"))
    assert resumed["resumed_from_step"] == 2
    assert resumed["test"] == whole["test"]


def test_samples_are_solved_once_and_a_damaged_file_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = task_of(config(tmp_path)).samples["test"]
    assert "solving burgers for 6 test samples" in capsys.readouterr().err
    again = task_of(config(tmp_path)).samples["test"]
    assert "solving" not in capsys.readouterr().err
    assert (again.outputs == made.outputs).all()
    (file,) = (tmp_path / "cache" / "operators").glob("burgers-test-*")
    file.write_bytes(file.read_bytes()[:100])
    mended = task_of(config(tmp_path)).samples["test"]
    assert "solving" in capsys.readouterr().err
    assert (mended.outputs == made.outputs).all()
    other = task_of(config(tmp_path, "data.viscosity=0.2")).samples["test"]
    assert (other.outputs != made.outputs).any()


def test_plan_counts_a_complex_weight_as_two(capsys: pytest.CaptureFixture) -> None:
    plan.main(["task=operators", "plan.output=json"])
    found: Any = json.loads(capsys.readouterr().out)
    network = FNO(n_modes=(16,), in_channels=1, out_channels=1, hidden_channels=16, n_layers=4)
    assert found["generated"] == sum(p.numel() * (2 if p.is_complex() else 1) for p in network.parameters()) == 21_905
    assert found["trainable"] == 1_697


@pytest.mark.slow
def test_two_processes_equal_one_with_double_batch(tmp_path: Path) -> None:
    alone = run(config(tmp_path))
    shared = ["trainer=ddp", "trainer.max_steps=4", "trainer.val_every=2", "data.batch_size=2", f"run_dir={tmp_path}/two"]
    command = [sys.executable, ROOT / "train.py", *arguments(tmp_path, *shared)]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    together = record.read(tmp_path / "two")["qpa"]
    assert together["test"]["relative_l2"] == pytest.approx(alone["test"]["relative_l2"], rel=1e-4)
    assert together["test"]["samples"] == 6
