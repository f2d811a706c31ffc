"""The report's figures, as plotly objects: the page draws them, and they are saved as PNG."""

import itertools
import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from plotly.subplots import make_subplots

from qpa.report.axes import axes, titled
from qpa.report.compare import Comparison, Difference, Setting, front
from qpa.report.confusion import confusion
from qpa.report.gains import gain, sizes
from qpa.report.looks import LINE, MOST_SHOWN, SYMBOLS, Figure, colour_of, in_lines, interval, styled, wrapped
from qpa.report.records import Curve
from qpa.report.verdict import label, named, unit_of_differences

CURVE_POINTS = 60
PARTS = {  # of what is trained, each with its colour
    "latents_params": ("#0072b2", "circuit angles, or in their place"),
    "mapper_params": ("#e69f00", "mapper"),
    "beside_params": ("#999999", "a new head, plainly"),
}


def all_figures(comparison: Comparison) -> dict[str, Figure]:
    """By name, every figure that the runs of one task give reason for."""
    figures = {"pareto": pareto(comparison)}
    if groups := sizes(comparison, shown(comparison, 2 * MOST_SHOWN)):
        figures["gain"] = gain(comparison, groups)
    if differences := [*comparison.against_controls, *comparison.against_baseline]:
        figures["differences"] = forest(comparison, differences)
    settings = shown(comparison)
    if any(run.curve for setting in settings for run in setting.runs):
        figures["curves"] = curves(comparison, settings)
    if any(not setting.first.plain for setting in settings):
        figures["split"] = split(comparison, settings)
    if (drawn := confusion(comparison)) is not None:
        figures["confusion"] = drawn
    return figures | {"cost": cost(comparison, settings)}


def shown(comparison: Comparison, most: int = MOST_SHOWN) -> list[Setting]:
    """The settings worth a line of their own: baseline, front, circuit and controls, then the others; by trained count."""
    pairs = [side for d in comparison.against_controls for side in (d.setting, d.against)]
    first = [comparison.baseline] if comparison.baseline else []
    order = {s.first.setting: s for s in [*first, *comparison.front, *pairs, *comparison.best]}
    chosen = list(order)[:most]
    return [s for s in comparison.settings if s.first.setting in chosen]


def pareto(comparison: Comparison) -> Figure:
    """Every setting at its best rate, by trained count and test metric, and the front of those that nothing beats."""
    figure = Figure()
    across, down = (axes(comparison.metric)[name] for name in ("trainable", "test"))
    best = front(comparison.best, across.ascending, down.ascending)
    line = dict(color="#7f7f7f", width=1, dash="dot", shape="hv")
    figure.add_scatter(x=[across.of(s) for s in best], y=[down.of(s) for s in best], mode="lines", line=line, name="Pareto front")
    symbols = itertools.cycle(SYMBOLS)
    for family in dict.fromkeys(map(_family, comparison.best)):
        places = [i for i, s in enumerate(comparison.best) if _family(s) == family]
        settings = [comparison.best[i] for i in places]
        first = settings[0].first
        widths = [s.test.half_width or 0 for s in settings]
        figure.add_scatter(
            x=[across.of(s) for s in settings],
            y=[down.of(s) for s in settings],
            error_y=dict(type="data", array=widths, thickness=1, width=3) if any(widths) else None,
            customdata=places,
            text=[label(s, comparison) for s in settings],
            hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
            mode="markers",
            marker=dict(color=colour_of(first.latents), size=10, symbol=next(symbols) if first.plain else "circle-open"),
            name=family,
        )
    if published := comparison.settings[0].first.protocol.get("published"):
        numbers, values = zip(*published["points"], strict=True)
        marker = dict(color="#222222", size=11, symbol="star")
        figure.add_scatter(x=numbers, y=values, mode="markers", marker=marker, name=f"published: {published['words']}")
    figure.update_xaxes(title=across.title, type="log" if across.log else "linear")
    figure.update_yaxes(title=down.title)
    return styled(figure, 460)


def _family(setting: Setting) -> str:
    """Its name in the legend: plain PEFT by method, without rank and modules."""
    run = setting.first
    return f"plain {run.method.split()[0]}" if run.plain else named(run.latents)


