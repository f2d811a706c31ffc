"""The hydrograph: what was observed, what was forecast, the last value carried on, and what is left between."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

SIZE = (10, 6)  # inches
LOOKS = {"persistence": ("#b0b0b0", 0.8), "observed": ("#222222", 1.4), "forecast": ("#c4461f", 1.0)}  # colour, width


def draw(times: np.ndarray, lines: Mapping[str, np.ndarray], labels: tuple[str, str], title: str, file: Path) -> None:
    """Write a PNG.

    Args:
        times: of what is forecast, `[n]`.
        lines: `observed`, `forecast` and `persistence` at these, `[n]` each.
        labels: of both axes that go up: the target, and the forecast less what was observed, with their unit.
        title: what is forecast.
        file: where to.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, (colour, width) in LOOKS.items():
        above.plot(times, lines[name], color=colour, linewidth=width, label=name)
    above.legend(frameon=False)
    above.set_title(_plain(title))
    above.set_ylabel(_plain(labels[0]))
    below.axhline(0, color="#222222", linewidth=0.8)
    below.plot(times, lines["forecast"] - lines["observed"], color=LOOKS["forecast"][0], linewidth=1)
    below.set_ylabel(_plain(labels[1]))
    locator = AutoDateLocator()
    below.xaxis.set_major_locator(locator)
    below.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    figure.savefig(file, dpi=150, metadata={"Software": None})  # no version: the same bytes from each


def _plain(text: str) -> str:
    """Matplotlib takes what stands between dollars for mathematics."""
    return text.replace("$", r"\$")
