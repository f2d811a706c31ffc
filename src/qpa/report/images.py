"""Figures as PNG: the page's plotly figures, drawn by matplotlib, which needs no browser. What it can draw is in `known`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib.style
import numpy
import plotly.colors
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MultipleLocator, NullLocator, PercentFormatter

from qpa.report.compare import Comparison
from qpa.report.figures import all_figures
from qpa.report.growth import Growth, figure
from qpa.report.known import DASHES, SYMBOLS, check
from qpa.report.looks import Figure

WIDTH, SCALE = 900, 2
DPI = 100  # at scale 1
POINT = 72 / DPI  # of a pixel, which plotly counts in
INK = "#333333"
LOOKS = {"font.size": 13 * POINT, "legend.fontsize": 13 * POINT, "axes.labelsize": 14 * POINT, "axes.titlesize": 14 * POINT}
LOOKS |= {"text.color": INK, "axes.labelcolor": INK, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": "#dedede"}
LOOKS |= {"figure.constrained_layout.w_pad": 0.1, "figure.constrained_layout.h_pad": 0.1, "axes.labelpad": 7}
LOOKS |= {"axes.formatter.min_exponent": 2}  # 0.5, 1, 20 where a logarithmic axis has powers otherwise
LOOKS |= {"axes.grid": True, "axes.axisbelow": True, "legend.frameon": False, "legend.columnspacing": 1.5}
LOOKS |= {f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")}
LOOKS |= {f"{side}tick.{kind}.size": 0 for side in "xy" for kind in ("major", "minor")}
styled = matplotlib.style.context(LOOKS, after_reset=True)  # whatever the user's matplotlibrc says


def write(folder: Path, comparisons: Sequence[Comparison], growths: Sequence[Growth] = ()) -> None:
    """Write `NAME.png` of the first task's figures, `NAME-2.png` of the second's, and so on; and `growth.png` likewise."""
    drawings = [*map(all_figures, comparisons)], [{"growth": figure(growth)} for growth in growths]
    for number, figures in (pair for each in drawings for pair in enumerate(each, 1)):
        for name, one in figures.items():
            write_figure(folder / (f"{name}.png" if number == 1 else f"{name}-{number}.png"), one)


@styled
def write_figure(path: Path, figure: Figure) -> None:
    """Write a PNG of `WIDTH` and the layout's height, each times `SCALE`."""
    drawn(figure).savefig(path, dpi=SCALE * DPI, metadata={"Software": None})  # no version: the same bytes from each


@styled
def drawn(figure: Figure) -> Drawing:
    """The same figure by matplotlib.

    Raises:
        NotImplementedError: it has something that `known` does not know.
    """
    check(figure)
    traces, layout = cast(Any, figure.data), cast(Any, figure.layout)
    drawing = Drawing(figsize=(WIDTH / DPI, layout.height / DPI), layout="constrained")
    subplots = _subplots(drawing, figure)
    colours = layout.template.layout.colorway or [INK]
    for number, trace in enumerate(traces):
        if trace.type == "scatter":
            _scatter(subplots[trace.xaxis or "x"], trace, colours[number % len(colours)])
        if trace.type == "heatmap":
            _heatmap(subplots[trace.xaxis or "x"], trace)
    for name, axes in subplots.items():
        _bars(axes, [trace for trace in traces if trace.type == "bar" and (trace.xaxis or "x") == name])
        _axis(axes, "x", _of(figure, "x", name))
        _axis(axes, "y", _of(figure, "y", name))
    for shape in layout.shapes:
        _shape(subplots[shape.xref], shape)
    if layout.showlegend or (layout.showlegend is None and len(traces) > 1):
        _legend(drawing, layout.legend)
    return drawing


def _of(figure: Figure, side: str, subplot: str) -> Any:
    """Plotly's axis of a subplot, which goes by the name of its x axis: `x`, `x2`, ..."""
    return figure.layout[f"{side}axis{subplot[1:]}"]


def _subplots(drawing: Drawing, figure: Figure) -> dict[str, Axes]:
    """A grid as the axes' domains say, with what they share, and their titles."""
    names = [cast(Any, axis).plotly_name.replace("axis", "") for axis in figure.select_xaxes()]
    domains = {name: tuple(_of(figure, side, name).domain or (0.0, 1.0) for side in "xy") for name in names}
    columns, rows = sorted({x for x, _ in domains.values()}), sorted({y for _, y in domains.values()}, reverse=True)
    widths, heights = ([end - start for start, end in parts] for parts in (columns, rows))
    grid = drawing.add_gridspec(len(rows), len(columns), width_ratios=widths, height_ratios=heights)
    subplots = {name: drawing.add_subplot(grid[rows.index(y), columns.index(x)]) for name, (x, y) in domains.items()}
    for name, axes in subplots.items():
        if like := _of(figure, "x", name).matches:
            axes.sharex(subplots[like])
        if like := _of(figure, "y", name).matches:
            axes.sharey(subplots[like.replace("y", "x")])
    above = {(sum(x) / 2, y[1]): subplots[name] for name, (x, y) in domains.items()}
    for title in cast(Any, figure.layout).annotations:
        if (title.x, title.y) not in above:
            raise NotImplementedError(f"not drawn as PNG: plotly's annotation {title.text!r}, which is not a subplot's title")
        above[title.x, title.y].set_title(_text(title.text))
    return subplots


