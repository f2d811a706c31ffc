"""Whole runs: what they report against spotpy on stock torch's forecasts; resumed, in two processes, with other methods, refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, planned, train_run
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from rivers import arguments, config, river, saved
from safetensors.torch import load_file
from spotpy import objectivefunctions
from torch import nn

from qpa.adapters import saved as adapters
from qpa.config import Config
from qpa.errors import ConfigError
from qpa.report import page, table
from qpa.report.compare import compare
from qpa.report.runs import find
from qpa.runs import evaluate, export, record
from qpa.runs.table import build
from qpa.tasks.forecasting.task import Forecasting

SPLITS = {"val": slice(168, 192), "test": slice(192, 240)}  # of 240 days


def run(found: Config) -> dict[str, Any]:
    train_run(found)
    return record.read(Path(str(found.run_dir)))["qpa"]


def task_of(found: Config) -> Forecasting:
    task = planned(found).task
    assert isinstance(task, Forecasting)
    return task


def by_hand(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """What stock torch says with the saved file of weights, in flow, and what was observed: no qpa, but the scale that lies beside."""
    weights, beside = load_file(folder / "model.safetensors"), json.loads((folder / "series.json").read_text())
    lstm, linear = nn.LSTM(2, 4, 2, batch_first=True), nn.Linear(4, 1)
    lstm.load_state_dict({name.removeprefix("lstm."): tensor for name, tensor in weights.items() if name.startswith("lstm.")})
    linear.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in weights.items() if name.startswith("linear.")})
    scale, given = beside["scale"], river()
    scaled = (given[beside["inputs"]].to_numpy() - scale["mean"]) / scale["deviation"]
    windows = sliding_window_view(scaled, beside["window"], axis=0).transpose(0, 2, 1)
    days = SPLITS[split]
    with torch.no_grad():
        states, _ = lstm(torch.from_numpy(windows[days.start - 6 : days.stop - 6]).float())
        said = linear(states[:, -1])[:, 0].numpy().astype(np.float64)
    return said * scale["target"][1] + scale["target"][0], given["flow"].to_numpy()[days]


@pytest.mark.few(1)
@pytest.mark.parametrize("generator", ["paper", "none", "qpa"])
def test_what_is_reported_is_spotpys_of_stock_torchs_forecasts(tmp_path: Path, generator: str) -> None:
    found = config(tmp_path, f"generator={generator}")
    ours = run(found)
    for split in SPLITS:
        forecast, observed = by_hand(tmp_path / "run" / "adapter", split)
        assert ours[split]["nse"] == pytest.approx(objectivefunctions.nashsutcliffe(observed, forecast), rel=1e-5)
        assert ours[split]["kge"] == pytest.approx(objectivefunctions.kge(observed, forecast), rel=1e-5)
        assert ours[split]["mse"] == pytest.approx(objectivefunctions.mse(observed, forecast), rel=1e-5)
        assert ours[split]["forecasts"] == len(observed)
        last = river()["flow"].to_numpy()[SPLITS[split].start - 1 : SPLITS[split].stop - 1]
        reference = ours["protocol"]["reference"]
        assert reference["persistence"][split]["nse"] == pytest.approx(objectivefunctions.nashsutcliffe(observed, last))
        assert reference["linear"][split]["nse"] > reference["persistence"][split]["nse"]
    task = task_of(found)
    forecast, _ = by_hand(tmp_path / "run" / "adapter", "test")
    network = adapters.load_adapter(task.base(own=True), tmp_path / "run" / "adapter")
    np.testing.assert_allclose(task.forecasts(network, "test"), forecast, rtol=1e-5)
    assert Image.open(tmp_path / "run" / "drawn.png").format == "PNG"


def test_closing_table_and_report_have_what_needs_no_network(tmp_path: Path) -> None:
    run(config(tmp_path))
    shown = "".join(str(column._cells) for column in build(record.read(tmp_path / "run")).columns)
    comparison = compare(find(tmp_path / "run").finished)[0]
    whole = table.markdown(comparison)
    for name in ("persistence", "climatology", "linear"):
        assert f"{name}: " in shown
        assert f"| {name} | " in whole
    page.write(tmp_path / "page.html", find(tmp_path / "run"), [comparison])
    assert "<h3>Hydrograph</h3>" in (tmp_path / "page.html").read_text()


@pytest.mark.few(1)
@pytest.mark.parametrize("model", ["lstm", "transformer"])
@pytest.mark.parametrize("overrides", [[], ["generator=none"], ["latents=zeros"]], ids=["qpa", "none", "zeros"])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, model: str, overrides: list[str]) -> None:
    fixed = [*overrides, "trainer.val_every=4", "trainer.checkpoint_every=2"]
    whole = run(config(tmp_path, *fixed, model=model))
    checkpoint = tmp_path / "run" / "checkpoints" / "previous.ckpt"
    resumed = run(config(tmp_path, *fixed, f"run_dir={tmp_path}/half", f"ckpt={checkpoint}", model=model))
    assert resumed["resumed_from_step"] == 2
    assert resumed["test"] == whole["test"]
    weights = [load_file(tmp_path / name / "adapter" / "model.safetensors") for name in ("run", "half")]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.slow
def test_two_processes_come_to_the_numbers_of_one(tmp_path: Path) -> None:
    """With as many windows for each of an odd number of batches as one process reads of twice the size."""
    file, fixed = saved(river(241), tmp_path / "odd.csv"), ["trainer.precision=32-true"]
    one = run(config(tmp_path, *fixed, file=file))
    two = [*fixed, "trainer=ddp", "data.batch_size=8", f"run_dir={tmp_path}/two", "trainer.accelerator=cpu"]
    command = [sys.executable, "train.py", *arguments(tmp_path, *two, file=file)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    other = record.read(tmp_path / "two")["qpa"]
    for split in ("val", "test"):
        assert other[split] == pytest.approx(one[split], rel=1e-4, abs=1e-3)  # efficiencies near zero
        assert other[split]["base_nse"] == pytest.approx(one[split]["base_nse"], rel=1e-6)


@pytest.mark.few(1)
@pytest.mark.parametrize("model", ["transformer", "lstm"])
@pytest.mark.parametrize("method", ["lora", "dora", "whole latents=table", "whole mapper=subspace latents=zeros generator.start=peft"])
def test_other_methods_and_controls_train(tmp_path: Path, method: str, model: str) -> None:
    """The run itself compares what is exported with what was trained."""
    ours = run(config(tmp_path, *f"peft={method}".split(), "trainer.max_steps=2", model=model))
    assert ours["test"]["nse"] <= 1
    assert ours["test"]["nse"] != ours["test"]["base_nse"]


def test_ratios_are_left_out_where_what_is_observed_goes_below_zero(tmp_path: Path) -> None:
    table = river()
    table["flow"] -= table["flow"].max() + 1
    ours = run(config(tmp_path, "trainer.max_steps=2", file=saved(table, tmp_path / "below.csv")))
    assert ours["test"].keys() & {"kge", "peak_error", "nse", "mse"} == {"nse", "mse"}


def test_evaluation_with_other_training_days_keeps_the_scale_of_the_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ours = run(config(tmp_path, "trainer.max_steps=2", "data.val_fraction=0.3"))
    capsys.readouterr()
    _, measured = evaluate.evaluate(config(tmp_path, "data.val_fraction=0.2"), tmp_path / "run")
    assert measured["test"]["mse"] == pytest.approx(ours["test"]["mse"], rel=1e-5)
    assert "trained on times" not in capsys.readouterr().err
    evaluate.evaluate(config(tmp_path, "data.val_fraction=0.3", "data.test_fraction=0.6"), tmp_path / "run")
    assert "the network was trained on times until 2001-04-" in capsys.readouterr().err


def test_adapter_of_another_window_is_refused(tmp_path: Path) -> None:
    run(config(tmp_path, "trainer.max_steps=2"))
    task_of(config(tmp_path)).check_beside(tmp_path / "run" / "adapter")
    with pytest.raises(ConfigError, match=r"^data.window=7: the adapter was trained with 6; give the run's own"):
        task_of(config(tmp_path, "data.window=7")).check_beside(tmp_path / "run" / "adapter")


@pytest.mark.slow
@pytest.mark.few(1)
@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_onnxruntime_says_of_the_exported_graph_what_the_saved_network_says(tmp_path: Path, model: str) -> None:
    import onnxruntime

    found = config(tmp_path, "trainer.max_steps=2", model=model)
    run(found)
    export.onnx(found, tmp_path / "run")
    task = task_of(found)
    windows = task.windows.read("test")[:7].astype(np.float32)
    session: Any = onnxruntime.InferenceSession(str(tmp_path / "run" / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    (said,) = session.run(["logits"], {"inputs": windows})
    with torch.no_grad():
        expected = adapters.load_adapter(task.base(own=True), tmp_path / "run" / "adapter").eval()(torch.from_numpy(windows))
    np.testing.assert_allclose(said, expected.numpy(), atol=1e-4, rtol=1e-4)
