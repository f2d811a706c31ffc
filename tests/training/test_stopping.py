"""When a run ends: after so many passes over its data, where validation finds nothing better, or when its time is over."""

import csv
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, command_line, folder_of, planned, train_run
from omegaconf import OmegaConf
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Timer
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from qpa.config import Config, parse
from qpa.config.context import Context
from qpa.errors import ConfigError
from qpa.runs import record
from qpa.tasks.loaders import Shuffled
from qpa.tasks.task import Metric
from qpa.training import checkpoints
from qpa.training.stopping import Stopping
from qpa.training.trainer import make_trainer

MakeConfig = Callable[..., Config]


def trained(config: Config) -> tuple[Path, record.Record]:
    """A run's folder, and its own part of the record."""
    train_run(config)
    return folder_of(config), record.read(folder_of(config))["qpa"]


def logged(folder: Path, column: str) -> dict[int, float]:
    """What was logged under a name, by optimizer step."""
    files = [*sorted(folder.glob("metrics-*.csv")), folder / "metrics.csv"]
    return {int(row["step"]) + 1: float(row[column]) for file in files for row in csv.DictReader(file.open()) if row.get(column)}


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def windows(config: Config) -> int:
    """To train on, counted by the task's own data."""
    task = planned(config).task
    task.prepare()
    return len(task.windows["train"])


@pytest.mark.parametrize(("epochs", "most"), [(1, None), (0.5, None), (2, None), (2, 20), (1, 100_000)])
def test_epochs_are_steps_over_all_windows_the_last_one_whole(make_config: MakeConfig, epochs: float, most: int | None) -> None:
    config = make_config(f"trainer.max_epochs={epochs}", f"trainer.max_steps={most or 'null'}", "data.batch_size=3")
    task = planned(config).task
    task.prepare()
    steps = math.ceil(windows(config) * epochs / 3)
    assert task.steps == (min(steps, most) if most else steps)
    read = [index for batch in task.train_loader(from_step=0) for index in batch["index"].tolist()]
    assert len(read) == 3 * task.steps
    if most is None and epochs >= 1:
        passes = [read[start : start + windows(config)] for start in range(0, int(epochs) * windows(config), windows(config))]
        assert all(sorted(one) == list(range(windows(config))) for one in passes)


def test_steps_of_epochs_count_micro_batches_and_processes(make_config: MakeConfig) -> None:
    several = ["data.batch_size=2", "trainer.accumulate_grad_batches=3", "trainer=ddp", "trainer.devices=2"]
    config = make_config("trainer.max_epochs=3", "trainer.max_steps=null", *several)
    task = planned(config).task
    task.prepare()
    assert task.steps == math.ceil(3 * windows(config) / 12)
    assert list(Shuffled(7, seed=1, start=0, stop=3)) == list(Shuffled(7, seed=1, start=0, stop=7))[:3]


