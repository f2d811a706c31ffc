"""The records under a folder, each as one flat row; what cannot be read, or did not finish, is named and kept apart."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qpa.config import GENERATED_ONLY, VOLATILE
from qpa.errors import ConfigError
from qpa.record import JOB, RESULT

UNSHARED = ("seed", *VOLATILE)  # keys in which the runs of one setting may differ


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        task: what it is comparable within: model, text and its windows, tokens read in training. Told apart by their hash.
        setting: all of its config but seed and names: runs that differ in their seed alone share it.
        beside: the same without what makes the mapper's features: a circuit and the controls in its place share it.
        method: PEFT method and adapted modules, e.g. `lora r=8 all-linear`.
        generator: `none`, or what stands in the circuit's place (`circuit`, `table`, ...).
        trainable, plain_peft: numbers that are trained, and that plain PEFT would train.
        circuit_params, mapper_params: the parts of `trainable`; both 0 where the adapter itself is trained.
        perplexity, base_perplexity: on the test text, of the adapted and of the base model.
        val_perplexity: what rates and widths may be chosen by.
        seconds_per_step, peak_memory_bytes, adapter_bytes: median, peak, size of the exported adapter.
        command: what runs it again.
        curve: validation perplexity after steps.
        config: all keys of the run with their values, `circuit.qubits` and the like.
    """

    folder: str
    name: str
    task: str
    setting: str
    beside: str
    method: str
    generator: str
    learning_rate: float
    seed: int
    trainable: int
    plain_peft: int
    circuit_params: int
    mapper_params: int
    perplexity: float
    base_perplexity: float
    val_perplexity: float
    seconds_per_step: float
    peak_memory_bytes: int
    adapter_bytes: int
    command: str
    curve: tuple[tuple[int, float], ...] = field(repr=False)
    config: dict[str, Any] = field(repr=False)

    @property
    def ratio(self) -> float:
        """Trained numbers as a share of plain PEFT's."""
        return self.trainable / self.plain_peft


@dataclass(frozen=True)
class Found:
    """All that lies under a folder: finished runs, runs that failed or stopped with what they say, files that cannot be read."""

    finished: list[Run]
    unfinished: dict[str, str]
    damaged: dict[str, str]


def find(root: Path) -> Found:
    """Read every record under `root`.

    Raises:
        ConfigError: there is none.
    """
    folders = sorted(path.parent for path in root.rglob(RESULT))
    found = read(folders)
    found.unfinished.update(_never_began(root, {folder.name for folder in folders}))
    if not (found.finished or found.unfinished or found.damaged):
        raise ConfigError("runs", root, f"no {RESULT} anywhere in it; give the folder that holds the runs' folders, as outputs")
    return found


def read(folders: Iterable[Path]) -> Found:
    """Read the records in these folders."""
    finished, unfinished, damaged = [], {}, {}
    for folder in folders:
        try:
            record = json.loads((folder / RESULT).read_text())
            status = record["train_info"]["status"]
            if status == "success":
                finished.append(_run(folder, record))
            else:
                unfinished[str(folder)] = f"{status}: {record['run_info']['error_msg'] or 'no reason on record'}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged[str(folder)] = f"{type(error).__name__}: {error}"
    return Found(finished, unfinished, damaged)


def _never_began(root: Path, runs: set[str]) -> Iterator[tuple[str, str]]:
    """Jobs of sweeps that failed before they had a run's record: their config was refused."""
    for path in sorted(root.rglob(JOB)):
        try:
            job = json.loads(path.read_text())
            if job["status"] == "failed" and Path(job.get("run", "")).name not in runs:
                yield str(path.parent), f"failed: {job['error']}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # the run itself, if there is one, has been read


def _run(folder: Path, record: dict[str, Any]) -> Run:
    config, ours = record["run_info"]["train_config"], record["qpa"]
    kind = config["generator"]["kind"]
    return Run(
        folder=str(folder),
        name=record["run_info"]["experiment_name"],
        task=_task(config, ours),
        setting=_setting(config),
        beside=_setting(config, "latents", "circuit"),
        method=_method(config["peft"]),
        generator="none" if kind == "none" else config["latents"]["kind"],
        learning_rate=config["generator"]["lr"],
        seed=config["seed"],
        trainable=ours["params"]["trainable"],
        plain_peft=ours["params"]["plain_peft"],
        circuit_params=ours["params"]["circuit"],
        mapper_params=ours["params"]["mapper"],
        perplexity=ours["test"]["perplexity"],
        base_perplexity=ours["test"]["base_perplexity"],
        val_perplexity=ours["val"]["perplexity"],
        seconds_per_step=ours["seconds_per_step"],
        peak_memory_bytes=ours["peak_memory_bytes"],
        adapter_bytes=record["train_info"]["file_size"],
        command=record["run_info"].get("command") or f"see {folder / 'config.yaml'}",
        curve=tuple(_curve(folder, config["trainer"]["max_steps"])),
        config=dict(_flat(config)),
    )


def _curve(folder: Path, steps: int) -> Iterator[tuple[int, float]]:
    """Validation perplexity by step, from the run's metrics; a resumed run has several files."""
    for path in sorted(folder.glob("metrics*.csv"), key=lambda p: (p.stem == "metrics", p.stem)):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get("val/perplexity"):
                    yield min(int(row["step"]) + 1, steps), float(row["val/perplexity"])


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _task(config: dict[str, Any], ours: dict[str, Any]) -> str:
    """The base model's own perplexity tells texts apart that have the same name."""
    data, trainer = config["data"], config["trainer"]
    tokens = data["context"] * data["batch_size"] * trainer["accumulate_grad_batches"] * trainer["max_steps"]
    base = f"{ours['test']['base_perplexity']:.2f}"
    return _hash([config["model"], data["protocol"], data["context"], ours["test"]["tokens"], base, tokens])


def _setting(config: dict[str, Any], *without: str) -> str:
    unused = GENERATED_ONLY if config["generator"]["kind"] == "none" else ()
    left_out = {*UNSHARED, *unused, *without}
    return _hash({key: value for key, value in config.items() if key not in left_out})


def _method(peft: dict[str, Any]) -> str:
    name = peft["_target_"].rsplit(".", 1)[-1].removesuffix("Config")
    name = "DoRA" if peft.get("use_dora") else {"Lora": "LoRA"}.get(name, name)
    rank = f" r={peft['r']}" if "r" in peft else ""
    modules = peft.get("target_modules")
    return f"{name}{rank}" + (f" on {modules if isinstance(modules, str) else ', '.join(modules)}" if modules else "")


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
