"""The table of docs/vision.md, against the records beside it."""

from collections.abc import Iterator

from conftest import ROOT

from qpa.report.compare import Comparison, compare
from qpa.report.runs import find

PLACES = {  # of a row of the table, what stands in the circuit's place
    "**a random subspace**": "subspace",
    "**the circuit**": "circuit",
    "random features in its place": "random_features",
    "a table of as many numbers": "shared_table",
    "a matrix-product state": "mps",
    "a small MLP": "mlp",
    "the circuit, not trained": "frozen_circuit",
}
LAYERS = (1, 4, 7, 10, 13, 16)


def comparisons() -> list[Comparison]:
    return compare(find(ROOT / "docs" / "vision" / "quantum_train.jsonl").finished)


def cells(place: str) -> Iterator[str]:
    """Accuracy of a place's settings from few layers to many, in per cent with half their intervals."""
    whole = comparisons()[0]
    for layers in LAYERS:
        found = []
        for setting in whole.best:
            config = setting.first.config
            same = setting.first.latents == place and config.get("mapper.labels", "basis") == "basis"
            own = config["generator.kind"] == "qpa" and config["generator.start"] == "peft" and place == "circuit"
            size = setting.first.trainable == 249 + 78 * layers if place == "subspace" else config.get("circuit.layers") == layers
            found += [setting] if same and size and not own else []
        (setting,) = found
        assert len(setting.runs) == 3
        assert setting.test.half_width is not None
        yield f"{100 * setting.test.mean:.1f} ± {100 * setting.test.half_width:.1f}"


def test_every_number_of_the_table_is_that_of_the_records() -> None:
    rows = [line for line in (ROOT / "docs" / "vision.md").read_text().splitlines() if line.startswith("| ")]
    for name, place in PLACES.items():
        (row,) = (line for line in rows if line.startswith(f"| {name}"))
        assert [cell.strip() for cell in row.split("|")[2:8]] == list(cells(place)), name


def test_the_adapters_sentence_is_that_of_the_records() -> None:
    text = " ".join((ROOT / "docs" / "vision.md").read_text().split())
    for setting in comparisons()[1].best:
        assert setting.test.half_width is not None
        said = f"{100 * setting.test.mean:.1f} ± {100 * setting.test.half_width:.1f}"
        assert said in text
        assert f"{setting.first.trainable:,}" in text


def test_seven_other_seeds_say_what_is_written_of_them() -> None:
    (found,) = compare(find(ROOT / "docs" / "vision" / "ten_layers.jsonl").finished)
    text = " ".join((ROOT / "docs" / "vision.md").read_text().split()).partition("seeds 4 to 10 give:")[2]
    for name, latents in (
        ("the circuit", "circuit"),
        ("numbers", "shared_table"),
        ("features", "random_features"),
        ("subspace", "subspace"),
    ):
        (setting,) = (s for s in found.best if s.first.latents == latents)
        assert sorted(run.seed for run in setting.runs) == [4, 5, 6, 7, 8, 9, 10]
        assert setting.test.half_width is not None
        assert f"{name} {100 * setting.test.mean:.1f} ± {100 * setting.test.half_width:.1f}" in text
    judged = {d.against.first.latents: (d.significant, d.as_good) for d in found.against_controls}
    assert judged == {"shared_table": (False, True), "random_features": (False, False), "subspace": (True, False)}
