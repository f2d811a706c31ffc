"""`python -m benchmarks.generation [--quick]`: the generator alone, its forward into the leaves and its vector-Jacobian product.

A circuit for each of `K` square modules, LoRA r=8; on a card also both as one CUDA graph. The floor: every weight written once and every
gradient read once, over the measured bandwidth.
"""

import sys
from functools import partial

from rich.console import Console
from rich.table import Table

from benchmarks.scaling import generated, lora
from benchmarks.sides import DEVICE
from benchmarks.timing import Rates, captured, cell, each, finish, medians
from qpa.core.layout import plan

MODULES = [1, 64, 210, 1024]
KINDS = ("forward", "vector-Jacobian product", "both", "both, captured")


def main(quick: bool) -> None:
    """Every number of modules; print."""
    rates = Rates.measured(DEVICE)
    rows, why_not = each({str(count): partial(measure, count, rates, quick=quick) for count in (MODULES[:2] if quick else MODULES)})
    table = Table("generator alone, ms", "weights", *KINDS, "floor")
    for count, row in rows.items():
        seconds = (row or {}).get("seconds", {})
        times = (cell(value and 1e3 * value, ".3f") for value in (*map(seconds.get, KINDS), (row or {}).get("floor_seconds")))
        table.add_row(f"K={count}", cell((row or {}).get("weights"), ","), *times)
    Console(soft_wrap=True).print(table)
    finish("generation", quick, {"rows": rows, "why_not": why_not})


def measure(modules: int, rates: Rates, *, quick: bool) -> dict:
    """Median seconds of each kind."""
    layout = plan(lora(modules), circuits="per_module", qubits=None, chunk_size=None)
    adaptation = generated(layout, layers=2, device=DEVICE.type)
    generator, leaves = adaptation.generator, adaptation.leaves

    def forward() -> None:
        adaptation.write()

    def both() -> None:
        for parameter in generator.parameters():
            parameter.grad = None
        flat, gradient = generator(), leaves.gradient()
        leaves.write(flat.detach())
        flat.backward(gradient)

    flat, gradient = generator(), leaves.gradient()

    def product() -> None:
        for parameter in generator.parameters():
            parameter.grad = None
        flat.backward(gradient, retain_graph=True)

    graph, why_not = each({"both, captured": partial(captured, both)})
    calls = {"forward": forward, "vector-Jacobian product": product, "both": both}
    sides = {name: call for name, call in (calls | graph).items() if call}
    seconds = medians(sides, repeats=5 if quick else 15, seconds=3 if quick else 10)
    floor = rates.floor(operations=0, moved=2 * 4 * layout.generated)
    return {"weights": layout.generated, "seconds": seconds | dict.fromkeys(why_not), "why_not": why_not, "floor_seconds": floor}


if __name__ == "__main__":
    main("--quick" in sys.argv)
