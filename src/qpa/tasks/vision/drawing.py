"""The images that a model is most wrong about, as one picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from qpa.tasks.vision.pictures import Pictures

ACROSS, SIDE = 8, 1.2  # images of a line, and inches of each


def draw(pictures: Pictures, rows: Sequence[tuple[int, int, int, float]], file: Path) -> None:
    """Write a PNG.

    Args:
        pictures: the split.
        rows: of each image its place in it, its class, what it is said to be, and its loss.
        file: where to.
    """
    lines = -(-len(rows) // ACROSS)
    figure = Figure(figsize=(ACROSS * SIDE, lines * SIDE * 1.4), layout="constrained")
    for axes in figure.subplots(lines, ACROSS, squeeze=False).flat:
        axes.set_axis_off()
    for axes, (place, true, said, loss) in zip(figure.axes, rows, strict=False):
        axes.imshow(pictures.pixels[place].transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
        names = f"{pictures.names[true]}, said {pictures.names[said]}".replace("$", r"\$")
        axes.set_title(f"{names}\n{loss:.2f}", fontsize=7)
    figure.savefig(file, dpi=150, metadata={"Software": None})  # no version: the same bytes from each