def _scatter(axes: Axes, trace: Any, colour: str) -> None:
    mode = trace.mode or ("lines+markers" if len(trace.y) < 20 else "lines")  # plotly's rule
    colour = trace.marker.color or trace.line.color or colour
    symbol = trace.marker.symbol or "circle"
    errors = trace.error_x if trace.error_x.array is not None else trace.error_y
    axes.errorbar(
        range(len(trace.y)) if trace.x is None else _values(trace.x),
        _values(trace.y),
        xerr=trace.error_x.array,
        yerr=trace.error_y.array,
        label=_name(trace),
        color=colour,
        linestyle=DASHES[trace.line.dash] if "lines" in mode else "",
        linewidth=(trace.line.width or 2) * POINT,
        drawstyle="steps-post" if trace.line.shape == "hv" else "default",
        marker=SYMBOLS[symbol] if "markers" in mode else "",
        markersize=(trace.marker.size or 6) * POINT,
        markerfacecolor="none" if symbol.endswith("-open") else colour,
        elinewidth=(errors.thickness or 2) * POINT,
        capthick=(errors.thickness or 2) * POINT,
        capsize=(errors.width or 4) * POINT,
    )


def _shape(axes: Axes, shape: Any) -> None:
    """A line, or a band of the whole height."""
    if shape.type == "rect":
        axes.axvspan(shape.x0, shape.x1, color=shape.fillcolor, alpha=shape.opacity, linewidth=0, zorder=0)
        return
    up = axes.get_xaxis_transform()  # plotly's `y domain`: a share of the axes' height
    axes.plot([shape.x0, shape.x1], [shape.y0, shape.y1], transform=up, color=shape.line.color, linewidth=shape.line.width * POINT)


def _bars(axes: Axes, traces: Sequence[Any]) -> None:
    """One on the other; the numbers of a stack stand at its end."""
    ends: Any = 0.0
    for trace in traces:
        across = trace.orientation == "h"
        lengths, names = map(_values, (trace.x, trace.y) if across else (trace.y, trace.x))
        draw, errors = axes.barh if across else axes.bar, {"xerr": trace.error_x.array, "yerr": trace.error_y.array, "ecolor": INK}
        bars = draw(names, lengths, 0.8, ends, color=trace.marker.color, label=_name(trace), **errors)
        ends = numpy.add(ends, lengths)
        axes.grid(visible=False, axis="y" if across else "x")
        (axes.set_xmargin if across else axes.set_ymargin)(0.18)  # room for the numbers
        if trace is traces[-1]:
            texts = zip(*(each.text for each in traces), strict=True)
            axes.bar_label(bars, [" + ".join(parts) for parts in texts], padding=4)


def _heatmap(axes: Axes, trace: Any) -> None:
    places, colours = zip(*trace.colorscale, strict=True)
    stops = list(zip(places, plotly.colors.validate_colors(colours, "tuple"), strict=True))
    scale = LinearSegmentedColormap.from_list("", stops)
    image = axes.imshow(trace.z, scale, vmin=trace.zmin, vmax=trace.zmax, aspect="auto", origin="lower", interpolation="nearest")
    axes.grid(visible=False)
    if trace.showscale is not False:
        drawing: Any = axes.figure
        drawing.colorbar(image, ax=drawing.axes, aspect=5 * drawing.get_figheight()).outline.set_visible(False)


def _axis(axes: Axes, side: str, wanted: Any) -> None:
    """Its title, scale, limits and ticks."""
    axis = getattr(axes, f"{side}axis")
    axis.set_label_text(_text(wanted.title.text))
    for label in axis.get_ticklabels():
        label.set_linespacing(1.05)  # three lines of a category's name keep apart from the next name's
    if wanted.type == "log":
        axes.set(**{f"{side}scale": "log"})
        if wanted.exponentformat != "power":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1000 else EngFormatter(sep="")(value)))
    elif wanted.dtick:
        axis.set_major_locator(MultipleLocator(wanted.dtick))
    if wanted.tickformat:
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=1))
    if wanted.tickvals:
        axis.set_ticks(wanted.tickvals, labels=wanted.ticktext or [f"{value:g}" for value in wanted.tickvals])
        axis.set_minor_locator(NullLocator())
    if wanted.range:
        axes.set(**{f"{side}lim": wanted.range})
    if wanted.autorange == "reversed":
        axis.set_inverted(True)
    if wanted.showticklabels is False:
        axis.set_tick_params(labelleft=False, labelbottom=False)


def _legend(drawing: Drawing, wanted: Any) -> None:
    """Beside the axes, or, where it is to lie, above or below them in as many columns as fit."""
    entries = [pair for axes in drawing.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = [handle[0] if isinstance(handle, ErrorbarContainer) else handle for handle, _ in entries]
    lies = wanted.orientation == "h"
    place = "outside right upper" if not lies else "outside upper left" if (wanted.y or 0) > 0 else "outside lower center"
    for columns in range(len(handles) if lies else 1, 0, -1):
        legend = drawing.legend(handles, [name for _, name in entries], loc=place, ncols=columns)
        if legend.get_window_extent().width <= drawing.bbox.width:
            break
        legend.remove()


def _name(trace: Any) -> str | None:
    """Its name in the legend; None where it has none there."""
    return None if trace.showlegend is False or trace.name is None else _text(trace.name)


def _values(values: Sequence[Any]) -> list[Any]:
    """Numbers, or the names of categories."""
    return [_text(value) if isinstance(value, str) else value for value in values]


def _text(text: str | None) -> str:
    """Lines are parted otherwise than in plotly, and a dollar sign begins no formula."""
    return (text or "").replace("<br>", "\n").replace("$", r"\$")
