"""Every figure becomes a PNG without a browser; what is drawn are the figure's own numbers, and every word can be read."""

import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import pytest
import torch
from conftest import ROOT
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.text import Text
from PIL import Image
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from qpa.analysis import circuits as export_circuits
from qpa.analysis import contribution, entanglement, gradient_variance, spectrum
from qpa.config import AnalysisConfig, checked
from qpa.config.composing import composed
from qpa.report import images
from qpa.report.compare import compare
from qpa.report.figures import all_figures
from qpa.report.runs import find

REPORT = ("pareto", "gain", "differences", "curves", "split", "cost")
ANALYSES = ("contribution", "entanglement", "gradient_variance", "spectrum", "few circuits", "many circuits")
EVERY = [*REPORT, *ANALYSES]


@pytest.fixture(scope="module")
def figures() -> dict[str, list[go.Figure]]:
    """By name, those of the two greatest tasks of the committed records, and those of the analyses with numbers made for them."""
    made = {name: [figure] for name, figure in analyses().items()}
    for comparison in compare(find(ROOT / "docs/results").finished)[:2]:
        for name, figure in all_figures(comparison).items():
            made.setdefault(name, []).append(figure)
    return made


def analyses() -> dict[str, go.Figure]:
    settings = checked(AnalysisConfig, composed("analysis", ["what=gradient_variance"]))
    sizes = [(q, n) for q in settings.qubits for n in settings.layers]
    points = [{"qubits": q, "layers": n, "global": 2.0**-q, "local": 1 / q / n, "feature": 1 + q / 9} for q, n in sizes]
    random = torch.Generator().manual_seed(0)
    over_training = {name: [(step, step / 90) for step in range(0, 90, 9)] for name in entanglement.CURVES}
    entropies = {"before": {"bond_entropies": [0.1, 0.2, 0.1]}, "after": {"bond_entropies": [0.5, 0.8, 0.6]}}
    ranks = {"outputs/smollm2-text-lora-qpa-012cc2be": 8, "outputs/smollm2-text-lora-none-2a217c3d": 64}
    probabilities = {when: torch.rand(6, 32, generator=random).softmax(1) for when in ("before", "after")}
    return {
        "contribution": contribution.figure(
            {"trained": [24.1], "uniform": [25.3], "shuffled": [25.0, 25.9], "random": [25.5, 27.1]}, "perplexity"
        ),
        "entanglement": entanglement.figure(entropies | {"over_training": over_training}),
        "gradient_variance": gradient_variance.figure(dict.fromkeys(settings.ansaetze, points), settings),
        "spectrum": spectrum.figure({name: {"singular_values": [0.9 / n for n in range(1, r + 1)]} for name, r in ranks.items()}),
        "few circuits": export_circuits.figure({when: p[:3] for when, p in probabilities.items()}),
        "many circuits": export_circuits.figure(probabilities),
    }


