"""Interrupted at any moment: what is on the disk is whole, and a run that goes on ends as if nothing had happened."""

import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command_line, folder_of, train_run
from safetensors.torch import load_file

from qpa.config import Config
from qpa.errors import ConfigError
from qpa.files import write_whole
from qpa.runs import record
from qpa.training import checkpoints

KILLS = 8
STEPS = 300
MakeConfig = Callable[..., Config]


def start(text_file: Path, folder: Path, *overrides: str, limit: int | None = None) -> subprocess.Popen:
    """A real run in a process of its own; `limit`: the largest file it may write, bytes."""
    fixed = [f"run_dir={folder}", "trainer.accelerator=cpu", "trainer.deterministic=true", "mapper.width=4", "logger=none"]
    arguments = [*command_line(text_file, folder.parent), *fixed, *overrides]
    bound = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=bound, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    """Its stderr, once it has ended well."""
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return stderr


def outcome(folder: Path) -> tuple[dict, dict[str, str], dict[str, torch.Tensor]]:
    """What a run found: its numbers, the training loss of every step, the adapter's weights."""
    ours = record.read(folder)["qpa"]
    rows = (row for path in sorted(folder.glob("metrics*.csv"), key=by_age) for row in csv.DictReader(path.open()))
    losses = {row["step"]: row["train/loss"] for row in rows if row.get("train/loss")}
    return {split: ours[split] for split in ("test", "val")}, losses, load_file(folder / "adapter" / "adapter_model.safetensors")


def by_age(metrics: Path) -> int:
    """Those of earlier parts carry numbers; the last part's has none."""
    return int(metrics.stem.rpartition("-")[2]) if "-" in metrics.stem else 1_000_000


def assert_same(first: Path, second: Path, *, rows_lost: int = 0) -> None:
    """`rows_lost`: how many steps' losses may be missing: kill -9 can come between a step's checkpoint and its row in metrics.csv."""
    (numbers, losses, weights), (others, other_losses, other_weights) = outcome(first), outcome(second)
    assert numbers == others
    assert other_losses.items() <= losses.items()
    assert len(losses) - len(other_losses) <= rows_lost
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def wait_for(there: Callable[[], bool], process: subprocess.Popen, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not there() and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.01)


@pytest.mark.slow
def test_run_killed_again_and_again_equals_the_uninterrupted_one(text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """kill -9 at random moments: of the start, of steps, of checkpoints and validations, of the final measurement."""
    long = [f"trainer.max_steps={STEPS}", "trainer.val_every=31", "trainer.checkpoint_every=2"]
    finish(start(text_file, tmp_path / "whole", *long))
    moments, kills, reached = random.Random(8), 0, []
    half = tmp_path / "half"
    while kills < KILLS:
        process = start(text_file, half, *long, "ckpt=auto", "force=true")
        metrics = half / "metrics.csv"
        before = metrics.stat().st_ino if metrics.exists() else 0
        wait_for(lambda path=metrics, old=before: path.exists() and path.stat().st_ino != old, process)
        time.sleep(moments.uniform(0, 0.6))
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL:  # it was through: the next goes on from its last checkpoint
            assert_same(tmp_path / "whole", half, rows_lost=kills)
            continue
        kills += 1
        reached.append(
            checkpoints.read(half / "checkpoints" / "last.ckpt")["global_step"] if half.joinpath("checkpoints/last.ckpt").exists() else 0
        )
    finish(start(text_file, half, *long, "ckpt=auto", "force=true"))
    assert_same(tmp_path / "whole", half, rows_lost=kills)
    with capsys.disabled():
        print(f"\n{kills} kills after steps {reached}: 0 differences")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGUSR1))])
