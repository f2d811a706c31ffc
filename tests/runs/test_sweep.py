"""Sweeps as a user starts them: real processes that are killed, fail in one job, or are stopped by it."""

import contextlib
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT, build, command_line, fingerprint, planned
from hydra import compose, initialize_config_dir

from qpa.adapters import base_weights
from qpa.config import parse
from qpa.report.runs import find
from qpa.runs.sweep import Job, preferred

QUESTIONS = [path.stem for path in sorted((ROOT / "sweeps").glob("*.yaml"))]
MakeConfig = Callable[..., object]


@pytest.fixture
def sweep(tmp_path: Path, text_file: Path) -> Callable[..., list[str]]:
    """The command of a sweep on a tiny model; its outputs are in the folder that it is started in."""

    def command(*overrides: str) -> list[str]:
        logger = [] if "logger=wandb" in overrides else ["logger=none"]
        return [sys.executable, str(ROOT / "train.py"), "-m", *command_line(text_file, tmp_path), *logger, *overrides]

    return command


def finish(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}  # of another test in this process
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def records(folder: Path) -> dict[int, dict]:
    """By seed, what the runs' records say."""
    found = [json.loads(path.read_text()) for path in folder.glob("outputs/tiny-*/result.json")]
    return {result["run_info"]["train_config"]["seed"]: result for result in found}


def statuses(folder: Path) -> list[str]:
    """How the jobs of the newest sweep ended, in their order."""
    newest = max((folder / "outputs" / "multirun").iterdir())
    jobs = sorted(newest.glob("*/job.json"), key=lambda path: int(path.parent.name))
    return [json.loads(path.read_text())["status"] for path in jobs]


@pytest.mark.slow
def test_killed_sweep_goes_on_where_it_stopped(sweep: Callable[..., list[str]], tmp_path: Path) -> None:
    command = sweep("seed=1,2,3", "trainer.max_steps=150")
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while records(tmp_path).get(2, {"train_info": {"status": None}})["train_info"]["status"] != "running":
        assert running.poll() is None, "the sweep ended before it could be killed"
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert statuses(tmp_path) == ["success", "running"]
    first = records(tmp_path)[1]
    done = finish(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Finished before (force=true runs it again)" in done.stdout
    assert records(tmp_path)[1] == first
    assert {seed: result["train_info"]["status"] for seed, result in records(tmp_path).items()} == dict.fromkeys((1, 2, 3), "success")
    assert statuses(tmp_path) == ["success"] * 3
    assert not [path for path in tmp_path.rglob("outputs/**/*") if path.name.startswith(".") or path.suffix == ".tmp"]
    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text())
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_job_that_fails_leaves_the_others_and_the_exit_code_tells(sweep: Callable[..., list[str]], tmp_path: Path) -> None:
    done = finish(sweep("circuit.qubits=6,99,7,0", "trainer.max_steps=2", "mapper.chunk_size=64"), tmp_path)
    assert done.returncode == 1
    assert statuses(tmp_path) == ["success", "failed", "success", "failed"]
    assert len(records(tmp_path)) == 1  # both successes have seed 1
    assert len(list(tmp_path.glob("outputs/tiny-*/adapter/adapter_model.safetensors"))) == 2
    for number, words in (("1", "circuit.qubits=99"), ("3", "circuit.qubits=0")):
        (path,) = tmp_path.glob(f"outputs/multirun/*/{number}/job.json")
        assert words in json.loads(path.read_text())["error"]
        assert f"qpa: job {number} failed: {words}" in done.stderr
        assert words in done.stdout  # the closing overview
    found = find(tmp_path / "outputs")
    assert len(found.finished) == 2
    first, second = sorted(found.unfinished.values())
    assert "circuit.qubits=0" in first
    assert "circuit.qubits=99" in second
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_interrupt_ends_the_whole_sweep(sweep: Callable[..., list[str]], tmp_path: Path) -> None:
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background does not hear it
    command = sweep("seed=1,2,3", "trainer.max_steps=1000")
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heard)
    while not list(tmp_path.glob("outputs/tiny-*/metrics.csv")):
        assert running.poll() is None, "the sweep ended before it could be interrupted"
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode != 0
    assert statuses(tmp_path) == ["canceled"]
    assert records(tmp_path)[1]["train_info"]["status"] == "canceled"


@pytest.mark.slow
def test_two_processes_do_not_run_the_same(sweep: Callable[..., list[str]], tmp_path: Path) -> None:
    command = sweep("seed=1", "trainer.max_steps=300")
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not records(tmp_path):
        assert running.poll() is None, "the first ended before the second could start"
        time.sleep(0.02)
    second = finish([word for word in command if word != "-m"], tmp_path)
    assert second.returncode == 1
    assert "another process is running this" in second.stderr
    assert running.wait() == 0
    assert records(tmp_path)[1]["train_info"]["status"] == "success"


