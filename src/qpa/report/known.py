"""What of plotly can be drawn as PNG (`images`). A figure with anything else raises: it is never drawn without a part of it."""

import re
from collections.abc import Iterator
from typing import Any

from qpa.report.looks import Figure

SYMBOLS: dict[str, Any] = {"circle": "o", "circle-open": "o", "diamond": "D", "square": "s", "triangle-up": "^", "triangle-down": "v"}
SYMBOLS |= {"cross": "P", "x": "X", "star": "*", "hexagon": "h", "bowtie": [(-1, -1), (-1, 1), (1, -1), (1, 1), (-1, -1)]}  # matplotlib's
DASHES = {None: "-", "solid": "-", "dash": "--", "dot": ":"}

# What is drawn of each kind of part.
ERRORS = "error_x.array error_x.thickness error_x.width error_y.array error_y.thickness error_y.width"
DRAWN = {
    "scatter": f"x y name showlegend mode line.color line.width line.dash line.shape marker.color marker.size marker.symbol {ERRORS}",
    "bar": "x y name showlegend orientation marker.color text error_x.array error_y.array",
    "heatmap": "z zmin zmax colorscale showscale",
    "axis": "title.text type range autorange tickvals ticktext tickformat dtick exponentformat showticklabels matches domain anchor",
    "shape": "type x0 x1 xref y0 y1 yref line.color line.width fillcolor opacity",
    "annotation": "text x y",
    "layout": "height barmode showlegend legend.orientation legend.y",
}
# Needed to say where a part is, or only for the page: what is pointed at there, its looks, its room. A PNG has looks of its own.
NOT_DRAWN = (
    *("type", "xaxis", "yaxis", "xref", "yref", "error_x.type", "error_y.type"),
    *("text", "customdata", "hovertemplate", "legendgroup", "legend.x", "legend.yanchor"),
    *("showarrow", "xanchor", "yanchor", "layer", "textangle", "tickmode", "automargin", "margin.l", "margin.r", "margin.t", "margin.b"),
    *("font.family", "font.size", "gridcolor", "zeroline", "paper_bgcolor", "plot_bgcolor"),
)
# The values that are drawn of what has several.
VALUES: dict[str, Any] = {
    "type": ("scatter", "bar", "heatmap", "linear", "log", "line", "rect"),
    "mode": ("lines", "markers", "lines+markers"),
    "line.dash": DASHES,
    "line.shape": ("linear", "hv"),
    "marker.symbol": SYMBOLS,
    "error_x.type": ("data",),
    "error_y.type": ("data",),
    "barmode": ("stack",),
    "orientation": ("h", "v"),
    "legend.orientation": ("h", "v"),
    "autorange": ("reversed",),
    "tickformat": (".1%",),
    "exponentformat": ("power",),
    "yref": ("paper", *(f"y{number} domain" for number in ("", *range(2, 10)))),  # of subplots' titles, and of lines
}


def check(figure: Figure) -> None:
    """See that all of it can be drawn.

    Raises:
        NotImplementedError: it has a part, a property or a value that cannot.
    """
    for unknown in _unknown(figure):
        raise NotImplementedError(f"not drawn as PNG (qpa.report.known): plotly's {unknown}")


def _unknown(figure: Figure) -> Iterator[str]:
    for kind, part in _parts(figure.to_dict()):
        if kind not in DRAWN:
            yield kind
        for name, value in _properties(part):
            known = name in DRAWN[kind].split() or name in NOT_DRAWN
            if not known or (name in VALUES and value not in [*VALUES[name]]):
                yield f"{kind} with {name}={value!r}"
        if kind == "shape" and not str(part.get("yref")).endswith(" domain"):
            yield f"shape with yref={part.get('yref')!r}"
        if part.get("type") == "log" and ("range" in part or part.get("dtick", 1) != 1):  # of exponents
            yield "logarithmic axis with a range, or with other steps than 1"
    traces: Any = figure.data  # by plotly's own annotation a word
    bars = [trace for trace in traces if trace.type == "bar"]
    stacks = {(bar.xaxis, bar.orientation, tuple(bar.y if bar.orientation == "h" else bar.x)) for bar in bars}
    subplots = {bar.xaxis for bar in bars}
    if len(stacks) > len(subplots) or (len(bars) > len(subplots) and figure.layout["barmode"] != "stack"):
        yield "bars that share a subplot and are not one stack"


def _parts(figure: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every trace, axis, shape and annotation with its kind, and the rest of the layout."""
    layout = figure["layout"]
    del layout["template"]  # looks
    yield from ((trace["type"], trace) for trace in figure["data"])
    yield from (("axis", layout.pop(key)) for key in list(layout) if re.fullmatch(r"[xy]axis\d*", key))
    yield from ((kind, part) for kind in ("shape", "annotation") for part in layout.pop(f"{kind}s", ()))
    yield "layout", layout


def _properties(part: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in part.items():
        if isinstance(value, dict):
            yield from _properties(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
