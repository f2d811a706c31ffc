"""Weights & Biases: its environment variables, and what `wandb sync` shows of a run that was resumed offline."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, command_line, folder_of, train_run
from omegaconf import DictConfig
from test_crash import damaged, stop_after
from test_sweep import leveldb_records
from wandb_server import Held, Server, serving

from qpa.commands import composing as verbs
from qpa.config import Config, parse
from qpa.config.context import Context
from qpa.errors import ConfigError
from qpa.runs import record
from qpa.tasks.task import Metric
from qpa.training import loggers
from qpa.training.loggers import Logged
from qpa.training.names import WANDB_ID

MakeConfig = Callable[..., Config]
METRIC = Metric("perplexity", "", "lower", "log")
CURVES = ("train/loss", "train/gradient_norm", "val/perplexity", "circuit/meyer_wallach")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """wandb reads its variables once in a process."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    wandb.teardown()
    yield
    wandb.teardown()


def offline_parts(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def recorded(config: Config, job_type: str = "train"):
    """The run record that wandb itself writes of a run that is begun with a config."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    with loggers.opened(Logged(config.logger, config.model_dump(by_alias=True), Context(), METRIC, job_type), folder_of(config)):
        pass
    wandb.teardown()  # only then is all on the disk
    (log,) = folder_of(config).glob("wandb/offline-run-*/*.wandb")
    found = map(wandb_internal_pb2.Record.FromString, leveldb_records(log.read_bytes()))
    return next(entry.run for entry in found if entry.HasField("run"))


VARIABLES = {
    "WANDB_PROJECT": "theirs",
    "WANDB_ENTITY": "team",
    "WANDB_RUN_GROUP": "together",
    "WANDB_NAME": "called",
    "WANDB_TAGS": "a,b",
    "WANDB_NOTES": "why",
    "WANDB_RUN_ID": "chosen12",
}


def fields(found) -> tuple[object, ...]:
    return (found.project, found.entity, found.run_group, found.display_name, list(found.tags), found.notes, found.run_id)


def test_what_the_config_leaves_open_is_as_wandbs_variables_say(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert fields(recorded(make_config("logger=wandb"))) == ("theirs", "team", "together", "called", ["a", "b"], "why", "chosen12")


def test_config_wins_over_wandbs_variables(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (VARIABLES | {"WANDB_MODE": "online"}).items():
        monkeypatch.setenv(name, value)
    given = ["logger.project=ours", "logger.entity=us", "logger.group=g", "logger.mode=offline"]
    assert fields(recorded(make_config("logger=wandb", *given)))[:3] == ("ours", "us", "g")


def test_mode_is_wandbs_variable_where_the_config_says_nothing(
    compose_config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, mode in (("online", "online"), ("disabled", "disabled"), ("", "offline"), (None, "offline")):
        monkeypatch.delenv("WANDB_MODE", raising=False)
        if variable is not None:
            monkeypatch.setenv("WANDB_MODE", variable)
        assert parse(compose_config("logger=wandb")).logger.mode == mode


def test_empty_variables_are_as_if_not_set(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_config("logger=wandb").logger
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    assert make_config("logger=wandb").logger == plain
    assert (plain.project, plain.entity, plain.group) == ("qpa", None, None)
    found = recorded(make_config("logger=wandb"))
    assert (found.display_name, len(found.run_id)) == ("run", 8)


def test_wrong_mode_names_the_variable_it_is_of(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"logger\.mode=ofline: ") as given:
        make_config("logger=wandb", "logger.mode=ofline")
    assert "WANDB_MODE" not in str(given.value)
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(ConfigError, match=r"logger\.mode=ofline: should be offline, online or disabled.*WANDB_MODE"):
        make_config("logger=wandb")


def test_run_keeps_where_it_was_logged_whatever_the_variables_are_later(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    config = make_config("logger=wandb")
    folder_of(config).mkdir()
    record.save_config(folder_of(config), config)
    monkeypatch.setenv("WANDB_PROJECT", "another")
    assert record.load_config(folder_of(config)).logger.project == "theirs"
    assert verbs.changed(config, ["logger.mode=online"]).logger.project == "theirs"


def test_disabled_leaves_nothing_of_wandb(make_config: MakeConfig) -> None:
    config = make_config("logger=wandb", "logger.mode=disabled")
    train_run(config)
    assert not (folder_of(config) / "wandb").exists()
    assert (folder_of(config) / "metrics.csv").is_file()


@pytest.mark.slow
def test_resumed_offline_run_is_one_whole_curve_when_it_is_synced(make_config: MakeConfig, server: Server, tmp_path: Path) -> None:
    """Three parts; each goes on from before what the one before had logged, as its newest checkpoint is damaged."""
    fixed = ["logger=wandb", "trainer.max_steps=9", "trainer.val_every=3", "trainer.checkpoint_every=2"]
    whole, parts = make_config(f"run_dir={tmp_path}/whole", *fixed), make_config(f"run_dir={tmp_path}/parts", *fixed)
    again = make_config(f"run_dir={tmp_path}/parts", "ckpt=last", *fixed)
    train_run(whole)
    last = folder_of(parts) / "checkpoints" / "last.ckpt"
    for part, stop in ((parts, 5), (again, 7)):
        stop_after(part, stop)
        last.write_bytes(damaged(last.read_bytes(), "cut"))
    train_run(again)
    assert record.read(folder_of(parts))["qpa"]["resumed_from_step"] == 6
    logged = sum(len(path.read_text().splitlines()) - 1 for path in folder_of(parts).glob("metrics*.csv"))
    assert logged == 9 + 3 + 2  # two steps were done twice
    held, expected = (held_after_sync(server, folder, tmp_path) for folder in (folder_of(parts), folder_of(whole)))
    assert_same_curves(held, expected, steps=9, validations=[2, 5, 8])
    assert_summary(held, folder_of(parts))


def held_after_sync(server: Server, folder: Path, home: Path) -> Held:
    """Of a run that has left one folder of W&B's."""
    (part,) = offline_parts(folder)
    server.sync([part], home)
    return server.runs[(folder / WANDB_ID).read_text()]


def assert_same_curves(held: Held, expected: Held, *, steps: int, validations: list[int]) -> None:
    assert [step for step, _ in held.curve("train/loss")] == list(range(steps))
    assert [step for step, _ in held.curve("val/perplexity")] == validations
    assert len({line["_step"] for line in held.lines.values()}) == len(held.lines)
    for metric in CURVES:
        assert held.curve(metric) == expected.curve(metric), metric


def assert_summary(held: Held, folder: Path) -> None:
    ours = record.read(folder)["qpa"]
    assert held.summary["test/perplexity"] == pytest.approx(ours["test"]["perplexity"])
    assert held.summary["params/ratio"] == pytest.approx(ours["params"]["ratio"])
    lowest = min(value for _, value in held.curve("val/perplexity"))
    assert held.summary["val/perplexity"] == pytest.approx(lowest) or held.summary["val/perplexity"]["min"] == pytest.approx(lowest)


@pytest.mark.slow
def test_run_that_goes_on_after_it_was_synced_is_whole_under_a_new_id(make_config: MakeConfig, server: Server, tmp_path: Path) -> None:
    """To the id that it knows the server would add every step once more."""
    fixed = ["logger=wandb", "trainer.max_steps=6", "trainer.val_every=3", "trainer.checkpoint_every=1"]
    config = make_config(*fixed)
    stop_after(config, 4)
    before = held_after_sync(server, folder_of(config), tmp_path)
    train_run(make_config("ckpt=last", *fixed))
    held = held_after_sync(server, folder_of(config), tmp_path)
    assert [step for step, _ in before.curve("train/loss")] == [0, 1, 2, 3]
    assert [step for step, _ in held.curve("train/loss")] == [0, 1, 2, 3, 4, 5]
    assert [step for step, _ in held.curve("val/perplexity")] == [2, 5]
    assert len(server.runs) == 2


@pytest.mark.slow
def test_run_that_was_begun_without_wandb_has_its_whole_curve_there(make_config: MakeConfig, server: Server, tmp_path: Path) -> None:
    fixed = ["trainer.max_steps=5", "trainer.val_every=5", "trainer.checkpoint_every=1"]
    stop_after(make_config("logger=none", *fixed), 3)
    train_run(make_config("logger=wandb", "ckpt=last", *fixed))
    held = held_after_sync(server, folder_of(make_config()), tmp_path)
    assert [step for step, _ in held.curve("train/loss")] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_fresh_run_takes_nothing_of_what_was_in_its_folder(make_config: MakeConfig, server: Server, tmp_path: Path) -> None:
    """It goes on from a checkpoint of elsewhere: the curve begins there."""
    fixed = ["trainer.max_steps=5", "trainer.val_every=5", "trainer.checkpoint_every=1"]
    stop_after(make_config(*fixed), 2)
    train_run(make_config("ckpt=last", *fixed))  # leaves metrics-1.csv
    other = make_config(f"run_dir={tmp_path}/other", *fixed)
    stop_after(other, 3)
    train_run(make_config("logger=wandb", f"ckpt={folder_of(other)}/checkpoints/last.ckpt", "force=true", *fixed))
    held = held_after_sync(server, folder_of(make_config()), tmp_path)
    assert [step for step, _ in held.curve("train/loss")] == [3, 4]


@pytest.mark.slow
def test_metrics_that_cannot_be_read_cost_wandb_and_not_the_run(make_config: MakeConfig, capsys: pytest.CaptureFixture) -> None:
    fixed = ["logger=wandb", "trainer.max_steps=5", "trainer.checkpoint_every=1"]
    config = make_config(*fixed)
    stop_after(config, 3)
    (folder_of(config) / "metrics.csv").write_text("step,train/loss\n0,five\n")
    train_run(make_config("ckpt=last", *fixed))
    assert record.read(folder_of(config))["train_info"]["status"] == "success"
    assert capsys.readouterr().err.count("qpa: W&B is lost") == 1


@pytest.mark.slow
def test_run_killed_between_checkpoints_is_one_whole_curve_when_it_is_synced(server: Server, text_file: Path, tmp_path: Path) -> None:
    """kill -9 twice, at whatever step it comes."""
    fixed = ["trainer.max_steps=120", "trainer.val_every=30", "trainer.checkpoint_every=20", "trainer.accelerator=cpu", "mapper.width=4"]
    base = [sys.executable, "train.py", *command_line(text_file, tmp_path)[:-1], *fixed]
    for rows in (35, 45):  # neither is a checkpoint's step
        process = subprocess.Popen([*base, f"run_dir={tmp_path}/parts", "ckpt=auto"], cwd=ROOT, stdout=subprocess.DEVNULL)
        kill_after(process, tmp_path / "parts" / "metrics.csv", rows)
    for name in ("parts", "whole"):
        subprocess.run([*base, f"run_dir={tmp_path}/{name}", "ckpt=auto"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    assert json.loads((tmp_path / "parts" / "result.json").read_text())["qpa"]["resumed_from_step"] > 20
    held, expected = (held_after_sync(server, tmp_path / name, tmp_path) for name in ("parts", "whole"))
    assert_same_curves(held, expected, steps=120, validations=[29, 59, 89, 119])
    assert_summary(held, tmp_path / "parts")


def kill_after(process: subprocess.Popen, metrics: Path, rows: int) -> None:
    """Once the file, of this part and not of the one before, has so many rows."""
    before = metrics.stat().st_ino if metrics.exists() else 0
    while process.poll() is None:
        with suppress(FileNotFoundError):  # a part that goes on puts the file aside and begins its own
            if metrics.stat().st_ino != before and len(metrics.read_text().splitlines()) > rows:
                break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
