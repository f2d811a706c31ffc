"""The records under a folder, each as one flat row; what cannot be read, or did not finish, is named and kept apart."""

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ConfigDict, PositiveFloat, PositiveInt, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from qpa.config import IDENTITY
from qpa.config.earlier import of_record
from qpa.config.identity import Part, hashed, standing
from qpa.errors import ConfigError
from qpa.files import read_json
from qpa.runs.record import JOB, RESULT
from qpa.training import history

SPELLED = {"Lora": "LoRA", "Vera": "VeRA", "UniLora": "Uni-LoRA", "VBLoRA": "VB-LoRA", "TinyLora": "TinyLoRA", "RandLora": "RandLoRA"}
Latents = Literal["none", "circuit", "frozen_circuit", "table", "mlp", "mps", "zeros", "random"]


@checked_dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False))
class Run:
    """A finished run; a record whose numbers are none is refused.

    Attributes:
        folder: where it lies.
        task, task_name: what it is comparable within, as a hash and in words: model, texts and windows, tokens read in training.
        setting: all of its config that has an effect, but seed and names: runs that differ in their seed alone share it.
        tuned: the same without the learning rate.
        place: the same without what makes the mapper's features either: a circuit and the controls in its place share it.
        method: PEFT method and adapted modules, e.g. `LoRA r=8 on all-linear`.
        generator: `none`, or what stands in the circuit's place (`circuit`, `table`, ...).
        trainable, plain_peft: numbers that are trained, and that plain PEFT would train.
        circuit_params, mapper_params: the parts of `trainable`; both 0 where the adapter itself is trained.
        perplexity, base_perplexity: on the test text, of the adapted and of the base model.
        val_perplexity: what rates and widths may be chosen by.
        seconds_per_step: median; None of a run that was resumed after its last step.
        peak_memory_bytes, adapter_bytes: peak while training, size of the exported adapter.
        command: what runs it again.
        curve: validation perplexity after steps.
        config: all keys of its setting with their values, `circuit.qubits` and the like.
    """

    folder: str
    name: str
    task: str
    task_name: str
    setting: str
    tuned: str
    place: str
    method: str
    generator: Latents
    learning_rate: PositiveFloat
    seed: int
    trainable: PositiveInt
    plain_peft: PositiveInt
    circuit_params: int
    mapper_params: int
    perplexity: PositiveFloat
    base_perplexity: PositiveFloat
    val_perplexity: PositiveFloat
    seconds_per_step: PositiveFloat | None
    peak_memory_bytes: PositiveInt
    adapter_bytes: PositiveInt
    command: str
    curve: tuple[tuple[int, float], ...]
    config: dict[str, Any]

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
            record = read_json(folder / RESULT)
            status = record["train_info"]["status"]
            if status == "success":
                finished.append(_run(folder, record))
            else:
                unfinished[str(folder)] = f"{status}: {record['run_info']['error_msg'] or 'no reason on record'}"
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            damaged[str(folder)] = f"{'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg']}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged[str(folder)] = f"{type(error).__name__}: {error}"
    return Found(finished, unfinished, damaged)


def _never_began(root: Path, runs: set[str]) -> Iterator[tuple[str, str]]:
    """Jobs of sweeps that failed before they had a run's record: their config was refused."""
    for path in sorted(root.rglob(JOB)):
        try:
            job = read_json(path)
            if job["status"] == "failed" and Path(job.get("run", "")).name not in runs:
                yield str(path.parent), f"failed: {job['error']}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # the run itself, if there is one, has been read


def _run(folder: Path, record: dict[str, Any]) -> Run:
    config, ours = of_record(record), record["qpa"]
    effective = IDENTITY.effective(config)
    setting = {key: value for key, value in effective.items() if IDENTITY.part(key) is not Part.SEED}
    task, task_name = _task(config, ours)
    return Run(
        folder=str(folder),
        name=record["run_info"]["experiment_name"],
        task=task,
        task_name=task_name,
        setting=hashed(setting),
        tuned=hashed({key: value for key, value in setting.items() if IDENTITY.part(key) is not Part.RATE}),
        place=hashed(IDENTITY.place(config)),
        method=_method(config["peft"]),
        generator=cast(Latents, standing(config)),  # a record's may be anything: checked like all else
        learning_rate=config["optimizer"]["lr"],
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
        curve=_curve(folder, config["trainer"]["max_steps"]),
        config=setting,
    )


def _curve(folder: Path, steps: int) -> tuple[tuple[int, float], ...]:
    """Validation perplexity by step, from the run's metrics; none where they are damaged."""
    try:
        rows = history.read(folder)
    except (OSError, ValueError, TypeError, csv.Error):
        return ()
    points = [(min(step + 1, steps), numbers["val/perplexity"]) for step, numbers in rows if "val/perplexity" in numbers]
    return tuple(point for point in points if math.isfinite(point[1]))


def _task(config: dict[str, Any], ours: dict[str, Any]) -> tuple[str, str]:
    """Its hash, and its name."""
    model, data = config["model"], config["data"]
    read = IDENTITY.picked(config, Part.READ)
    tokens = data["context"] * math.prod(read.values())
    texts = {split: digests for split, digests in ours["texts"].items() if split != "forgetting"}
    same = IDENTITY.picked(config, Part.TASK, Part.MEASURE)
    weights = " (random weights)" if model["weights"] == "random" else f" ({model['quantization']})" if model["quantization"] else ""
    text = ", ".join("/".join(Path(file).parts[-2:]) for file in data["train_files"]) or data["hub"] or data["source"]
    name = f"{str(model['path'] or model['hub']).rpartition('/')[2]}{weights} on {text}, {tokens:,} tokens read"
    return hashed([same, texts, tokens]), name


def _method(peft: dict[str, Any]) -> str:
    name = peft["_target_"].rsplit(".", 1)[-1].removesuffix("Config")
    name = "DoRA" if peft.get("use_dora") else SPELLED.get(name, name)
    rank = f" r={peft['r']}" if "r" in peft else ""
    modules = peft.get("target_modules")
    return f"{name}{rank}" + (f" on {modules if isinstance(modules, str) else ', '.join(modules)}" if modules else "")
