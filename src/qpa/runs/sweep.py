"""Many runs by one command: in a Hydra multirun a job that fails leaves the others alone, and all are on record.

Every job writes `job.json` into its own folder of the sweep's, `outputs/multirun/DATE/NUMBER`: its overrides, its run's folder,
how it ended. The runs themselves lie where single runs lie, so a sweep that is started again skips those that have finished.
"""

import json
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from qpa import errors
from qpa.config import parse
from qpa.config.context import Context, program
from qpa.errors import JobFailedError
from qpa.files import write_json
from qpa.runs import record, run
from qpa.runs.plan import Plan
from qpa.tasks.task import Metric
from qpa.training import processes

Job = dict[str, Any]
SEED, RATE = "seed=", "optimizer.lr="  # overrides of these keys


def context(kept: dict[Any, Any]) -> Context:
    """Of the job that Hydra runs now, or of the one run that it does.

    Args:
        kept: what this process keeps from one job to the next.
    """
    hydra = HydraConfig.get()
    sweep = Path(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None
    alone = ["hydra.mode=RUN"] if sweep else []  # a sweep file among the overrides would start the whole sweep
    return Context(processes.rank(), sweep, shlex.join([*program(), *hydra.overrides.task, *alone]), kept)


def run_job(composed: DictConfig, here: Context, work: Callable[[Plan], object]) -> None:
    """Plan the composed config of a multirun's job and work on it; keep a record, and raise a failure only at the end, for Hydra to count.

    Raises:
        JobFailedError: the job of a multirun failed.
    """
    assert here.sweep is not None
    hydra = HydraConfig.get()
    os.chdir(hydra.runtime.cwd)  # some launchers start their processes elsewhere
    if composed.get("fail_fast") is True and _failed(here.sweep):
        return
    place = here.sweep / hydra.sweep.subdir
    place.mkdir(parents=True, exist_ok=True)
    job: Job = {"number": hydra.job.num, "status": "running", "error": None, "overrides": list(hydra.overrides.task)}
    try:
        plan = run.ready(parse(composed), here)
        job |= {"run": str(plan.folder), "steps": plan.config.trainer.known_steps}
        write_json(place / record.JOB, job)
        work(plan)
        job |= {"status": "success"} | _found(plan)
    except Exception as error:  # any: the other jobs go on
        if errors.TRACEBACKS or not isinstance(error, errors.MENDABLE):
            traceback.print_exc()
        job |= {"status": "failed", "error": errors.line(error)}
    except BaseException:
        job["status"] = "canceled"
        raise
    finally:
        write_json(place / record.JOB, job)
    if job["error"]:  # raised here: within `except` the new error would hold the failed model in memory until the sweep ends
        print(f"qpa: job {job['number']} failed: {job['error']}", file=sys.stderr)
        raise JobFailedError(f"{job['error']}  (job {job['number']}: {' '.join(job['overrides'])})")


def _found(plan: Plan) -> Job:
    """What the sweep's table shows of a finished job, and what rates are chosen by."""
    metric, ours = plan.task.metric, record.read(plan.folder)["qpa"]
    val, value = (ours[split][metric.name] for split in ("val", "test"))
    return {"metric": metric.name, "better": metric.better, "val": val, "value": value, "ratio": ours["params"]["ratio"]}


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


def preferred(jobs: Sequence[Job]) -> list[Job]:
    """Of finished jobs that differ in their rate alone, the one that is best on the validation split."""
    groups: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        if job["status"] != "success" or not math.isfinite(job["val"]):
            continue
        metric = Metric(job["metric"], "", job["better"])
        best = groups.setdefault(tuple(without(job, RATE)), job)
        if metric.improves(job["val"], on=best["val"]):
            groups[tuple(without(job, RATE))] = job
    return list(groups.values())


def without(job: Job, key: str) -> list[str]:
    """A job's overrides but those of one key."""
    return [override for override in job["overrides"] if not is_of(key, override)]


def is_of(key: str, override: str) -> bool:
    """Whether an override is one of this key, of whatever kind."""
    return override.lstrip("+~").startswith(key)
