"""Several processes train one run: the same numbers as one process, little is sent, and a lost process ends it with one line."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch
from conftest import ROOT, command_line, fingerprint, flat, train_run
from safetensors.torch import load_file

from qpa.config import parse
from qpa.config.composing import composed
from qpa.errors import ConfigError
from qpa.runs import record
from qpa.tasks.loaders import OwnPart, Share, Shuffled
from qpa.training import checkpoints

STEPS = 6
STOP = 8  # bytes: Lightning's own question before every micro-batch, whether to stop
EXACT = ["trainer.precision=32-true", "trainer.accelerator=cpu", "mapper.width=4", "logger=none", f"trainer.max_steps={STEPS}"]

# train.py under torch's own profiler, which sees every collective of gloo with its shape.
PROFILED = """
import collections, json, os, runpy, sys
import torch
out, *sys.argv = sys.argv[1:]
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
    runpy.run_path(sys.argv[0], run_name="__main__")
found = collections.Counter(f"{event.name} {event.input_shapes}" for event in profile.events() if event.name.startswith("gloo:"))
json.dump(found, open(out + os.environ["RANK"], "w"))
"""


def alone(text_file: Path, folder: Path, *overrides: str) -> None:
    train_run(parse(composed("train", [*command_line(text_file, folder.parent), *EXACT, f"run_dir={folder}", *overrides])))


def losses(folder: Path) -> list[float]:
    return [float(row["train/loss"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row["train/loss"]]


def together(text_file: Path, folder: Path, *overrides: str, trainer: str = "ddp") -> list[str]:
    """The command line of two processes."""
    return ["train.py", *command_line(text_file, folder.parent), *EXACT, f"run_dir={folder}", f"trainer={trainer}", *overrides]


def torchrun(script: str | Path, *arguments: object) -> None:
    """Two processes, started by torchrun, that end well."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert done.returncode == 0, done.stderr.partition("torch.distributed.elastic")[0]  # what a process says, without its launcher's words


def profiled(command: list[str], folder: Path) -> Counter[str]:
    """Run a command in two processes, and count the collectives that both have taken part in."""
    (folder / "profiled.py").write_text(PROFILED)
    torchrun(folder / "profiled.py", folder / "sent", *command)
    sent = Counter(json.loads((folder / "sent0").read_text()))
    assert sent == Counter(json.loads((folder / "sent1").read_text()))
    return sent


