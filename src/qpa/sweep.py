"""Many runs by one command: in a Hydra multirun a job that fails leaves the others alone, and the end shows how all went.

Every job writes `job.json` into its own folder of the sweep's, `outputs/multirun/DATE/NUMBER`: its overrides, its run's folder,
how it ended. The runs themselves lie where single runs lie, so a sweep that is started again skips those that have finished.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from qpa.config import Config, parse
from qpa.errors import JobFailedError
from qpa.files import write_json
from qpa.record import JOB


def run_job(composed: DictConfig, work: Callable[[Config], object]) -> None:
    """Check a composed config and work on it; in a multirun keep a record, and raise a failure only at the end, for Hydra to count.

    Raises:
        JobFailedError: the job of a multirun failed.
    """
    if not within():
        with cli.one_line_errors():
            work(parse(composed))
        return
    place, overrides = Path(HydraConfig.get().runtime.output_dir), list(HydraConfig.get().overrides.task)
    job: dict[str, Any] = {"number": HydraConfig.get().job.num, "status": "running", "error": None, "overrides": overrides}
    place.mkdir(parents=True, exist_ok=True)
    try:
        config = parse(composed)
        job["run"] = str(config.folder)
        write_json(place / JOB, job)
        work(config)
        ours = record.read(Path(job["run"]))["qpa"]
        job |= {"status": "success", "perplexity": ours["test"]["perplexity"], "ratio": ours["params"]["ratio"]}
    except Exception as error:  # any: the other jobs go on
        mendable = isinstance(error, cli.MENDABLE)
        if cli.FULL_ERRORS or not mendable:
            traceback.print_exc()
        words = cli.describe(error) if mendable else f"{type(error).__name__}: {' '.join(str(error).split())}"
        job |= {"status": "failed", "error": words}
    except BaseException:
        job["status"] = "canceled"
        raise
    finally:
        write_json(place / JOB, job)
    if job["error"]:  # raised here: within `except` the new error would hold the failed model in memory until the sweep ends
        _fail(job, fast=composed.get("fail_fast") is True)


def within() -> bool:
    """Whether this is a job of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _fail(job: dict[str, Any], *, fast: bool) -> None:
    print(f"qpa: job {job['number']} failed: {job['error']}", file=sys.stderr)
    if fast:
        sys.exit(1)
    raise JobFailedError(f"{job['error']}  (job {job['number']}: {' '.join(job['overrides'])})")


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
    """A line for every job of a sweep, with what its own overrides are."""
    jobs = sorted((json.loads(path.read_text()) for path in folder.rglob(JOB)), key=lambda job: int(job["number"]))
    if not jobs:
        return
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    table = Table("job", "ended", "test perplexity", "ratio", "what", title=str(folder), title_justify="left")
    for job in jobs:
        numbers = (f"{job['perplexity']:.3f}", f"{job['ratio']:.2%}") if job["status"] == "success" else ("-", "-")
        own = " ".join(override for override in job["overrides"] if override not in common)
        table.add_row(str(job["number"]), job["status"], *numbers, escape(f"{own}  {job['error'] or ''}"))
    Console(soft_wrap=True).print(table)
