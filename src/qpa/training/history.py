"""What a run has logged, over all its parts: a run that goes on renames the `metrics.csv` that is there to `metrics-N.csv`."""

import csv
from pathlib import Path

from qpa.training.names import METRICS


def read(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Rows as `(step, numbers)`, every step once: a part counts up to where the next one goes on.

    Raises:
        OSError: a file cannot be read.
        ValueError: one has other things in it than numbers.
    """
    rows: list[tuple[int, dict[str, float]]] = []
    for part in sorted(filter(_is_part, folder.glob("metrics*.csv")), key=_order):
        with part.open(newline="") as file:
            found = [row for row in csv.DictReader(file) if row.get("step")]  # the last may be torn
        own = [(int(row.pop("step")), {name: float(value) for name, value in row.items() if name and value}) for row in found]
        rows = [row for row in rows if not own or row[0] < own[0][0]] + own
    return rows


def _is_part(file: Path) -> bool:
    return file.name == METRICS or file.stem.rpartition("-")[2].isdigit()


def _order(part: Path) -> float:
    return float("inf") if part.name == METRICS else int(part.stem.rpartition("-")[2])
