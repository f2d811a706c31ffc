"""What a sweep's user sees: a live table of its jobs in a terminal, and at the end the same table, the verdict, a table in W&B."""

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from qpa.runs.sweep import Job, jobs_of, replace_values

ROWS = 30  # of the live table: the newest jobs
COLUMNS = ("job", "ended", "test perplexity", "ratio", "what")


class Overview(Callback):
    """Hydra's callback: a sweep begins. What it finds is kept by the class, as launchers send the object to other processes."""

    folder: Path | None = None
    logger: DictConfig | None = None
    live: Live | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Let the command line replace a sweep file's values; show the jobs from now on if this is a terminal."""
        replace_values(config)
        folder = Path(config.hydra.sweep.dir)
        Overview.folder, Overview.logger = folder, config.logger
        if sys.stdout.isatty():
            Overview.live = Live(get_renderable=lambda: table(jobs_of(folder), folder, rows=ROWS), refresh_per_second=1, transient=True)
            Overview.live.start()


@contextmanager
def overview() -> Iterator[None]:
    """Show at the end of a sweep, however it ends, how its jobs went and what they say."""
    try:
        yield
    finally:
        if Overview.live is not None:
            Overview.live.stop()
        if Overview.folder is not None and (jobs := jobs_of(Overview.folder)):
            Console(soft_wrap=True).print(table(jobs, Overview.folder))
            _verdict(jobs)
            _to_wandb(jobs, Overview.folder, Overview.logger)


def table(jobs: list[Job], folder: Path, rows: int | None = None) -> Table:
    """A line for each of the newest jobs with what its own overrides are; below, how many ended how, and the best so far."""
    done = Counter(job["status"] for job in jobs)
    best = min((job for job in jobs if job["status"] == "success"), key=lambda job: job["perplexity"], default=None)
    counts = ", ".join(f"{number} {status}" for status, number in done.items())
    caption = counts + (f"; best so far: job {best['number']}, perplexity {best['perplexity']:.3f}" if best else "")
    found = Table(*COLUMNS, title=str(folder), title_justify="left", caption=caption, caption_justify="left")
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs[-rows:] if rows else jobs:
        numbers = (f"{job['perplexity']:.3f}", f"{job['ratio']:.2%}") if job["status"] == "success" else ("-", "-")
        own = " ".join(override for override in job["overrides"] if override not in common)
        found.add_row(str(job["number"]), _status(job), *numbers, escape(f"{own}  {job['error'] or ''}"))
    return found


def _status(job: Job) -> str:
    """How a job ended, or how far it is."""
    metrics = Path(job.get("run", "")) / "metrics.csv"
    if job["status"] != "running":
        return job["status"]
    with suppress(OSError), metrics.open(newline="") as file:
        steps = [int(row["step"]) + 1 for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
        return f"step {min(steps[-1], job['steps'])}/{job['steps']}" if steps else "running"
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

    cells = [[job["number"], job["status"], job.get("perplexity"), job.get("ratio"), " ".join(job["overrides"])] for job in jobs]
    loggers.table(logger, folder, "sweep/jobs", COLUMNS, cells)
