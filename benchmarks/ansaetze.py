"""`python -m benchmarks.ansaetze [--quick]`: every shipped ansatz, forward and backward, ours against the other exact backends."""

import math
import sys
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.circuits import OURS, found, step
from benchmarks.peers import Peer
from benchmarks.timing import NotTimedError, cell, each, finish, medians, ratio
from qpa.analysis.gradient_variance import shipped
from qpa.config import AnalysisConfig, checked
from qpa.config.composing import composed
from qpa.core.circuits import pennylane, statevector, torchquantum

CASES = [(8, 8, 1), (8, 8, 64), (4, 2, 210)]  # Q, L, K; the last is SmolLM2's default run
PEERS = {"torchquantum": torchquantum.simulator, "PennyLane default.qubit": partial(pennylane.simulator, device="default.qubit")}
TOLERANCE = 1e-4  # of fp32: probabilities and gradient


def main(quick: bool) -> None:
    """Check equality, time, print."""
    names = checked(AnalysisConfig, composed("analysis", ["what=gradient_variance"])).ansaetze
    rows = [times(name, *case, quick=quick) for case in (CASES[:1] if quick else CASES) for name in names]
    table = Table("ansatz", "Q, L, K", "ours, ms", *(f"{name}, times ours" for name in PEERS))
    for row in rows:
        ours, *others = (row["seconds"][name] for name in (OURS, *PEERS))
        slower = (cell(ratio(other, ours), ".1f") for other in others)
        table.add_row(row["ansatz"], f"{row['Q']}, {row['L']}, {row['K']}", f"{1e3 * ours:.2f}", *slower)
    Console(soft_wrap=True, stderr=True).print(table)
    finish("ansaetze", quick, {"rows": rows}, gpu=False)


def times(name: str, qubits: int, layers: int, circuits: int, *, quick: bool) -> dict:
    """Median seconds of one forward and backward of all circuits, by backend; None of one that has none, for what `why_not` says."""
    torch.manual_seed(0)
    ansatz = shipped(name)
    angles = torch.rand(circuits, ansatz.angles_per_qubit(layers), qubits) * 6.28
    weights = torch.randn(circuits, 2**qubits)
    ours = statevector.simulator(ansatz)
    expected = found(ours, angles.double(), weights.double())

    def equal(simulator: Callable[..., Peer]) -> Callable[[], object]:
        simulate = simulator(ansatz)
        for theirs, right in zip(found(simulate, angles, weights), expected, strict=True):
            if not (theirs - right).abs().max() <= TOLERANCE * right.abs().max().clamp(min=1):
                raise NotTimedError(f"differs by {(theirs - right).abs().max():.1g}")
        return step(simulate, angles, weights)

    calls, why_not = each({peer: partial(equal, simulator) for peer, simulator in PEERS.items()})
    timed = {OURS: equal(lambda _: ours), **{peer: call for peer, call in calls.items() if call}}
    seconds = medians(timed, repeats=10, seconds=10.0 if quick else math.inf)
    return {"ansatz": name, "Q": qubits, "L": layers, "K": circuits, "seconds": seconds | dict.fromkeys(why_not), "why_not": why_not}


if __name__ == "__main__":
    main("--quick" in sys.argv)
