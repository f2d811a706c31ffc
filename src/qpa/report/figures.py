"""The report's figures, as plotly objects: the page draws them, and they are saved as PNG."""

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from qpa.report.compare import Comparison, Difference, Setting, front
from qpa.report.verdict import NAMES, label

MOST_SHOWN = 14  # settings in figures that have a line for each; the Pareto figure has all at their best rate
CURVE_POINTS = 60
LINE = 38  # pixels of a line in figures with one for each setting
# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = {"none": "#7f7f7f", "circuit": "#0072b2", "table": "#e69f00", "zeros": "#009e73", "random": "#cc79a7"}
COLOURS |= {"frozen_circuit": "#56b4e9", "mlp": "#d55e00", "mps": "#b8a800"}
SYMBOLS = ("diamond", "square", "triangle-up", "triangle-down", "cross", "x", "star", "hexagon", "bowtie")  # of plain methods
Figure = go.Figure


@dataclass(frozen=True)
class Axis:
    """One thing that settings can be compared by; less is better in all of them."""

    title: str
    of: Callable[[Setting], float]
    log: bool = False


def _mean(name: str, unit: float = 1.0) -> Callable[[Setting], float]:
    """Over the runs that have it; NaN where none has."""

    def of(setting: Setting) -> float:
        known = [value for run in setting.runs if (value := getattr(run, name)) is not None]
        return fmean(known) / unit if known else math.nan

    return of


AXES = {
    "trainable": Axis("trained numbers", _mean("trainable"), log=True),
    "ratio": Axis("share of plain PEFT's numbers", _mean("ratio"), log=True),
    "perplexity": Axis("test perplexity", _mean("perplexity")),
    "seconds": Axis("seconds per step", _mean("seconds_per_step")),
    "memory": Axis("peak memory, GiB", _mean("peak_memory_bytes", 2**30)),
    "adapter": Axis("exported adapter, MB", _mean("adapter_bytes", 1e6)),
}


def all_figures(comparison: Comparison) -> dict[str, Figure]:
    """By name, every figure that the runs of one task give reason for."""
    figures = {"pareto": pareto(comparison)}
    if differences := [*comparison.against_controls, *comparison.against_baseline]:
        figures["differences"] = forest(comparison, differences)
    settings = shown(comparison)
    if any(run.curve for setting in settings for run in setting.runs):
        figures["curves"] = curves(comparison, settings)
    if any(setting.first.generator != "none" for setting in settings):
        figures["split"] = split(comparison, settings)
    return figures | {"cost": cost(comparison, settings)}


def shown(comparison: Comparison) -> list[Setting]:
    """The settings worth a line of their own: baseline, front, circuit and controls, then the others; by trained count."""
    pairs = [side for d in comparison.against_controls for side in (d.setting, d.against)]
    first = [comparison.baseline] if comparison.baseline else []
    order = {s.first.setting: s for s in [*first, *comparison.front, *pairs, *comparison.best]}
    chosen = list(order)[:MOST_SHOWN]
    return [s for s in comparison.settings if s.first.setting in chosen]


def pareto(comparison: Comparison, x: str = "trainable", y: str = "perplexity") -> Figure:
    """Every setting at its best rate, by two of `AXES`, and the front of those that nothing beats."""
    figure = go.Figure()
    best = front(comparison.best, AXES[x].of, AXES[y].of)
    line = dict(color="#7f7f7f", width=1, dash="dot", shape="hv")
    figure.add_scatter(x=[AXES[x].of(s) for s in best], y=[AXES[y].of(s) for s in best], mode="lines", line=line, name="Pareto front")
    symbols = itertools.cycle(SYMBOLS)
    for family in dict.fromkeys(map(_family, comparison.best)):
        places = [i for i, s in enumerate(comparison.best) if _family(s) == family]
        settings = [comparison.best[i] for i in places]
        kind = settings[0].first.generator
        widths = [s.perplexity.half_width or 0 for s in settings]
        figure.add_scatter(
            x=[AXES[x].of(s) for s in settings],
            y=[AXES[y].of(s) for s in settings],
            error_y=dict(type="data", array=widths, thickness=1, width=3) if any(widths) else None,
            customdata=places,
            text=[label(s, comparison) for s in settings],
            hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
            mode="markers",
            marker=dict(color=COLOURS[kind], size=10, symbol=next(symbols) if kind == "none" else "circle"),
            name=family,
        )
    figure.update_xaxes(title=AXES[x].title, type="log" if AXES[x].log else "linear")
    figure.update_yaxes(title=AXES[y].title)
    return _styled(figure, 460)


