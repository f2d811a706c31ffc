"""The report as one HTML page that needs nothing else: data, figures, and plotly's own script, packed."""

import base64
import gzip
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from qpa.report import confusion, growth
from qpa.report.axes import axes
from qpa.report.compare import Comparison
from qpa.report.figures import all_figures
from qpa.report.looks import MOST_SHOWN
from qpa.report.runs import Found, Run
from qpa.report.table import LEGEND, heads, rows
from qpa.report.verdict import decimals, label, sentences
from qpa.runs import answers
from qpa.runs.record import DRAWN

SHOWN = ("answered", "drawn")  # of a task: on the page as it is, not for its script


def write(path: Path, found: Found, comparisons: list[Comparison]) -> None:
    """Write the page."""
    tasks, found_growths = [_task(comparison) for comparison in comparisons], growth.growths(comparisons)
    grown = [{"name": one.name, "heads": growth.heads(one), "rows": growth.rows(one)} for one in found_growths]
    environment = Environment(loader=PackageLoader("qpa.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    html = environment.get_template("page.html.j2").render(
        counted=counted(found, comparisons),
        tasks=tasks,
        growths=grown,
        legend=LEGEND,
        unfinished=found.unfinished,
        damaged=found.damaged,
        style=_text("page.css"),
        script=_text("page.js"),
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode(),
        data=json.dumps(
            {
                "tasks": [{k: v for k, v in task.items() if k not in SHOWN} for task in tasks],
                "growths": [json.loads(growth.figure(one).to_json() or "") for one in found_growths],
            }
        ).replace("<", r"\u003c"),
    )
    path.write_text(html, encoding="utf-8")


def counted(found: Found, comparisons: list[Comparison]) -> str:
    """How much was read."""
    parts = [f"{len(found.finished)} finished runs" if len(found.finished) != 1 else "1 finished run"]
    if len(comparisons) > 1:
        parts.append(f"{len(comparisons)} tasks (model, data, how much is read): compared within each, not across")
    if found.unfinished:
        parts.append(f"{len(found.unfinished)} not finished")
    if found.damaged:
        parts.append(f"{len(found.damaged)} damaged and left out")
    return " · ".join(parts)


def captions(comparison: Comparison) -> dict[str, str]:
    """What a reader has to know of each figure."""
    metric, first = comparison.metric, comparison.settings[0].first
    side = "left" if metric.better == "lower" else "right"
    until = "" if first.over is None else ", up to where the first of them ends"
    labelled = {"confusion": confusion.caption(comparison)} if first.confusion else {}
    return labelled | {
        "pareto": "Every setting at its best rate by validation, mean over seeds; error bars: 95 % interval. Dotted: the Pareto front. "
        "Open circles: the circuit and what stands in its place. Stars: what others have published, by their protocol.",
        "gain": "The share of the baseline's gain over the base model that is kept, by seed, with 95 % intervals over seeds, of settings "
        "that train about as much. Shaded: the circuit's interval. Open marks: one seed.",
        "differences": f"Differences of test {metric.name}, paired by seed, with 95 % intervals; {side} is better. Open marks: one seed.",
        "curves": f"Validation {metric.name} while training, mean over seeds{until}.",
        "split": "What is trained, as a share of what plain PEFT trains.",
        "cost": "Median time of an optimizer step, and peak memory since training began.",
    }


def _task(comparison: Comparison) -> dict[str, Any]:
    compared = axes(comparison.metric)
    names = {s.first.setting: label(s, comparison) for s in comparison.settings}
    return {
        "name": comparison.name,
        "verdict": sentences(comparison),
        "axes": {key: {"title": axis.title, "log": axis.log, "better": axis.better} for key, axis in compared.items()},
        "heads": heads(comparison),
        "rows": rows(comparison),
        "settings": [{key: _known(axis.of(s)) for key, axis in compared.items()} for s in comparison.best],
        "runs": [_run(run, names[run.setting]) for s in comparison.settings for run in s.runs],
        "figures": {name: json.loads(figure.to_json() or "") for name, figure in all_figures(comparison).items()},
        "captions": captions(comparison),
        "answered": _answered(comparison, names),
        "drawn": _drawn(comparison, names),
    }


def _answered(comparison: Comparison, names: dict[str, str]) -> list[dict[str, Any]]:
    """What base and adapted models answered to held-out prompts, of the runs whose folders are here."""
    runs = [run for s in comparison.settings for run in s.runs]
    said = [(run, answers.read(Path(run.folder))) for run in runs]
    return [{"label": names[run.setting], "seed": run.seed, "samples": samples} for run, samples in said if samples]


def _drawn(comparison: Comparison, names: dict[str, str]) -> list[dict[str, Any]]:
    """What the task has drawn of one run of each of the best settings, where its folder is here."""
    runs = [(s.first, s.first.picture) for s in comparison.best[:MOST_SHOWN]]
    files = [(run, picture, Path(run.folder) / f"{DRAWN}.{picture.kind}") for run, picture in runs if picture]
    return [
        {"label": names[run.setting], "seed": run.seed, "picture": picture, "data": base64.b64encode(file.read_bytes()).decode()}
        for run, picture, file in files
        if file.is_file()
    ]


def _run(run: Run, name: str) -> dict[str, Any]:
    shown = ("folder", "seed", "trainable", "ratio", "seconds_per_step", "command")
    values = {key: getattr(run, key) for key in ("test", "base", "val")}
    told = {key: f"{value:.{decimals(value, least=3)}f}" for key, value in values.items()}
    return {key: getattr(run, key) for key in shown} | told | {"label": name}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def _text(name: str) -> str:
    return (resources.files("qpa.report") / name).read_text(encoding="utf-8")
