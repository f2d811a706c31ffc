"""Timing of several sides in one run: alternating, medians after warm-up; what fails, and what every benchmark prints at its end."""

import gc
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from qpa.files import read_json, write_json

WARM_UP = 2
SHORTEST = 0.02  # seconds of one measurement: what is shorter is called several times, as timeit does
TRIES = 2  # of what fails: once may be chance
Result = TypeVar("Result")


class NotTimedError(Exception):
    """A side runs, but is not to be timed; the text says why."""


def each(sides: Mapping[str, Callable[[], Result]]) -> tuple[dict[str, Result | None], dict[str, str]]:
    """What every side gives. One that fails is tried once more; if it fails again it gives None, and the second says why."""
    found: dict[str, Result | None] = {}
    why_not: dict[str, str] = {}
    for name, side in sides.items():
        for _ in range(TRIES):
            try:
                found[name] = side()
                why_not.pop(name, None)
                break
            except Exception as error:  # it may fail in any way of its own
                found[name], why_not[name] = None, _reason(error)
        if name in why_not:
            print(f"{name}: {why_not[name]}", file=sys.stderr)
    return found, why_not


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, NotTimedError) else f"{type(error).__name__}: {text}"


def ratio(above: float | None, below: float | None) -> float | None:
    """None where a side is missing."""
    return None if above is None or below is None else above / below


def cell(value: float | None, form: str) -> str:
    """A number in a table; a dash where there is none."""
    return "-" if value is None else format(value, form)


def medians(sides: Mapping[str, Callable[[], object]], *, repeats: int, seconds: float = math.inf) -> dict[str, float]:
    """Median seconds of one call of each side; arguments as for `rounds`."""
    return {name: statistics.median(values) for name, values in rounds(sides, repeats=repeats, seconds=seconds).items()}


def rounds(sides: Mapping[str, Callable[[], object]], *, repeats: int, seconds: float = math.inf) -> dict[str, list[float]]:
    """Seconds of one call of each side, round by round, taken in turns so that a drifting machine is the same for all.

    Args:
        sides: by name, what is timed.
        repeats: rounds; fewer once all sides together have taken `seconds`, but at least three.
        seconds: see there.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    calls = {name: _calls(side) for name, side in sides.items()}
    gc.collect()
    gc.freeze()  # what is left is not garbage: collecting before each measurement is fast
    spent = 0.0
    for round_number in range(repeats):
        for name in list(sides)[:: -1 if round_number % 2 else 1]:  # to and fro: no side always follows the same one
            found[name].append(_measure(sides[name], calls[name]))
            spent += found[name][-1] * calls[name]
        if spent > seconds and round_number >= 2:
            break
    gc.unfreeze()
    return found


def _calls(side: Callable[[], object]) -> int:
    warm_up = [_measure(side, 1) for _ in range(WARM_UP)]
    return max(1, round(SHORTEST / min(warm_up)))


def _measure(side: Callable[[], object], calls: int) -> float:
    """Seconds of one call, over several; what others left for the garbage collector is collected before, as timeit does."""
    gc.collect()
    gc.disable()
    started = time.perf_counter()
    for _ in range(calls):
        side()
    synchronize()
    seconds = (time.perf_counter() - started) / calls
    gc.enable()
    return seconds


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def captured(once: Callable[[], object]) -> Callable[[], object]:
    """A call as one CUDA graph, replayed; its tensors must stay where they are.

    Raises:
        NotTimedError: there is no card.
    """
    if not torch.cuda.is_available():
        raise NotTimedError("there is no card")
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return graph.replay


@dataclass(frozen=True)
class Rates:
    """What a device has been measured to do: the floors of what is computed on it.

    Attributes:
        operations: floating-point ones of a large square matrix product, per second; in bf16 on a card, else in fp32.
        bytes: read and written by a large copy, per second.
    """

    operations: float
    bytes: float

    @staticmethod
    def measured(device: torch.device) -> "Rates":
        """Of this device, now."""
        card = device.type == "cuda"
        side, size, dtype = (8192, 1 << 30, torch.bfloat16) if card else (512, 1 << 24, torch.float32)
        matrix = torch.randn(side, side, device=device, dtype=dtype)
        source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
        found = medians({"product": lambda: matrix @ matrix, "copy": lambda: target.copy_(source)}, repeats=10)
        return Rates(2 * side**3 / found["product"], 2 * size / found["copy"])

    def floor(self, *, operations: float, moved: float) -> float:
        """Seconds that nothing is faster than."""
        return max(operations / self.operations, moved / self.bytes)


def machine(gpu: bool) -> dict[str, Any]:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name() if gpu and torch.cuda.is_available() else _processor()
    memory = round(psutil.virtual_memory().total / 2**30)
    return {"device": name, "cores": torch.get_num_threads(), "memory_gib": memory, "torch": torch.__version__}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def finish(name: str, quick: bool, result: dict[str, Any], *, gpu: bool = True) -> None:
    """Write `outputs/benchmarks/NAME.json` or `NAME-quick.json`, null where there is no number, and print the same as the last line.

    `gpu`: whether one is used where there is one.
    """
    gc.collect()
    print(json.dumps(read_json(write(name, quick, result, gpu=gpu))))


def write(name: str, quick: bool, result: dict[str, Any], *, gpu: bool = True) -> Path:
    """The file alone: what is there already, should the rest be cut off."""
    record = {"benchmark": name, "machine": machine(gpu), **result}
    folder = Path("outputs/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{'-quick' if quick else ''}.json"
    write_json(path, record)
    return path
