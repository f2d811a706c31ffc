"""Of a task whose examples have one label each: which label is taken for which, as a figure."""

from typing import Any

import numpy as np
from plotly.subplots import make_subplots

from qpa.report.compare import Comparison, Setting, preferred
from qpa.report.looks import Figure, styled, wrapped
from qpa.report.verdict import label

NAMES = {"macro_f1": "macro-F1"}
COLOURS = [[0.0, "#f4f5f7"], [1.0, "#0072b2"]]


def confusion(comparison: Comparison) -> Figure | None:
    """The baseline and the best that is generated, beside each other; None of a task that has no such labels."""
    shown = [setting for setting in (comparison.baseline, _best_generated(comparison)) if setting and setting.first.confusion]
    if not shown:
        return None
    names: list[str] = shown[0].first.protocol["labels"]
    titles = [wrapped(label(setting, comparison), 50) for setting in shown]
    figure = make_subplots(1, len(shown), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04)
    for column, setting in enumerate(shown, 1):
        counts = np.sum([run.confusion for run in setting.runs if run.confusion], axis=0)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        hover = "%{customdata[0]} said to be %{customdata[1]}: %{customdata[2]}<extra></extra>"
        cells: Any = [[(true, said, int(counts[i, j])) for j, said in enumerate(names)] for i, true in enumerate(names)]
        scale = dict(zmin=0, zmax=1, colorscale=COLOURS, showscale=column == len(shown))
        figure.add_heatmap(z=shares.tolist(), customdata=cells, hovertemplate=hover, **scale, row=1, col=column)
    figure.update_xaxes(title="said, in the same order", showticklabels=False)
    figure.update_yaxes(tickvals=[*range(len(names))], ticktext=names, autorange="reversed")
    figure.update_yaxes(title="true", col=1)
    drawn = styled(figure, 220 + 26 * len(names), legend=False)
    return drawn.update_layout(margin=dict(t=50))


def caption(comparison: Comparison) -> str:
    """What a reader has to know of it, and of the base model's score."""
    protocol = comparison.settings[0].first.protocol
    majority = protocol["majority"]
    reached = " and ".join(f"{NAMES.get(name, name)} {value:.3f}" for name, value in majority["test"].items())
    said = f"Who always says the commonest label, {majority['label']}, has {reached}; of the base model, {protocol['base']}."
    return f"Of what is in the test split and has a label, the share that is said to have each; all seeds together. {said}"


def _best_generated(comparison: Comparison) -> Setting | None:
    generated = [setting for setting in comparison.settings if not setting.first.plain]
    return preferred(generated) if generated else None
