"""Entanglement of a run's circuits: Meyer-Wallach and half-chain entropy over training, entropy at every bond before and after.

The curve is what the run itself logged at every validation (`metrics.csv`).
"""

from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure
from plotly.subplots import make_subplots
from torch import Tensor

from qpa.analysis.gradient_variance import COLOURS
from qpa.config import AnalysisConfig
from qpa.core.circuits import statevector
from qpa.core.circuits.entanglement import bond_entropies, meyer_wallach
from qpa.errors import ConfigError
from qpa.runs.record import load_config
from qpa.runs.restored import Restored, restore
from qpa.training import history

CURVES = {"circuit/meyer_wallach": "Meyer-Wallach", "circuit/half_chain_entropy": "half-chain entropy, bits"}


def analyse(settings: AnalysisConfig) -> tuple[dict[str, Any], Figure]:
    """Means over circuits, before and after training; by step what `metrics.csv` holds."""
    folder = Path(settings.run or "")
    run = restore(load_config(folder), folder, exact=True)
    found: dict[str, Any] = {
        "before": _measured(run, run.initial_angles),
        "after": _measured(run, run.circuits.angles.detach()),
        "over_training": curves(folder),
    }
    return found, figure(found)


def _measured(run: Restored, angles: Tensor) -> dict[str, Any]:
    states = statevector.amplitudes(run.circuits.ansatz, angles)
    return {"meyer_wallach": float(meyer_wallach(states).mean()), "bond_entropies": bond_entropies(states).mean(0).tolist()}


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """By metric, `(step, value)` of every validation, those before a resume too."""
    try:
        rows = history.read(folder)
    except (OSError, ValueError) as error:
        raise ConfigError("run", folder, f"its metrics cannot be read ({error}); run it again with force=true") from error
    return {name: [(step, numbers[name]) for step, numbers in rows if name in numbers] for name in CURVES}


def figure(found: dict[str, Any]) -> Figure:
    """Over training on the left, at every bond on the right."""
    drawn = make_subplots(1, 2, subplot_titles=["over training, mean over circuits", "entropy at every bond, bits"])
    for (name, title), colour in zip(CURVES.items(), COLOURS, strict=False):
        points = found["over_training"][name]
        drawn.add_scatter(x=[step for step, _ in points], y=[y for _, y in points], name=title, line_color=colour, row=1, col=1)
    for when, colour in (("before", COLOURS[6]), ("after", COLOURS[2])):
        values = found[when]["bond_entropies"]
        drawn.add_scatter(x=list(range(1, len(values) + 1)), y=values, name=f"{when} training", line_color=colour, row=1, col=2)
    drawn.update_xaxes(title="step", row=1, col=1).update_xaxes(title="qubits on the left", dtick=1, row=1, col=2)
    return drawn.update_layout(template="plotly_white", height=420)
