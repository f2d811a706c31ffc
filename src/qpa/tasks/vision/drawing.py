"""The filters that a network sees first, and the images that it is most wrong about, as one picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from qpa.tasks.vision.pictures import Pictures

ACROSS, SIDE = 8, 1.2  # images of a line, and inches of each
MOST_FILTERS = 16


def draw(filters: Tensor | None, pictures: Pictures, rows: Sequence[tuple[int, int, int, float]], file: Path) -> None:
    """Write a PNG: the filters above, where there are any.

    Args:
        filters: `[n, channels, height, width]`, each drawn between its own smallest and largest number, channels averaged.
        pictures: the split.
        rows: of each image its place in it, its class, what it is said to be, and its loss.
        file: where to.
    """
    above = 0 if filters is None else -(-len(filters) // ACROSS)
    lines = -(-len(rows) // ACROSS)
    figure = Figure(figsize=(ACROSS * SIDE, (above + lines) * SIDE * 1.4), layout="constrained")
    every = figure.subplots(above + lines, ACROSS, squeeze=False)
    for axes in every.flat:
        axes.set_axis_off()
    for number, axes in enumerate(every[:above].flat):
        if filters is not None and number < len(filters):
            _draw_filter(filters[number], number, axes)
    for axes, (place, true, said, loss) in zip(every[above:].flat, rows, strict=False):
        axes.imshow(pictures.pixels[place].transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
        names = f"{pictures.names[true]}, said {pictures.names[said]}".replace("$", r"\$")
        axes.set_title(f"{names}\n{loss:.2f}", fontsize=7)
    figure.savefig(file, dpi=150, metadata={"Software": None})  # no version: the same bytes from each


def first_filters(network: nn.Module) -> Tensor | None:
    """Of the first convolution, at most `MOST_FILTERS`."""
    found = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return None if found is None else found.weight.detach()[:MOST_FILTERS].float().cpu()


def _draw_filter(given: Tensor, number: int, axes: Axes) -> None:
    axes.imshow(given.mean(0).numpy(), cmap="gray")
    axes.set_title(f"filter {number + 1}\n{float(given.min()):.2g} to {float(given.max()):.2g}", fontsize=7)
