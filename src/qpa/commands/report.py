"""`python -m qpa.report [runs=outputs] [out=report]`: compare all runs under a folder: words, page, tables, figures, CSV, JSON.

`study=FILE.jsonl` in place of `out` keeps their records, a line each, in one file, which `runs` reads as it reads a folder.
"""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qpa.commands import cli
from qpa.errors import ConfigError, UsageError
from qpa.files import write_json
from qpa.report import images, page, records, table
from qpa.report.compare import Comparison, Difference, Setting, compare
from qpa.report.growth import growths
from qpa.report.runs import Found, Run, find
from qpa.report.verdict import sentences, show

MOST_DRAWN = 3  # tasks as PNG; the page has all
LONG = ("curve", "over", "config", "protocol", "picture", "pieces", "forgetting", "confusion")  # of a run: not in tables
USAGE = "usage: python -m qpa.report [runs=outputs] [out=report | study=FILE.jsonl]"


def main(arguments: list[str]) -> None:
    """Read, compare, print, write."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if len(given) != len(arguments) or not given.keys() <= {"runs", "out", "study"} or {"out", "study"} <= given.keys():
        raise UsageError(USAGE)
    root = Path(given.get("runs", "outputs"))
    if "study" in given:
        _keep(root, Path(given["study"]))
    else:
        _report(root, Path(given.get("out", "report")))


def _report(root: Path, out: Path) -> None:
    found = find(root)
    comparisons = compare(found.finished)
    grown = growths(comparisons)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", as_json(found, comparisons))
    _write_csv(out / "report.csv", found)
    table.write_markdown(out / "report.md", comparisons, grown)
    page.write(out / "index.html", found, comparisons)
    images.write(out, comparisons[:MOST_DRAWN], grown[:MOST_DRAWN])
    show(found, comparisons)
    print(out / "index.html")


def _keep(root: Path, study: Path) -> None:
    """Write all records that can be read, those of runs that did not finish too, into one file.

    Raises:
        ConfigError: it is no study's name, or would be counted among the runs that it holds.
    """
    if study.suffix != records.STUDY:
        raise ConfigError("study", study, f"is no JSON-lines file; give a name that ends in {records.STUDY}")
    if study.resolve().is_relative_to(root.resolve()):
        raise ConfigError("study", study, f"lies in runs={root}, which would then count its runs twice; give a file elsewhere")
    found = find(root)
    records.write_study(study, root, leave_out=found.damaged)
    show(found, [])
    print(study)


def as_json(found: Found, comparisons: list[Comparison]) -> dict[str, Any]:
    """All numbers of the report."""
    return {
        "runs": [_flat(run) for run in found.finished],
        "unfinished": found.unfinished,
        "damaged": found.damaged,
        "tasks": [
            {
                "task": c.task,
                "family": c.settings[0].first.family,
                "name": c.name,
                "metric": asdict(c.metric),
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
    base, adapted = run.forgetting or (None, None)
    return kept | {"metric": run.metric.name, "ratio": run.ratio, "base_forgetting": base, "forgetting": adapted}


def _setting(setting: Setting) -> dict[str, Any]:
    first = setting.first
    known = {key: getattr(first, key) for key in ("setting", "method", "latents", "learning_rate", "trainable", "plain_peft", "ratio")}
    return known | {"test": asdict(setting.test), "val": setting.val}


def _difference(difference: Difference) -> dict[str, Any]:
    sides = {"setting": difference.setting.first.setting, "against": difference.against.first.setting}
    found = {key: getattr(difference, key) for key in ("p", "equivalence_p", "tests", "detectable", "over_data")}
    return sides | {"difference": asdict(difference.difference)} | found | {"test": "paired t-test over seeds, corrected by Holm"}


def _write_csv(path: Path, found: Found) -> None:
    with path.open("w", newline="") as file:
        rows = [_flat(run) for run in found.finished]
        writer = csv.DictWriter(file, fieldnames=rows[0] if rows else ["folder"])
        writer.writeheader()
        writer.writerows(rows)


script = cli.script(main)

if __name__ == "__main__":
    script()
