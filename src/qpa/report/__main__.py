"""`python -m qpa.report [runs=outputs] [out=report]`: compare all runs under a folder, in words, as CSV and as JSON."""

import csv
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from qpa import cli
from qpa.errors import UsageError
from qpa.files import write_json
from qpa.report.compare import Comparison, Difference, Setting, compare
from qpa.report.runs import Found, find
from qpa.report.verdict import sentences

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
    console = Console(soft_wrap=True, highlight=False)
    for line in words(found, comparisons):
        console.print(escape(line))
    print(out)


def words(found: Found, comparisons: list[Comparison]) -> list[str]:
    """The whole verdict, and what was left out of it."""
    lines = []
    if len(comparisons) > 1:
        lines.append(f"{len(comparisons)} tasks (model, text, tokens read): runs are compared within each, not across.")
    for comparison in comparisons:
        runs = sum(len(s.runs) for s in comparison.settings)
        lines += [f"Task {comparison.task}, {runs} run(s) of {len(comparison.settings)} setting(s):"]
        lines += [f"  {sentence}" for sentence in sentences(comparison)]
    lines += [f"Not finished: {folder} ({reason})" for folder, reason in found.unfinished.items()]
    return lines + [f"Damaged, left out: {folder} ({reason})" for folder, reason in found.damaged.items()]


def as_json(found: Found, comparisons: list[Comparison]) -> dict[str, Any]:
    """All numbers of the report."""
    return {
        "runs": [asdict(run) for run in found.finished],
        "unfinished": found.unfinished,
        "damaged": found.damaged,
        "tasks": [
            {
                "task": c.task,
                "settings": [_setting(s) for s in c.settings],
                "baseline": c.baseline and c.baseline.first.setting,
                "against_baseline": [_difference(d) for d in c.against_baseline],
                "against_controls": [_difference(d) for d in c.against_controls],
                "front": [s.first.setting for s in c.front],
                "verdict": sentences(c),
            }
            for c in comparisons
        ],
    }


def _setting(setting: Setting) -> dict[str, Any]:
    first = setting.first
    known = {key: getattr(first, key) for key in ("setting", "method", "generator", "learning_rate", "trainable", "plain_peft", "ratio")}
    return known | {"perplexity": asdict(setting.perplexity), "val_perplexity": setting.val_perplexity}


def _difference(difference: Difference) -> dict[str, Any]:
    sides = {"setting": difference.setting.first.setting, "against": difference.against.first.setting}
    return sides | {"difference": asdict(difference.difference), "p": difference.p, "test": "paired t-test over seeds"}


def _write_csv(path: Path, found: Found) -> None:
    with path.open("w", newline="") as file:
        rows = [asdict(run) | {"ratio": run.ratio} for run in found.finished]
        writer = csv.DictWriter(file, fieldnames=rows[0] if rows else ["folder"])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    with cli.one_line_errors():
        main(sys.argv[1:])
