"""The table of docs/control.md, against the records beside it."""

from collections.abc import Iterator

from conftest import ROOT

from qpa.report.compare import Setting, compare
from qpa.report.runs import Run, find

PLACES = {  # of a row of the table, what stands in the circuit's place, and the rate
    "the plain policy": ("none", 0.005),
    "**a random subspace**": ("subspace", 0.01),
    "**the circuit**": ("circuit", 0.01),
    "random features in its place": ("random_features", 0.01),
    "a table of as many numbers": ("shared_table", 0.01),
    "the circuit, not trained": ("frozen_circuit", 0.01),
    "nothing": ("zeros", 0.01),
}
EPISODES, SOLVED = 8, 475  # of an optimizer step; the return at which the environment is solved


def settings() -> list[Setting]:
    (comparison,) = compare(find(ROOT / "docs" / "control" / "control.jsonl").finished)
    return list(comparison.settings)


def until_solved(run: Run) -> str:
    return next((f"{EPISODES * step:,}" for step, value in run.curve if value >= SOLVED), "never")


def rows() -> Iterator[tuple[str, list[str]]]:
    for name, (latents, rate) in PLACES.items():
        (setting,) = (s for s in settings() if (s.first.latents, s.first.learning_rate) == (latents, rate))
        runs = sorted(setting.runs, key=lambda run: run.seed)
        assert [run.seed for run in runs] == [1, 2, 3]
        assert setting.test.half_width is not None
        reached = f"{setting.test.mean:.1f} ± {setting.test.half_width:.1f}"
        yield name, [f"{setting.first.trainable:,}", reached, "; ".join(map(until_solved, runs))]


def test_every_number_of_the_table_is_that_of_the_records() -> None:
    lines = [line for line in (ROOT / "docs" / "control.md").read_text().splitlines() if line.startswith("| ")]
    for name, cells in rows():
        (row,) = (line for line in lines if line.startswith(f"| {name}"))
        assert [cell.strip() for cell in row.split("|")[2:5]] == cells, name
