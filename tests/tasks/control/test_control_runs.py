"""Whole runs of policies: what they report against a plain loop, curves, pictures, going on after kill -9, every control."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from conftest import ROOT, train_run
from PIL import Image
from playing import arguments, config, task_of
from safetensors.torch import load_file
from torch import nn

from qpa.adapters import saved
from qpa.commands import plan, report
from qpa.config import Config
from qpa.report import runs
from qpa.runs import export, record
from qpa.tasks.control import drawing, seeds


def run(found: Config) -> dict[str, Any]:
    train_run(found)
    return record.read(Path(str(found.run_dir)))["qpa"]


def curve(folder: Path, name: str) -> dict[int, float]:
    rows = csv.DictReader((folder / "metrics.csv").open())
    return {int(row["step"]): float(row[name]) for row in rows if row.get(name)}


def evaluated(policy: nn.Module, first: int, count: int) -> list[float]:
    """Returns of greedy episodes of CartPole, at most 40 steps, in plain gymnasium."""
    game, returns = gymnasium.make("CartPole-v1", max_episode_steps=40), []
    for seed in range(first, first + count):
        seen, ended, total = game.reset(seed=seed)[0], False, 0.0
        while not ended:
            with torch.no_grad():
                action = int(policy(torch.from_numpy(seen)[None]).argmax())
            seen, reward, terminated, truncated, _ = game.step(action)
            ended, total = terminated or truncated, total + float(reward)
        returns.append(total)
    return returns


METHODS = {"circuit": [], "none": ["generator=none"], "lora": ["peft=lora", "circuit=ry_cnot", "mapper.width=4"]}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_reported_is_a_plain_loops_of_the_saved_policy(tmp_path: Path, method: str) -> None:
    found = config(tmp_path, *METHODS[method])
    ours, base = run(found), task_of(found).base(own=True)
    policy = saved.load_adapter(base, tmp_path / "run" / "adapter")
    for split, count in (("val", 3), ("test", 5)):
        returns = evaluated(policy, seeds.FIRST[split], count)
        assert ours[split]["return"] == pytest.approx(np.mean(returns))
        assert ours[split]["return_deviation"] == pytest.approx(np.std(returns))
        assert (ours[split]["length"], ours[split]["episodes"]) == (pytest.approx(np.mean(returns)), count)
        assert ours[split]["base_return"] == pytest.approx(np.mean(evaluated(task_of(found).base(), seeds.FIRST[split], count)))
    assert 12 < ours["protocol"]["random"]["return"] < 30
    assert (ours["protocol"]["limit"], ours["protocol"]["threshold"]) == (40, 475.0)
    assert ours["task"]["name"] == "MLP 4-8-2 on CartPole-v1"
    if method != "lora":
        is_read_by_stock_torch(tmp_path / "run" / "adapter" / "model.safetensors", policy)


def is_read_by_stock_torch(file: Path, policy: nn.Module) -> None:
    stock = nn.Sequential()
    for name, layer in {"linear1": nn.Linear(4, 8), "relu1": nn.ReLU(), "linear2": nn.Linear(8, 2)}.items():
        stock.add_module(name, layer)
    stock.load_state_dict(load_file(file))
    seen = torch.randn(5, 4)
    torch.testing.assert_close(stock(seen), policy(seen))


@pytest.mark.few(1)
@pytest.mark.parametrize("overrides", [[], ["generator=none", "trainer.accumulate_grad_batches=2"]], ids=["qpa", "none"])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, overrides: list[str]) -> None:
    """And its curve goes on over the environment's steps."""
    fixed = [*overrides, "trainer.val_every=4", "trainer.checkpoint_every=2"]
    whole = run(config(tmp_path, *fixed))
    checkpoint = tmp_path / "run" / "checkpoints" / "previous.ckpt"
    resumed = run(config(tmp_path, *fixed, f"run_dir={tmp_path}/half", f"ckpt={checkpoint}"))
    assert resumed["resumed_from_step"] == 2
    assert resumed["test"] == whole["test"]
    for name in ("train/return", "train/environment_steps", "train/loss"):
        steps = curve(tmp_path / "run", name)
        assert len(steps) == 4
        assert curve(tmp_path / "half", name) == {step: value for step, value in steps.items() if step >= 2}
    counted = [*curve(tmp_path / "run", "train/environment_steps").values()]
    assert counted == sorted(counted) and counted[0] > 10
    measured = dict(runs.find(tmp_path / "run").finished[0].curve)
    after = {step: int(counted[step]) for step in curve(tmp_path / "run", "val/return")}
    assert measured == {after[step]: value for step, value in curve(tmp_path / "run", "val/return").items()}


