"""`python -m benchmarks.circuits [--quick]`: circuits forward and backward, ours against every simulator a user would pick.

The paper's ansatz, and U3 and CU3 around the ring at the sizes of Quantum-Train (arXiv 2405.11304: MNIST and CIFAR-10, and 19 qubits at few
layers, which others can do too); `--ring`: the latter alone.

With a card (or `--card`, here too): ours as in the program and as one CUDA graph, against torchquantum as a user writes it and as our
backend. The floor is one matrix product with as many floating-point operations as our forward and backward.
"""

import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.peers import PEERS, PEERS_OF_RING, Peer
from benchmarks.sides import DEVICE
from benchmarks.timing import NotTimedError, captured, each, finish, medians, ratio, write
from qpa.core.circuits import statevector, torchquantum
from qpa.core.circuits.ansatz import RY_CNOT, Ansatz

OURS = "qpa"
HEADLINE = (8, 8, 1)  # Q, L, K
CASES = [(qubits, layers, circuits) for circuits in (1, 64) for layers in (8, 64) for qubits in (4, 8, 11, 14)]
RING = Ansatz(("U3",), "ring", "CU3")
CASES_OF_RING = [(13, 16, 1), (19, 38, 1), (19, 4, 1)]
QUICK = [HEADLINE, (8, 8, 64)]
ON_CARD = [1, 64, 210, 1024]  # circuits of 8 qubits and 8 layers
CARD_SIDES: dict[str, Callable[[], Peer]] = {
    "torchquantum": PEERS["torchquantum"],
    "circuit.backend=torchquantum": lambda: torchquantum.simulator(RY_CNOT),
}
MOST_SECONDS_OF_RING = 20.0  # likewise, timed three times
MOST_SECONDS = 0.5  # of one call of a peer: what takes longer is not timed twenty times
MOST_BYTES = 1 << 33  # that a simulator may keep for its backward: a complex state for every gate, thrice
TOLERANCE = 1e-4  # relative, of fp32: probabilities and gradient


def main(quick: bool) -> None:
    """Check equality, time every case on the CPU, print."""
    warnings.filterwarnings("ignore")
    peers, missing = each(PEERS)
    rows = [case_times(peers, missing, *case, quick=quick) for case in (QUICK if quick else CASES)]
    show(rows)
    rings = [] if quick else of_ring()
    memory = {layers: peak_of_one_call(layers) for layers in (8, 64)}
    headline = next(row for row in rows if (row["Q"], row["L"], row["K"]) == HEADLINE)
    others = {name: seconds for name, seconds in headline["seconds"].items() if name in PEERS and seconds is not None}
    batch = next(row for row in rows if (row["Q"], row["L"], row["K"]) == (8, 8, 64))
    best = min(others, key=lambda name: others[name], default=None)
    ours, torchquantum = headline["seconds"][OURS], others.get("torchquantum")
    finish(
        "circuits",
        quick,
        {
            "rows": rows,
            "u3_cu3_ring": rings,
            "vs_torchquantum": ratio(torchquantum, ours),
            "vs_best_peer": ratio(others[best], ours) if best else None,
            "best_peer": best,
            "vs_torchquantum_per_circuit_at_64": ratio(torchquantum, batch["seconds"][OURS] / 64),
            "bytes_kept_for_backward_at_8_and_64_layers": memory,
        },
        gpu=False,
    )


def of_ring() -> list[dict]:
    """The rows of U3 and CU3 around the ring, printed as they come."""
    peers, missing = each(PEERS_OF_RING)
    rows = [ring_times(peers, missing, *case) for case in CASES_OF_RING]
    show(rows)
    return rows


