"""Figures as PNG, drawn by kaleido in the machine's own Chrome or Chromium."""

import sys
from pathlib import Path
from typing import Any

import plotly.io

from qpa.report.compare import Comparison
from qpa.report.figures import Figure, all_figures

WIDTH, SCALE = 900, 2


def write(folder: Path, comparisons: list[Comparison]) -> None:
    """Write `NAME.png` of the first task's figures, `NAME-2.png` of the second's, and so on."""
    figures = {}
    for number, comparison in enumerate(comparisons, 1):
        for name, figure in all_figures(comparison).items():
            figures[folder / (f"{name}.png" if number == 1 else f"{name}-{number}.png")] = figure
    write_figures(figures)


def write_figures(figures: dict[Path, Figure]) -> None:
    """Each into its file, all by one browser; without a browser say so on stderr."""
    if not figures:
        return
    drawn = [figure.update_layout(paper_bgcolor="white") for figure in figures.values()]
    try:
        heights: Any = [figure.layout["height"] for figure in drawn]
        plotly.io.write_images(drawn, list(figures), width=WIDTH, height=heights, scale=SCALE)
    except RuntimeError as error:  # what plotly makes of kaleido's ChromeNotFoundError
        reason = " ".join(str(error).split())
        print(f"qpa: no PNG figures, they need Chrome or Chromium (Debian: apt install chromium); {reason[:200]}", file=sys.stderr)
