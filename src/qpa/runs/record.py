"""The run's own record: `config.yaml` and `result.json`, written whatever happens to the run.

`run_info`, `train_info` and `meta_info` follow PEFT's method_comparison; what is ours stands under `qpa`. A value that is
not known is null.
"""

import gc
import math
import platform
import resource
import shlex
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from qpa.config import Config, parse
from qpa.config.earlier import completed
from qpa.errors import ConfigError, NonFiniteLossError, UserError
from qpa.files import read_json, write_json

RESULT = "result.json"
CONFIG = "config.yaml"
JOB = "job.json"  # of a sweep, in the sweep's own folder
WANDB_ID = "wandb-id.txt"
PACKAGES = ("qpa", "torch", "transformers", "peft", "pytorch-lightning", "datasets", "tokenizers")
SIMULATORS = ("torchquantum", "pennylane", "qiskit", "qiskit-aer", "qiskit-ibm-runtime")

Record = dict[str, Any]


@contextmanager
def writing(folder: Path, config: Config) -> Iterator[Record]:
    """Give a record to fill in; it is written at the end, with status and error, also when the run fails."""
    started = time.perf_counter()
    result = _blank(config)
    result["train_info"]["status"] = "running"
    write_json(folder / RESULT, result)
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
        write_json(folder / RESULT, result)


def _blank(config: Config) -> Record:
    plain = config.model_dump(by_alias=True)
    return {
        "run_info": {
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "total_time": None,
            "experiment_name": config.name,
            "command": _command(),
            "train_config": plain,
            "peft_config": plain["peft"],
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
        "qpa": {"fingerprint": config.fingerprint(), "texts": config.digests(), "resumed_from_step": 0},
    }


def fill(
    result: Record, config: Config, folder: Path, *, parameters: dict[str, float], measured: Record, seconds: list[float], total_params: int
) -> None:
    """Add what a finished run has found. `seconds` are those of the optimizer steps of this process.

    Raises:
        NonFiniteLossError: the adapted model's perplexity is not a number.
    """
    weights = folder / "adapter" / "adapter_model.safetensors"
    result["train_info"] |= {
        "train_time": sum(seconds),
        "file_size": weights.stat().st_size,
        "num_trainable_params": parameters["trainable"],
        "num_total_params": total_params,
    }
    result["qpa"] |= {
        "params": parameters,
        "test": measured["test"],
        "val": measured["val"],
        "legacy": measured.get("legacy"),
        "forgetting": _forgetting(measured.get("forgetting")),
        "protocol": _protocol(config),
        "seconds_per_step": statistics.median(seconds[1:] or seconds) if seconds else None,
        "peak_memory_bytes": peak_memory(),
    }
    if not math.isfinite(measured["test"]["perplexity"]):
        raise NonFiniteLossError(f"test perplexity is not finite; lower optimizer.lr={config.optimizer.lr}")


def _forgetting(measured: dict[str, float] | None) -> dict[str, float] | None:
    """Perplexity on another text, and `change`: adapted minus base; None where no text was given."""
    return measured and measured | {"change": measured["perplexity"] - measured["base_perplexity"]}


def _protocol(config: Config) -> dict[str, Any]:
    """What a perplexity is a perplexity of."""
    context = config.data.context
    return {"windows": config.data.protocol, "context": context, "stride": context, "bos": "one per window, where the model has one"}


def summary(result: Record) -> dict[str, float]:
    """The record's numbers under flat names, for dashboards."""
    ours = result["qpa"]
    groups = ("params", "test", "val", *(group for group in ("legacy", "forgetting", "usage") if ours.get(group)))
    flat = {f"{group}/{key}": value for group in groups for key, value in ours[group].items()}
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


def _command() -> str | None:
    """What runs this run alone again; None where it was not started by Hydra."""
    if not HydraConfig.initialized():
        return None
    alone = ["hydra.mode=RUN"] if in_sweep() else []  # a sweep file among the overrides would start the whole sweep
    return shlex.join(["python", "train.py", *HydraConfig.get().overrides.task, *alone])


def in_sweep() -> bool:
    """Whether this process works on a job of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def sweep_name() -> str | None:
    """The name of the sweep's folder, where this is a job of a multirun."""
    return Path(HydraConfig.get().sweep.dir).name if in_sweep() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The git commit that this code is of, where it is a checkout."""
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


def finished(folder: Path, config: Config | None = None) -> bool:
    """Whether the folder holds a finished run (of this very config, if one is given)."""
    try:
        result = read(folder)
        fingerprint = result["qpa"]["fingerprint"]
        same = config is None or fingerprint == config.fingerprint()
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
        raise ConfigError("run", folder, f"no run folder: it has no {CONFIG}; give a folder that train.py printed")
    try:
        plain = yaml.safe_load((folder / CONFIG).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError("run", folder, f"its {CONFIG} cannot be read; give a folder that train.py printed") from error
    if not isinstance(plain, dict) or "${" in str(plain):  # a folder from elsewhere may not ask for this environment's variables
        raise ConfigError("run", folder, f"its {CONFIG} is not one that qpa has written")
    return parse(completed(plain))
