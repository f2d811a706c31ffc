"""The records of runs, each as one flat row; what cannot be read, or did not finish, is named and kept apart."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PositiveFloat, PositiveInt, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from qpa.config import IDENTITY
from qpa.config.earlier import judged, of_record
from qpa.config.identity import NONE, Part, hashed, standing
from qpa.errors import ConfigError
from qpa.files import read_json
from qpa.report import records
from qpa.report.records import Curve, Place, Stored
from qpa.runs.record import JOB, RESULT
from qpa.tasks.task import Metric, Picture

SPELLED = {"Lora": "LoRA", "Vera": "VeRA", "UniLora": "Uni-LoRA", "VBLoRA": "VB-LoRA", "TinyLora": "TinyLoRA", "RandLora": "RandLoRA"}
AMOUNT = "data.train_bytes"
METRIC = TypeAdapter(Metric)


@checked_dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False))
class Run:
    """A finished run; a record whose numbers are none is refused.

    Attributes:
        folder: where it lies, or lay before it became a study's line.
        task, task_name: what it is comparable within, as a hash and in words: model, data and metric, how much is read in training.
        metric: what `test`, `base` and `val` are values of.
        family: the same as `task`, without how much there is to train on, and with the length of training as it was given.
        setting: all of its config that has an effect, but seed and names: runs that differ in their seed alone share it.
        tuned: the same without the learning rate.
        line: the same without how much there is to train on either.
        place: the same without what makes the mapper's features either: a circuit and the controls in its place share it.
        method: PEFT method and adapted modules, e.g. `LoRA r=8 on all-linear`.
        latents: what makes the numbers of the chunks: `circuit`, or what stands in its place (`table`, ...); `none` where the adapter
            itself is trained.
        trainable, plain_peft: numbers that are trained, and that plain PEFT would train.
        latents_params, mapper_params, beside_params: the parts of `trainable`; all 0 where the adapter itself is trained.
        test, base: on the test split, of the adapted and of the base model.
        val: on the validation split, what rates and widths may be chosen by.
        forgetting: the metric on another text, of the base model and adapted, where the data have one.
        seconds_per_step: median; None of a run that was resumed after its last step.
        peak_memory_bytes, adapter_bytes: peak while training, size of the exported adapter.
        command: what runs it again.
        curve: the metric on the validation split after optimizer steps, or after what the task counts in their place.
        over: what that is; None: optimizer steps.
        protocol: what the metric is a metric of, as the task has it.
        picture: what the task draws of it, where it draws; None on record of older runs.
        pieces: of each piece of the test split the sum of what the metric is a mean of (of a log scale: its logarithm) and of how many;
            None where they are not on record.
        confusion: of a task whose examples have one label each, how many of each (rows) were said to have each (columns); else None.
        config: all keys of its setting with their values, `circuit.qubits` and the like.
    """

    folder: str
    name: str
    task: str
    task_name: str
    family: str
    metric: Metric
    setting: str
    tuned: str
    line: str
    place: str
    method: str
    latents: str
    learning_rate: PositiveFloat
    seed: int
    trainable: PositiveInt
    plain_peft: PositiveInt
    latents_params: int
    mapper_params: int
    beside_params: int
    test: float
    base: float
    val: float
    forgetting: list[float] | None
    seconds_per_step: PositiveFloat | None
    peak_memory_bytes: PositiveInt
    adapter_bytes: PositiveInt
    command: str
    curve: Curve
    over: str | None
    protocol: dict[str, Any]
    picture: Picture | None
    pieces: list[list[float]] | None
    confusion: list[list[int]] | None
    config: dict[str, Any]

    @field_validator("test", "base", "val")
    @classmethod
    def _has_a_logarithm(cls, value: float, info: ValidationInfo) -> float:
        if value <= 0 and info.data["metric"].scale == "log":
            raise ValueError("Input should be greater than 0")
        return value

    @field_validator("pieces")
    @classmethod
    def _are_pairs(cls, pieces: list[list[float]] | None) -> list[list[float]] | None:
        if pieces is not None and any(len(piece) != 2 or piece[1] < 0 for piece in pieces):
            raise ValueError("Input should be pairs of a sum and a count")
        return pieces

    @property
    def plain(self) -> bool:
        """Whether the adapter itself is trained."""
        return self.latents == NONE

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
    """Read every record under a folder, or of one study.

    Raises:
        ConfigError: there is none.
    """
    paths = records.under(root)
    found = read(paths)
    found.unfinished.update(_never_began(root, {path.name for path in paths}))
    if not (found.finished or found.unfinished or found.damaged):
        problem = f"no {RESULT} anywhere in it, and no study (*{records.STUDY}); give the folder that holds the runs' folders, as outputs"
        raise ConfigError("runs", root, problem)
    return found


def read(paths: Iterable[Path]) -> Found:
    """Read the records of these run folders and studies."""
    found = Found([], {}, {})
    for place in (place for path in paths for place in records.at(path)):
        try:
            _sort(place, place.read(), found)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            found.damaged[str(place)] = (
                f"{'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg'].removeprefix('Value error, ')}"
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            found.damaged[str(place)] = f"{type(error).__name__}: {error}"
    return found


def _sort(place: Place, stored: Stored, found: Found) -> None:
    """Put a record among those that finished or those that did not."""
    status = stored.record["train_info"]["status"]
    if status == "success":
        found.finished.append(_run(stored, command=stored.record["run_info"].get("command") or f"its config is in the record: {place}"))
    else:
        found.unfinished[str(place)] = f"{status}: {stored.record['run_info']['error_msg'] or 'no reason on record'}"


def _never_began(root: Path, runs: set[str]) -> Iterator[tuple[str, str]]:
    """Jobs of sweeps that failed before they had a run's record: their config was refused."""
    for path in sorted(root.rglob(JOB)):
        try:
            job = read_json(path)
            if job["status"] == "failed" and Path(job.get("run", "")).name not in runs:
                yield str(path.parent), f"failed: {job['error']}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # the run itself, if there is one, has been read


