"""Many runs by one command: in a Hydra multirun a job that fails leaves the others alone, and all are on record.

Every job writes `job.json` into its own folder of the sweep's, `outputs/multirun/DATE/NUMBER`: its overrides, its run's folder,
how it ended. The runs themselves lie where single runs lie, so a sweep that is started again skips those that have finished.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from qpa.commands import cli
from qpa.config import Config, parse
from qpa.errors import JobFailedError
from qpa.files import write_json
from qpa.runs import record, run

Job = dict[str, Any]


def run_job(composed: DictConfig, work: Callable[[Config], object]) -> None:
    """Check a composed config and work on it; in a multirun keep a record, and raise a failure only at the end, for Hydra to count.

    Raises:
        JobFailedError: the job of a multirun failed.
    """
    if not record.in_sweep():
        with cli.one_line_errors():
            work(parse(composed))
        return
    hydra = HydraConfig.get()
    os.chdir(hydra.runtime.cwd)  # some launchers start their processes elsewhere
    if composed.get("fail_fast") is True and _failed(Path(hydra.sweep.dir)):
        return
    place = Path(hydra.sweep.dir, hydra.sweep.subdir)
    place.mkdir(parents=True, exist_ok=True)
    job: Job = {"number": hydra.job.num, "status": "running", "error": None, "overrides": list(hydra.overrides.task)}
    try:
        config = run.ready(parse(composed))
        job |= {"run": str(config.folder), "steps": config.trainer.max_steps}
        write_json(place / record.JOB, job)
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
        write_json(place / record.JOB, job)
    if job["error"]:  # raised here: within `except` the new error would hold the failed model in memory until the sweep ends
        print(f"qpa: job {job['number']} failed: {job['error']}", file=sys.stderr)
        raise JobFailedError(f"{job['error']}  (job {job['number']}: {' '.join(job['overrides'])})")


def replace_values(config: DictConfig) -> None:
    """Leave out of a sweep file what the command line gives itself: Hydra would run every combination of both."""
    given = {override.lstrip("+~").partition("=")[0] for override in config.hydra.overrides.task}
    params = config.hydra.sweeper.params or {}
    with read_write(config), open_dict(config):
        config.hydra.sweeper.params = {key: value for key, value in params.items() if key not in given}


def _failed(folder: Path) -> bool:
    """Whether a job of the sweep in this folder has failed."""
    return any(job["status"] == "failed" for job in jobs_of(folder))


def jobs_of(folder: Path) -> list[Job]:
    """The jobs of a sweep that have begun."""
    found = []
    for path in folder.rglob(record.JOB):
        with suppress(OSError, ValueError):  # as if it had not begun
            found.append(json.loads(path.read_text()))
    return sorted(found, key=lambda job: int(job["number"]))
