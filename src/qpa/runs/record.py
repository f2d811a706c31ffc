"""The run's own record: `config.yaml` and `result.json`, written whatever happens to the run.

`run_info`, `train_info` and `meta_info` follow PEFT's method_comparison; what is ours stands under `qpa`. A value that is
not known is null.
"""

import gc
import math
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from qpa.config import Config, parse
from qpa.config.context import ENTRY
from qpa.config.earlier import completed
from qpa.errors import ConfigError, NonFiniteLossError, UserError
from qpa.files import read_json, write_json
from qpa.runs.plan import Plan
from qpa.tasks.task import Measured, Task

RESULT = "result.json"
CONFIG = "config.yaml"
DRAWN = "drawn"  # and an ending: what a task shows of a finished run, where it shows anything
JOB = "job.json"  # of a sweep's job, in the sweep's own folder
PACKAGES = ("qpa", "torch", "transformers", "peft", "pytorch-lightning", "datasets", "tokenizers")
SIMULATORS = ("torchquantum", "pennylane", "qiskit", "qiskit-aer", "qiskit-ibm-runtime")

Record = dict[str, Any]


@contextmanager
def writing(folder: Path, plan: Plan) -> Iterator[Record]:
    """Give a record to fill in; the first process writes it at the end, with status and error, also when the run fails."""
    started = time.perf_counter()
    result = _blank(plan)
    result["train_info"]["status"] = "running"
    _write(folder, plan, result)
    try:
        yield result
        result["train_info"]["status"] = "success"
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        result["train_info"]["status"] = "canceled" if interrupted else "failed"
        result["run_info"]["error_msg"] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise
    finally:
        result["run_info"]["total_time"] = time.perf_counter() - started
        _write(folder, plan, result)


def _write(folder: Path, plan: Plan, result: Record) -> None:
    if plan.context.first:
        write_json(folder / RESULT, result)


def _blank(plan: Plan) -> Record:
    config = plan.config.model_dump(by_alias=True)
    return {
        "run_info": {
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "total_time": None,
            "experiment_name": plan.config.name,
            "command": plan.context.command,
            "train_config": config,
            "peft_config": config["peft"],
            "error_msg": None,
        },
        "train_info": {
            "status": None,
            "train_time": None,
            "file_size": None,
            "num_trainable_params": None,
            "num_total_params": None,
            "metrics": [],
        },
        "meta_info": {
            "package_info": {f"{name}-version": _version(name) for name in (*PACKAGES, *SIMULATORS)},
            "system_info": {"system": platform.system(), "machine": platform.machine(), "python": platform.python_version()},
            "revision": _revision(),
        },
        "qpa": _ours(plan),
    }


def _ours(plan: Plan) -> Record:
    """What is known of a run before it begins."""
    config, task = plan.config, plan.task
    return {
        "fingerprint": plan.fingerprint,
        **plan.content,
        "task": {"kind": config.task.kind, "name": task.title(), "read": task.amount(), "counted": task.counted, "over": task.over},
        "metric": asdict(task.metric),
        "protocol": task.protocol(),
        "picture": asdict(task.picture),
        "params": plan.counts.record(),
        "precision": config.trainer.precision,
        "processes": config.trainer.processes,
        "resumed_from_step": 0,
        "steps": None,
        "epochs": None,
        "stopped": None,
    }


