"""`python -m benchmarks.step [--quick]`: one optimizer step, plain PEFT against QPA; time, peak memory, the generator's share.

Times alternate in one process. Peak memory is that of a process of its own for each side, in which the allocator hands every
larger tensor back at once: what it keeps otherwise is up to a third more, by chance (docs/log.md).
"""

import os
import statistics
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from benchmarks.sides import DEVICE, batch, configured, generator_alone, module, optimizer_of, step
from benchmarks.timing import finish, medians, rounds
from qpa.record import forget_peak_memory, peak_memory

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
    rows = {}
    for name, (tokens, overrides) in cases.items():
        rows[name] = measure(overrides, QUICK_TOKENS if quick else tokens, quick=quick)
        print(f"{name}: time {rows[name]['time_ratio']:.3f}, memory {rows[name]['memory_ratio']:.3f}", file=sys.stderr)
    table = Table("", "tokens", "PEFT s", "QPA s", "time ratio", "generator alone s", "PEFT GiB", "QPA GiB", "memory ratio")
    for name, row in rows.items():
        seconds, peaks = row["seconds"], row["peak_bytes"]
        times = [f"{seconds['PEFT']:.3f}", f"{seconds['QPA']:.3f}", f"{row['time_ratio']:.3f}", f"{seconds['generator alone']:.4f}"]
        memory = [f"{peaks['PEFT'] / 2**30:.2f}", f"{peaks['QPA'] / 2**30:.2f}", f"{row['memory_ratio']:.3f}"]
        table.add_row(name, str(row["tokens"]), *times, *memory)
    Console(soft_wrap=True).print(table)
    first = next(iter(rows.values()))
    finish("step", quick, {"rows": rows, "time_ratio": first["time_ratio"], "memory_ratio": first["memory_ratio"]})


def measure(overrides: tuple[str, ...], tokens: int, *, quick: bool) -> dict:
    """Median seconds and peak bytes of both sides."""
    peaks = peak_bytes(overrides, tokens)
    sides, found = {}, {}
    for name, kind in SIDES.items():
        config = configured(*overrides, kind)
        found[name] = module(config)
        vocabulary = found[name].language.vocabulary
        windows = batch(config, vocabulary, tokens // config.data.context)
        sides[name] = step(config, found[name], windows, optimizer_of(found[name]))
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
    return {name: int(process.communicate()[0].split()[-1]) for name, process in processes.items()}


def side(tokens: int, overrides: list[str]) -> None:
    """What `peak_bytes` runs."""
    config = configured(*overrides)
    trained = module(config)
    windows = batch(config, trained.language.vocabulary, tokens // config.data.context)
    once = step(config, trained, windows, optimizer_of(trained))
    forget_peak_memory()
    for _ in range(2):
        once()
    print(peak_memory())


if __name__ == "__main__":
    if "--side" in sys.argv:
        side(int(sys.argv[2]), sys.argv[3:])
    else:
        print(f"on {DEVICE}")
        main("--quick" in sys.argv[1:])