def _run(stored: Stored, command: str) -> Run:
    record = stored.record
    config, ours, by = of_record(record), record["qpa"], judged(record)
    metric = METRIC.validate_python(by["metric"])
    effective = IDENTITY.effective(config)
    setting = {key: value for key, value in effective.items() if IDENTITY.part(key) is not Part.SEED}
    return Run(
        folder=stored.folder,
        name=record["run_info"]["experiment_name"],
        task=_task(config, ours, by),
        task_name=f"{by['task']['name']}, {by['task']['read']:,} {by['task']['counted']} read",
        family=_family(config, ours, by),
        metric=metric,
        setting=hashed(setting),
        tuned=hashed({key: value for key, value in setting.items() if IDENTITY.part(key) is not Part.RATE}),
        line=hashed({key: value for key, value in setting.items() if key != AMOUNT and IDENTITY.part(key) is not Part.RATE}),
        place=hashed(IDENTITY.place(config)),
        method=_method(config["peft"]),
        latents=standing(config),
        learning_rate=config["optimizer"]["lr"],
        seed=config["seed"],
        trainable=ours["params"]["trainable"],
        plain_peft=ours["params"]["plain_peft"],
        latents_params=ours["params"]["circuit"],
        mapper_params=ours["params"]["mapper"],
        beside_params=ours["params"].get("beside", 0),
        test=ours["test"][metric.name],
        base=ours["test"][f"base_{metric.name}"],
        val=ours["val"][metric.name],
        forgetting=_elsewhere(metric.name, ours.get("forgetting") or {}),
        seconds_per_step=ours["seconds_per_step"],
        peak_memory_bytes=ours["peak_memory_bytes"],
        adapter_bytes=record["train_info"]["file_size"],
        command=command,
        curve=stored.curve,
        over=by["task"].get("over"),
        protocol=ours.get("protocol", {}),
        picture=Picture(**ours["picture"]) if "picture" in ours else None,
        pieces=ours["test"].get("pieces"),
        confusion=None if ours.get("protocol", {}).get("several") else ours["test"].get("confusion"),
        config=setting,
    )


def _task(config: dict[str, Any], ours: dict[str, Any], by: dict[str, Any]) -> str:
    """The hash of what has to be the same for runs to be compared."""
    data = {split: ours["texts"].get(split) for split in ("train", "val", "test")}
    same = IDENTITY.picked(config, Part.TASK, Part.MEASURE)
    return hashed([by["task"]["kind"], by["task"]["read"], by["metric"], same, data])


def _family(config: dict[str, Any], ours: dict[str, Any], by: dict[str, Any]) -> str:
    """The same for runs on more and less of one text: epochs of those read more and less."""
    data = {split: ours["texts"].get(split) for split in ("train", "val", "test")}
    same = {key: value for key, value in IDENTITY.picked(config, Part.TASK, Part.MEASURE).items() if key != AMOUNT}
    length = [config["trainer"].get(key) for key in ("max_steps", "max_epochs")]
    return hashed([by["task"]["kind"], length, by["metric"], same, data])


def _elsewhere(metric: str, found: dict[str, Any]) -> list[float] | None:
    """Of the base model and adapted, where both are numbers."""
    values = [value for key in (f"base_{metric}", metric) if isinstance(value := found.get(key), float) and math.isfinite(value)]
    return values if len(values) == 2 else None


def _method(peft: dict[str, Any]) -> str:
    name = peft["_target_"].rsplit(".", 1)[-1].removesuffix("Config")
    name = "DoRA" if peft.get("use_dora") else SPELLED.get(name, name)
    rank = f" r={peft['r']}" if "r" in peft else ""
    modules = peft.get("target_modules")
    return f"{name}{rank}" + (f" on {modules if isinstance(modules, str) else ', '.join(modules)}" if modules else "")
