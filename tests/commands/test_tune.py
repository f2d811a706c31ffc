"""Searching with Optuna, and the view in Weights & Biases: as far as they go without an account."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import command_line

from qpa.commands import dashboard
from qpa.errors import UsageError, UserError
from qpa.tasks.task import Metric

SEARCH = ["optimizer.lr=tag(log,interval(1e-4,1e-2))", "mapper.width=2,4", "trainer.max_steps=2"]


def tune(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "qpa.tune", *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_search_names_the_trial_with_the_best_validation_and_goes_on(tmp_path: Path, text_file: Path) -> None:
    tiny = [*command_line(text_file, tmp_path), "logger=none"]
    for trials, more in ((2, 2), (3, 1)):
        done = tune(tmp_path, *tiny, *SEARCH, f"tune.trials={more}")
        assert done.returncode == 0, done.stderr
        found = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/result.json")]
        assert len(found) == trials
        best = min(found, key=lambda result: result["qpa"]["val"]["perplexity"])
        headline, command = done.stdout.splitlines()[-2:]
        assert headline == f"best of {trials} trials, validation perplexity {best['qpa']['val']['perplexity']:.3f}"
        assert f"optimizer.lr={best['run_info']['train_config']['optimizer']['lr']}" in command
        assert f"mapper.width={best['run_info']['train_config']['mapper']['width']}" in command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "usage: python -m qpa.tune"),
        (["seed=1,2", "tune.trials=0"], "tune.trials=0: should be greater than"),
        (["optimizer.lr=interval(1e-1,1e-3)"], "optimizer.lr=interval(1e-1,1e-3): "),
        (["optimizer.lr=tag(log,interval(0,1))"], "optimizer.lr=tag(log,interval(0,1)): "),
        (["seed=glob(*)"], "seed=glob(*): is no space"),
    ],
)
def test_search_without_a_space_or_trials_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = tune(tmp_path, *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_trial_that_fails_is_named_and_the_search_goes_on(tmp_path: Path, text_file: Path) -> None:
    tiny = [*command_line(text_file, tmp_path), "logger=none", "trainer.max_steps=1"]
    done = tune(tmp_path, *tiny, "circuit.qubits=99,6", "tune.trials=5")
    assert done.returncode == 0, done.stderr
    assert "failed: circuit.qubits=99" in done.stderr
    assert "Traceback" not in done.stderr
    assert "circuit.qubits=6" in done.stdout.splitlines()[-1]


def test_view_puts_ratio_against_perplexity_first() -> None:
    spec = json.loads(dashboard.workspace("someone", "qpa", Metric("perplexity", "", "lower", "log"))._to_model().spec.model_dump_json())
    first = spec["section"]["panel_bank_config"]["sections"][0]["panels"][0]["config"]
    assert (first["x_axis"], first["y_axis"], first["x_axis_log_scale"]) == ("summary:params/ratio", "summary:test/perplexity", True)


def test_view_without_an_account_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"the view could not be saved: .*API key"):
        dashboard.main(["entity=someone"])
    with pytest.raises(UsageError, match="usage"):
        dashboard.main(["project=qpa"])
    monkeypatch.setenv("WANDB_ENTITY", "someone")
    with pytest.raises(UserError, match="the view could not be saved"):
        dashboard.main([])