def _family(setting: Setting) -> str:
    """Its name in the legend: plain PEFT by method, without rank and modules."""
    run = setting.first
    return f"plain {run.method.split()[0]}" if run.generator == "none" else NAMES[run.generator]


def forest(comparison: Comparison, differences: Sequence[Difference]) -> Figure:
    """Differences of test perplexity with their 95 % intervals, paired by seed."""
    kept = differences[: 2 * MOST_SHOWN][::-1]
    figure = go.Figure()
    for difference in kept:
        kind = difference.setting.first.generator
        against = difference.against.first
        other = against.method.partition(" on ")[0] if against.generator == "none" else NAMES[against.generator]
        found = difference.difference
        figure.add_scatter(
            x=[found.mean],
            y=[_wrapped(f"{label(difference.setting, comparison)} − {other}")],
            error_x=dict(type="data", array=[found.half_width], thickness=2) if found.half_width is not None else None,
            mode="markers",
            marker=dict(color=COLOURS[kind], size=9, symbol="circle" if found.half_width is not None else "circle-open"),
            hovertemplate="%{x:+.4g}<extra></extra>",
        )
    figure.add_vline(x=0, line=dict(color="#7f7f7f", width=1))
    figure.update_xaxes(title="difference of test perplexity")
    return _styled(_in_lines(figure, len(kept)), 100 + LINE * len(kept), legend=False)


def curves(comparison: Comparison, settings: Sequence[Setting]) -> Figure:
    """Validation perplexity while training, the mean over seeds."""
    figure = go.Figure()
    for setting in settings:
        by_step: dict[int, list[float]] = {}
        for step, perplexity in (point for run in setting.runs for point in run.curve):
            by_step.setdefault(step, []).append(perplexity)
        steps = sorted(by_step)
        steps = steps[:: max(1, len(steps) // CURVE_POINTS)]
        line = dict(color=COLOURS[setting.first.generator], width=2, dash="dash" if setting.first.generator == "none" else "solid")
        means = [round(fmean(by_step[step]), 4) for step in steps]
        figure.add_scatter(x=steps, y=means, mode="lines+markers", line=line, name=label(setting, comparison))
    figure.update_xaxes(title="optimizer steps")
    figure.update_yaxes(title="validation perplexity")
    return _styled(figure, 400 + 12 * len(settings))


def split(comparison: Comparison, settings: Sequence[Setting]) -> Figure:
    """What the trained numbers are: circuit angles (or what stands in their place) and mapper, as shares of plain PEFT's."""
    generated = [s for s in settings if s.first.generator != "none"]
    names = [_wrapped(label(s, comparison)) for s in generated]
    figure = go.Figure()
    for part, colour, name in (("circuit_params", "#0072b2", "circuit angles, or in their place"), ("mapper_params", "#e69f00", "mapper")):
        counts = [getattr(s.first, part) for s in generated]
        shares = [count / s.first.plain_peft for count, s in zip(counts, generated, strict=True)]
        text = [f"{count:,}" for count in counts]
        figure.add_bar(x=shares, y=names, orientation="h", marker=dict(color=colour), name=name, text=text, textangle=0)
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title="share of plain PEFT's trained numbers", tickformat=".1%")
    return _styled(_in_lines(figure, len(names)), 140 + LINE * len(names))


def cost(comparison: Comparison, settings: Sequence[Setting]) -> Figure:
    """Time and memory, a line for each setting."""
    names = [_wrapped(label(s, comparison)) for s in settings]
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    colours = [COLOURS[s.first.generator] for s in settings]
    for column, axis in enumerate((AXES["seconds"], AXES["memory"]), 1):
        values = [axis.of(s) for s in settings]
        text = [f"{value:.3g}" if math.isfinite(value) else "" for value in values]
        figure.add_bar(x=values, y=names, orientation="h", marker=dict(color=colours), text=text, textangle=0, row=1, col=column)
        figure.update_xaxes(title=axis.title, row=1, col=column)
    return _styled(_in_lines(figure, len(names)), 100 + LINE * len(names), legend=False)


def _wrapped(name: str) -> str:
    return "<br>".join(textwrap.wrap(name, 34))


def _in_lines(figure: Figure, lines: int) -> Figure:
    figure.update_yaxes(automargin=True, tickmode="linear" if lines < 2 * MOST_SHOWN + 1 else "auto")
    return figure


def _styled(figure: Figure, height: int, *, legend: bool = True) -> Figure:
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