def test_signal_ends_the_run_after_its_step_with_a_checkpoint(text_file: Path, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    endless = ["trainer.max_steps=100000", "trainer.val_every=100000", "trainer.checkpoint_every=100000", "mapper.width=3"]
    process = start(text_file, folder, *endless)
    wait_for(lambda: (folder / "metrics.csv").exists() and len((folder / "metrics.csv").read_text().splitlines()) > 5, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 128 + number, stderr
    (line,) = stderr.splitlines()
    step = checkpoints.read(folder / "checkpoints" / "last.ckpt")["global_step"]
    assert line == f"qpa: {number.name}: stopped after step {step}; ckpt=last goes on"
    assert step >= 4
    assert record.read(folder)["train_info"]["status"] == "canceled"


@pytest.mark.slow
def test_stopped_between_validations_and_resumed_equals_the_uninterrupted_run(make_config: MakeConfig, tmp_path: Path) -> None:
    fixed = ["trainer.max_steps=7", "trainer.val_every=3", "trainer.checkpoint_every=1", "peft.lora_dropout=0.1"]
    train_run(make_config(f"run_dir={tmp_path}/whole", *fixed))
    for stop in (2, 3, 5):
        half = make_config(f"run_dir={tmp_path}/half-{stop}", *fixed)
        stop_after(half, stop)
        train_run(make_config(f"run_dir={folder_of(half)}", "ckpt=last", *fixed))
        assert record.read(folder_of(half))["qpa"]["resumed_from_step"] == stop
        assert_same(tmp_path / "whole", folder_of(half))


def stop_after(config: Config, steps: int) -> None:
    """Ask a run to end, by the signal itself, in its `steps`-th optimizer step."""
    from qpa.training.module import FineTuning

    original = FineTuning.on_before_optimizer_step

    def asked(self: FineTuning, optimizer: torch.optim.Optimizer) -> None:
        original(self, optimizer)
        if self.global_step + 1 == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(FineTuning, "on_before_optimizer_step", asked)
        train_run(config)


EVEN = ["trainer.max_steps=6", "trainer.val_every=6", "trainer.checkpoint_every=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def whole_and_half(make_config: MakeConfig, runs: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run of six steps, and a copy of the same stopped after the fifth; both are trained once."""
    if not runs.joinpath("half").exists():
        train_run(make_config(f"run_dir={runs}/whole", *EVEN))
        stop_after(make_config(f"run_dir={runs}/half", *EVEN), 5)
    return runs / "whole", Path(shutil.copytree(runs / "half", tmp_path / "half"))


@pytest.mark.few(2)
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_damaged_checkpoint_is_skipped_for_the_one_before_it_and_said(
    make_config: MakeConfig, whole_and_half: tuple[Path, Path], capsys: pytest.CaptureFixture, damage: str
) -> None:
    whole, half = whole_and_half
    last = half / "checkpoints" / "last.ckpt"
    last.write_bytes(damaged(last.read_bytes(), damage))
    train_run(make_config(f"run_dir={half}", "ckpt=last", *EVEN))
    assert f"qpa: {last} is damaged and skipped\n" in capsys.readouterr().err
    assert record.read(half)["qpa"]["resumed_from_step"] == 4
    assert_same(whole, half)


def damaged(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return {"cut": content[:middle], "flipped": flipped, "empty": b"", "text": b"no checkpoint"}[how]


def test_all_checkpoints_damaged_is_one_line_and_they_stay(make_config: MakeConfig) -> None:
    config = make_config("trainer.checkpoint_every=1")
    stop_after(config, 3)
    for name in ("last.ckpt", "previous.ckpt"):
        (folder_of(config) / "checkpoints" / name).write_text("no checkpoint")
    for choice in ("last", "auto"):
        with pytest.raises(ConfigError, match=rf"ckpt={choice}: .*damaged; leave ckpt out"):
            train_run(make_config(f"ckpt={choice}"))
    assert (folder_of(config) / "checkpoints" / "last.ckpt").read_text() == "no checkpoint"


def test_damaged_best_checkpoint_is_said_and_another_is_chosen(make_config: MakeConfig, capsys: pytest.CaptureFixture) -> None:
    fixed = ["trainer.max_steps=6", "trainer.val_every=2", "trainer.checkpoint_every=1"]
    config = make_config(*fixed)
    stop_after(config, 5)
    (folder_of(config) / "checkpoints" / "best.ckpt").write_bytes(b"")
    train_run(make_config("ckpt=last", *fixed))
    assert "best.ckpt is missing or damaged" in capsys.readouterr().err
    assert record.read(folder_of(config))["train_info"]["status"] == "success"


def test_ckpt_auto_starts_anew_where_there_is_nothing_to_go_on_from(make_config: MakeConfig) -> None:
    config = make_config("ckpt=auto")
    train_run(config)
    assert record.read(folder_of(config))["qpa"]["resumed_from_step"] == 0


@pytest.mark.slow
def test_full_disk_is_one_line_and_leaves_the_last_good_checkpoint(text_file: Path, tmp_path: Path) -> None:
    """The disk's limit is set where `best` still fits and the growing record of the run does not."""
    folder = tmp_path / "run"
    finish(start(text_file, folder, "trainer.max_steps=4", "trainer.checkpoint_every=2"))
    last = folder / "checkpoints" / "last.ckpt"
    size = last.stat().st_size
    before = last.read_bytes()
    process = start(text_file, folder, "trainer.max_steps=8", "trainer.checkpoint_every=2", "ckpt=last", limit=size // 2)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr
    (line,) = stderr.splitlines()
    assert "last.ckpt: File too large" in line
    assert last.read_bytes() == before
    assert json.loads((folder / "result.json").read_text())["train_info"]["status"] == "failed"
    assert not list((folder / "checkpoints").glob(".*"))


def test_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"first")
    write_whole(path, b"second", previous=tmp_path / "before")
    assert (path.read_bytes(), (tmp_path / "before").read_bytes()) == (b"second", b"first")
    (tmp_path / ".file.tmp").mkdir()  # in the way: nothing can be written, as in a folder without permission
    with pytest.raises(OSError, match="file"):
        write_whole(path, b"third", previous=tmp_path / "before")
    assert (path.read_bytes(), (tmp_path / "before").read_bytes()) == (b"second", b"first")
