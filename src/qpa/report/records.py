"""Where the records of runs lie: each in its run's folder, or all of a study in one file of JSON lines.

A line holds `folder`, where the run lay; `record`, all of its `result.json`; and, where the run logged any, `curve`: its metric on
the validation split as pairs of optimizer step and value, or of what else its task has curves drawn over.
"""

import csv
import json
import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpa.config.earlier import judged
from qpa.files import from_json, read_json, write_whole
from qpa.runs.record import RESULT
from qpa.training import history

STUDY = ".jsonl"
LINE = b'{"folder": '
Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Stored:
    """A run's record.

    Attributes:
        folder: of the run.
        record: all of its `result.json`.
        curve: the metric on the validation split after optimizer steps, or after what the task counts in their place.
    """

    folder: str
    record: dict[str, Any]
    curve: Curve


@dataclass(frozen=True)
class Folder:
    """A run's folder."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> Stored:
        """Raises OSError or ValueError where there is no JSON."""
        record = read_json(self.path / RESULT)
        return Stored(str(self.path), record, _curve(self.path, record))


@dataclass(frozen=True)
class Line:
    """A line of a study."""

    file: Path
    number: int
    content: bytes

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"

    def read(self) -> Stored:
        """Raises ValueError, KeyError or TypeError where it is not a study's."""
        line = from_json(self.content)
        return Stored(line["folder"], line["record"], tuple((step, value) for step, value in line.get("curve", ())))


Place = Folder | Line


def under(root: Path) -> list[Path]:
    """Run folders and studies at or under a path."""
    if root.suffix == STUDY and root.is_file():
        return [root]
    return sorted([*(path.parent for path in root.rglob(RESULT)), *filter(_is_study, root.rglob(f"*{STUDY}"))])


def _is_study(path: Path) -> bool:
    """Whether any line of a file is a study's as `write_study` has written it; else it is data that lies beside runs."""
    if not path.is_file():
        return False
    with path.open("rb") as lines:
        return any(line.startswith(LINE) for line in lines)


def at(path: Path) -> list[Place]:
    """The one record of a run's folder, or the lines of a study that are not empty."""
    if path.suffix != STUDY or path.is_dir():
        return [Folder(path)]
    lines = path.read_bytes().splitlines()
    return [Line(path, number, content) for number, content in enumerate(lines, 1) if content.strip()]


def write_study(file: Path, root: Path, *, leave_out: Container[str]) -> None:
    """Write all records under `root` into one file, but for those at places that are left out; folders are named from `root`."""
    lines = []
    for place in (place for path in under(root) for place in at(path) if str(place) not in leave_out):
        stored = place.read()
        folder = place.path.relative_to(root).as_posix() if isinstance(place, Folder) else stored.folder
        curve = {"curve": stored.curve} if stored.curve else {}
        lines.append(json.dumps({"folder": folder, "record": stored.record} | curve) + "\n")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, "".join(lines).encode())


def _curve(folder: Path, record: dict[str, Any]) -> Curve:
    """From the metrics that a run logged; none where they are damaged."""
    try:
        steps = record["qpa"].get("steps") or record["run_info"]["train_config"]["trainer"]["max_steps"]
        by = judged(record)
        column, over = f"val/{by['metric']['name']}", by["task"].get("over")
        points, counted = [], 0
        for step, numbers in history.read(folder):
            counted = int(numbers.get(f"train/{over}", counted)) if over else min(step + 1, steps)
            points += [(counted, numbers[column])] if column in numbers else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
        return ()
    return tuple(point for point in points if math.isfinite(point[1]))
