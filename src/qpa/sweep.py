"""Many runs by one command: in a Hydra multirun a job that fails leaves the others alone, and the end shows how all went.

Every job writes `job.json` into its own folder of the sweep's, `outputs/multirun/DATE/NUMBER`: its overrides, its run's folder,
how it ended. The runs themselves lie where single runs lie, so a sweep that is started again skips those that have finished.
"""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qpa import cli, record
from qpa.config import Config
from qpa.errors import JobFailedError
from qpa.files import write_json

JOB = "job.json"


@dataclass
class Job:
    """What a job tells of itself: its config, as soon as that is known to be one."""

    config: Config | None = None


def within() -> bool:
    """Whether this is a job of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def job(*, fail_fast: bool) -> Iterator[Job]:
    """Run one job; in a multirun its record is kept, and its failure is raised for Hydra to count, or at once ends all.

    Raises:
        JobFailedError: the job of a multirun failed.
    """
    this = Job()
    if not within():
        with cli.one_line_errors():
            yield this
        return
    place, overrides = Path(HydraConfig.get().runtime.output_dir), list(HydraConfig.get().overrides.task)
    _write(place, overrides, this, status="running")
    try:
        yield this
    except (Exception, SystemExit) as error:
        problem = cli.describe(error) if isinstance(error, cli.MENDABLE) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        _write(place, overrides, this, status="failed", error=problem)
        if not isinstance(error, cli.MENDABLE):
            traceback.print_exc()
        print(f"qpa: job {place.name} failed: {problem}", file=sys.stderr)
        if fail_fast:
            sys.exit(1)
        raise JobFailedError(f"{problem}  (job {place.name}: {' '.join(overrides)})") from None
    except BaseException:
        _write(place, overrides, this, status="canceled")
        raise
    _write(place, overrides, this, status="success")


def _write(place: Path, overrides: list[str], this: Job, *, status: str, error: str | None = None) -> None:
    place.mkdir(parents=True, exist_ok=True)
    folder = str(this.config.folder) if this.config else None
    write_json(place / JOB, {"status": status, "error": error, "overrides": overrides, "run": folder})


class Remembered(Callback):
    """Hydra's callback: keeps where the sweep's jobs are recorded, for `overview`."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A sweep begins."""
        Remembered.folder = Path(config.hydra.sweep.dir)


@contextmanager
def overview() -> Iterator[None]:
    """Show at the end of a sweep, however it ends, how its jobs went."""
    try:
        yield
    finally:
        if Remembered.folder is not None:
            show(Remembered.folder)


def show(folder: Path) -> None:
    """A line for every job of a sweep."""
    paths = sorted(folder.glob(f"*/{JOB}"), key=lambda path: int(path.parent.name))
    jobs = {path.parent.name: json.loads(path.read_text()) for path in paths}
    common = set.intersection(*(set(job["overrides"]) for job in jobs.values())) if len(jobs) > 1 else set()
    table = Table("job", "ended", "test perplexity", "ratio", "what", title=str(folder), title_justify="left")
    for number, job in jobs.items():
        result = record.read(Path(job["run"])) if job["status"] == "success" else None
        numbers = (f"{result['qpa']['test']['perplexity']:.3f}", f"{result['qpa']['params']['ratio']:.2%}") if result else ("-", "-")
        own = " ".join(override for override in job["overrides"] if override not in common)
        table.add_row(number, job["status"], *numbers, escape(f"{own}  {job['error'] or ''}"))
    Console(soft_wrap=True).print(table)
