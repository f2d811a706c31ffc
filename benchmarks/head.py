"""`python -m benchmarks.head [--quick]`: epochs of a head-only run with and without the store of hidden states."""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.sides import RANDOM, SMOLLM2, batch, configured, module, reader, step
from benchmarks.timing import cell, each, finish, synchronize
from qpa.tasks.language.hidden_store import HiddenStore
from qpa.training.module import FineTuning

CONTEXT, PER_STEP = 512, 2
CASES = {
    "SmolLM2": ("experiment=lm_head", *SMOLLM2),
    "Gemma-3-270M shape": ("experiment=lm_head", "model=gemma3_270m", "model.weights=random"),
}
QUICK = {"SmolLM2's width, 2 layers": ("experiment=lm_head", RANDOM, "model.num_layers=2")}


def main(quick: bool) -> None:
    """Three epochs of each case, with and without; print."""
    steps = 4 if quick else 20
    cases = QUICK if quick else CASES
    rows, why_not = each({name: partial(measure, overrides, steps) for name, overrides in cases.items()})
    table = Table("seconds of an epoch", "without", "first, filling", "second, from the store", "speed-up of the second")
    for name, row in rows.items():
        table.add_row(name, *(cell((row or {}).get(key), ".2f") for key in ("without", "filling", "stored", "epoch_speedup")))
    Console(soft_wrap=True).print(table)
    speedup = (next(iter(rows.values())) or {}).get("epoch_speedup")
    tokens = steps * PER_STEP * CONTEXT
    finish("head", quick, {"tokens_of_an_epoch": tokens, "rows": rows, "why_not": why_not, "epoch_speedup": speedup})


def measure(overrides: tuple[str, ...], steps: int) -> dict[str, float]:
    """Seconds of an epoch: without, filling the store, from it. The losses are the same by `tests/test_language_model.py`."""
    config = configured(*overrides, f"data.context={CONTEXT}", f"data.batch_size={PER_STEP}")
    trained = module(config)
    vocabulary, width = reader(trained).language.vocabulary, reader(trained).language.width
    windows = [batch(config, vocabulary, PER_STEP, seed=place) for place in range(steps)]
    calls = [step(config, trained, w) for w in windows]
    calls[0]()  # warm-up
    found = {"without": epoch(calls)}
    with tempfile.TemporaryDirectory() as folder:
        reader(trained).stores = {"train": store(Path(folder), steps * PER_STEP, width, trained)}
        found |= {"filling": epoch(calls), "stored": epoch(calls)}
    found["without"] = min(found["without"], without_again(trained, calls))
    return found | {"epoch_speedup": found["without"] / found["stored"]}


def without_again(trained: FineTuning, calls: list) -> float:
    """Once more at the end, the faster of both counts: a drifting machine must not look like a speed-up."""
    reader(trained).stores = {}
    return epoch(calls)


def store(folder: Path, windows: int, width: int, trained: FineTuning) -> HiddenStore:
    """An empty store."""
    return HiddenStore(folder / "states", windows=windows, shape=(CONTEXT, width), dtype=reader(trained).language.base.dtype)


def epoch(calls: list) -> float:
    """Seconds of one step on every batch."""
    synchronize()
    started = time.perf_counter()
    for once in calls:
        once()
    synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
