"""Some solutions beside what the base and the adapted network say, and how wrong that is, as one picture."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.float32]
WIDTH, HEIGHT = 2.6, 2.2  # inches of each


def draw(inputs: Array, truth: Array, said: Mapping[str, Array], file: Path) -> None:
    """Write a PNG, a row for each sample; of functions of one variable curves, of two variables maps.

    Args:
        inputs: `[n, G]` or `[n, G, G]`.
        truth: solutions likewise.
        said: by name, what networks say.
        file: where to.
    """
    flat = truth.ndim == 3
    columns = 2 + 2 * len(said) if flat else 3
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * len(truth)), layout="constrained")
    rows = figure.subplots(len(truth), columns, squeeze=False)
    for place, axes in enumerate(rows):
        one = {name: values[place] for name, values in said.items()}
        (_maps if flat else _curves)(axes, inputs[place], truth[place], one)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _curves(axes: NDArray[np.object_], given: Array, truth: Array, said: Mapping[str, Array]) -> None:
    x = np.arange(len(truth)) / len(truth)
    axes[0].plot(x, given, color="0.4")
    axes[1].plot(x, truth, color="0", linewidth=2, label="solution")
    for name, values in said.items():
        axes[1].plot(x, values, label=name, linewidth=1)
        axes[2].plot(x, np.abs(values - truth), label=f"{name}, {_error(values, truth)}", linewidth=1)
    for one, title in zip(axes, ("given", "solution", "error"), strict=True):
        one.set_title(title, fontsize=8)
        one.tick_params(labelsize=7)
    axes[1].legend(fontsize=6)
    axes[2].legend(fontsize=6)


def _maps(axes: NDArray[np.object_], given: Array, truth: Array, said: Mapping[str, Array]) -> None:
    low, high = float(truth.min()), float(truth.max())
    _map(axes[0], given, "given", "gray")
    _map(axes[1], truth, "solution", "viridis", low, high)
    worst = max(float(np.abs(values - truth).max()) for values in said.values())
    for number, (name, values) in enumerate(said.items()):
        _map(axes[2 + 2 * number], values, name, "viridis", low, high)
        _map(axes[3 + 2 * number], np.abs(values - truth), f"its error, {_error(values, truth)}", "magma", 0.0, worst)


def _map(axes: Axes, values: Array, title: str, colours: str, low: float | None = None, high: float | None = None) -> None:
    axes.imshow(values, cmap=colours, vmin=low, vmax=high)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def _error(values: Array, truth: Array) -> str:
    return f"{np.linalg.norm(values - truth) / np.linalg.norm(truth):.2%}"
