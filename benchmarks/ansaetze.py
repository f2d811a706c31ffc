"""`python -m benchmarks.ansaetze [--quick]`: every shipped ansatz, forward and backward, ours against the other exact backends."""

import math
import sys

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.circuits import found, step
from benchmarks.timing import finish, medians
from qpa.analysis.gradient_variance import shipped
from qpa.circuits import pennylane, statevector, torchquantum
from qpa.config import AnalysisConfig, checked
from qpa.verbs import composed

CASES = [(8, 8, 1), (8, 8, 64), (4, 2, 210)]  # Q, L, K; the last is SmolLM2's default run
TOLERANCE = 1e-4  # of fp32: probabilities and gradient


def main(quick: bool) -> None:
    """Check equality, time, print."""
    names = checked(AnalysisConfig, composed("analysis", ["what=gradient_variance"])).ansaetze
    rows = [times(name, *case, quick=quick) for case in (CASES[:1] if quick else CASES) for name in names]
    table = Table("ansatz", "Q, L, K", "ours, ms", "torchquantum", "PennyLane default.qubit")
    for row in rows:
        ours, *others = row["seconds"].values()
        table.add_row(
            row["ansatz"], f"{row['Q']}, {row['L']}, {row['K']}", f"{1e3 * ours:.2f}", *(f"{other / ours:.1f} x" for other in others)
        )
    Console(soft_wrap=True, stderr=True).print(table)
    finish("ansaetze", quick, {"rows": rows}, gpu=False)


def times(name: str, qubits: int, blocks: int, circuits: int, *, quick: bool) -> dict:
    """Median seconds of one forward and backward of all circuits, by backend."""
    torch.manual_seed(0)
    ansatz = shipped(name)
    angles = torch.rand(circuits, ansatz.rotation_layers(blocks), qubits) * 6.28
    weights = torch.randn(circuits, 2**qubits)
    sides = {
        "qpa": statevector.simulator(ansatz),
        "torchquantum": torchquantum.simulator(ansatz),
        "PennyLane default.qubit": pennylane.simulator(ansatz, "default.qubit"),
    }
    expected = found(sides["qpa"], angles.double(), weights.double())
    for side in sides.values():
        for theirs, ours in zip(found(side, angles, weights), expected, strict=True):
            assert (theirs - ours).abs().max() <= TOLERANCE * ours.abs().max().clamp(min=1)
    timed = {side: step(simulate, angles, weights) for side, simulate in sides.items()}
    seconds = medians(timed, repeats=10, seconds=10.0 if quick else math.inf)
    return {"ansatz": name, "Q": qubits, "L": blocks, "K": circuits, "seconds": seconds}


if __name__ == "__main__":
    main("--quick" in sys.argv)
