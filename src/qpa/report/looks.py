"""How the report's figures look."""

import textwrap
from typing import Any

from plotly import graph_objects as go

from qpa.report.compare import Setting
from qpa.report.statistics import Estimate

MOST_SHOWN = 14  # settings in figures that have a line for each; the Pareto figure has all at their best rate
LINE = 38  # pixels of a line in figures with one for each setting
# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = {"none": "#7f7f7f", "circuit": "#0072b2", "table": "#e69f00", "zeros": "#009e73", "random": "#cc79a7"}
COLOURS |= {
    "frozen_circuit": "#56b4e9",
    "mlp": "#d55e00",
    "mps": "#b8a800",
    "shared_table": "#8a4f00",
    "random_features": "#6a3d9a",
    "subspace": "#b2182b",
}
OTHERS = ("#5b4b8a", "#8c564b", "#3a6b6b", "#8a6d3b")  # of what a plug-in brings
SYMBOLS = ("diamond", "square", "triangle-up", "triangle-down", "cross", "x", "star", "hexagon", "bowtie")  # of plain methods
Figure = go.Figure


def colour_of(latents: str) -> str:
    """The same in all figures."""
    return COLOURS.get(latents) or OTHERS[sum(latents.encode()) % len(OTHERS)]


def interval(found: Estimate, name: str, setting: Setting) -> dict[str, Any]:
    """One line of a figure: a mean with its interval, open where there is none."""
    return dict(
        x=[found.mean],
        y=[name],
        error_x=dict(type="data", array=[found.half_width], thickness=2) if found.half_width is not None else None,
        mode="markers",
        marker=dict(color=colour_of(setting.first.latents), size=9, symbol="circle" if found.half_width is not None else "circle-open"),
    )


def wrapped(name: str, width: int = 34) -> str:
    """A setting's name in lines of so many characters."""
    return "<br>".join(textwrap.wrap(name, width))


def in_lines(figure: Figure, lines: int) -> Figure:
    """Every line has its name, where they are not too many."""
    figure.update_yaxes(automargin=True, tickmode="linear" if lines < 2 * MOST_SHOWN + 1 else "auto")
    return figure


def styled(figure: Figure, height: int, *, legend: bool = True) -> Figure:
    """The looks of all figures; `height` in pixels."""
    figure.update_layout(
        template="none",
        height=height,
        margin=dict(l=60, r=16, t=16, b=50),
        font=dict(family="system-ui, sans-serif", size=13),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=legend,
        legend=dict(orientation="h", y=1.02, yanchor="bottom", x=0),
    )
    figure.update_xaxes(gridcolor="rgba(127,127,127,.25)", zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor="rgba(127,127,127,.25)", zeroline=False, automargin=True)
    return figure
