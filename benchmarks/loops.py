"""Whole training loops in turns, in one process: transformers' Trainer and ours with plain LoRA, ours captured, QPA captured.

Every side trains LoRA r=8 on all linear layers of the same model, random weights in bf16, on the same windows of 512 tokens: transformers'
Trainer as it is, but told not to look at every loss, and our own Lightning loop, told not to log every step. Seconds are of whole steps
in the loop, the next batch fetched too; the device is waited for before the first and after the last that counts, never between.

The floor of a step: two operations for each weight and token forward, and two back, for frozen weights need no gradient (attention's own
products not counted), over the measured rate of a matrix product; or reading all weights twice, over the measured bandwidth.
"""

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.sides import DEVICE, RANDOM
from benchmarks.timing import NotTimedError, Rates, cell, each, finish, ratio, synchronize, write
from qpa.config import parse
from qpa.config.composing import composed
from qpa.config.context import Context
from qpa.runs import parts, session
from qpa.runs import plan as plans
from qpa.runs.plan import Plan
from qpa.runs.record import forget_peak_memory, peak_memory
from qpa.training.callbacks import PlainProgress
from qpa.training.module import FineTuning
from qpa.training.quiet import quiet

TRAINER, PLAIN, CAPTURED, QPA = "transformers' Trainer", "plain LoRA", "plain LoRA, captured", "QPA, captured"
SIDES = {TRAINER: None, PLAIN: ("generator=none", False), CAPTURED: ("generator=none", True), QPA: ("generator=qpa", True)}
LLAMA = {
    **{"vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
    **{"num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": "false"},
}
TINY = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def shape(architecture: dict[str, Any]) -> tuple[str, ...]:
    """Of a model with Llama's modules."""
    return ("model=smollm2", *(f"model.architecture.{key}={value}" for key, value in architecture.items()))


CASES: dict[str, tuple[tuple[str, ...], list[int]]] = {  # a run's overrides, and tokens of a step; what matters most first
    "SmolLM2": (("model=smollm2",), [512, 2048, 8192]),
    "Gemma-2-2B": (("model=gemma2",), [8192, 512, 2048]),
    "GPT-2": (("model=gpt2",), [512, 2048, 8192]),
    "Llama-3-8B shape, activations checkpointed": ((*shape(LLAMA), "model.gradient_checkpointing=true"), [8192, 2048, 512]),
}
QUICK = {"tiny": ((*shape(TINY), "model.num_layers=1"), [64])}
RARELY = 1_000_000


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        context: tokens of a window.
        warm: steps before those that count: an optimizer's state is made in the first, a capture begins after some.
        steps: that count.
        rounds: of all sides.
    """

    context: int = 512
    warm: int = 6
    steps: int = 10
    rounds: int = 2


class Clock(Callback):
    """Times the steps that count in our loop."""

    def __init__(self, size: Size) -> None:
        self.first, self.last = size.warm, size.warm + size.steps - 1
        self.started = self.seconds = 0.0
        self.captured = False

    def begins(self, step: int) -> None:
        """A step, counted from 0."""
        if step == self.first:
            synchronize()
            self.started = time.perf_counter()

    def ends(self, step: int) -> None:
        """The same."""
        if step == self.last:
            synchronize()
            self.seconds = (time.perf_counter() - self.started) / (self.last - self.first + 1)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Of ours."""
        self.begins(batch_idx)
        self.captured = cast(FineTuning, pl_module).captured is not None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Of ours."""
        self.ends(batch_idx)


class Bench:
    """One model, its frozen weights shared by all sides, on the device.

    Args:
        overrides: of the config.
        size: how much is run.
        cache: a folder for tokens.
    """

    def __init__(self, overrides: tuple[str, ...], size: Size, cache: Path) -> None:
        self.overrides, self.size, self.cache = overrides, size, cache
        self.kept: dict[Any, Any] = {}

    def plan(self, tokens: int, folder: str, *more: str) -> Plan:
        """A run's."""
        size = self.size
        course = [
            f"trainer.max_steps={size.warm + size.steps + 1}",
            f"data.context={size.context}",
            f"data.batch_size={tokens // size.context}",
        ]
        rarely = [f"trainer.{key}={RARELY}" for key in ("val_every", "checkpoint_every", "log_every_n_steps")]
        places = [f"cache_dir={self.cache}", f"run_dir={folder}", "logger=none"]
        config = parse(composed("train", [RANDOM, *self.overrides, *course, *rarely, *places, *more]))
        plan = plans.make(config, Context(kept=self.kept), read=True)
        plan.task.fetch()
        return plan

    def weights(self) -> int:
        """Of the linear layers, the head's too: what every token is multiplied by."""
        models = [model for model in self.kept.values() if isinstance(model, nn.Module)]
        linear: list[Any] = [m for model in models for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D")]
        return sum(module.weight.numel() for module in linear)

    def ours(self, tokens: int, generator: str, captured: bool) -> dict[str, float]:
        """Seconds of a step of our own loop, and its peak memory."""
        capture = f"trainer.capture={str(captured).lower()}"
        with tempfile.TemporaryDirectory() as folder:
            prepared = session.prepare(self.plan(tokens, folder, generator, capture), Path(folder), [])
            clock, trainer = Clock(self.size), prepared.trainer
            callbacks: list[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
            callbacks[:] = [*(c for c in callbacks if not isinstance(c, PlainProgress)), clock]
            prepared.module.adaptation.write()
            forget_peak_memory()
            trainer.fit(prepared.module, prepared.parts.plan.task.train_loader(from_step=0))
        if DEVICE.type == "cuda" and captured != clock.captured:
            raise NotTimedError(f"captured: {clock.captured}, where it should be {captured}")
        return {"seconds": clock.seconds, "peak_bytes": peak_memory()}

    def theirs(self, tokens: int) -> dict[str, float]:
        """The same of transformers' Trainer."""
        from transformers import Trainer as TheirTrainer
        from transformers import TrainerCallback, TrainingArguments

        with tempfile.TemporaryDirectory() as folder:
            plan = self.plan(tokens, folder, "generator=none")
            plan.task.prepare()
            model: Any = parts.build(plan).model.to(DEVICE)
            clock, config = Clock(self.size), plan.config

            class Watch(TrainerCallback):
                """Their words for ours."""

                def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                    """A step begins."""
                    clock.begins(state.global_step)

                def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                    """It has ended, and is counted."""
                    clock.ends(state.global_step - 1)

            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=tokens // self.size.context,
                max_steps=plan.task.steps,
                learning_rate=config.optimizer.lr,
                bf16=config.trainer.precision == "bf16-mixed",
                logging_strategy="no",
                logging_nan_inf_filter=False,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=DEVICE.type == "cpu",
                dataloader_pin_memory=DEVICE.type == "cuda",
            )
            if config.model.gradient_checkpointing:  # pyright: ignore[reportAttributeAccessIssue]
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            windows: Any = plan.task.windows["train"]  # pyright: ignore[reportAttributeAccessIssue]
            examples: Any = [{key: windows[i][key] for key in ("input_ids", "labels")} for i in range(min(len(windows), 1000))]
            forget_peak_memory()
            TheirTrainer(model, arguments, train_dataset=examples, callbacks=[Watch()]).train()
        return {"seconds": clock.seconds, "peak_bytes": peak_memory()}

    def side(self, name: str, tokens: int) -> dict[str, float]:
        """One side, once, with nothing left of the one before."""
        gc.collect()
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
        ours = SIDES[name]
        return self.theirs(tokens) if ours is None else self.ours(tokens, *ours)


def measure(bench: Bench, tokens: int, rates: Rates, ends: float) -> dict[str, Any]:
    """All sides, to and fro; how they compare with one another, and with the floor.

    Raises:
        NotTimedError: the time is up.
    """
    if time.monotonic() > ends:
        raise NotTimedError("no time was left")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    why_not: dict[str, str] = {}
    for number in range(bench.size.rounds):
        order = [name for name in list(SIDES)[:: -1 if number % 2 else 1] if name not in why_not]
        times, failed = each({name: partial(bench.side, name, tokens) for name in order})
        why_not |= failed
        for name, once in times.items():
            found[name] += [once] if once else []
    weights = bench.weights()
    operations = 4 * weights * tokens
    floor = rates.floor(operations=operations, moved=2 * 2 * weights)
    seconds = {name: statistics.median(t["seconds"] for t in times) if times else None for name, times in found.items()}
    return {
        "tokens": tokens,
        "weights": weights,
        "seconds": seconds,
        "tokens_per_second": {name: ratio(tokens, s) for name, s in seconds.items()},
        "share_of_rate": {name: ratio(operations / rates.operations, s) for name, s in seconds.items()},
        "peak_bytes": {name: max((t["peak_bytes"] for t in times), default=None) for name, times in found.items()},
        "floor_seconds": floor,
        "gap": {name: ratio(s, floor) for name, s in seconds.items()},
        "qpa_of_trainer": ratio(seconds[QPA], seconds[TRAINER]),
        "qpa_of_plain_captured": ratio(seconds[QPA], seconds[CAPTURED]),
        "why_not": why_not,
    }


@contextmanager
def benches(overrides: tuple[str, ...], size: Size) -> Iterator[Bench]:
    """A model while it is measured; afterwards its memory is free."""
    with tempfile.TemporaryDirectory() as cache:
        bench = Bench(overrides, size, Path(cache))
        yield bench
        bench.kept.clear()


def main(quick: bool, *, seconds: float = 600.0) -> None:
    """Every model at every number of tokens, until the time is up; print."""
    quiet()
    ends = time.monotonic() + seconds
    size = Size(context=32, warm=2, steps=2, rounds=2) if quick else Size()
    rates = Rates.measured(DEVICE)
    print(f"measured: {rates.operations / 1e12:,.1f} TFLOP/s, {rates.bytes / 1e9:,.0f} GB/s", file=sys.stderr)
    result: dict[str, Any] = {"operations_per_second": rates.operations, "bytes_per_second": rates.bytes, "rows": {}, "why_not": {}}
    for name, (overrides, several) in (QUICK if quick else CASES).items():
        with benches(overrides, size) as bench:
            for tokens in several:
                rows, why_not = each({f"{name}, {tokens:,} tokens": _announced(partial(measure, bench, tokens, rates, ends))})
                result["rows"] |= rows
                result["why_not"] |= why_not
                write("step-card", quick, result)
    show(result["rows"])
    finish("step-card", quick, result)


def _announced(call: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    def once() -> dict[str, Any]:
        started = time.monotonic()
        found = call()
        print(f"{found['tokens']:,} tokens: all sides took {time.monotonic() - started:.0f} s", file=sys.stderr)
        return found

    return once


def show(rows: dict[str, dict[str, Any] | None]) -> None:
    """A line for every case and side."""
    table = Table("", "", "seconds", "tokens/s", "share of rate", "peak GiB", "times the floor")
    for name, row in rows.items():
        for side in SIDES if row else ():
            numbers = [(row or {})[key][side] for key in ("seconds", "tokens_per_second", "share_of_rate", "peak_bytes", "gap")]
            numbers[3] = ratio(numbers[3], 2**30)
            cells = (cell(number, form) for number, form in zip(numbers, (".4f", ",.0f", ".3f", ".2f", ".1f"), strict=True))
            table.add_row(name, side, *cells)
    Console(soft_wrap=True).print(table)
