"""`python -m benchmarks.circuits [--quick]`: circuits forward and backward, ours against every simulator a user would pick.

The floor is one matrix product with as many floating-point operations as our forward and backward.
"""

import math
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.peers import PEERS, Peer, load
from benchmarks.timing import finish, medians
from qpa.circuits import statevector
from qpa.circuits.ansatz import RY_CNOT

OURS = "qpa"
HEADLINE = (8, 8, 1)  # Q, L, K
CASES = [(qubits, layers, circuits) for circuits in (1, 64) for layers in (8, 64) for qubits in (4, 8, 11, 14)]
QUICK = [HEADLINE, (8, 8, 64)]
MOST_SECONDS = 0.5  # of one call of a peer: what takes longer is not timed twenty times
MOST_BYTES = 1 << 33  # that a simulator may keep for its backward: a complex state for every gate, thrice
TOLERANCE = 1e-4  # relative, of fp32: probabilities and gradient


def main(quick: bool) -> None:
    """Check equality, time every case on the CPU, print."""
    peers = {name: load(name) for name in PEERS}
    rows = [case_times(peers, *case, quick=quick) for case in (QUICK if quick else CASES)]
    show(rows)
    memory = {layers: peak_of_one_call(layers) for layers in (8, 64)}
    headline = next(row for row in rows if (row["Q"], row["L"], row["K"]) == HEADLINE)
    others = {name: t for name, t in headline["seconds"].items() if name in PEERS and isinstance(t, float)}
    batch = next(row for row in rows if (row["Q"], row["L"], row["K"]) == (8, 8, 64))
    best = min(others, key=lambda name: others[name], default="")
    ours, torchquantum, nearest = headline["seconds"][OURS], others.get("torchquantum", math.nan), others.get(best, math.nan)
    finish(
        "circuits",
        quick,
        {
            "rows": rows,
            "vs_torchquantum": torchquantum / ours,
            "vs_best_peer": nearest / ours,
            "best_peer": best,
            "vs_torchquantum_per_circuit_at_64": torchquantum / (batch["seconds"][OURS] / 64),
            "bytes_kept_for_backward_at_8_and_64_blocks": memory,
        },
        gpu=False,
    )


def case_times(peers: dict[str, Peer | str], qubits: int, layers: int, circuits: int, *, quick: bool) -> dict:
    """Median seconds of one forward and backward of all `circuits`, by side; a peer's words where it has none."""
    torch.manual_seed(0)
    angles = torch.rand(circuits, layers, qubits) * 6.28
    weights = torch.randn(circuits, 2**qubits)
    expected = found(statevector.simulator(RY_CNOT), angles.double(), weights.double())
    sides: dict[str, Callable[[], object]] = {OURS: step(statevector.simulator(RY_CNOT), angles, weights)}
    failed: dict[str, str] = {}
    for name, peer in peers.items():
        problem = peer if isinstance(peer, str) else why_not(peer, angles, expected, weights)
        if problem:
            failed[name] = problem
        else:
            sides[name] = step(peer, angles, weights)  # pyright: ignore[reportArgumentType]
    sides["floor: one matrix product"] = matrix_product(qubits, layers, circuits)
    print(f"Q={qubits} L={layers} K={circuits}: {len(sides)} sides, {len(failed)} not timed", file=sys.stderr)
    seconds = medians(sides, repeats=20, seconds=15.0 if quick else math.inf)
    return {"Q": qubits, "L": layers, "K": circuits, "seconds": {**seconds, **failed}}


def found(simulate: Peer, angles: Tensor, weights: Tensor) -> list[Tensor]:
    """Probabilities of all circuits, and the gradient of their weighted sum."""
    trained = angles.clone().requires_grad_()
    probabilities = simulate(trained)
    (probabilities * weights).sum().backward()
    assert trained.grad is not None
    return [probabilities.detach().double(), trained.grad.double()]


def why_not(peer: Peer, angles: Tensor, expected: list[Tensor], weights: Tensor) -> str | None:
    """Equality first, of probabilities and gradient: what is wrong, or would take too long, is not timed."""
    try:
        kept = 24 * angles.numel() * 2 * weights.shape[1]
        if kept > MOST_BYTES:
            return f"not tried: a simulator that keeps every gate takes {kept / 2**30:.0f} GiB"
        pairs = zip(found(peer, angles, weights), expected, strict=True)
        differences = [((ours - theirs).abs().max() / ours.abs().max()).item() for theirs, ours in pairs]
        if max(differences) > TOLERANCE:
            return f"differs by {max(differences):.1g}"
        call = step(peer, angles, weights)
        took = _seconds(call)
        if took < 10 * MOST_SECONDS:
            took = min(took, _seconds(call))  # the first call may have built something
        if took > MOST_SECONDS:
            return f"{took:.1f} s, from one call"
    except Exception as error:  # a peer may fail in any way of its own
        return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    return None


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def step(simulate: Peer, angles: Tensor, weights: Tensor) -> Callable[[], object]:
    """Probabilities of all circuits, and the angles' gradient."""
    trained = angles.clone().requires_grad_()

    def once() -> None:
        trained.grad = None
        (simulate(trained) * weights).sum().backward()

    return once


def matrix_product(qubits: int, layers: int, circuits: int) -> Callable[[], object]:
    """One square matrix product of as many operations: two products a block forward, three times that on the way back."""
    left, right = 2 ** ((qubits + 1) // 2), 2 ** (qubits // 2)
    operations = 8 * 2**qubits * (left + right) * layers * circuits
    side = max(8, round((operations / 2) ** (1 / 3)))
    first, second = torch.randn(side, side), torch.randn(side, side)
    return lambda: first @ second


def peak_of_one_call(layers: int) -> int:
    """Bytes that one forward of 64 circuits of 11 qubits keeps for its backward, angles aside."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    angles = torch.rand(64, layers, 11, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        statevector.simulator(RY_CNOT)(angles)
    return kept - angles.nbytes


def show(rows: list[dict]) -> None:
    """Milliseconds, and how many times slower than ours."""
    table = Table("ms (times ours)", *(f"Q={r['Q']} L={r['L']} K={r['K']}" for r in rows))
    for name in {name: None for row in rows for name in row["seconds"]}:
        table.add_row(name, *(_cell(row["seconds"].get(name), row["seconds"][OURS]) for row in rows))
    Console(soft_wrap=True).print(table)


def _cell(value: float | str | None, ours: float) -> str:
    if not isinstance(value, float):
        return value if isinstance(value, str) else "-"
    return f"{value * 1e3:.2f} ({value / ours:.1f})"


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