def ring_times(peers: Mapping[str, Peer | None], missing: dict[str, str], qubits: int, layers: int, circuits: int) -> dict:
    """As `case_times`, three rounds, for calls that take seconds; what is kept for backward beside them."""
    torch.manual_seed(0)
    ours = statevector.simulator(RING)
    angles, weights = torch.rand(circuits, 6 * layers, qubits) * 6.28, torch.randn(circuits, 2**qubits)
    expected = found(ours, angles.double(), weights.double())
    limits = {"gates": 2 * qubits * layers * circuits, "most": MOST_SECONDS_OF_RING}
    calls, failed = each({name: partial(timeable, peer, angles, expected, weights, **limits) for name, peer in peers.items() if peer})
    sides = {OURS: equal(ours, angles, weights, expected), **{name: call for name, call in calls.items() if call}}
    why_not = missing | failed
    print(f"u3_cu3_ring Q={qubits} L={layers} K={circuits}: {len(sides)} sides, {len(why_not)} not timed", file=sys.stderr)
    seconds = medians(sides, repeats=3)
    kept = kept_for_backward(ours, angles.requires_grad_())
    row = {"Q": qubits, "L": layers, "K": circuits, "seconds": seconds | dict.fromkeys(why_not), "why_not": why_not}
    return row | {
        "times_faster": {name: ratio(seconds.get(name), seconds[OURS]) for name in PEERS_OF_RING},
        "bytes_kept_for_backward": kept,
    }


def on_card(quick: bool) -> None:
    """Check equality, time the cases of a card on whatever device there is, print."""
    sides, why_not = each(CARD_SIDES)
    rows: list[dict] = []
    for circuits in ON_CARD[:2] if quick else ON_CARD:
        rows.append(card_times(sides, circuits, quick=quick))
        write("circuits-card", quick, {"rows": rows, "why_not": why_not})
    show(rows)
    finish("circuits-card", quick, {"rows": rows, "why_not": why_not})


def card_times(peers: Mapping[str, Peer | None], circuits: int, *, quick: bool) -> dict:
    """As `case_times`, of 8 qubits and 8 layers, the device waited for."""
    torch.manual_seed(0)
    angles, weights = torch.rand(circuits, 8, 8) * 6.28, torch.randn(circuits, 256)
    expected = found(statevector.simulator(RY_CNOT), angles.double(), weights.double())
    here = angles.to(DEVICE), weights.to(DEVICE)
    ours = step(statevector.simulator(RY_CNOT), *here)
    graph, why_not = each({f"{OURS}, captured": partial(captured, ours)})
    checked = {OURS: statevector.simulator(RY_CNOT), **{name: peer for name, peer in peers.items() if peer}}
    calls, failed = each({name: partial(equal, simulate, *here, expected) for name, simulate in checked.items()})
    sides = {name: call for name, call in (calls | graph).items() if call}
    sides["floor: one matrix product"] = matrix_product(8, 8, circuits)
    seconds = medians(sides, repeats=10, seconds=8.0 if quick else 20.0)
    found_out = {"seconds": seconds | dict.fromkeys(why_not | failed), "why_not": why_not | failed}
    slower = {name: ratio(seconds.get("torchquantum"), seconds.get(name)) for name in (OURS, f"{OURS}, captured")}
    return {"Q": 8, "L": 8, "K": circuits, **found_out, "times_faster_than_torchquantum": slower}


def case_times(peers: Mapping[str, Peer | None], missing: dict[str, str], qubits: int, layers: int, circuits: int, *, quick: bool) -> dict:
    """Median seconds of one forward and backward of all `circuits`, by side; None of a peer that has none, for what `why_not` says."""
    torch.manual_seed(0)
    angles = torch.rand(circuits, layers, qubits) * 6.28
    weights = torch.randn(circuits, 2**qubits)
    expected = found(statevector.simulator(RY_CNOT), angles.double(), weights.double())
    calls, failed = each({name: partial(timeable, peer, angles, expected, weights) for name, peer in peers.items() if peer})
    sides = {OURS: step(statevector.simulator(RY_CNOT), angles, weights), **{name: call for name, call in calls.items() if call}}
    sides["floor: one matrix product"] = matrix_product(qubits, layers, circuits)
    why_not = missing | failed
    print(f"Q={qubits} L={layers} K={circuits}: {len(sides)} sides, {len(why_not)} not timed", file=sys.stderr)
    seconds = medians(sides, repeats=20, seconds=15.0 if quick else math.inf)
    return {"Q": qubits, "L": layers, "K": circuits, "seconds": seconds | dict.fromkeys(why_not), "why_not": why_not}


