"""Barren plateaus: the variance of gradients over random circuits, against qubits and layers.

Global cost `1 - |<0|psi>|^2` and local cost, the mean over qubits of the probability of a 1 (Cerezo et al. 2021, arXiv
2001.00550, equations 6 and 7), and what the mapper reads of one basis state, `S p - 1` with `S = 2**Q`. Angles are uniform in
[0, 2 pi); the variance is over circuits, its mean over angles.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from qpa.config import AnalysisConfig, CircuitConfig, checked
from qpa.config.composing import CONF, composed
from qpa.core.circuits import statevector
from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.states import basis_bits
from qpa.errors import ConfigError
from qpa.library.circuit import ansatz

COSTS = {"global": "global cost: 1 - p(0...0)", "local": "local cost: mean probability of a 1", "feature": "what the mapper reads: S p - 1"}
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f7f7f")  # Okabe and Ito's


def analyse(settings: AnalysisConfig) -> tuple[dict[str, Any], go.Figure]:
    """Every ansatz at every size: `{ansatz: [{qubits, layers, global, local, feature}]}`, and the figure of them."""
    trained_pairs = [name for name in settings.ansaetze if shipped(name).trained_pairs]
    if trained_pairs and 1 in settings.qubits:
        raise ConfigError("qubits", 1, f"{trained_pairs[0]} has angles of every qubit as the control of another; two qubits or more")
    found = {name: [_point(shipped(name), q, n, settings) for q in settings.qubits for n in settings.layers] for name in settings.ansaetze}
    return found, figure(found, settings)


def shipped(name: str) -> Ansatz:
    """The ansatz of a file in `conf/circuit`.

    Raises:
        ConfigError: there is none of this name; the text lists those there are.
    """
    names = sorted(file.stem for file in (CONF / "circuit").glob("[!_]*.yaml"))
    if name not in names:
        raise ConfigError("ansaetze", name, f"there is no such ansatz; there are {', '.join(names)}")
    return ansatz(checked(CircuitConfig, composed("train", [f"circuit={name}"])["circuit"], within="circuit"))


def _point(shape: Ansatz, qubits: int, layers: int, settings: AnalysisConfig) -> dict[str, float]:
    random = torch.Generator().manual_seed(settings.seed)
    size = (settings.samples, shape.angles_per_qubit(layers), qubits)
    angles = (2 * math.pi * torch.rand(size, generator=random)).requires_grad_()
    probabilities = statevector.simulator(shape)(angles)
    ones = (basis_bits(torch.arange(2**qubits), qubits) + 1).mean(1) / 2
    whole, local = variance(1 - probabilities[:, 0], angles), variance(probabilities @ ones, angles)
    return {"qubits": qubits, "layers": layers, "global": whole, "local": local, "feature": 4**qubits * whole}


def variance(cost: torch.Tensor, angles: torch.Tensor) -> float:
    """Of the gradient of a cost `[N]` of `N` circuits, over circuits; the mean over angles."""
    (gradient,) = torch.autograd.grad(cost.sum(), angles, retain_graph=True)
    return float(gradient.double().var(0).mean())


def figure(found: dict[str, list[dict[str, float]]], settings: AnalysisConfig) -> go.Figure:
    """Above against qubits at the most layers, below against layers at the most qubits."""
    deepest, widest = max(settings.layers), max(settings.qubits)
    titles = [title.replace(": ", "<br>") for title in COSTS.values()]
    drawn = make_subplots(2, 3, subplot_titles=titles, vertical_spacing=0.14)
    for row, (axis, other, value) in enumerate((("qubits", "layers", deepest), ("layers", "qubits", widest)), 1):
        for column, cost in enumerate(COSTS, 1):
            for number, (name, points) in enumerate(found.items()):
                line = [point for point in points if point[other] == value]
                drawn.add_scatter(
                    x=[p[axis] for p in line], y=[p[cost] for p in line], name=name, legendgroup=name, row=row, col=column,
                    showlegend=row == column == 1, mode="lines+markers", line_color=COLOURS[number % len(COLOURS)],
                )  # fmt: skip
            drawn.update_xaxes(title=f"{axis} ({other}: {value})", type="log" if axis == "layers" else "linear", row=row, col=column)
            _ticks(drawn, getattr(settings, axis), row, column)
    drawn.update_yaxes(type="log", exponentformat="power", dtick=1)
    drawn.update_yaxes(title="variance of the gradient", col=1)
    return drawn.update_layout(template="plotly_white", height=720, legend={"orientation": "h", "y": -0.12}, margin_t=60)


def _ticks(drawn: go.Figure, values: Sequence[int], row: int, column: int) -> None:
    drawn.update_xaxes(tickvals=list(values), ticktext=[str(value) for value in values], row=row, col=column)
