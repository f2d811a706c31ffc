"""`python -m qpa.report [runs=outputs] [out=report]`: compare all runs under a folder: words, page, tables, figures, CSV, JSON."""

import csv
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qpa.commands import cli
from qpa.errors import UsageError
from qpa.files import write_json
from qpa.report import images, page, table
from qpa.report.compare import Comparison, Difference, Setting, compare
from qpa.report.runs import Found, Run, find
from qpa.report.verdict import sentences, show

MOST_DRAWN = 3  # tasks as PNG; the page has all
LONG = ("curve", "config")  # of a run: not in tables
USAGE = "usage: python -m qpa.report [runs=outputs] [out=report]"


def main(arguments: list[str]) -> None:
    """Read, compare, print, write."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if len(given) != len(arguments) or not given.keys() <= {"runs", "out"}:
        raise UsageError(USAGE)
    found = find(Path(given.get("runs", "outputs")))
    comparisons = compare(found.finished)
    out = Path(given.get("out", "report"))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", as_json(found, comparisons))
    _write_csv(out / "report.csv", found)
    table.write_markdown(out / "report.md", comparisons)
    page.write(out / "index.html", found, comparisons)
    images.write(out, comparisons[:MOST_DRAWN])
    show(found, comparisons)
    print(out / "index.html")


def as_json(found: Found, comparisons: list[Comparison]) -> dict[str, Any]:
    """All numbers of the report."""
    return {
        "runs": [_flat(run) for run in found.finished],
        "unfinished": found.unfinished,
        "damaged": found.damaged,
        "tasks": [
            {
                "task": c.task,
                "name": c.name,
                "settings": [_setting(s) for s in c.settings],
                "baseline": c.baseline and c.baseline.first.setting,
                "against_baseline": [_difference(d) | {"gain_kept": d.gain_kept and asdict(d.gain_kept)} for d in c.against_baseline],
                "against_controls": [_difference(d) for d in c.against_controls],
                "front": [s.first.setting for s in c.front],
                "verdict": sentences(c),
            }
            for c in comparisons
        ],
    }


def _flat(run: Run) -> dict[str, Any]:
    kept = {key: getattr(run, key) for key in Run.__dataclass_fields__ if key not in LONG}
    return kept | {"ratio": run.ratio}


def _setting(setting: Setting) -> dict[str, Any]:
    first = setting.first
    known = {key: getattr(first, key) for key in ("setting", "method", "generator", "learning_rate", "trainable", "plain_peft", "ratio")}
    return known | {"perplexity": asdict(setting.perplexity), "val_perplexity": setting.val_perplexity}


def _difference(difference: Difference) -> dict[str, Any]:
    sides = {"setting": difference.setting.first.setting, "against": difference.against.first.setting}
    return sides | {"difference": asdict(difference.difference), "p": difference.p, "test": "paired t-test over seeds"}


def _write_csv(path: Path, found: Found) -> None:
    with path.open("w", newline="") as file:
        rows = [_flat(run) for run in found.finished]
        writer = csv.DictWriter(file, fieldnames=rows[0] if rows else ["folder"])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    with cli.one_line_errors():
        main(sys.argv[1:])
