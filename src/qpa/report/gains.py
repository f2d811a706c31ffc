"""The figure of gains kept: a circuit among its controls and plain PEFT of its size."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from plotly.subplots import make_subplots

from qpa.report.compare import Comparison, Setting
from qpa.report.looks import COLOURS, Figure, in_lines, interval, styled, wrapped
from qpa.report.statistics import Estimate
from qpa.report.verdict import label, named

APART = 1.5  # settings of one size: from one to the next, trained numbers grow by less than this factor
LINE, GAP = 24, 2  # pixels of a line, and lines between two sizes


class Kept(NamedTuple):
    """What a setting keeps of the baseline's gain, in per cent, and how much of the baseline's numbers it trains."""

    setting: Setting
    gain: Estimate
    share: float


def sizes(comparison: Comparison, settings: Sequence[Setting]) -> list[list[Kept]]:
    """Of these settings, those that keep a gain, in groups that train nearly as much, the greatest first.

    Where anything is generated, the groups that have such a setting: what it is to be seen beside.
    """
    chosen = {s.first.setting for s in settings}
    kept = [
        Kept(d.setting, found.times(100), d.setting.first.trainable / d.against.first.trainable)
        for d in comparison.against_baseline
        if d.setting.first.setting in chosen and (found := d.gain_kept)
    ]
    groups: list[list[Kept]] = []
    for one in sorted(kept, key=lambda one: -one.share):
        if groups and groups[-1][-1].share < APART * one.share:
            groups[-1].append(one)
        else:
            groups.append([one])
    return [group for group in groups if not all(one.setting.first.plain for one in group)] or groups


def gain(comparison: Comparison, groups: Sequence[Sequence[Kept]]) -> Figure:
    """The share of the baseline's gain that each setting keeps, with 95 % intervals, a plot for each of `sizes`."""
    whose = comparison.baseline.first.method.partition(" on ")[0] if comparison.baseline else ""
    counts = [len(group) for group in groups]
    titles = [f"{_range([one.share for one in group])} of {whose}'s trained numbers" for group in groups]
    lines = sum(counts) + GAP * len(counts)
    figure = make_subplots(len(groups), 1, shared_xaxes=True, row_heights=counts, vertical_spacing=GAP / lines, subplot_titles=titles)
    for row, group in enumerate(groups, 1):
        _add(figure, group, comparison, {"row": row, "col": 1})
    figure.update_xaxes(title=f"gain kept, % of {whose}'s", row=len(groups), col=1)
    return styled(in_lines(figure, max(counts)), 100 + LINE * lines, legend=False).update_layout(margin_t=40)


def _add(figure: Figure, group: Sequence[Kept], comparison: Comparison, where: dict[str, Any]) -> None:
    """A line for each setting; behind them the circuit's interval, where there is one circuit."""
    names = _names([one.setting for one in group], comparison)
    for one in sorted(group, key=_place, reverse=True):  # upwards
        line = interval(one.gain, wrapped(names[one.setting.first.setting], 40), one.setting)
        figure.add_scatter(**line, hovertemplate="%{x:.1f} %<extra></extra>", **where)
    circuits = [one.gain for one in group if one.setting.first.latents == "circuit"]
    if len(circuits) == 1 and (width := circuits[0].half_width):
        low, high = circuits[0].mean - width, circuits[0].mean + width
        figure.add_vrect(low, high, fillcolor=COLOURS["circuit"], opacity=0.12, line_width=0, layer="below", **where)
    figure.update_yaxes(range=[-0.6, len(group) - 0.4], **where)


def _place(one: Kept) -> tuple[bool, bool, float]:
    """Circuits first, then what stands in their place, then plain PEFT, each by gain."""
    run = one.setting.first
    return run.plain, run.latents != "circuit", -one.gain.mean


def _range(shares: Sequence[float]) -> str:
    low, high = f"{min(shares):.2%}", f"{max(shares):.2%}"
    return low if low == high else f"{low} to {high}"


def _names(settings: Sequence[Setting], comparison: Comparison) -> dict[str, str]:
    """By setting, as short as tells these settings apart."""
    modules = comparison.baseline.first.method.partition(" on ")[2] if comparison.baseline else ""
    short = [s.first.method.removesuffix(f" on {modules}") if s.first.plain else named(s.first.latents) for s in settings]
    return {s.first.setting: label(s, comparison) if short.count(name) > 1 else name for s, name in zip(settings, short, strict=True)}