def found(simulate: Peer, angles: Tensor, weights: Tensor) -> list[Tensor]:
    """Probabilities of all circuits, and the gradient of their weighted sum."""
    trained = angles.clone().requires_grad_()
    probabilities = simulate(trained)
    (probabilities * weights).sum().backward()
    assert trained.grad is not None
    return [probabilities.detach().cpu().double(), trained.grad.cpu().double()]


def timeable(
    peer: Peer, angles: Tensor, expected: list[Tensor], weights: Tensor, *, gates: int | None = None, most: float | None = None
) -> Callable[[], object]:
    """A peer's step, after its probabilities and gradient were found to be equal.

    Args:
        peer: the simulator.
        angles: of the circuits.
        expected: probabilities and gradient.
        weights: of the sum that is differentiated.
        gates: of all circuits, where there are not two for every angle.
        most: seconds of one call.

    Raises:
        NotTimedError: they are not, or one call takes too long or too much memory.
    """
    most = MOST_SECONDS if most is None else most
    kept = 24 * (gates or 2 * angles.numel()) * weights.shape[1]
    if kept > MOST_BYTES:
        raise NotTimedError(f"not tried: a simulator that keeps every gate takes {kept / 2**30:.0f} GiB")
    call = equal(peer, angles, weights, expected)
    took = _seconds(call)
    if took < 10 * most:
        took = min(took, _seconds(call))  # the first call may have built something
    if took > most:
        raise NotTimedError(f"{took:.1f} s, from one call")
    return call


def equal(simulate: Peer, angles: Tensor, weights: Tensor, expected: list[Tensor]) -> Callable[[], object]:
    """A simulator's step, after its probabilities and gradient were found to be equal.

    Raises:
        NotTimedError: they are not.
    """
    pairs = zip(found(simulate, angles, weights), expected, strict=True)
    differences = [((ours - theirs).abs().max() / ours.abs().max()).item() for theirs, ours in pairs]
    if not max(differences) <= TOLERANCE:  # NaN too
        raise NotTimedError(f"differs by {max(differences):.1g}")
    return step(simulate, angles, weights)


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
    """One square matrix product of as many operations: two products a layer forward, three times that on the way back."""
    left, right = 2 ** ((qubits + 1) // 2), 2 ** (qubits // 2)
    operations = 8 * 2**qubits * (left + right) * layers * circuits
    side = max(8, round((operations / 2) ** (1 / 3)))
    first, second = torch.randn(side, side, device=DEVICE), torch.randn(side, side, device=DEVICE)
    return lambda: first @ second


def peak_of_one_call(layers: int) -> int:
    """Bytes that one forward of 64 circuits of 11 qubits keeps for its backward, angles aside."""
    return kept_for_backward(statevector.simulator(RY_CNOT), torch.rand(64, layers, 11, requires_grad=True))


def kept_for_backward(simulate: Peer, angles: Tensor) -> int:
    """Bytes that one forward keeps for its backward, angles aside."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        simulate(angles)
    return kept - angles.nbytes


def show(rows: list[dict]) -> None:
    """Milliseconds, and how many times slower than ours; or why there are none."""
    table = Table("ms (times ours)", *(f"Q={r['Q']} L={r['L']} K={r['K']}" for r in rows))
    for name in {name: None for row in rows for name in row["seconds"]}:
        table.add_row(name, *(_cell(row, name) for row in rows))
    Console(soft_wrap=True).print(table)


def _cell(row: dict, name: str) -> str:
    value = row["seconds"][name]
    return row["why_not"][name] if value is None else f"{value * 1e3:.2f} ({value / row['seconds'][OURS]:.1f})"


if __name__ == "__main__":
    if "--ring" in sys.argv:
        finish("circuits-ring", False, {"rows": of_ring()}, gpu=False)
    else:
        chosen = on_card if DEVICE.type == "cuda" or "--card" in sys.argv else main
        chosen("--quick" in sys.argv)