def test_epochs_are_counted_as_they_are_written(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    task = planned(make_config("trainer.max_epochs=0.07", "trainer.max_steps=null", "data.batch_size=1")).task
    monkeypatch.setattr(task, "examples", lambda: 100)
    assert 0.07 * 100 > 7
    assert task.steps == 7


def test_default_is_40_steps_and_epochs_alone_are_epochs(compose_config: Callable[..., Any]) -> None:
    def given(*overrides: str) -> tuple[int | None, float | None]:
        plain = compose_config(*overrides)
        plain.trainer.max_steps = OmegaConf.load(Path(__file__).parents[2] / "conf/trainer/default.yaml")._get_node("max_steps")._value()
        trainer = parse(plain).trainer
        return trainer.max_steps, trainer.max_epochs

    assert given() == (40, None)
    assert given("trainer.max_epochs=3") == (None, 3)


@pytest.mark.slow
def test_run_of_epochs_is_the_run_of_as_many_steps(make_config: MakeConfig, tmp_path: Path) -> None:
    few = ["data.batch_size=16", "trainer.val_every=10"]
    folder, ours = trained(make_config(f"run_dir={tmp_path}/epochs", "trainer.max_epochs=0.2", "trainer.max_steps=null", *few))
    count = windows(make_config())
    steps = math.ceil(0.2 * count / 16)
    other, theirs = trained(make_config(f"run_dir={tmp_path}/steps", f"trainer.max_steps={steps}", *few))
    assert (ours["steps"], ours["epochs"], ours["stopped"]) == (steps, steps * 16 / count, None)
    assert (ours["test"], ours["task"]) == (theirs["test"], theirs["task"])
    assert all(torch.equal(tensor, adapter(other)[name]) for name, tensor in adapter(folder).items())
    assert logged(folder, "train/loss") == logged(other, "train/loss")


@pytest.mark.slow
def test_resumed_run_of_epochs_equals_the_uninterrupted_one(make_config: MakeConfig, tmp_path: Path) -> None:
    fixed = ["trainer.max_epochs=0.2", "trainer.max_steps=null", "data.batch_size=16", "trainer.val_every=3", "trainer.checkpoint_every=1"]
    whole, ours = trained(make_config(f"run_dir={tmp_path}/whole", *fixed))
    half = make_config(f"run_dir={tmp_path}/half", *fixed)
    interrupt(half, after=4)
    folder, theirs = trained(make_config(f"run_dir={tmp_path}/half", "ckpt=last", *fixed))
    assert theirs["resumed_from_step"] == 4
    assert (ours["steps"], ours["epochs"], ours["test"]) == (theirs["steps"], theirs["epochs"], theirs["test"])
    assert all(torch.equal(tensor, adapter(whole)[name]) for name, tensor in adapter(folder).items())


@pytest.mark.slow
def test_more_epochs_go_on_from_the_run_of_fewer(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    fixed = ["run_dir=null", "name=tiny", "trainer.max_steps=null", "data.batch_size=64", "trainer.val_every=100"]
    _, shorter = trained(make_config("trainer.max_epochs=0.5", *fixed))
    _, longer = trained(make_config("trainer.max_epochs=1", "ckpt=last", *fixed))
    assert longer["resumed_from_step"] == shorter["steps"] < longer["steps"]
    assert "of a run of 0.5 epochs" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"trainer.max_epochs=0.25: .* has \d+ steps already; give at least as many, here \d+"):
        train_run(make_config("trainer.max_epochs=0.25", "ckpt=" + str(next(tmp_path.glob("outputs/*/checkpoints/last.ckpt"))), *fixed))


def interrupt(config: Config, *, after: int) -> None:
    """End a run as if it were killed when a step's checkpoint is written."""
    save = checkpoints.Checkpoints.save

    def then_killed(self: checkpoints.Checkpoints, trainer: Trainer) -> None:
        save(self, trainer)
        if trainer.global_step == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)):
        patch.setattr(checkpoints.Checkpoints, "save", then_killed)
        train_run(config)


RISING = ["optimizer.lr=30", "optimizer.warmup=0", "trainer.max_steps=16", "trainer.val_every=2"]  # leads away from what it has found


def by_hand(curve: dict[int, float], patience: int) -> int:
    """The step at which so many values in a row were no better than the best before them."""
    best, waited = math.inf, 0
    for step, value in curve.items():
        best, waited = (value, 0) if value < best else (best, waited + 1)
        if waited == patience:
            return step
    raise AssertionError(f"never: {curve}")


