"""The tables of docs/control.md, against the records beside it."""

from collections.abc import Iterator
from statistics import fmean

import pytest
from conftest import ROOT

from qpa.report.compare import Setting, compare
from qpa.report.runs import Run, find

PLACES = {  # of a row of the first table, what stands in the circuit's place, and the rate
    "the plain policy": ("none", 0.005),
    "**a random subspace**": ("subspace", 0.01),
    "**the circuit**": ("circuit", 0.01),
    "random features in its place": ("random_features", 0.01),
    "a matrix-product state": ("mps", 0.01),
    "a table of as many numbers": ("shared_table", 0.01),
    "a small MLP": ("mlp", 0.01),
    "the circuit, not trained": ("frozen_circuit", 0.01),
    "nothing": ("zeros", 0.01),
}
MEASURED = {  # of a row of the second, what measures the circuit
    "exact probabilities": {},
    "65,536 shots": {"shots": 65536},
    "8,192 shots": {"shots": 8192},
    "1,024 shots": {"shots": 1024},
    "8,192 shots, SPSA": {"shots": 8192, "gradient": "spsa"},
    "1,024 shots, SPSA": {"shots": 1024, "gradient": "spsa"},
    "8,192 shots, SPSA, `fake_guadalupe`": {"shots": 8192, "gradient": "spsa", "device": "fake_guadalupe"},
    "1,024 shots, SPSA, depolarising noise of 0.01": {"shots": 1024, "gradient": "spsa", "noise": 0.01, "device": "aer"},
    "1,024 shots, SPSA, depolarising noise of 0.05": {"shots": 1024, "gradient": "spsa", "noise": 0.05, "device": "aer"},
}
SOLVED = 475  # the return at which the environment is solved


def settings(study: str) -> list[Setting]:
    (comparison,) = compare(find(ROOT / "docs" / "control" / f"{study}.jsonl").finished)
    return list(comparison.settings)


def until_solved(runs: list[Run]) -> str:
    """On how many seeds a validation reaches so much, and after how many of the environment's steps, their mean."""
    first = [next((place for place, value in run.curve if value >= SOLVED), None) for run in runs]
    after = [place for place in first if place is not None]
    return f"{len(after)} of {len(runs)}" + (f", after {round(fmean(after), -3):,.0f}" if after else "")


def reached(setting: Setting) -> str:
    if setting.test.half_width is None:
        return f"{setting.test.mean:.1f}"
    return f"{setting.test.mean:.1f} ± {setting.test.half_width:.1f}"


def first() -> Iterator[tuple[str, list[str]]]:
    for name, (latents, rate) in PLACES.items():
        (setting,) = (s for s in settings("control") if (s.first.latents, s.first.learning_rate) == (latents, rate))
        runs = sorted(setting.runs, key=lambda run: run.seed)
        assert [run.seed for run in runs] == [1, 2, 3, 4, 5]
        yield name, [f"{setting.first.trainable:,}", reached(setting), until_solved(runs)]


def second() -> Iterator[tuple[str, list[str]]]:
    for name, circuit in MEASURED.items():
        wanted = {"shots": None, "gradient": None, "noise": None, "device": None} | circuit
        found = [s for s in settings("devices") if s.first.latents == "circuit"]
        (setting,) = (s for s in found if all(s.first.config.get(f"circuit.{key}") == value for key, value in wanted.items()))
        runs = sorted(setting.runs, key=lambda run: run.seed)
        yield name, [reached(setting), ", ".join(f"{run.test:.0f}" for run in runs)]


@pytest.mark.few(2)
@pytest.mark.parametrize(("table", "columns"), [(first, slice(2, 5)), (second, slice(2, 4))], ids=["places", "devices"])
def test_every_number_of_the_tables_is_that_of_the_records(table, columns: slice) -> None:
    lines = [line for line in (ROOT / "docs" / "control.md").read_text().splitlines() if line.startswith("| ")]
    for name, cells in table():
        (row,) = (line for line in lines if line.startswith((f"| {name} ", f"| {name},")) and (table is first or f"| {name} |" in line))
        assert [cell.strip() for cell in row.split("|")[columns]] == cells, name
