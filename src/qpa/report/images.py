"""The report's figures as PNG, drawn by kaleido in the machine's own Chrome or Chromium."""

import sys
from pathlib import Path

import plotly.io

from qpa.report.compare import Comparison
from qpa.report.figures import all_figures

WIDTH, SCALE = 900, 2


def write(folder: Path, comparisons: list[Comparison]) -> None:
    """Write `NAME.png` of the first task's figures, `NAME-2.png` of the second's, and so on; without a browser say so on stderr."""
    figures, paths = [], []
    for number, comparison in enumerate(comparisons, 1):
        for name, figure in all_figures(comparison).items():
            figures.append(figure.update_layout(paper_bgcolor="white"))
            paths.append(folder / (f"{name}.png" if number == 1 else f"{name}-{number}.png"))
    if not figures:
        return
    try:
        plotly.io.write_images(figures, paths, width=WIDTH, height=[figure.layout.height for figure in figures], scale=SCALE)
    except RuntimeError as error:  # what plotly makes of kaleido's ChromeNotFoundError
        reason = " ".join(str(error).split())
        print(f"qpa: no PNG figures, they need Chrome or Chromium (Debian: apt install chromium); {reason[:200]}", file=sys.stderr)
