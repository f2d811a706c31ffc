"""`python -m benchmarks.step [--quick]`: one optimizer step, plain PEFT against QPA; time, peak memory, the generator's share.

Times alternate in one process; peak memory is that of a process of its own for each side.
"""

import json
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from benchmarks.sides import DEVICE, batch, configured, generator_alone, module, optimizer_of, step
from benchmarks.timing import finish, medians
from qpa.record import peak_memory

TOKENS = 1024  # of a step
RANDOM = ("model.weights=random", "model.num_layers=2")
CASES = {
    "SmolLM2, LoRA r=8, all linear": (),
    "SmolLM2, DoRA r=8, all linear": ("peft=dora",),
    "GPT-2 shape, 2 layers, LoRA": ("model=gpt2", *RANDOM),
    "Gemma-2-2B shape, 2 layers, LoRA": ("model=gemma2", *RANDOM),
    "Gemma-2-2B shape, 2 layers, DoRA": ("model=gemma2", "peft=dora", *RANDOM),
}
SIDES = {"PEFT": "generator=none", "QPA": "generator=qpa"}


def main(quick: bool) -> None:
    """Time every case, print."""
    cases = dict(list(CASES.items())[:1]) if quick else CASES
    rows = {name: measure(overrides, quick=quick) for name, overrides in cases.items()}
    table = Table("", "PEFT s", "QPA s", "time ratio", "generator alone s", "PEFT GiB", "QPA GiB", "memory ratio")
    for name, row in rows.items():
        seconds, peaks = row["seconds"], row["peak_bytes"]
        table.add_row(
            name, f"{seconds['PEFT']:.3f}", f"{seconds['QPA']:.3f}", f"{row['time_ratio']:.3f}", f"{seconds['generator alone']:.4f}",
            f"{peaks['PEFT'] / 2**30:.2f}", f"{peaks['QPA'] / 2**30:.2f}", f"{row['memory_ratio']:.3f}",
        )  # fmt: skip
    Console(soft_wrap=True).print(table)
    first = next(iter(rows.values()))
    finish("step", {"rows": rows, "time_ratio": first["time_ratio"], "memory_ratio": first["memory_ratio"]})


def measure(overrides: tuple[str, ...], *, quick: bool) -> dict:
    """Median seconds and peak bytes of both sides."""
    sides, found = {}, {}
    for name, kind in SIDES.items():
        config = configured(*overrides, kind)
        found[name] = module(config)
        vocabulary = found[name].language.vocabulary
        windows = batch(config, vocabulary, TOKENS // config.data.context)
        sides[name] = step(config, found[name], windows, optimizer_of(found[name]))
    seconds = medians(sides, repeats=7 if quick else 25, seconds=25.0 if quick else 240.0)
    seconds |= medians({"generator alone": generator_alone(found["QPA"])}, repeats=20, seconds=10.0)
    peaks = {name: own_process((*overrides, kind)) for name, kind in SIDES.items()}
    return {
        "seconds": seconds,
        "peak_bytes": peaks,
        "time_ratio": seconds["QPA"] / seconds["PEFT"],
        "memory_ratio": peaks["QPA"] / peaks["PEFT"],
    }


def own_process(overrides: tuple[str, ...]) -> int:
    """Peak bytes of a few steps in a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.step", "--side", *overrides]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def side(overrides: list[str]) -> None:
    """What `own_process` runs."""
    config = configured(*overrides)
    trained = module(config)
    windows = batch(config, trained.language.vocabulary, TOKENS // config.data.context)
    once = step(config, trained, windows, optimizer_of(trained))
    for _ in range(2):
        once()
    print(json.dumps(peak_memory()))


if __name__ == "__main__":
    if "--side" in sys.argv:
        side(sys.argv[sys.argv.index("--side") + 1 :])
    else:
        print(f"on {DEVICE}")
        main("--quick" in sys.argv[1:])
