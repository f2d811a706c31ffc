"""A run's trained circuits as files: OpenQASM 3, a drawing, and a figure of their probabilities before and after training."""

from importlib.util import find_spec
from pathlib import Path

import numpy
import torch
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots
from torch import Tensor

from qpa.config import Config
from qpa.core.circuits import qasm, statevector
from qpa.files import whole_folder, write_json
from qpa.report.images import write_figure
from qpa.runs.restored import Restored, restore

FEW = 4  # circuits that are drawn as lines, more of them as rows of a heat map
COLOURS = {"before": "#7f7f7f", "after": "#0072b2"}


def export_circuits(config: Config, run_folder: Path, target: Path) -> None:
    """Write `NAME.qasm` and `NAME.txt` of every circuit, `probabilities.json` and `probabilities.png`.

    A circuit's name is its number and the module it generates weights for. Drawings need the extra `qiskit`.
    """
    run = restore(config, run_folder, exact=True)
    ansatz, trained = run.circuits.ansatz, run.circuits.angles.detach().double()
    exact = statevector.simulator(ansatz)
    probabilities = {"before": exact(run.initial_angles.double()), "after": exact(trained)}
    with whole_folder(target) as scratch:
        for name, angles in zip(names(run), trained, strict=True):
            program = qasm.program(ansatz, angles)
            (scratch / f"{name}.qasm").write_text(program)
            if find_spec("qiskit_qasm3_import"):
                (scratch / f"{name}.txt").write_text(drawing(program))
        write_json(scratch / "probabilities.json", {"circuits": names(run)} | {when: p.tolist() for when, p in probabilities.items()})
        write_figure(scratch / "probabilities.png", figure(probabilities))


def names(run: Restored) -> list[str]:
    """Of every circuit, in order."""
    layout = run.parts.plan.layout
    modules = list(dict.fromkeys(slot.tensor.module for slot in layout.slots)) if layout else []
    count = len(run.circuits.angles)
    short = [module.removeprefix("base_model.model.") for module in modules] if len(modules) == count else ["all"] * count
    return [f"{number:03}-{module}" for number, module in enumerate(short)]


def drawing(program: str) -> str:
    """A circuit in characters, by Qiskit."""
    from qiskit import qasm3

    return str(qasm3.loads(program).draw("text", fold=140)) + "\n"


def figure(probabilities: dict[str, Tensor]) -> Figure:
    """Every basis state's probability times their number: 1 is uniform."""
    relative = {when: p * p.shape[1] for when, p in probabilities.items()}
    circuits = len(relative["after"])
    if circuits <= FEW:
        drawn = make_subplots(circuits, 1, shared_xaxes=True)
        for number in range(circuits):
            for when, values in relative.items():
                line = {"name": f"{when} training", "line_color": COLOURS[when], "showlegend": number == 0}
                drawn.add_scatter(y=values[number].tolist(), **line, row=number + 1, col=1)
        drawn.update_yaxes(title="S p").update_xaxes(title="basis state", row=circuits, col=1)
        return drawn.update_layout(template="plotly_white", height=240 + 160 * circuits)
    drawn = make_subplots(1, 2, subplot_titles=[f"{when} training" for when in relative], shared_yaxes=True)
    most = float(numpy.quantile((torch.stack(list(relative.values())) - 1).abs().numpy(), 0.999))
    for column, values in enumerate(relative.values(), 1):
        scale = {"zmin": 1 - most, "zmax": 1 + most, "colorscale": "RdBu", "showscale": column == 2}  # white is uniform
        drawn.add_heatmap(z=values.tolist(), **scale, row=1, col=column)
    drawn.update_xaxes(title="basis state").update_yaxes(title="circuit", autorange="reversed", col=1)
    return drawn.update_layout(template="plotly_white", height=min(1200, 240 + 5 * circuits))
