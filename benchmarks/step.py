"""`python -m benchmarks.step [--quick]`: one optimizer step, plain PEFT against QPA; time, peak memory, the generator's share.

With a card (or `--card`, here too) whole training loops instead, `--seconds N` at most (`benchmarks.loops`). On the CPU:
Times alternate in one process. Peak memory is that of a process of its own for each side, in which the allocator hands every
larger tensor back at once: what it keeps otherwise is up to a third more, by chance (docs/log.md).
"""

import os
import statistics
import subprocess
import sys
from functools import partial

from rich.console import Console
from rich.table import Table

from benchmarks import loops
from benchmarks.sides import DEVICE, batch, configured, context, generator_alone, module, reader, step
from benchmarks.timing import cell, each, finish, medians, rounds
from qpa.runs.record import forget_peak_memory, peak_memory

QUICK_TOKENS = 256  # of a step
ALONE = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "OMP_NUM_THREADS": "1"}
RANDOM = ("model.weights=random", "model.num_layers=2")
CASES = {  # tokens of a step, and the run's overrides
    "SmolLM2, LoRA r=8, all linear": (1024, ()),
    "SmolLM2, DoRA r=8, all linear": (1024, ("peft=dora",)),
    "GPT-2 shape, 2 layers, LoRA": (1024, ("model=gpt2", *RANDOM)),
    "Gemma-2-2B shape, 2 layers, LoRA": (256, ("model=gemma2", *RANDOM)),
    "Gemma-2-2B shape, 2 layers, DoRA": (256, ("model=gemma2", "peft=dora", *RANDOM)),
}
SIDES = {"PEFT": "generator=none", "QPA": "generator=qpa"}


def main(quick: bool) -> None:
    """Time every case, print."""
    cases = dict(list(CASES.items())[:1]) if quick else CASES
    tokens_of = {name: QUICK_TOKENS if quick else tokens for name, (tokens, _) in cases.items()}
    rows, why_not = each({name: partial(measure, overrides, tokens_of[name], quick=quick) for name, (_, overrides) in cases.items()})
    table = Table("", "tokens", "PEFT s", "QPA s", "time ratio", "generator alone s", "PEFT GiB", "QPA GiB", "memory ratio")
    for name, row in rows.items():
        table.add_row(name, str(tokens_of[name]), *cells(row or {}))
    Console(soft_wrap=True).print(table)
    first = next(iter(rows.values())) or {}
    finish("step", quick, {"rows": rows, "why_not": why_not} | {key: first.get(key) for key in ("time_ratio", "memory_ratio")})


def cells(row: dict) -> list[str]:
    """Of the table, seven."""
    seconds, gib = row.get("seconds", {}), {name: peak / 2**30 for name, peak in row.get("peak_bytes", {}).items()}
    times = [cell(seconds.get("PEFT"), ".3f"), cell(seconds.get("QPA"), ".3f"), cell(row.get("time_ratio"), ".3f")]
    memory = [cell(gib.get("PEFT"), ".2f"), cell(gib.get("QPA"), ".2f"), cell(row.get("memory_ratio"), ".3f")]
    return [*times, cell(seconds.get("generator alone"), ".4f"), *memory]


def measure(overrides: tuple[str, ...], tokens: int, *, quick: bool) -> dict:
    """Median seconds and peak bytes of both sides."""
    peaks = peak_bytes(overrides, tokens)
    sides, found = {}, {}
    for name, kind in SIDES.items():
        config = configured(*overrides, kind)
        found[name] = module(config)
        vocabulary = reader(found[name]).language.vocabulary
        windows = batch(config, vocabulary, tokens // context(config))
        sides[name] = step(config, found[name], windows)
    times = rounds(sides, repeats=8 if quick else 20)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    seconds |= medians({"generator alone": generator_alone(found["QPA"])}, repeats=20)
    return {
        "tokens": tokens,
        "seconds": seconds,
        "peak_bytes": peaks,
        "time_ratio": statistics.median(q / p for p, q in zip(times["PEFT"], times["QPA"], strict=True)),
        "memory_ratio": peaks["QPA"] / peaks["PEFT"],
    }


def peak_bytes(overrides: tuple[str, ...], tokens: int) -> dict[str, int]:
    """Peak of each side over two steps, in a process that does nothing else; both processes at once."""
    command, alone = [sys.executable, "-m", "benchmarks.step", "--side", str(tokens), *overrides], os.environ | ALONE
    processes = {name: subprocess.Popen([*command, kind], stdout=subprocess.PIPE, text=True, env=alone) for name, kind in SIDES.items()}
    told = {name: process.communicate()[0].split() for name, process in processes.items()}
    for name, process in processes.items():
        if process.returncode:
            raise RuntimeError(f"the process of {name} ended with {process.returncode}")
    return {name: int(words[-1]) for name, words in told.items()}


def side(tokens: int, overrides: list[str]) -> None:
    """What `peak_bytes` runs."""
    config = configured(*overrides)
    trained = module(config)
    windows = batch(config, reader(trained).language.vocabulary, tokens // context(config))
    once = step(config, trained, windows)
    forget_peak_memory()
    for _ in range(2):
        once()
    print(peak_memory())


if __name__ == "__main__":
    if "--side" in sys.argv:
        side(int(sys.argv[2]), sys.argv[3:])
    elif DEVICE.type == "cuda" or "--card" in sys.argv:
        told = dict(zip(sys.argv, sys.argv[1:], strict=False))
        loops.main("--quick" in sys.argv, seconds=float(told.get("--seconds", 600)))
    else:
        print(f"on {DEVICE}")
        main("--quick" in sys.argv[1:])
