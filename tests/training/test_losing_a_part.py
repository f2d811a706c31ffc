"""Losing a part of the world: W&B, its process, its folder, the hub. The run goes on, or ends with one line."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, command_line, folder_of, train_run

from qpa.config import Config
from qpa.runs import record
from qpa.tasks.pretrained import source

MakeConfig = Callable[..., Config]


def start(text_file: Path, folder: Path, *overrides: str, **environment: str) -> subprocess.Popen:
    fixed = [*command_line(text_file, folder.parent), f"run_dir={folder}", "mapper.width=4"]
    return subprocess.Popen(
        [sys.executable, "train.py", *fixed, *overrides], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | environment,
    )  # fmt: skip


def assert_complete_with_one_warning(process: subprocess.Popen, folder: Path) -> None:
    _, stderr = process.communicate(timeout=150)
    assert process.returncode == 0, stderr
    found = record.read(folder)
    assert found["train_info"]["status"] == "success"
    assert found["qpa"]["test"]["perplexity"] > 0
    assert (folder / "metrics.csv").is_file()
    ours = [line for line in stderr.splitlines() if not line.startswith("wandb:")]
    assert len(ours) == 1, stderr
    assert ours[0].startswith("qpa: W&B is lost (")


@pytest.mark.slow
def test_wandb_whose_process_is_killed_is_one_warning(text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(text_file, folder, "trainer.max_steps=150")
    metrics = folder / "metrics.csv"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        time.sleep(0.02)
    services = [child for child in psutil.Process(process.pid).children(recursive=True) if "wandb" in child.name()]
    assert services
    for service in services:
        os.kill(service.pid, signal.SIGKILL)
    assert_complete_with_one_warning(process, folder)


@pytest.mark.slow
def test_wandb_that_cannot_be_reached_is_one_warning(text_file: Path, tmp_path: Path) -> None:
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    process = start(text_file, tmp_path / "run", "trainer.max_steps=3", "logger.mode=online", **nowhere)
    assert_complete_with_one_warning(process, tmp_path / "run")


def test_wandb_whose_folder_is_in_the_way_is_one_warning(make_config: MakeConfig, capsys: pytest.CaptureFixture) -> None:
    config = make_config("logger=wandb")
    folder_of(config).mkdir()
    (folder_of(config) / "result.json").write_text("{}")  # a run's folder
    (folder_of(config) / "wandb").write_text("no folder")
    train_run(make_config("logger=wandb"))
    assert record.read(folder_of(config))["train_info"]["status"] == "success"
    said = capsys.readouterr().err
    assert said.count("qpa: W&B is lost") == 1, said


class Broken(BaseHTTPRequestHandler):
    """A hub that answers and breaks off."""

    asked = 0

    def do_GET(self) -> None:
        Broken.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"{")
        self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_ctrl_c_while_the_hub_is_asked_ends_it(monkeypatch: pytest.MonkeyPatch, make_config: MakeConfig, tmp_path: Path) -> None:
    calls = []

    def fetch(*_: object, **__: object) -> None:
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(KeyboardInterrupt):
        source.folder(make_config("model.weights=published", model="gpt2").model, tmp_path)
    assert len(calls) == 1


@pytest.mark.slow
def test_hub_that_breaks_off_is_asked_again_and_then_one_line(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "train.py", "model=gpt2", "logger=none", f"run_dir={tmp_path}/run"], cwd=ROOT, capture_output=True, text=True,
        env=environment, check=False, timeout=150,
    )  # fmt: skip
    server.shutdown()
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "model.hub=openai-community/gpt2: cannot be fetched" in done.stderr.splitlines()[-1]
    assert Broken.asked >= 3
