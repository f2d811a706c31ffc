"""`python -m qpa.analysis what=gradient_variance|contribution|spectrum|entanglement [run=DIR] [KEY=VALUE ...]`.

Writes `WHAT.json` and `WHAT.png` into `RUN/analysis`, and into a W&B run of its own where the run has one. Every key and default
is in `conf/analysis.yaml`.
"""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from qpa.commands import cli
from qpa.config import AnalysisConfig, checked
from qpa.config.composing import composed
from qpa.config.context import Context
from qpa.errors import ConfigError
from qpa.files import write_json
from qpa.report.images import write_figure
from qpa.runs.record import load_config
from qpa.tasks.task import find


def main(arguments: list[str]) -> None:
    """Analyse, write, and print where to."""
    settings = checked(AnalysisConfig, composed("analysis", arguments))
    folder = _folder(settings)
    found, figure = import_module(f"qpa.analysis.{settings.what}").analyse(settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{settings.what}.json", found)
    write_figure(folder / f"{settings.what}.png", figure)
    if settings.run:
        _log(settings, found, figure)
    print(json.dumps(found if len(json.dumps(found)) < 2_000 else list(found)))
    print(folder / f"{settings.what}.png")


def _folder(settings: AnalysisConfig) -> Path:
    if settings.run is not None:
        load_config(Path(settings.run))
    elif settings.what != "gradient_variance":
        raise ConfigError("run", None, f"what={settings.what} looks at a finished run: run=DIR, a folder that a training printed")
    return Path(settings.out or (Path(settings.run) / "analysis" if settings.run else "outputs/analysis"))


def _log(settings: AnalysisConfig, found: dict[str, Any], figure: Figure) -> None:
    """Numbers and figure into W&B, as a run of their own beside the run's."""
    from qpa.training import loggers

    run = Path(settings.run or "")
    config = load_config(run)
    logged = loggers.Logged(config.logger, config.model_dump(by_alias=True), Context(), find(config.task.kind).metric, "analysis")
    with loggers.opened(logged, run / "analysis" / settings.what) as opened:
        loggers.draw(opened, f"analysis/{settings.what}", figure, dict(_flat(found, "analysis")))


def _flat(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Every single number, under the names that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}/{key}")
    elif isinstance(value, int | float):
        yield name, value


script = cli.script(main)

if __name__ == "__main__":
    script()