def test_command_line_replaces_the_values_of_a_sweep_file(sweep: Callable[..., list[str]], tmp_path: Path) -> None:
    finish(sweep("sweeps=seeds", "seed=1,2", "generator=qpa", "circuit.qubits=99"), tmp_path)
    assert statuses(tmp_path) == ["failed"] * 2  # of the ten in the file


@pytest.mark.slow
def test_jobs_that_are_one_run_wait_for_each_other(sweep: Callable[..., list[str]], tmp_path: Path) -> None:
    done = finish(sweep("generator=none", "mapper.width=4,11", "trainer.max_steps=2", "hydra/launcher=processes"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == ["success", "success"]
    assert len(list(tmp_path.glob("outputs/tiny-*/result.json"))) == 1


@pytest.mark.slow
def test_fail_fast_stops_at_the_first_failure(sweep: Callable[..., list[str]], tmp_path: Path) -> None:
    done = finish(sweep("circuit.qubits=99,6", "fail_fast=true"), tmp_path)
    assert done.returncode == 1
    assert statuses(tmp_path) == ["failed"]
    assert not records(tmp_path)


def grid(question: str) -> dict[str, list[str]]:
    """What a Hydra sweep file sweeps over."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=[f"sweeps={question}"], return_hydra_config=True)
    assert config.hydra.mode.name == "MULTIRUN"
    assert config.study == config.logger.group == question
    return {key: str(values).split(",") for key, values in config.hydra.sweeper.params.items()}


@pytest.mark.few(1)
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_job_of_a_sweep_file_is_a_config_of_its_own(question: str) -> None:
    """Or the same one again, where a value is of no use to it: then it runs once."""
    values = {key: chosen[:1] if key == "seed" else chosen for key, chosen in grid(question).items()}
    first = {key: chosen[0] for key, chosen in values.items()}
    jobs = [first, *(first | {key: value} for key, chosen in values.items() for value in chosen[1:])]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        runs = {}
        for job in jobs:
            overrides = [f"{key}={value}" for key, value in job.items()]
            config = parse(compose("train", overrides=[f"sweeps={question}", "name=test", *overrides]))
            runs.setdefault(fingerprint(config), []).append(job)
    repeated = [same for same in runs.values() if len(same) > 1]
    assert all(job["generator"] == "none" for same in repeated for job in same)


PISSA, OLORA = ["+peft.init_lora_weights=pissa"], ["+peft.init_lora_weights=olora"]


@pytest.mark.parametrize("overrides", [[], ["peft=dora"], ["peft=vera"], PISSA, OLORA, ["generator=none", "+peft.bias=all"]])
def test_next_run_of_a_process_finds_the_base_as_it_was_loaded(make_config: MakeConfig, overrides: list[str]) -> None:
    config = make_config("model.dtype=float32", *overrides, model="gpt2")  # it has biases
    expected = {name: weight.clone() for name, weight in planned(config).task.base().named_parameters()}
    kept = {}
    first = build(config, kept)
    for parameter in first.adaptation.parameters():
        torch.nn.init.normal_(parameter)
    first.adaptation.write()
    second = build(make_config("model.dtype=float32", model="gpt2"), kept).model.get_base_model()
    found = {name.replace(".base_layer", ""): weight for name, weight in second.named_parameters() if "lora_" not in name}
    assert found.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())
    mine, theirs = (model.get_input_embeddings().weight for model in (first.model.get_base_model(), second))
    writes = base_weights.trains_base(config.peft) or base_weights.rewrites_base(config.peft)
    assert (mine.data_ptr() == theirs.data_ptr()) == (not writes)
    assert mine is not theirs


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """An offline run is a log in LevelDB's format after 7 bytes of its own: blocks of 32 KiB with records or parts of records."""
    record, at = b"", 7
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no room for a header: the rest of a block is empty
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def offline(log: Path) -> dict[str, dict]:
    """What `wandb sync` would send of an offline run: its job, config, last history and summary."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, dict] = {"run": {}, "config": {}, "history": {}, "summary": {}}
    for data in leveldb_records(log.read_bytes()):
        entry = wandb_internal_pb2.Record.FromString(data)
        if entry.HasField("run"):
            found["run"] = {"group": entry.run.run_group, "type": entry.run.job_type, "name": entry.run.display_name}
            items = entry.run.config.update
            found["config"] |= {item.key: json.loads(item.value_json) for item in items if item.key}
        for kind, items in (("history", entry.history.item), ("summary", entry.summary.update)):
            found[kind] |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        if entry.HasField("exit"):
            found["run"]["exit"] = entry.exit.exit_code
    return found


@pytest.mark.slow
def test_wandb_has_every_job_of_a_sweep_and_a_table_of_them(sweep: Callable[..., list[str]], tmp_path: Path) -> None:
    finish(sweep("logger=wandb", "seed=1,2", "optimizer.lr=0.01,1e30", "trainer.max_steps=3"), tmp_path)
    jobs = [offline(log) for log in tmp_path.glob("outputs/tiny-*/wandb/offline-run-*/*.wandb")]
    results = {folder.name: json.loads((folder / "result.json").read_text()) for folder in tmp_path.glob("outputs/tiny-*")}
    (group,) = {job["run"]["group"] for job in jobs}
    assert (tmp_path / "outputs" / "multirun" / group).is_dir()
    for job in jobs:
        result = results[job["run"]["name"]]
        assert job["run"]["type"] == "train"
        assert job["run"]["exit"] == (0 if result["train_info"]["status"] == "success" else 1)
        assert job["config"]["seed"] == result["run_info"]["train_config"]["seed"]
        if job["run"]["exit"] == 0:
            assert job["summary"]["test/perplexity"] == pytest.approx(result["qpa"]["test"]["perplexity"])
            assert job["summary"]["params/ratio"] == pytest.approx(result["qpa"]["params"]["ratio"])
            assert "train/loss" in job["history"]
    assert sum(job["run"]["exit"] == 0 for job in jobs) == 2
    (table,) = [offline(log) for log in tmp_path.glob("outputs/multirun/*/wandb/offline-run-*/*.wandb")]
    assert (table["run"]["type"], table["run"]["group"]) == ("sweep", group)
    (rows,) = tmp_path.glob("outputs/multirun/*/wandb/**/*.table.json")
    assert len(json.loads(rows.read_text())["data"]) == 4


LAUNCHERS = {
    "processes": ["hydra/launcher=processes"],
    "ray": ["hydra/launcher=ray_cluster", "+hydra.launcher.ray.init.num_cpus=2"],
    "submitit": ["hydra/launcher=submitit_local"],
}


@pytest.mark.parametrize("launcher", [pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "ray", "submitit")])
def test_launcher_runs_every_job_and_tells_which_failed(sweep: Callable[..., list[str]], tmp_path: Path, launcher: str) -> None:
    done = finish(sweep("circuit.qubits=6,99", "trainer.max_steps=2", "mapper.chunk_size=64", *LAUNCHERS[launcher]), tmp_path)
    assert done.returncode == 1
    assert statuses(tmp_path) == ["success", "failed"], done.stderr
    assert records(tmp_path)[1]["train_info"]["status"] == "success"
    assert "circuit.qubits=99" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_terminal_shows_the_jobs_while_they_run(sweep: Callable[..., list[str]], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "160", "LINES": "50"}
    running = subprocess.Popen(sweep("seed=1,2", "trainer.max_steps=60"), cwd=tmp_path, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal with an error
        while part := os.read(ours, 65536):
            shown += part
    assert running.wait() == 0
    live, _, end = shown.decode().rpartition("outputs/multirun/")
    assert "1 success, 1 running; best so far: job 0" in live
    assert re.search(r"step \d+/60", live)
    assert "2 success; best so far" in end


@pytest.mark.slow
def test_rates_first_runs_other_seeds_only_at_the_rate_that_validation_prefers(sweep: Callable[..., list[str]], tmp_path: Path) -> None:
    """A job that cannot run keeps no other from it, and is told at the end."""
    rates = ("optimizer.lr=1e-6,1e-2,-1", "mapper.width=2,3")
    done = finish(sweep("hydra/sweeper=rates_first", "seed=1,2,3", *rates, "trainer.max_steps=4"), tmp_path)
    assert done.returncode == 1
    assert statuses(tmp_path).count("failed") == 2, done.stderr
    found = [json.loads(path.read_text())["run_info"]["train_config"] for path in tmp_path.glob("outputs/tiny-*/result.json")]
    runs = sorted((config["seed"], config["mapper"]["width"], config["optimizer"]["lr"]) for config in found)
    assert [run for run in runs if run[0] == 1] == [(1, width, rate) for width in (2, 3) for rate in (1e-6, 1e-2)]
    assert [run for run in runs if run[0] > 1] == [(seed, width, 1e-2) for seed in (2, 3) for width in (2, 3)]
    assert "optimizer.lr" in done.stderr


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_preferred_is_by_validation_and_among_what_differs_in_the_rate_alone(better: str) -> None:
    def job(val: float, *overrides: str, status: str = "success") -> Job:
        return {"status": status, "metric": "m", "better": better, "val": val, "value": -val, "overrides": ["seed=1", *overrides]}

    jobs = [job(1, "optimizer.lr=1", "x=1"), job(2, "optimizer.lr=2", "x=1"), job(0, "optimizer.lr=3", "x=1", status="failed")]
    jobs += [job(5, "x=2", "optimizer.lr=1"), job(4, "x=2", "optimizer.lr=2")]
    assert [one["val"] for one in preferred(jobs)] == ([1, 4] if better == "lower" else [2, 5])
