"""What others have published of the same networks, for the report: marks of their own, for they are of other protocols than ours."""

from typing import Any

from qpa.config import ImageModelConfig, NetworkConfig

# Trained numbers and accuracy at 1, 4, 7, 10, 13 and 16 layers (arXiv 2405.11304): on the 60,000 images that it was trained on.
MNIST = ((327, 0.335), (561, 0.560), (795, 0.820), (1029, 0.853), (1263, 0.907), (1497, 0.918))
WORDS = "training accuracy on 60,000 images (arXiv 2405.11304)"


def points(model: ImageModelConfig, data: str) -> dict[str, Any] | None:
    """`words`, and `points` as pairs of trained numbers and accuracy; None where nothing is known."""
    same = isinstance(model, NetworkConfig) and (model.filters, model.hidden, model.padding) == ([8, 12], [20], 0)
    return {"words": WORDS, "points": [[*point] for point in MNIST]} if same and data.startswith("mnist") else None
