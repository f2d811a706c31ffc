"""`python -m benchmarks.start [--quick]`: seconds from the start of `train.py` to the end of its first step, weights drawn at random.

The process says so itself, in a line; it is then ended.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.loops import TINY, shape
from benchmarks.sides import RANDOM
from benchmarks.timing import cell, each, finish

ROOT = Path(__file__).resolve().parents[1]
CASES = {"SmolLM2": ("model=smollm2",), "Gemma-2-2B": ("model=gemma2",)}
QUICK = {"tiny": (*shape(TINY), "model.num_layers=1")}
STEP = "step 1/"
MOST = 240.0  # seconds to wait


def main(quick: bool) -> None:
    """Every model, in a process of its own; print."""
    cases = QUICK if quick else CASES
    seconds, why_not = each({name: partial(until_first_step, overrides) for name, overrides in cases.items()})
    for name, found in seconds.items():
        print(f"{name}: first step after {cell(found, '.1f')} s")
    finish("start", quick, {"seconds": seconds, "why_not": why_not})


def until_first_step(overrides: tuple[str, ...]) -> float:
    """Seconds.

    Raises:
        RuntimeError: the process has ended before.
    """
    with tempfile.TemporaryDirectory() as place:
        settings = [RANDOM, *overrides, "logger=none", f"run_dir={place}/run", f"cache_dir={place}/cache", "trainer.max_steps=1"]
        command = [sys.executable, str(ROOT / "train.py"), *settings]
        started = time.perf_counter()
        with begun(command) as process:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith(STEP):
                    return time.perf_counter() - started
                if time.perf_counter() - started > MOST:
                    break
        raise RuntimeError(f"no step was made; last said: {''.join(said[-3:])}")


@contextlib.contextmanager
def begun(command: list[str]) -> Iterator[subprocess.Popen]:
    """A process, ended at the latest when the block is left."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main("--quick" in sys.argv)
