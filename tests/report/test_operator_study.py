"""The table of docs/operators.md, against the records beside it."""

from collections.abc import Iterator

from conftest import ROOT

from qpa.report.compare import Comparison, compare
from qpa.report.runs import find

PLACES = {  # of a row, what is adapted and what stands in the circuit's place
    "plain LoRA r=8": ("LoRA", "none"),
    "LoRA generated": ("LoRA", "circuit"),
    "LoRA, nothing in the circuits' place": ("LoRA", "zeros"),
    "all weights trained": ("Whole", "none"),
    "all weights generated": ("Whole", "circuit"),
    "all weights, random subspace": ("Whole", "subspace"),
}


WHOLE = {  # of the first table, what stands in the circuit's place
    "the plain network": "none",
    "**a random subspace**": "subspace",
    "a table of as many numbers": "shared_table",
    "random features in its place": "random_features",
    "**the circuit**": "circuit",
    "a matrix-product state": "mps",
    "a small MLP": "mlp",
    "the circuit, not trained": "frozen_circuit",
    "nothing in its place": "zeros",
}


def by_trajectories() -> dict[int, Comparison]:
    found = compare(find(ROOT / "docs" / "operators" / "adapted.jsonl").finished)
    return {comparison.settings[0].first.config["data.train"]: comparison for comparison in found}


def cells(method: str, latents: str) -> Iterator[str]:
    """Trained numbers; the error from few trajectories to many, at the rate that validation chose, with half its interval."""
    for number, (_, comparison) in enumerate(sorted(by_trajectories().items())):
        tried = [s for s in comparison.settings if (s.first.method.partition(" ")[0], s.first.latents) == (method, latents)]
        chosen = min(tried, key=lambda setting: next(run.val for run in setting.runs if run.seed == 1))
        assert len(tried) == len(chosen.runs) == 3
        assert chosen.test.half_width is not None
        if number == 0:
            yield f"{chosen.first.trainable:,}"
        yield f"{chosen.test.mean:.3f} ± {chosen.test.half_width:.3f}"


def test_every_number_of_the_table_is_that_of_the_records() -> None:
    lines = [line for line in (ROOT / "docs" / "operators.md").read_text().splitlines() if line.startswith("| ")]
    for name, (method, latents) in PLACES.items():
        (row,) = (line for line in lines if line.startswith((f"| {name} |", f"| {name} (")))
        assert [cell.strip() for cell in row.split("|")[2:6]] == list(cells(method, latents)), name
    bases = {comparison.settings[0].first.base for comparison in by_trajectories().values()}
    (row,) = (line for line in lines if line.startswith("| no adaptation"))
    assert {cell.strip() for cell in row.split("|")[3:6]} == {f"{base:.3f}" for base in bases}


def test_every_number_of_the_whole_networks_table_is_that_of_the_records() -> None:
    lines = [line for line in (ROOT / "docs" / "operators.md").read_text().splitlines() if line.startswith("| ")]
    (comparison,) = compare(find(ROOT / "docs" / "operators" / "operators.jsonl").finished)
    for name, latents in WHOLE.items():
        (setting,) = (s for s in comparison.best if s.first.latents == latents)
        assert len(setting.runs) == 3
        assert setting.test.half_width is not None
        rate = f"{setting.first.learning_rate:.0e}".replace("e-0", "e-")
        (row,) = (line for line in lines if line.startswith((f"| {name} |", f"| {name} (")))
        reached = f"{setting.test.mean:.3f} ± {setting.test.half_width:.3f}"
        assert [cell.strip() for cell in row.split("|")[2:5]] == [f"{setting.first.trainable:,}", rate, reached], name