@pytest.mark.slow
def test_two_processes_equal_one_with_double_batch_and_send_only_the_gradient(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Under torchrun, with two micro-batches per step and an odd number of held-out windows for each process."""
    accumulate = 2
    shared = [f"trainer.accumulate_grad_batches={accumulate}", "trainer.val_every=4", "peft.lora_dropout=0", "data.max_held_out_windows=6"]
    alone(text_file, tmp_path / "one", "data.batch_size=4", *shared)
    two = tmp_path / "two"
    sent = profiled(together(text_file, two, *shared), tmp_path)
    assert losses(two) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    ours, whole = record.read(two)["qpa"], record.read(tmp_path / "one")["qpa"]
    for split in ("test", "val"):
        assert flat(ours[split]) == pytest.approx(flat(whole[split]), rel=1e-5)
    first, second = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (two, tmp_path / "one"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=1e-3)

    starts = [
        checkpoints.read(folder / "checkpoints" / "best.ckpt")["state_dict"]["generator.start_sums"] for folder in (two, tmp_path / "one")
    ]
    assert torch.equal(*starts)  # the seed's, bit by bit

    trainable = ours["params"]["trainable"]
    assert sent[f"gloo:all_reduce [[{trainable}]]"] == STEPS  # fp32
    assert sent["gloo:all_reduce [[2]]"] == STEPS  # loss and tokens of all micro-batches, float64
    assert sent["gloo:broadcast [[1]]"] >= STEPS * accumulate  # Lightning's
    shapes = {name.split(" ", 1)[1] for name in sent if "reduce" in name or "broadcast" in name} - {"[]"}
    assert all(json.loads(shape)[0] in ([trainable], [2], [1], []) or json.loads(shape)[0][0] < 1000 for shape in shapes), shapes
    constant = 16 + 8
    assert ours["bytes_per_step"] == 4 * trainable + constant
    with capsys.disabled():
        print(f"\nbytes per step: {ours['bytes_per_step']:.0f} = 4 x {trainable} + {constant}, and {STOP * accumulate} of Lightning's")


@pytest.mark.slow
def test_two_processes_equal_one_where_windows_have_unequally_many_trained_tokens(tmp_path: Path) -> None:
    chats, template = tmp_path / "chats.jsonl", ROOT / "tests" / "tasks" / "language" / "templates" / "chatml.jinja"
    turns = [("How many? " * (i % 4 + 1), f"{i} " * (i % 7 + 1)) for i in range(80)]
    rows = [{"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]} for asked, said in turns]
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixed = [f"data.template={template}", "data.generate=0", "data.context=160", "data.max_held_out_windows=null"]
    alone(chats, tmp_path / "one", *fixed, "data.batch_size=4")
    torchrun(*together(chats, tmp_path / "two", *fixed, "data.batch_size=2"))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    ours, theirs = (record.read(tmp_path / name)["qpa"]["test"] for name in ("one", "two"))
    assert theirs["perplexity"] == pytest.approx(ours["perplexity"], rel=1e-4)  # AdamW has made more of the last bits
    assert theirs["tokens"] == ours["tokens"]


@pytest.mark.slow
def test_lost_process_ends_the_run_with_one_line_and_a_good_checkpoint(text_file: Path, tmp_path: Path) -> None:
    """kill -9 of the second of two; then the run goes on from its checkpoint, and a signal to the first command ends both."""
    folder = tmp_path / "run"
    endless = ["trainer.max_steps=100000", "trainer.checkpoint_every=2"]
    running = begin(text_file, folder, *endless)
    os.kill(child(running.pid, rank=1), signal.SIGKILL)
    killed = time.monotonic()
    _, stderr = running.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert (running.returncode, "Traceback" in stderr) == (1, False), stderr
    assert "process 1 of 2 was killed by SIGKILL; ckpt=last goes on" in stderr.splitlines()[-1]
    assert record.read(folder)["train_info"]["status"] == "failed"
    step = checkpoints.read(folder / "checkpoints" / "last.ckpt")["global_step"]

    running = begin(text_file, folder, *endless, "ckpt=last")
    running.send_signal(signal.SIGTERM)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM, stderr
    assert checkpoints.read(folder / "checkpoints" / "last.ckpt")["global_step"] > step
    assert "SIGTERM: stopped after step" in stderr


@pytest.mark.slow
def test_killed_parent_leaves_no_process_behind_and_a_good_checkpoint(text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    running = begin(text_file, folder, "trainer.max_steps=100000", "trainer.checkpoint_every=1000")
    children = [child(running.pid, rank=rank) for rank in (0, 1)]
    running.kill()
    ends = time.monotonic() + 60
    while any(map(alive, children)) and time.monotonic() < ends:
        time.sleep(0.1)
    running.communicate()
    assert not any(map(alive, children))
    assert checkpoints.read(folder / "checkpoints" / "last.ckpt")["global_step"] > 5


def begin(text_file: Path, folder: Path, *overrides: str, trainer: str = "ddp") -> subprocess.Popen:
    """Two processes that have trained for some steps."""
    (folder / "metrics.csv").unlink(missing_ok=True)
    command = [sys.executable, *together(text_file, folder, *overrides, trainer=trainer)]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    ends = time.monotonic() + 120
    while running.poll() is None and time.monotonic() < ends and not ((folder / "metrics.csv").exists() and len(losses(folder)) > 5):
        time.sleep(0.05)
    return running


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def child(parent: int, *, rank: int) -> int:
    """The process of a rank."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"there is no process of rank {rank}")


@pytest.mark.slow
@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["-m", "seed=1,2", "trainer=ddp"], "trainer.strategy=ddp: .*multirun.*trainer=default"),
        (["trainer=ddp", "trainer.num_nodes=2"], "trainer.num_nodes=2: .*torchrun"),
        (["-m", "seed=1,2", "trainer=fsdp"], "trainer.strategy=fsdp: .*multirun.*trainer=default"),
    ],
)
def test_what_several_processes_cannot_do_is_one_line_with_the_way_out(overrides: list[str], words: str, tmp_path: Path) -> None:
    sweep = [f"hydra.sweep.dir={tmp_path}", "logger=none"] if "-m" in overrides else []
    done = subprocess.run([sys.executable, "train.py", *overrides, *sweep], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(words, done.stderr), done.stderr


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_windows_of_every_step_in_order(processes: int) -> None:
    batch, micro_batches = 2, 4
    whole = Shuffled(7, seed=1, start=0, stop=batch * processes * micro_batches)
    shares = [list(OwnPart(whole, Share(batch, micro_batches, rank, processes))) for rank in range(processes)]
    joined = [window for at in range(0, batch * micro_batches, batch) for share in shares for window in share[at : at + batch]]
    assert joined == list(whole)


def test_number_of_processes_changes_the_run_but_not_where_they_are(compose_config) -> None:
    def known(*overrides: str) -> str:
        return fingerprint(parse(compose_config(*overrides)))

    assert known("trainer=ddp", "trainer.devices=1") == known("trainer=default")
    assert known("trainer=ddp", "trainer.devices=4") == known("trainer=ddp", "trainer.devices=2", "trainer.num_nodes=2")
    assert known("trainer=ddp", "trainer.devices=2") != known("trainer=default")
    with pytest.raises(ConfigError, match=r"devices=2: .*trainer=ddp"):
        known("trainer.devices=2")
