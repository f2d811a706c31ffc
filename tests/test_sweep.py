"""Sweeps as a user starts them: real processes that are killed, fail in one job, or are stopped by it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import LLAMA

from qpa.assembly import assemble, load_base

ROOT = Path(__file__).parents[1]
MakeConfig = Callable[..., object]


@pytest.fixture
def sweep(tmp_path: Path, text_file: Path) -> Callable[..., list[str]]:
    """The command of a sweep on a tiny model; its outputs are in the folder that it is started in."""
    shape = ["model.weights=random", "model.num_layers=1", *(f"model.architecture.{key}={value}" for key, value in LLAMA.items())]
    text = ["data=text", f"data.train_files=[{text_file}]", "data.val_fraction=0.1", "data.context=32", "data.batch_size=2"]
    rest = [f"cache_dir={tmp_path}/cache", "logger=none", "name=tiny", "trainer.val_every=1000"]
    return lambda *overrides: [sys.executable, str(ROOT / "train.py"), "-m", *shape, *text, *rest, *overrides]


def finish(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def records(folder: Path) -> dict[int, dict]:
    """By seed, what the runs' records say."""
    found = [json.loads(path.read_text()) for path in folder.glob("outputs/tiny-*/result.json")]
    return {result["run_info"]["train_config"]["seed"]: result for result in found}


def statuses(folder: Path) -> list[str]:
    """How the jobs of the newest sweep ended, in their order."""
    newest = max((folder / "outputs" / "multirun").iterdir())
    jobs = sorted(newest.glob("*/job.json"), key=lambda path: int(path.parent.name))
    return [json.loads(path.read_text())["status"] for path in jobs]


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
    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text())
    assert not list(tmp_path.rglob("*.tmp"))


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
    assert "Traceback" not in done.stderr


def test_fail_fast_stops_at_the_first_failure(sweep: Callable[..., list[str]], tmp_path: Path) -> None:
    done = finish(sweep("circuit.qubits=99,6", "fail_fast=true"), tmp_path)
    assert done.returncode == 1
    assert statuses(tmp_path) == ["failed"]
    assert not records(tmp_path)


@pytest.mark.parametrize(
    "overrides", [[], ["peft=dora"], ["+peft.init_lora_weights=pissa"], ["+peft.init_lora_weights=olora"], ["peft=vera"]]
)
def test_next_run_of_a_process_finds_the_base_as_it_was_loaded(make_config: MakeConfig, overrides: list[str]) -> None:
    config = make_config(*overrides)
    expected = {name: weight.clone() for name, weight in load_base(config, None).named_parameters()}
    first = assemble(config, None)
    for parameter in first.adaptation.parameters():
        torch.nn.init.normal_(parameter)
    first.adaptation.write()
    second = assemble(make_config(), None).model.get_base_model()
    found = {name.replace(".base_layer", ""): weight for name, weight in second.named_parameters() if "lora_" not in name}
    assert found.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())
    shared = first.model.get_base_model().get_input_embeddings().weight
    assert shared.data_ptr() == second.get_input_embeddings().weight.data_ptr()
    assert shared is not second.get_input_embeddings().weight
