"""What a sweep's user sees: a live table of its jobs in a terminal, and at the end the same table, the verdict, a table in W&B."""

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from qpa.runs.sweep import Job, jobs_of, replace_values
from qpa.tasks.task import Metric

ROWS = 30  # of the live table: the newest jobs


@dataclass
class Sweep:
    """The sweep that this process runs, once it has begun."""

    folder: Path | None = None
    logger: DictConfig | None = None
    live: Live | None = None


SWEEP: ContextVar[Sweep] = ContextVar("sweep")  # Hydra makes the callback itself, and sends it to other processes


class Overview(Callback):
    """Hydra's callback: a sweep begins."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Let the command line replace a sweep file's values; show the jobs from now on if this is a terminal."""
        replace_values(config)
        sweep = SWEEP.get()
        folder = sweep.folder = Path(config.hydra.sweep.dir)
        sweep.logger = config.logger
        if sys.stdout.isatty():
            sweep.live = Live(get_renderable=lambda: table(jobs_of(folder), folder, rows=ROWS), refresh_per_second=1, transient=True)
            sweep.live.start()


@contextmanager
def overview() -> Iterator[None]:
    """Show at the end of a sweep, however it ends, how its jobs went and what they say."""
    sweep = Sweep()
    SWEEP.set(sweep)
    try:
        yield
    finally:
        if sweep.live is not None:
            sweep.live.stop()
        if sweep.folder is not None and (jobs := jobs_of(sweep.folder)):
            Console(soft_wrap=True).print(table(jobs, sweep.folder))
            _verdict(jobs)
            _to_wandb(jobs, sweep.folder, sweep.logger)


def table(jobs: list[Job], folder: Path, rows: int | None = None) -> Table:
    """A line for each of the newest jobs with what its own overrides are; below, how many ended how, and the best so far."""
    done = Counter(job["status"] for job in jobs)
    counts = ", ".join(f"{number} {status}" for status, number in done.items())
    found = Table(*_columns(jobs), title=str(folder), title_justify="left", caption=counts + _best(jobs), caption_justify="left")
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs[-rows:] if rows else jobs:
        numbers = (f"{job['value']:.3f}", f"{job['ratio']:.2%}") if job["status"] == "success" else ("-", "-")
        own = " ".join(override for override in job["overrides"] if override not in common)
        found.add_row(str(job["number"]), _status(job), *numbers, escape(f"{own}  {job['error'] or ''}"))
    return found


def _columns(jobs: list[Job]) -> tuple[str, ...]:
    names = dict.fromkeys(job["metric"] for job in jobs if job["status"] == "success")
    return ("job", "ended", f"test {' or '.join(names)}" if names else "test", "ratio", "what")


def _best(jobs: list[Job]) -> str:
    """Of jobs that are judged alike."""
    done = [job for job in jobs if job["status"] == "success"]
    if len({(job["metric"], job["better"]) for job in done}) != 1:
        return ""
    metric = Metric(done[0]["metric"], "", done[0]["better"])
    best = done[0]
    for job in done:
        best = job if metric.improves(job["value"], on=best["value"]) else best
    return f"; best so far: job {best['number']}, {metric.name} {best['value']:.3f}"


def _status(job: Job) -> str:
    """How a job ended, or how far it is."""
    metrics = Path(job.get("run", "")) / "metrics.csv"
    if job["status"] != "running":
        return job["status"]
    with suppress(OSError), metrics.open(newline="") as file:
        steps = [int(row["step"]) + 1 for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
        if steps:  # how many there are going to be is not known of a run of whole epochs
            return f"step {min(steps[-1], job['steps'])}/{job['steps']}" if job["steps"] else f"step {steps[-1]}"
    return "running"


def _verdict(jobs: list[Job]) -> None:
    """The report's verdict on the runs of this sweep."""
    from qpa.report import compare, runs, verdict  # scipy: seconds

    folders = dict.fromkeys(Path(job["run"]) for job in jobs if job["status"] == "success")
    found = runs.read(folders)
    comparisons = compare.compare(found.finished)
    if any(len(comparison.settings) > 1 for comparison in comparisons):
        verdict.show(found, comparisons)


def _to_wandb(jobs: list[Job], folder: Path, logger: DictConfig | None) -> None:
    """One table of all jobs, as a run of its own in the sweep's group."""
    if logger is None or logger.kind != "wandb" or all(job["status"] == "failed" for job in jobs):
        return
    from qpa.training import loggers

    cells = [[job["number"], job["status"], job.get("value"), job.get("ratio"), " ".join(job["overrides"])] for job in jobs]
    loggers.table(logger, folder, "sweep/jobs", _columns(jobs), cells)