def test_no_figure_is_left_out_here(figures: dict[str, list[go.Figure]]) -> None:
    assert sorted(figures) == sorted(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_figure_becomes_a_png_without_a_browser(
    figures: dict[str, list[go.Figure]], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "kaleido", None)  # plotly's own way
    for figure in figures[name]:
        images.write_figure(tmp_path / "it.png", figure)
        with Image.open(tmp_path / "it.png") as image:
            assert image.size == (1800, 2 * figure.layout["height"])
            assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 50
    images.write_figure(tmp_path / "again.png", figures[name][-1])
    assert (tmp_path / "it.png").read_bytes() == (tmp_path / "again.png").read_bytes()


@pytest.mark.parametrize("name", EVERY)
def test_what_is_drawn_are_the_figures_numbers(figures: dict[str, list[go.Figure]], name: str) -> None:
    for figure in figures[name]:
        drawing = images.drawn(figure)
        for axes in drawing.axes:
            axes.tick_params(labelleft=True, labelbottom=True)  # of axes that share them too
        drawing.draw_without_rendering()
        for number, axes in enumerate(drawing.axes[: len([*figure.select_xaxes()])], 1):  # after them, a colour bar
            same_axes(axes, figure, "" if number == 1 else str(number))


def same_axes(axes: Axes, figure: Any, number: str) -> None:
    wanted = figure.layout[f"xaxis{number}"], figure.layout[f"yaxis{number}"]
    assert [axes.get_xlabel(), axes.get_ylabel()] == [axis.title.text or "" for axis in wanted]
    assert [axes.get_xscale(), axes.get_yscale()] == ["log" if axis.type == "log" else "linear" for axis in wanted]
    traces = [trace for trace in figure.data if (trace.xaxis or "x") == f"x{number}"]
    points = [container for container in axes.containers if isinstance(container, ErrorbarContainer) and container.lines[0]]
    for trace, drawn in zip([trace for trace in traces if trace.type == "scatter"], points, strict=True):
        same_points(axes, trace, drawn)
    bars = [container for container in axes.containers if isinstance(container, BarContainer)]
    same_bars(axes, [trace for trace in traces if trace.type == "bar"], bars)
    for trace, image in zip([trace for trace in traces if trace.type == "heatmap"], axes.images, strict=True):
        assert numpy.array_equal(image.get_array(), numpy.array(trace.z))
        assert image.get_clim() == (trace.zmin, trace.zmax)


def same_points(axes: Axes, trace: Any, drawn: ErrorbarContainer) -> None:
    line, _, errors = drawn.lines
    xs = placed(axes.get_xticklabels(), range(len(trace.y)) if trace.x is None else trace.x)
    ys = placed(axes.get_yticklabels(), trace.y)
    assert [*line.get_xdata(orig=False)] == xs
    assert [*line.get_ydata(orig=False)] == ys
    for values, error, along in ((xs, trace.error_x.array, 0), (ys, trace.error_y.array, 1)):
        if error is not None:
            (bars,) = errors
            ends = [[tuple(end) for end in segment] for segment in bars.get_segments()]
            expected = [[value - width, value + width] for value, width in zip(values, error, strict=True)]
            assert [[end[along] for end in pair] for pair in ends] == [pytest.approx(pair) for pair in expected]


def placed(labels: Any, values: Any) -> list[float]:
    """Numbers as they are; names by the places of their labels."""
    places = {label.get_text(): place for place, label in enumerate(labels)}
    return [places[value.replace("<br>", "\n")] if isinstance(value, str) else value for value in values]


def same_bars(axes: Axes, traces: list[Any], drawn: list[BarContainer]) -> None:
    starts = [0.0] * (len(drawn[0]) if drawn else 0)
    for trace, bars in zip(traces, drawn, strict=True):
        across = trace.orientation == "h"
        names, lengths = (trace.y, trace.x) if across else (trace.x, trace.y)
        labels = axes.get_yticklabels() if across else axes.get_xticklabels()
        middles = [bar.get_y() + bar.get_height() / 2 if across else bar.get_x() + bar.get_width() / 2 for bar in bars]
        assert middles == pytest.approx(placed(labels, names))
        assert [bar.get_width() if across else bar.get_height() for bar in bars] == pytest.approx(lengths, nan_ok=True)
        assert [bar.get_x() if across else bar.get_y() for bar in bars] == pytest.approx(starts, nan_ok=True)
        starts = [start + length for start, length in zip(starts, lengths, strict=True)]
    told = [text.get_text() for text in axes.texts]
    assert told == [" + ".join(texts) for texts in zip(*(trace.text for trace in traces), strict=True)]


@pytest.mark.parametrize("name", EVERY)
def test_no_word_is_cut_off_or_lies_over_another(figures: dict[str, list[go.Figure]], name: str) -> None:
    for drawing in map(images.drawn, figures[name]):
        drawing.draw_without_rendering()
        words = [text for axes in drawing.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts, *ticks(axes))]
        boxes = [text.get_window_extent() for text in words if text.get_visible() and text.get_text()]
        boxes += [legend.get_window_extent() for legend in drawing.legends]
        assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        assert all(drawing.bbox.contains(*corner) for box in boxes for corner in box.get_points())
        assert not [axes for axes in drawing.axes for legend in drawing.legends if legend.get_window_extent().overlaps(axes.bbox)]


