"""`python -m benchmarks.scaling [--quick]`: what the generator alone costs, forward and backward, as everything grows.

Against adapted modules, generated weights `P`, qubits and layers, each alone; writes a figure beside the JSON.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.timing import cell, each, finish, medians
from qpa.core.adaptation import GeneratedAdaptation, Leaves
from qpa.core.circuits import statevector
from qpa.core.circuits.ansatz import RY_CNOT
from qpa.core.generator import Generator
from qpa.core.latents.circuits import Circuits
from qpa.core.layout import AdapterTensor, Layout, plan
from qpa.core.mappers.tied import TiedMapper

HIDDEN, RANK, WIDTH = 576, 8, 11


def lora(modules: int, hidden: int = HIDDEN) -> list[AdapterTensor]:
    """LoRA's tensors on square modules."""
    shapes = (("lora_A", (RANK, hidden)), ("lora_B", (hidden, RANK)))
    return [AdapterTensor(f"layers.{i}.q_proj.{side}", shape, f"layers.{i}.q_proj") for i in range(modules) for side, shape in shapes]


def of_modules(modules: int) -> Callable[[], None]:
    """A circuit per module."""
    return generation(plan(lora(modules), circuits="per_module", qubits=None, chunk_size=None), layers=2)


def of_weights(weights: int) -> Callable[[], None]:
    """210 modules of a hidden size that makes `P` of them."""
    hidden = max(1, weights // (210 * 2 * RANK))
    return generation(plan(lora(210, hidden), circuits="per_module", qubits=None, chunk_size=None), layers=2)


def of_qubits(qubits: int) -> Callable[[], None]:
    """One circuit whose every basis state stands for a chunk of 64."""
    layout = plan([AdapterTensor("t", (2**qubits, 64), "m")], circuits="shared", qubits=qubits, chunk_size=64)
    return generation(layout, layers=8)


def of_layers(layers: int) -> Callable[[], None]:
    """Circuits of 210 modules, deeper and deeper."""
    return generation(plan(lora(210), circuits="per_module", qubits=None, chunk_size=None), layers=layers)


SWEEPS: dict[str, tuple[Callable[[int], Callable[[], None]], list[int]]] = {
    "adapted modules": (of_modules, [1, 7, 30, 70, 210]),
    "generated weights": (of_weights, [10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]),
    "qubits": (of_qubits, [4, 6, 8, 10, 12, 14]),
    "layers": (of_layers, [1, 2, 8, 32, 64]),
}


def generated(layout: Layout, *, layers: int, device: str = "cpu") -> GeneratedAdaptation:
    """A default generator of leaves that have gradients."""
    torch.manual_seed(0)
    parameters = {slot.tensor.name: torch.nn.Parameter(torch.zeros(slot.tensor.shape, device=device)) for slot in layout.slots}
    leaves = Leaves(layout, parameters)
    for parameter in leaves.parameters:
        parameter.grad = torch.ones_like(parameter)
    circuits = Circuits(layout, RY_CNOT, layers=layers, simulate=statevector.simulator(RY_CNOT))
    generator = Generator(layout, latents=circuits, mapper=TiedMapper(layout, width=WIDTH), start=torch.randn(layout.size))
    return GeneratedAdaptation(generator.to(device), leaves)


def generation(layout: Layout, *, layers: int) -> Callable[[], None]:
    """Write all weights into the leaves, and the leaves' gradient back through the generator."""
    adaptation = generated(layout, layers=layers)

    def once() -> None:
        adaptation.write()
        adaptation.collect()

    return once


def main(quick: bool) -> None:
    """Time every sweep, print, draw."""
    found, why_not = {}, {}
    for name, (make, values) in SWEEPS.items():
        chosen = values[: 3 if quick else None]
        found[name], why_not[name] = each({str(value): partial(measure, make, value, quick=quick) for value in chosen})
    table = Table("generator alone, forward and backward", "ms at each value")
    for name, times in found.items():
        table.add_row(name, "   ".join(f"{int(value):,}: {cell(seconds and seconds * 1e3, '.1f')}" for value, seconds in times.items()))
    Console(soft_wrap=True).print(table)
    drawn, why_not["figure"] = each({"figure": partial(draw, found)})
    finish("scaling", quick, {"seconds": found, "why_not": why_not, **drawn}, gpu=False)


def measure(make: Callable[[int], Callable[[], None]], value: int, *, quick: bool) -> float:
    """Median seconds of one generation and its way back."""
    return medians({"it": make(value)}, repeats=5 if quick else 20, seconds=3 if quick else 20)["it"]


def draw(found: dict[str, dict[str, float | None]]) -> str:
    """The figure's path."""
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for axes, (name, times) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        axes.plot([int(value) for value in times], [math.nan if s is None else 1e3 * s for s in times.values()], marker="o")
        axes.set(xlabel=name, yscale="log", xscale="linear" if name == "qubits" else "log")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("ms")
    path = Path("outputs/benchmarks/scaling.svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return str(path)


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