def fill(result: Record, plan: Plan, *, measured: Measured, file_size: int, seconds: list[float], sent: int, total: int) -> None:
    """Add what a finished run has found.

    Args:
        result: the run's record.
        plan: of the run.
        measured: by split.
        file_size: bytes of the exported weights.
        seconds: of the optimizer steps of this process.
        sent: bytes that this process has sent to others.
        total: numbers of the whole model.

    Raises:
        NonFiniteLossError: the adapted model's metric is not a number.
        ConfigError: it is one that a metric on a log scale cannot be.
    """
    result["train_info"] |= {
        "train_time": sum(seconds),
        "file_size": file_size,
        "num_trainable_params": plan.counts.trainable,
        "num_total_params": total,
    }
    result["qpa"] |= dict.fromkeys(plan.task.also) | {split: _with_change(split, found, plan.task) for split, found in measured.items()}
    result["qpa"] |= {
        "seconds_per_step": statistics.median(seconds[1:] or seconds) if seconds else None,
        "peak_memory_bytes": peak_memory(),
        "bytes_per_step": sent / len(seconds) if seconds else None,
    }
    name, test = plan.task.metric.name, measured["test"]
    if not math.isfinite(test[name]):
        raise NonFiniteLossError(f"test {name} is not finite; lower optimizer.lr={plan.config.optimizer.lr}")
    if plan.task.metric.scale == "log" and min(test[name], test[f"base_{name}"]) <= 0:
        problem = "and has no logarithm; its task should give the metric scale=linear"
        raise ConfigError("task.kind", plan.config.task.kind, f"test {name} is {min(test[name], test[f'base_{name}'])}, {problem}")


def fill_length(result: Record, task: Task, *, steps: int, reason: str | None) -> None:
    """Add how long a run has trained, in optimizer steps and passes over its data, and why it ended before its last step, if it did."""
    examples = task.examples()
    epochs = steps * task.share.of_a_step / examples if examples else None
    result["qpa"] |= {"steps": steps, "epochs": epochs, "stopped": reason if steps < task.steps else None}


def _with_change(split: str, found: Record, task: Task) -> Record:
    """Of a split beside validation and test, what adapting to the others has changed there: adapted less base."""
    name = task.metric.name
    return found | {"change": found[name] - found[f"base_{name}"]} if split in task.also else found


def summary(result: Record, measured: Measured) -> dict[str, float]:
    """The record's numbers under flat names, for dashboards."""
    ours = result["qpa"]
    groups = ("params", *measured, *(["usage"] if ours.get("usage") else []))
    flat = {f"{group}/{key}": value for group in groups for key, value in ours[group].items() if not isinstance(value, list)}
    return flat | {"seconds_per_step": ours["seconds_per_step"], "peak_memory_bytes": ours["peak_memory_bytes"]}


def peak_memory() -> int:
    """The most memory this process has held since `forget_peak_memory`, where the system can forget.

    In bytes: of the GPU where one is used, else resident in main memory."""
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # not getrusage: on Linux a new process starts with the peak of the one that started it
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak_memory() -> None:
    """Let `peak_memory` count from now, where the system can: not what loading took, nor an earlier job of a sweep."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The git commit that this code is of, where it is a checkout."""
    if not ENTRY.is_file():  # installed, maybe within somebody else's repository
        return None
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def read(folder: Path) -> Record:
    """A run's record.

    Raises:
        ConfigError: the folder is not a run's.
    """
    try:
        return read_json(folder / RESULT)
    except (OSError, ValueError) as error:
        raise ConfigError("run", folder, f"no run folder: it has no readable {RESULT}") from error


def is_run(folder: Path) -> bool:
    """Whether the folder is one that a run has made."""
    return (folder / RESULT).is_file()


def finished(folder: Path, fingerprint: str | None = None) -> bool:
    """Whether the folder holds a finished run (of this very fingerprint, if one is given)."""
    try:
        result = read(folder)
        same = fingerprint in (None, result["qpa"]["fingerprint"])
        return same and result["train_info"]["status"] == "success"
    except (ConfigError, KeyError, TypeError):  # none, or damaged
        return False


def save_config(folder: Path, config: Config) -> None:
    """Write the run's resolved config."""
    OmegaConf.save(OmegaConf.create(config.model_dump(by_alias=True)), folder / CONFIG)


def load_config(folder: Path) -> Config:
    """The config of a run.

    Raises:
        ConfigError: the folder is not a run's.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError("run", folder, f"no run folder: it has no {CONFIG}; give a folder that a training printed")
    try:
        plain = yaml.safe_load((folder / CONFIG).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError("run", folder, f"its {CONFIG} cannot be read; give a folder that a training printed") from error
    if not isinstance(plain, dict) or "${" in str(plain):  # a folder from elsewhere may not ask for this environment's variables
        raise ConfigError("run", folder, f"its {CONFIG} is not one that qpa has written")
    return parse(completed(plain))
