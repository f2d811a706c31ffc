"""What a run has logged, read as one from the files of its parts."""

from pathlib import Path

import pytest

from qpa.training import history


def write(folder: Path, name: str, steps: range, value: float) -> None:
    rows = "".join(f"{step},{value},\n" for step in steps)
    (folder / name).write_text("step,train/loss,val/perplexity\n" + rows)


def test_parts_follow_each_other_and_every_step_counts_once(tmp_path: Path) -> None:
    write(tmp_path, "metrics-1.csv", range(0, 6), 1.0)  # went on to step 5, killed after a checkpoint of step 3
    for part in range(2, 12):  # metrics-10 comes after metrics-9
        write(tmp_path, f"metrics-{part}.csv", range(2 * part, 2 * part + 2), float(part))
    write(tmp_path, "metrics.csv", range(24, 25), 99.0)
    found = history.read(tmp_path)
    assert [step for step, _ in found] == list(range(25))
    assert [numbers["train/loss"] for _, numbers in found] == [1.0] * 4 + [float(step // 2) for step in range(4, 24)] + [99.0]
    assert all("val/perplexity" not in numbers for _, numbers in found)


def test_torn_last_row_is_left_out_and_words_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.5\n,")
    assert history.read(tmp_path) == [(0, {"train/loss": 1.5})]
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,much\n")
    with pytest.raises(ValueError, match="much"):
        history.read(tmp_path)
