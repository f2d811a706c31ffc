"""The table of docs/forecasting.md, against the records beside it."""

from collections.abc import Iterator
from statistics import fmean

from conftest import ROOT

from qpa.report.compare import Comparison, compare
from qpa.report.runs import find

PLACES = {  # of a row of the table, what stands in the circuit's place
    "the plain LSTM": "none",
    "**a random subspace**": "subspace",
    "**the circuit**": "circuit",
    "random features in its place": "random_features",
    "a table of as many numbers": "shared_table",
    "a matrix-product state": "mps",
    "a small MLP": "mlp",
    "the circuit, not trained": "frozen_circuit",
    "nothing in its place": "zeros",
}


def comparison() -> Comparison:
    (found,) = compare(find(ROOT / "docs" / "forecasting" / "forecasting.jsonl").finished)
    return found


def rows() -> Iterator[tuple[str, list[str]]]:
    """Trained numbers, rate, efficiency in validation and test."""
    for name, latents in PLACES.items():
        (setting,) = (s for s in comparison().best if s.first.latents == latents)
        assert len(setting.runs) == 3
        assert setting.test.half_width is not None
        rate = f"{setting.first.learning_rate:.0e}".replace("e-0", "e-")
        reached = f"{setting.test.mean:.3f} ± {setting.test.half_width:.3f}"
        yield name, [f"{setting.first.trainable:,}", rate, f"{fmean(run.val for run in setting.runs):.3f}", reached]


def test_every_number_of_the_table_is_that_of_the_records() -> None:
    lines = [line for line in (ROOT / "docs" / "forecasting.md").read_text().splitlines() if line.startswith("| ")]
    for name, expected in rows():
        (row,) = (line for line in lines if line.startswith((f"| {name} |", f"| {name},")))
        assert [cell.strip() for cell in row.split("|")[2:6]] == expected, name