def test_patience_ends_training_where_it_would_by_hand_and_the_best_step_is_exported(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    whole, _ = trained(make_config(f"run_dir={tmp_path}/whole", *RISING))
    curve = logged(whole, "val/perplexity")
    capsys.readouterr()
    for patience in (1, 2):
        folder, ours = trained(make_config(f"run_dir={tmp_path}/{patience}", f"trainer.patience={patience}", *RISING))
        expected = by_hand(curve, patience)
        assert expected < 16
        seen = {step: value for step, value in curve.items() if step <= expected}
        assert logged(folder, "val/perplexity") == seen
        assert max(logged(folder, "train/loss")) == ours["steps"] == expected
        assert ours["stopped"] == f"trainer.patience={patience}: no better validation"
        assert ours["val"]["perplexity"] == pytest.approx(min(seen.values()), rel=1e-4)
        assert ours["stopped"] in capsys.readouterr().out


@pytest.mark.slow
def test_patience_counts_on_in_a_resumed_run(make_config: MakeConfig, tmp_path: Path) -> None:
    fixed = [*RISING, "trainer.patience=2", "trainer.checkpoint_every=1"]
    whole, ours = trained(make_config(f"run_dir={tmp_path}/whole", *fixed))
    assert ours["stopped"]
    for step in (ours["steps"] - 3, ours["steps"]):  # between two validations, and after the one that ends it
        half = f"run_dir={tmp_path}/{step}"
        interrupt(make_config(half, *fixed), after=step)
        folder, theirs = trained(make_config(half, "ckpt=last", *fixed))
        assert (theirs["resumed_from_step"], theirs["steps"], theirs["stopped"]) == (step, ours["steps"], ours["stopped"])
        assert theirs["test"] == ours["test"]
        assert all(torch.equal(tensor, adapter(whole)[name]) for name, tensor in adapter(folder).items())


@pytest.mark.slow
def test_run_that_lost_patience_goes_on_with_more_or_without(make_config: MakeConfig, tmp_path: Path) -> None:
    first = f"run_dir={tmp_path}/run"
    _, ours = trained(make_config(first, *RISING, "trainer.patience=1"))
    _, more = trained(make_config(first, *RISING, "trainer.patience=2", "ckpt=last", "force=true"))
    assert more["resumed_from_step"] == ours["steps"] < more["steps"]
    _, all_steps = trained(make_config(first, *RISING, "ckpt=last", "force=true"))
    assert (all_steps["resumed_from_step"], all_steps["steps"], all_steps["stopped"]) == (more["steps"], 16, None)


class Scored(LightningModule):
    """Validation finds these values, one after each step."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values, self.weight = iter(values), torch.nn.Parameter(torch.zeros(1))

    def training_step(self, *_: Any) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, *_: Any) -> None:
        self.log("val/score", torch.tensor(float(next(self.values))))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("better", "values", "last"),
    [
        ("higher", [1, 2, 2, 3, 3, 1, 9], 6),
        ("lower", [3, 2, 2, 1, 1, 3, 0], 6),
        ("lower", [1, math.nan, 2, 0], 3),
        ("higher", [1, 2, 3], 3),
    ],
)
def test_metric_may_be_better_where_it_is_higher(
    make_config: MakeConfig, tmp_path: Path, better: Any, values: list[float], last: int
) -> None:
    settings, metric = (
        make_config("trainer.patience=2", "trainer.val_every=1", "trainer.precision=32-true").trainer,
        Metric("score", "", better=better),
    )
    callbacks = list(Stopping(settings, metric).callbacks)
    trainer = make_trainer(settings, tmp_path, steps=len(values), context=Context(), metric=metric, callbacks=callbacks)
    trainer.callbacks = [callback for callback in trainer.callbacks if callback in callbacks]  # no progress: it has no loss to show
    one_a_step: Any = range(len(values))
    trainer.fit(Scored(values), DataLoader(one_a_step), DataLoader(one_a_step[:1]))
    assert trainer.global_step == last


FAST_CLOCK = ["trainer.max_steps=50", "trainer.val_every=20", "trainer.checkpoint_every=1", "trainer.max_time={hours: 1}"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Of Lightning's timer: as many seconds a micro-batch as are set."""
    from pytorch_lightning.callbacks import timer

    from qpa.training.module import FineTuning

    watch = SimpleNamespace(now=1000.0, a_batch=300.0)
    original = FineTuning.training_step

    def slow(self: FineTuning, *args: Any) -> torch.Tensor:
        watch.now += watch.a_batch
        return original(self, *args)

    monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=lambda: watch.now))
    monkeypatch.setattr(FineTuning, "training_step", slow)
    return watch


def test_time_ends_training_after_the_step_and_the_last_one_is_validated(
    make_config: MakeConfig, clock: SimpleNamespace, capsys: pytest.CaptureFixture
) -> None:
    clock.a_batch = 250  # 15 micro-batches are 62 minutes, in the fifth step
    folder, ours = trained(make_config(*FAST_CLOCK, "trainer.accumulate_grad_batches=3"))
    assert (ours["steps"], ours["stopped"]) == (5, "trainer.max_time=1:00:00 is over")
    assert list(logged(folder, "val/perplexity")) == [5]
    assert ours["val"]["perplexity"] == pytest.approx(logged(folder, "val/perplexity")[5], rel=1e-4)
    assert sorted(logged(folder, "train/loss")) == [1, 2, 3, 4, 5]
    assert ours["stopped"] in capsys.readouterr().out