def ticks(axes: Axes) -> Iterator[Text]:
    """Those that are drawn: within the limits."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)


def test_band_reaches_over_the_whole_height_behind_the_points() -> None:
    figure = go.Figure().add_scatter(x=[1, 9], y=[0, 5]).add_vrect(2, 4, fillcolor="#0072b2", opacity=0.12).update_layout(height=300)
    drawing = images.drawn(figure)
    drawing.draw_without_rendering()
    (axes,) = drawing.axes
    (band,) = axes.patches
    found = band.get_window_extent()
    assert (found.y0, found.y1) == pytest.approx((axes.bbox.y0, axes.bbox.y1))
    assert axes.transData.inverted().transform(found)[:, 0] == pytest.approx([2, 4])
    assert band.get_zorder() < axes.lines[0].get_zorder()
    assert band.get_alpha() == 0.12


def test_missing_numbers_are_gaps(tmp_path: Path) -> None:
    figure = go.Figure().add_bar(x=[1.0, math.nan], y=["a", "b"], orientation="h", text=["1", ""]).update_layout(height=300)
    (axes,) = images.drawn(figure).axes
    assert [text.get_text() for text in axes.texts] == ["1", ""]
    images.write_figure(tmp_path / "it.png", figure)


def test_dollar_signs_are_not_formulas(tmp_path: Path) -> None:
    figure = go.Figure().add_scatter(x=[r"$\nothing$"], y=[1], name=r"$\nothing$").update_layout(height=300, showlegend=True)
    images.write_figure(tmp_path / "it.png", figure)


PLAIN = go.Figure().add_scatter(x=[1, 2], y=[1, 2])
BARS = go.Figure().add_bar(x=["a"], y=[1], text=["1"])
UNKNOWN = {
    "pie": go.Figure().add_pie(values=[1, 2]),
    "violin": go.Figure().add_violin(y=[1, 2]),
    "mode='lines[+]text'": go.Figure().add_scatter(y=[1], mode="lines+text", text=["a"]),
    "line.shape='spline'": go.Figure().add_scatter(y=[1], line_shape="spline"),
    "fill='tozeroy'": go.Figure().add_scatter(y=[1], fill="tozeroy"),
    "marker.symbol='pentagon'": go.Figure().add_scatter(y=[1], marker_symbol="pentagon"),
    "error_y.arrayminus": go.Figure().add_scatter(y=[1], error_y={"array": [1], "arrayminus": [2]}),
    "overlaying='y'": make_subplots(specs=[[{"secondary_y": True}]]).add_scatter(y=[1], secondary_y=True),
    "type='date'": go.Figure(PLAIN).update_xaxes(type="date"),
    "tickformat='e'": go.Figure(PLAIN).update_xaxes(tickformat="e"),
    "logarithmic axis with a range": go.Figure(PLAIN).update_xaxes(type="log", range=[0, 1]),
    "title.text='above'": go.Figure(PLAIN).update_layout(title="above"),
    "yref=None": go.Figure(PLAIN).add_shape(type="line", x0=1, x1=2, y0=1, y1=2),
    "bars that share a subplot": go.Figure(BARS).add_bar(x=["a"], y=[2], text=["2"]),
}


@pytest.mark.parametrize("words", UNKNOWN)
def test_what_is_not_known_raises(words: str) -> None:
    with pytest.raises(NotImplementedError, match=rf"not drawn as PNG .*{words}"):
        images.drawn(UNKNOWN[words].update_layout(height=300))


def test_drawing_touches_no_global_state() -> None:
    script = "import sys, qpa.report.images; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
    before = dict(matplotlib.rcParams)
    images.drawn(go.Figure(PLAIN).update_layout(height=300))
    assert dict(matplotlib.rcParams) == before
