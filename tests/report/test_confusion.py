"""Which label is taken for which: the figure's shares against the records' counts, on the page and as PNG."""

import json
from pathlib import Path

import numpy as np
import pytest
from made import ACCURACY, write_run

from qpa.report import images
from qpa.report.compare import compare
from qpa.report.confusion import caption, confusion
from qpa.report.figures import all_figures
from qpa.report.page import captions
from qpa.report.runs import find

COUNTS = np.array([[3, 1, 0], [0, 2, 2], [0, 0, 0]])
MAJORITY = {"label": "b", "test": {"macro_f1": 0.25, "accuracy": 0.5}, "val": {"macro_f1": 0.25, "accuracy": 0.5}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (1, 2):
        for kind in ("qpa", "none"):
            folder = write_run(tmp_path / "runs", seed=seed, value=60.0 + seed, kind=kind, metric=ACCURACY)
            record = json.loads((folder / "result.json").read_text())
            record["qpa"]["test"]["confusion"] = (seed * COUNTS).tolist()
            record["qpa"]["protocol"] = {"labels": ["a", "b", "c"], "several": False, "base": "its head is new", "majority": MAJORITY}
            (folder / "result.json").write_text(json.dumps(record))
    return tmp_path / "runs"


def test_figure_has_the_shares_of_all_seeds_and_is_drawn(root: Path, tmp_path: Path) -> None:
    (comparison,) = compare(find(root).finished)
    figure = confusion(comparison)
    assert figure is not None
    assert len(figure.data) == 2  # the baseline, and the circuit
    for trace in figure.data:
        assert np.allclose(trace.z, COUNTS / np.array([[4], [4], [1]]))
        assert tuple(trace.customdata[0][1]) == ("a", "b", 3)
    assert {*all_figures(comparison)} <= {*captions(comparison)}
    images.write(tmp_path, [comparison])
    assert (tmp_path / "confusion.png").stat().st_size > 1_000
    assert "b, has macro-F1 0.250 and accuracy 0.500; of the base model" in caption(comparison)


def test_runs_without_labels_have_none(tmp_path: Path) -> None:
    write_run(tmp_path, seed=1, value=60.0, metric=ACCURACY)
    (comparison,) = compare(find(tmp_path).finished)
    assert confusion(comparison) is None
    assert "confusion" not in all_figures(comparison)
