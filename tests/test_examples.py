"""Every example that is one file, run as a user runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 7


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_is_short_and_imports_nothing_of_qpa_but_itself(example: Path) -> None:
    text = example.read_text()
    assert text.count("\n") <= 48
    assert re.findall(r"^.*\bimport\b.*\bqpa\b.*$|^.*from qpa\b.*$", text, re.MULTILINE) == ["import qpa"]


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_learns_and_its_stock_reload_says_the_same(example: Path, tmp_path: Path) -> None:
    """The last of these is an assertion in the example itself."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, example], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert re.search(r"^[\d,]+ numbers are trained", ran.stdout, re.MULTILINE)
    what, before, after = re.findall(r"^(loss|return) ([\d.]+) -> ([\d.]+)$", ran.stdout, re.MULTILINE)[-1]
    assert float(after) < 0.8 * float(before) if what == "loss" else float(after) > 5 * float(before)
    assert "assert torch.equal(" in example.read_text()