def forest(comparison: Comparison, differences: Sequence[Difference]) -> Figure:
    """Differences of the test metric with their 95 % intervals, paired by seed."""
    kept = differences[: 2 * MOST_SHOWN][::-1]
    figure = Figure()
    for difference in kept:
        against = difference.against.first
        other = against.method.partition(" on ")[0] if against.plain else named(against.latents)
        name = wrapped(f"{label(difference.setting, comparison)} − {other}")
        figure.add_scatter(**interval(difference.difference, name, difference.setting), hovertemplate="%{x:+.4g}<extra></extra>")
    figure.add_vline(x=0, line=dict(color="#7f7f7f", width=1))
    unit = unit_of_differences(comparison.metric)
    figure.update_xaxes(title=f"difference of test {comparison.metric.name}" + (f", {unit}" if unit else ""))
    return styled(in_lines(figure, len(kept)), 100 + LINE * len(kept), legend=False)


def curves(comparison: Comparison, settings: Sequence[Setting]) -> Figure:
    """The metric on the validation split while training, the mean over seeds."""
    figure = Figure()
    for setting in settings:
        places, means = mean_curve([run.curve for run in setting.runs if run.curve], alike=setting.first.over is None)
        line = dict(color=colour_of(setting.first.latents), width=2, dash="dash" if setting.first.plain else "solid")
        figure.add_scatter(x=places, y=means, mode="lines+markers", line=line, name=label(setting, comparison))
    figure.update_xaxes(title=(settings[0].first.over or "optimizer_steps").replace("_", " "))
    figure.update_yaxes(title=f"validation {titled(comparison.metric)}")
    return styled(figure, 400 + 12 * len(settings))


def mean_curve(given: Sequence[Curve], *, alike: bool) -> tuple[list[int], list[float]]:
    """Places and means over runs at them, at most about `CURVE_POINTS`.

    Args:
        given: of each run, at least one point.
        alike: whether runs are measured at the same places; else they are interpolated, where all of them are.
    """
    if alike:
        by_place: dict[int, list[float]] = {}
        for place, value in itertools.chain(*given):
            by_place.setdefault(place, []).append(value)
        places = sorted(by_place)
        places = places[:: max(1, len(places) // CURVE_POINTS)]
        means = [fmean(by_place[place]) for place in places]
    else:
        begins, ends = (choose(curve[end][0] for curve in given) for choose, end in ((max, 0), (min, -1))) if given else (0, -1)
        places = [*range(begins, ends + 1, max(1, (ends - begins) // CURVE_POINTS))]
        means = (
            np.mean([np.interp(places, [place for place, _ in curve], [value for _, value in curve]) for curve in given], 0).tolist()
            if places
            else []
        )
    return places, [float(f"{mean:.6g}") for mean in means]


def split(comparison: Comparison, settings: Sequence[Setting]) -> Figure:
    """What the trained numbers are: circuit angles (or what stands in their place) and mapper, as shares of plain PEFT's."""
    generated = [s for s in settings if not s.first.plain]
    names = [wrapped(label(s, comparison)) for s in generated]
    figure = Figure()
    for part, (colour, name) in PARTS.items():
        counts = [getattr(s.first, part) for s in generated]
        if part == "beside_params" and not any(counts):
            continue
        shares = [count / s.first.plain_peft for count, s in zip(counts, generated, strict=True)]
        text = [f"{count:,}" for count in counts]
        figure.add_bar(x=shares, y=names, orientation="h", marker=dict(color=colour), name=name, text=text, textangle=0)
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title="share of plain PEFT's trained numbers", tickformat=".1%")
    return styled(in_lines(figure, len(names)), 140 + LINE * len(names))


def cost(comparison: Comparison, settings: Sequence[Setting]) -> Figure:
    """Time and memory, a line for each setting."""
    names = [wrapped(label(s, comparison)) for s in settings]
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    colours = [colour_of(s.first.latents) for s in settings]
    for column, axis in enumerate((axes(comparison.metric)[name] for name in ("seconds", "memory")), 1):
        values = [axis.of(s) for s in settings]
        text = [f"{value:.3g}" if math.isfinite(value) else "" for value in values]
        figure.add_bar(x=values, y=names, orientation="h", marker=dict(color=colours), text=text, textangle=0, row=1, col=column)
        figure.update_xaxes(title=axis.title, row=1, col=column)
    return styled(in_lines(figure, len(names)), 100 + LINE * len(names), legend=False)