@pytest.mark.slow
def test_killed_and_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    """kill -9 in the middle of training."""
    long = ["trainer.max_steps=150", "trainer.val_every=20", "trainer.checkpoint_every=5", "trainer.deterministic=true"]

    def start(name: str) -> subprocess.Popen:
        command = [sys.executable, "train.py", *arguments(tmp_path, *long, f"run_dir={tmp_path}/{name}", "ckpt=auto", "force=true")]
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)

    assert start("whole").wait(timeout=120) == 0
    killed = start("half")
    while not (tmp_path / "half" / "checkpoints" / "previous.ckpt").exists() and killed.poll() is None:
        time.sleep(0.05)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert start("half").wait(timeout=120) == 0
    whole, half = (record.read(tmp_path / name)["qpa"] for name in ("whole", "half"))
    assert 0 < half["resumed_from_step"] < 150
    assert (half["test"], half["val"]) == (whole["test"], whole["val"])
    weights = [load_file(tmp_path / name / "adapter" / "model.safetensors") for name in ("whole", "half")]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


CONTROLS = [f"latents={name}" for name in ("zeros", "table", "mps_equal", "random_features", "shared_table", "frozen_circuit", "mlp")]


@pytest.mark.few(1)
@pytest.mark.parametrize("control", [*CONTROLS, "mapper=subspace latents=zeros generator.start=peft mapper.numbers=40"])
def test_every_control_stands_in_the_circuits_place(tmp_path: Path, control: str) -> None:
    found = config(tmp_path, *control.split(), "trainer.max_steps=1", "trainer.val_every=1")
    assert 0 < run(found)["test"]["return"] <= 40


@pytest.mark.parametrize("peft", ["dora", "ia3 peft.feedforward_modules=[]", "lokr", "vera", "fourierft peft.n_frequency=4", "whole"])
@pytest.mark.few(1)
def test_other_methods_are_put_on_a_policys_layers(tmp_path: Path, peft: str) -> None:
    """The run itself compares what is exported with what was trained."""
    found = config(tmp_path, f"peft={peft}".split()[0], *peft.split()[1:], "trainer.max_steps=1", "trainer.val_every=1")
    assert 0 < run(found)["test"]["return"] <= 40


@pytest.mark.parametrize(("choice", "weights", "trained"), [("task=control", 898, 651), ("experiment=minigrid", 4_835, 2_529)])
def test_published_counts_are_those_of_the_plan(capsys: pytest.CaptureFixture, choice: str, weights: int, trained: int) -> None:
    plan.main([choice, "plan.output=json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["generated"], found["plain_peft"], found["trainable"]) == (weights, weights, trained)
    plan.main([choice, "generator=none", "plan.output=json"])
    assert json.loads(capsys.readouterr().out)["trainable"] == weights


def test_an_episode_is_drawn_as_a_small_gif_that_moves_and_the_report_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Where nothing can be drawn, a line says so."""
    found = config(tmp_path)
    run(found)
    file = tmp_path / "run" / "drawn.gif"
    with Image.open(file) as image:
        frames = []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("L"), dtype=int))
        assert (image.format, image.info["loop"]) == ("GIF", 0)
    assert 5 < len(frames) <= drawing.MOST_FRAMES + 2
    assert max(frames[0].shape) <= drawing.SIDE
    assert np.abs(frames[-1] - frames[0]).max() > 100
    assert file.stat().st_size < 500_000
    report.main([f"runs={tmp_path}/run", f"out={tmp_path}/report"])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<h3>An episode</h3>" in page and 'src="data:image/gif;base64,R0lGOD' in page
    monkeypatch.setitem(sys.modules, "pygame", None)
    task_of(found).draw({}, tmp_path / "run" / "adapter", tmp_path / "none.gif")
    assert "qpa: no picture of an episode: " in capsys.readouterr().err
    assert not (tmp_path / "none.gif").exists()


@pytest.mark.slow
def test_onnxruntime_says_of_the_exported_graph_what_the_saved_policy_says(tmp_path: Path) -> None:
    import onnxruntime

    found = config(tmp_path)
    run(found)
    export.onnx(found, tmp_path / "run")
    seen = torch.randn(7, 4)
    session: Any = onnxruntime.InferenceSession(str(tmp_path / "run" / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    (said,) = session.run(["logits"], {"observations": seen.numpy()})
    policy = saved.load_adapter(task_of(found).base(own=True), tmp_path / "run" / "adapter")
    with torch.no_grad():
        np.testing.assert_allclose(said, policy(seen).numpy(), atol=1e-4, rtol=1e-4)
