"""The commands of README and docs: those that take seconds run as they are written, of all others the overrides compose."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDER = re.compile(r"NAME|DIR|HOST|SHARE|\$|VALUE|\.\.\.|\{")


def commands() -> list[str]:
    """Every command of ours in a code block or in backticks, without its comment."""
    found: dict[str, None] = {}
    for file in FILES:
        text = file.read_text().replace("\\\n", " ")
        for match in re.finditer(r"(?:^\s*|`)((?:python -m qpa\.|python train\.py)[^`\n]*)", text, flags=re.MULTILINE):
            found[re.sub(r"\s+#.*| \(.*", "", match[1]).strip()] = None
    return list(found)


def arguments(command: str) -> list[str]:
    return shlex.split(command)[1:]


QUICK = re.compile(r"python -m qpa\.plan|python -m qpa\.report runs=docs|python train\.py --(help|cfg)")


@pytest.mark.parametrize("command", [c for c in commands() if QUICK.match(c) and not PLACEHOLDER.search(c)])
def test_quick_command_works_as_written(command: str, tmp_path: Path) -> None:
    elsewhere = [re.sub(r"^out=.*", f"out={tmp_path}", argument) for argument in arguments(command)]
    done = subprocess.run([sys.executable, *elsewhere], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("python train.py") and not PLACEHOLDER.search(c)])
def test_overrides_of_every_training_command_compose(command: str) -> None:
    from hydra import compose, initialize_config_dir

    overrides = [a for a in arguments(command)[1:] if not a.startswith(("-", "hydra", "job"))]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose("train", overrides=[re.sub(r"(?<==)([\w.-]+),.*", r"\1", o) if "[" not in o else o for o in overrides])


def test_there_are_commands_to_test() -> None:
    assert len(commands()) > 20
