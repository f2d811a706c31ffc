"""`python -m benchmarks.shared [--quick]`: memory and bytes of a step where two processes share the frozen model out, and by a model.

Two processes train the same on CPUs, each with the whole base (ddp) and with half of it (fsdp). Of the steps after the first, torch's
profiler counts what is sent, and the system the most memory that a process has held. The same formulas then say what a model of 70
billion parameters takes on 8 cards. Seconds are not measured.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback

from benchmarks.timing import cell, each, finish
from qpa.config import parse
from qpa.config.composing import composed
from qpa.config.context import Context
from qpa.runs import plan, record, session
from qpa.training import processes

FREEING = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc then gives what is freed back to the system at once, so that it is not measured


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama, and the bytes of one of its numbers."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    itemsize: int

    @property
    def block(self) -> int:
        """Bytes of a decoder layer."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        return self.itemsize * (attention + 3 * self.hidden * self.inner + 2 * self.hidden)

    @property
    def rest(self) -> int:
        """Bytes of what is in no layer: embedding, head, last norm."""
        return self.itemsize * ((1 if self.tied else 2) * self.vocabulary * self.hidden + self.hidden)

    @property
    def whole(self) -> int:
        """Bytes of all."""
        return self.layers * self.block + self.rest


LLAMA_70B = Shape(80, 8192, 28672, 64, 8, 128, 128256, tied=False, itemsize=2)
SMALL = Shape(16, 512, 2048, 8, 4, 64, 2048, tied=True, itemsize=4)
AT_ONCE = 2  # layers that are whole at a time: one that computes, one that is being gathered


def gathered(shape: Shape, processes: int, micro_batches: int) -> float:
    """Bytes that a process receives of the others for the base, per step: each layer twice a micro-batch, the rest once."""
    return micro_batches * (processes - 1) / processes * (2 * shape.layers * shape.block + shape.rest)


def held(shape: Shape, processes: int) -> float:
    """Bytes of the base that a process holds at most: its part, the rest whole, two layers whole."""
    return shape.whole / processes + shape.rest + AT_ONCE * shape.block


def overrides(shape: Shape, strategy: str, steps: int, folder: str) -> list[str]:
    """A run of it: few tokens, so that memory is the base's."""
    sizes = {"hidden_size": shape.hidden, "intermediate_size": shape.inner, "vocab_size": shape.vocabulary, "head_dim": shape.head_dim}
    sizes |= {"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads}
    model = ["model.weights=random", "model.dtype=float32", f"model.num_layers={shape.layers}"]
    model += [f"model.architecture.{name}={size}" for name, size in sizes.items()]
    trainer = [f"trainer={strategy}", "trainer.accelerator=cpu", "trainer.precision=32-true", f"trainer.max_steps={steps}"]
    quiet = ["trainer.val_every=1000", "logger=none", "data.batch_size=1", "data.context=32", "data.max_held_out_windows=2"]
    return [*model, *trainer, *quiet, "peft.target_modules=[q_proj]", f"cache_dir={folder}/cache", f"run_dir={folder}/run"]


class Watch(Callback):
    """Counts what the steps after the first send, and the memory that they hold."""

    def __init__(self) -> None:
        self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The first has shared the base out, and made the optimizer's state."""
        if batch_idx == 1:
            record.forget_peak_memory()
            self.profile.start()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The last step."""
        if batch_idx == trainer.max_steps - 1:
            self.profile.stop()
            self.peak = record.peak_memory()

    def sent(self, steps: int) -> Counter[str]:
        """Numbers that a process has put into each kind of collective, per step."""
        found: Counter[str] = Counter()
        for event in self.profile.events() or ():
            if event.name.startswith("gloo:"):
                found[event.name.removeprefix("gloo:")] += sum(map(prod, event.input_shapes)) / steps  # pyright: ignore[reportArgumentType]
        return found


def train(strategy: str, steps: int, folder: str) -> None:
    """One of the processes."""
    made = plan.make(parse(composed("train", overrides(SMALL, strategy, steps, folder))), Context(rank=processes.rank()))
    prepared = session.prepare(made, made.folder, [])
    watch = Watch()
    prepared.trainer.callbacks.append(watch)  # pyright: ignore[reportAttributeAccessIssue]
    session.fit(prepared)
    if made.context.first:
        sent = watch.sent(steps - 1)
        Path(folder, "found.json").write_text(json.dumps({"peak": watch.peak, "trained": made.counts.trainable, "sent": sent}))
    dist.barrier()


def measured(strategy: str, steps: int) -> dict[str, Any]:
    """What two processes have sent and held."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "benchmarks.shared"]
        done = subprocess.run(
            [*command, strategy, str(steps), folder], capture_output=True, text=True, check=False, env=os.environ | FREEING
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-4000:])
        return json.loads(Path(folder, "found.json").read_text())


def main(quick: bool) -> None:
    """Measure, compare, print the model's word on 70 billion parameters."""
    steps = 3 if quick else 6
    found, why_not = each({strategy: partial(measured, strategy, steps) for strategy in ("ddp", "fsdp")})
    whole, shared = found["ddp"], found["fsdp"]
    less = None if whole is None or shared is None else whole["peak"] - shared["peak"]
    got = None if shared is None else SMALL.itemsize * shared["sent"]["all_gather"]
    expected = {"less": SMALL.whole - held(SMALL, 2), "gathered": gathered(SMALL, 2, 1)}
    print(f"base of {SMALL.whole / 1e6:.1f} MB on 2 processes; measured (by the model):")
    print(f"less at the peak of a process than with ddp, MB: {cell(less and less / 1e6, '.1f')} ({expected['less'] / 1e6:.1f})")
    print(f"gathered per step from the other process, MB: {cell(got and got / 1e6, '.3f')} ({expected['gathered'] / 1e6:.3f})")
    for strategy, sides in found.items():
        print(f"numbers put into collectives per step, {strategy}: {sides and sides['sent']}")
    card = {"held": held(LLAMA_70B, 8), "part": LLAMA_70B.whole / 8, "gathered": gathered(LLAMA_70B, 8, 1)}
    print("70 B in bf16 on 8 cards, GB of a card by the model: " + ", ".join(f"{name} {size / 1e9:.1f}" for name, size in card.items()))
    finish("shared", quick, {"measured": found, "why_not": why_not, "less": less, "expected": expected, "llama_70b": card}, gpu=False)


if __name__ == "__main__":
    main("--quick" in sys.argv[1:]) if len(sys.argv) < 3 else train(sys.argv[1], int(sys.argv[2]), sys.argv[3])
