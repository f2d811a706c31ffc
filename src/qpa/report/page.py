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

from qpa.report.compare import Comparison
from qpa.report.figures import AXES, all_figures
from qpa.report.runs import Found
from qpa.report.table import HEADS, LEGEND, rows
from qpa.report.verdict import label, sentences

CAPTIONS = {
    "pareto": "Every setting at its best rate by validation, mean over seeds; error bars: 95 % interval. Dotted: the Pareto front.",
    "differences": "Differences of test perplexity, paired by seed, with 95 % intervals; left is better. Open marks: one seed.",
    "curves": "Validation perplexity while training, mean over seeds.",
    "split": "What is trained, as a share of what plain PEFT trains.",
    "cost": "Median time of an optimizer step, and peak memory since training began.",
}


def write(path: Path, found: Found, comparisons: list[Comparison]) -> None:
    """Write the page."""
    tasks = [_task(comparison) for comparison in comparisons]
    axes = {key: {"title": axis.title, "log": axis.log} for key, axis in AXES.items()}
    environment = Environment(loader=PackageLoader("qpa.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    html = environment.get_template("page.html.j2").render(
        counted=counted(found, comparisons),
        tasks=tasks,
        axes=axes,
        heads=HEADS,
        legend=LEGEND,
        captions=CAPTIONS,
        unfinished=found.unfinished,
        damaged=found.damaged,
        style=_text("page.css"),
        script=_text("page.js"),
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode(),
        data=json.dumps({"tasks": tasks, "axes": axes}).replace("<", r"\u003c"),
    )
    path.write_text(html, encoding="utf-8")


def counted(found: Found, comparisons: list[Comparison]) -> str:
    """How much was read."""
    parts = [f"{len(found.finished)} finished runs" if len(found.finished) != 1 else "1 finished run"]
    if len(comparisons) > 1:
        parts.append(f"{len(comparisons)} tasks (model, texts, tokens read): compared within each, not across")
    if found.unfinished:
        parts.append(f"{len(found.unfinished)} not finished")
    if found.damaged:
        parts.append(f"{len(found.damaged)} damaged and left out")
    return " · ".join(parts)


def _task(comparison: Comparison) -> dict[str, Any]:
    names = {s.first.setting: label(s, comparison) for s in comparison.settings}
    runs = [run for s in comparison.settings for run in s.runs]
    shown = ("folder", "seed", "trainable", "ratio", "perplexity", "base_perplexity", "val_perplexity", "seconds_per_step", "command")
    return {
        "name": comparison.name,
        "verdict": sentences(comparison),
        "rows": rows(comparison),
        "settings": [{key: _known(axis.of(s)) for key, axis in AXES.items()} for s in comparison.best],
        "runs": [{key: getattr(run, key) for key in shown} | {"label": names[run.setting]} for run in runs],
        "figures": {name: json.loads(figure.to_json() or "") for name, figure in all_figures(comparison).items()},
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def _text(name: str) -> str:
    return (resources.files("qpa.report") / name).read_text(encoding="utf-8")
