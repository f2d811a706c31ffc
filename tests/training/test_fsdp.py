"""Processes that share the frozen model out among them: the numbers of one that has it whole, half of its memory, little that is sent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import LLAMA, ROOT, flat, planned
from test_ddp import STEPS, alone, begin, child, losses, profiled, together, torchrun

from qpa.config import parse
from qpa.errors import ConfigError
from qpa.runs import evaluate, record

# What a process holds of a model of some size before and after it is shared out, and what of it is resident.
HOLDS = """
import json, os, sys
import psutil, torch, torch.distributed as dist
from torch.distributed.tensor import DTensor
from qpa.config import parse
from qpa.config.composing import composed
from qpa.config.context import Context
from qpa.runs import plan, session
from pathlib import Path

def resident():
    return psutil.Process().memory_full_info().uss

out, folder, *overrides = sys.argv[1:]
made = plan.make(parse(composed("train", overrides)), Context(rank=int(os.environ["RANK"])))
module = session.prepare(made, Path(folder), []).module
dist.init_process_group("gloo")
frozen = [p for p in module.model.parameters() if not p.requires_grad]
whole, before = sum(p.nbytes for p in frozen), resident()
del frozen
module.learner.spread(torch.device("cpu"))
parts = [p.to_local() for p in module.model.parameters() if isinstance(p, DTensor)]
frozen = [p for p in module.model.parameters() if not p.requires_grad]
assert len(parts) == len(frozen), "something frozen is whole"
found = {"whole": whole, "part": sum(p.nbytes for p in parts), "freed": before - resident()}
module.learner.drop()
found["dropped"] = before - resident()
json.dump(found, open(out + os.environ["RANK"], "w"))
"""
BF16 = ["model.dtype=bfloat16", "trainer.precision=bf16-mixed", "model.gradient_checkpointing=true"]


def shared(text_file: Path, folder: Path, *overrides: str, trainer: str = "fsdp") -> None:
    """A run of two processes that ends well."""
    command = [sys.executable, *together(text_file, folder, *overrides, trainer=trainer)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_shared_base_gives_the_numbers_of_one_process_and_only_the_generators_gradient_is_summed(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Two micro-batches per step; of five held-out windows, read two a time, one process has a batch more than the other.

    A block is gathered for each forward and once more for the backward, what is in no block (tied embeddings, last norm) once for both.
    """
    layers, accumulate = 3, 2
    readings = 2 * 2 + 2 + 3 * 2  # two validations; the probe, trained and saved; the base's two splits, and the saved adapter's test
    set_up = [f"trainer.accumulate_grad_batches={accumulate}", "trainer.val_every=4", "data.max_held_out_windows=5"]
    set_up += [f"model.num_layers={layers}", "model.dtype=float32"]  # bf16 rounds otherwise in a batch of other windows
    alone(text_file, tmp_path / "one", "data.batch_size=4", *set_up)
    two = tmp_path / "two"
    sent = profiled(together(text_file, two, *set_up, trainer="fsdp"), tmp_path)
    assert losses(two) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    ours, whole = record.read(two)["qpa"], record.read(tmp_path / "one")["qpa"]
    for split in ("test", "val"):
        assert flat(ours[split]) == pytest.approx(flat(whole[split]), rel=1e-5)
    assert ours["params"] == whole["params"]

    width, inner, kv = (LLAMA[key] for key in ("hidden_size", "intermediate_size", "num_key_value_heads"))
    block = 2 * width * width + 2 * width * kv * LLAMA["head_dim"] + 3 * width * inner + 2 * width
    root = LLAMA["vocab_size"] * width + width
    micro_batches = STEPS * accumulate
    assert sent[f"gloo:all_gather [[{block // 2}]]"] == layers * (2 * micro_batches + readings)
    assert micro_batches <= sent[f"gloo:all_gather [[{root // 2}]]"] <= micro_batches + readings  # it stays from one reading to the next
    trainable = ours["params"]["trainable"]
    assert sent[f"gloo:all_reduce [[{trainable}]]"] == STEPS
    summed = {name for name in sent if "reduce" in name} - {f"gloo:all_reduce [[{trainable}]]"}
    assert summed == {"gloo:all_reduce [[2]]", "gloo:all_reduce [[]]"}  # loss and tokens; whether to stop, whether there is a batch
    assert ours["bytes_per_step"] == 4 * trainable + 16 + 8

    with capsys.disabled():
        gathered = f"{accumulate} x 4 x (2 x {layers} x {block} + {root}) / 2 = {accumulate * 4 * (2 * layers * block + root) // 2}"
        print(f"\nbytes that a process sends per step: {ours['bytes_per_step']:.0f} into sums, {gathered} for the base")
    _, alone_again = evaluate.evaluate(record.load_config(two), two)  # one process, and the base whole
    assert flat(alone_again["test"]) == pytest.approx(flat({name: ours["test"][name] for name in alone_again["test"]}), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [*BF16, "peft=vblora", "+peft.vblora_dropout=0.1", "peft.vector_length=8", "peft.num_vectors=16"],
        ["peft.target_modules=[lm_head,q_proj]", "peft=dora", "++model.architecture.tie_word_embeddings=false"],
        ["+peft.modules_to_save=[lm_head]", "generator=none", "model.dtype=float32"],
    ],
    ids=lambda overrides: overrides[-1],
)
def test_shared_base_trains_as_a_whole_one(text_file: Path, tmp_path: Path, overrides: list[str]) -> None:
    """Whatever is in a block beside its frozen weights: what recomputes them, a bank that all blocks share, a whole head."""
    for trainer in ("ddp", "fsdp"):
        shared(text_file, tmp_path / trainer, *overrides, trainer=trainer)
    assert losses(tmp_path / "fsdp") == pytest.approx(losses(tmp_path / "ddp"), rel=1e-6)
    ours, whole = (record.read(tmp_path / trainer)["qpa"] for trainer in ("fsdp", "ddp"))
    assert flat(ours["test"]) == pytest.approx(flat(whole["test"]), rel=1e-6)