@pytest.mark.slow
def test_resumed_run_has_the_time_that_is_left(make_config: MakeConfig, tmp_path: Path, clock: SimpleNamespace) -> None:
    whole, ours = trained(make_config(f"run_dir={tmp_path}/whole", *FAST_CLOCK))
    assert ours["steps"] == 12
    interrupt(make_config(f"run_dir={tmp_path}/half", *FAST_CLOCK), after=7)
    clock.now += 10**6  # between the two nobody trains
    folder, theirs = trained(make_config(f"run_dir={tmp_path}/half", "ckpt=last", *FAST_CLOCK))
    assert (theirs["resumed_from_step"], theirs["steps"], theirs["test"]) == (7, 12, ours["test"])
    assert all(torch.equal(tensor, adapter(whole)[name]) for name, tensor in adapter(folder).items())
    more = [*FAST_CLOCK, "trainer.max_time='00:02:00:00'", "force=true"]
    _, longer = trained(make_config(f"run_dir={tmp_path}/half", "ckpt=last", *more))
    assert (longer["resumed_from_step"], longer["steps"]) == (12, 24)


@pytest.mark.slow
def test_run_that_ends_in_time_is_the_run_without_a_limit(make_config: MakeConfig, tmp_path: Path) -> None:
    limits = ["trainer.max_time='10:00:00:00'", "trainer.patience=100"]
    folder, ours = trained(make_config(f"run_dir={tmp_path}/limits", *limits))
    other, theirs = trained(make_config(f"run_dir={tmp_path}/none"))
    assert (ours["stopped"], ours["steps"], ours["test"]) == (None, 4, theirs["test"])
    assert all(torch.equal(tensor, adapter(other)[name]) for name, tensor in adapter(folder).items())
    assert record.load_config(folder).trainer.max_time == "10:00:00:00"  # which YAML might read as a number


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("'00:02:00:00'", 7200), ("'01:00:00:01'", 86_401), ("{hours: 2}", 7200), ("{minutes: 1, seconds: 0.5}", 60.5)],
)
def test_times_are_those_that_lightning_takes(make_config: MakeConfig, time: str, seconds: float) -> None:
    config = make_config(f"trainer.max_time={time}")
    _, ours = Stopping(config.trainer, Metric("score", "", better="lower")).callbacks
    trainer = Trainer(max_time=config.trainer.max_time, logger=False, accelerator="cpu")
    (theirs,) = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
    assert ours.time_remaining() == theirs.time_remaining() == seconds


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.max_time=2h"], r"trainer\.max_time=2h: should be DD:HH:MM:SS in quotes, as '00:02:00:00'"),
        (["trainer.max_time=120"], r"trainer\.max_time=120: should be"),
        (["trainer.max_time={hours: -1}"], r"trainer\.max_time=\.\.\.: should be"),
        (["trainer.max_time={hour: 1}"], r"trainer\.max_time=\.\.\.: should be"),
        (["trainer.max_time={hours: 1e300}"], r"trainer\.max_time=\.\.\.: should be"),
        (["trainer.max_time='00:00:00:00'"], r"trainer\.max_time=00:00:00:00: should be"),
        (["trainer.patience=0"], r"trainer\.patience=0: should be greater"),
        (["trainer.max_epochs=0"], r"trainer\.max_epochs=0: should be greater"),
        (["trainer.max_epochs=many"], r"trainer\.max_epochs=many: should be a valid number"),
        (["trainer.max_steps=null"], r"trainer=\.\.\.: max_steps=null, max_epochs=null: .*give one of the two"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_way_out(make_config: MakeConfig, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config(*overrides)


def test_task_that_does_not_count_its_examples_takes_steps_alone(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    task = planned(make_config("trainer.max_epochs=1")).task
    monkeypatch.setattr(task, "examples", lambda: None)
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs=1\.0: this task does not say.*give trainer\.max_steps"):
        _ = task.steps


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "steps"), [(["trainer.patience=1", "optimizer.lr=1e-30"], 4), (["trainer.max_time={seconds: 3}"], None)])
def test_several_processes_end_after_the_same_step(text_file: Path, tmp_path: Path, limit: list[str], steps: int | None) -> None:
    fixed = [f"run_dir={tmp_path}/run", "trainer=ddp", "trainer.accelerator=cpu", "mapper.width=4", "logger=none"]
    own = [argument for argument in command_line(text_file, tmp_path) if not argument.startswith("trainer.")]
    command = [sys.executable, "train.py", *own, *fixed, "trainer.max_steps=100000", "trainer.val_every=2", *limit]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    ours = record.read(tmp_path / "run")["qpa"]
    assert ours["stopped"].startswith(limit[0].partition("=")[0])
    assert ours["steps"] == steps if steps else 1 <= ours["steps"] < 1000
