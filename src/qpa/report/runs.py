"""The records under a folder, each as one flat row; what cannot be read, or did not finish, is named and kept apart."""

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, PositiveFloat, PositiveInt, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from qpa.config import GENERATED_ONLY, SHOWN, VOLATILE, CircuitConfig
from qpa.earlier import ADDED, completed
from qpa.errors import ConfigError
from qpa.files import read_json
from qpa.record import JOB, RESULT

READ_AS = ("data.text_column", "data.special_tokens")  # of the task, where they are not as they always were
UNSHARED = ("seed", *VOLATILE, *(f"trainer.{key}" for key in SHOWN), *READ_AS)  # keys in which the runs of one setting may differ
RATE = ("generator.lr", "optimizer.lr")
# Without effect where another thing stands in the circuit's place; small networks and states take their size from the first three.
SIZES = ("circuit.layers", "circuit.rotations", "circuit.final_rotations")
CIRCUIT_ONLY = (*SIZES, *(f"circuit.{key}" for key in CircuitConfig.model_fields if f"circuit.{key}" not in (*SIZES, "circuit.qubits")))
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
        config: all keys of the run with their values, `circuit.qubits` and the like.
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
    config, ours = completed(record["run_info"]["train_config"]), record["qpa"]
    kind = "none" if config["generator"]["kind"] == "none" else config["latents"]["kind"]
    flat = dict(_flat(config))
    unused = without_effect(kind)
    task, task_name = _task(config, ours)
    return Run(
        folder=str(folder),
        name=record["run_info"]["experiment_name"],
        task=task,
        task_name=task_name,
        setting=_hash(_without(flat, *UNSHARED, *unused)),
        tuned=_hash(_without(flat, *UNSHARED, *unused, *RATE)),
        place=_hash(_without(flat, *UNSHARED, *unused, *RATE, *CIRCUIT_ONLY, "latents")),
        method=_method(config["peft"]),
        generator=kind,
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
        config=flat,
    )


def _curve(folder: Path, steps: int) -> tuple[tuple[int, float], ...]:
    """Validation perplexity by step, from the run's metrics (a resumed run has several files); none where they are damaged."""
    points = []
    try:
        for path in sorted(folder.glob("metrics*.csv"), key=lambda p: (p.stem == "metrics", p.stem)):
            rows = csv.DictReader(path.read_text().splitlines())
            points += [(min(int(row["step"]) + 1, steps), float(row["val/perplexity"])) for row in rows if row.get("val/perplexity")]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return ()
    return tuple(point for point in points if math.isfinite(point[1]))


def without_effect(kind: str) -> tuple[str, ...]:
    """Keys and groups that change nothing in runs with this in the circuit's place."""
    if kind == "none" or kind.endswith("circuit"):
        return GENERATED_ONLY if kind == "none" else ()
    return CIRCUIT_ONLY[len(SIZES) :] if kind in ("mlp", "mps") else CIRCUIT_ONLY


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _without(flat: dict[str, Any], *left_out: str) -> dict[str, Any]:
    """The keys that are not among these, nor in a group that is."""
    return {key: value for key, value in flat.items() if key not in left_out and key.partition(".")[0] not in left_out}


def _task(config: dict[str, Any], ours: dict[str, Any]) -> tuple[str, str]:
    """Its hash, and its name."""
    model, data, trainer = config["model"], config["data"], config["trainer"]
    windows_read = data["batch_size"] * trainer["accumulate_grad_batches"] * trainer["max_steps"]
    tokens = data["context"] * windows_read * trainer["devices"] * trainer["num_nodes"]
    texts = {split: digests for split, digests in ours["texts"].items() if split != "forgetting"}
    windows = [data[key] for key in ("source", "hub", "hub_config", "val_fraction", "max_held_out_windows", "protocol", "context")]
    windows += [(key, value) for key, value in _flat({"data": data}) if key in READ_AS and value != ADDED[key]]
    weights = " (random weights)" if model["weights"] == "random" else f" ({model['quantization']})" if model["quantization"] else ""
    text = ", ".join("/".join(Path(file).parts[-2:]) for file in data["train_files"]) or data["hub"] or data["source"]
    name = f"{str(model['path'] or model['hub']).rpartition('/')[2]}{weights} on {text}, {tokens:,} tokens read"
    return _hash([model, texts, windows, tokens]), name


def _method(peft: dict[str, Any]) -> str:
    name = peft["_target_"].rsplit(".", 1)[-1].removesuffix("Config")
    name = "DoRA" if peft.get("use_dora") else SPELLED.get(name, name)
    rank = f" r={peft['r']}" if "r" in peft else ""
    modules = peft.get("target_modules")
    return f"{name}{rank}" + (f" on {modules if isinstance(modules, str) else ', '.join(modules)}" if modules else "")


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