@pytest.mark.slow
def test_each_process_holds_half_of_the_base(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Counted, and measured as memory that the process alone has."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # what is freed goes back to the system at once
    (tmp_path / "holds.py").write_text(HOLDS)
    shape = ["hidden_size=512", "intermediate_size=1536", "vocab_size=8000", "head_dim=64", "num_attention_heads=8"]
    large = ["model.num_layers=4", *(f"model.architecture.{size}" for size in shape), "model.dtype=float32"]
    command = together(text_file, tmp_path / "run", *large, trainer="fsdp")[1:]
    torchrun(tmp_path / "holds.py", tmp_path / "holds", tmp_path / "run", *command)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"holds{rank}").read_text())
        assert found["whole"] > 50e6
        assert found["part"] == found["whole"] / 2
        assert found["freed"] == pytest.approx(found["whole"] / 2, rel=0.1)
        assert found["dropped"] == pytest.approx(found["whole"], rel=0.1)
        with capsys.disabled():
            print(f"\nprocess {rank}, MB: " + ", ".join(f"{name} {size / 1e6:.1f}" for name, size in found.items()))


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["one process", "fsdp"])
def test_run_goes_on_from_a_checkpoint_whoever_has_written_it(text_file: Path, tmp_path: Path, writer: str) -> None:
    """The losses of the steps that are left are those of the run that was not interrupted."""
    written, resumed = tmp_path / "written", tmp_path / "resumed"
    every = "trainer.checkpoint_every=4"
    if writer == "one process":
        alone(text_file, written, "data.batch_size=4", every)
    else:
        shared(text_file, written, every)
    shared(text_file, resumed, every, f"ckpt={written / 'checkpoints' / 'previous.ckpt'}")
    assert record.read(resumed)["qpa"]["resumed_from_step"] == 4
    assert losses(resumed) == pytest.approx(losses(written)[4:], rel=1e-5)
    assert flat(record.read(resumed)["qpa"]["test"]) == pytest.approx(flat(record.read(written)["qpa"]["test"]), rel=1e-5)


@pytest.mark.slow
def test_lost_process_ends_a_shared_run_with_one_line(text_file: Path, tmp_path: Path) -> None:
    """Whichever collective the other was in."""
    running = begin(text_file, tmp_path / "run", "trainer.max_steps=100000", "trainer.checkpoint_every=2", trainer="fsdp")
    os.kill(child(running.pid, rank=1), signal.SIGKILL)
    killed = time.monotonic()
    _, stderr = running.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert (running.returncode, "Traceback" in stderr) == (1, False), stderr
    assert "process 1 of 2 was killed by SIGKILL; ckpt=last goes on" in stderr.splitlines()[-1]
    assert record.read(tmp_path / "run")["train_info"]["status"] == "failed"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.devices=1"], "devices=1: .*trainer=default"),
        (["trainer.compile=true"], "compile=true: .*set it to false"),
        (["model.weights=published", "model.quantization=nf4"], "model.quantization=nf4: .*leave it out, or use trainer=ddp"),
        (["data.cache_hidden=true"], "data.cache_hidden=True: .*set it to null"),
        (["+peft.layer_replication=[[0,1],[0,2]]"], "peft.layer_replication=.*leave it out, or use trainer=ddp"),
        (["circuit.backend=qiskit", "circuit.shots=100"], "trainer.strategy=fsdp: .*leave shots out"),
    ],
)
def test_what_a_shared_base_cannot_do_is_refused_before_anything_is_loaded(compose_config, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        planned(parse(compose_config("trainer=fsdp", *overrides)))
