"""The tutorial, run whole as it is written, in a folder that holds what a clean clone does; only its trainings are shortened."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SHORT = "trainer.max_steps=2 trainer.val_every=2 data.context=64 data.max_held_out_windows=4"  # given after what is written, so it holds
PRELUDE = f"""
set -euo pipefail
python() {{ if [ "$1" = train.py ]; then command python "$@" {SHORT}; else command python "$@"; fi; }}
"""
FENCED = re.compile(r"^```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END = "--- end of block"


class Block(NamedTuple):
    """Commands of the tutorial, in bash, and the lines that it shows of what they print."""

    commands: str
    shown: list[str]


def blocks() -> list[Block]:
    """All of them, in order; a `text` block is what the one above it prints."""
    found: list[Block] = []
    for language, body in FENCED.findall((ROOT / "docs/tutorial.md").read_text()):
        if language == "text":
            found[-1].shown.extend(line for line in body.splitlines() if line != "...")
        else:
            found.append(Block(body if language == "sh" else f"python - <<'PYTHON'\n{body}PYTHON\n", []))
    return found


def shape(line: str) -> str:
    """A line without what differs from run to run: numbers, hashes, and the widths that follow from them."""
    line = re.sub(r"-[0-9a-f]{8}\b", "-HASH", line)
    line = re.sub(r"-?\d[\d,.]*", "0", line)
    return re.sub(r"([─━])+", r"\1", re.sub(r"\s+", " ", line)).replace(" │", "│").strip()


def lacking(shown: list[str], printed: str) -> list[str]:
    """Which of the shown lines were not printed, in this order."""
    rest = iter(shape(line) for line in printed.splitlines())
    return [line for line in shown if shape(line) not in rest]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder as a user's clone."""
    (tmp_path / "outputs").mkdir()
    for name in ("train.py", "conf", "src", "sweeps"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.slow
def test_tutorial_runs_as_written_and_prints_what_it_shows(clone: Path) -> None:
    written = blocks()
    script = PRELUDE + "".join(f"{block.commands}\necho '{END}'\n" for block in written)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(clone / "src")}
    ran = subprocess.run(["bash", "-c", script], cwd=clone, env=environment, capture_output=True, text=True, timeout=1800)
    assert ran.returncode == 0, ran.stderr[-3000:]
    printed = ran.stdout.split(f"{END}\n")[:-1]
    assert len(printed) == len(written)
    assert not [line for block, output in zip(written, printed, strict=True) for line in lacking(block.shown, output)]


def test_every_block_of_the_tutorial_is_one_that_is_run_or_compared() -> None:
    fences = re.findall(r"^```(.*)$", (ROOT / "docs/tutorial.md").read_text(), re.MULTILINE)
    assert set(fences) <= {"sh", "python", "text", ""}
    assert fences.count("") == len(fences) / 2  # each that opens says what it is
