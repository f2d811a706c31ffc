"""The config's types and ranges. Defaults are in `conf/`; nothing heavy is imported here, so that errors answer fast."""

import hashlib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from qpa.config.identity import COMPUTATION, Identity, Part, hashed
from qpa.errors import ConfigError
from qpa.files import files_of

OURS = {
    *("max_epochs", "min_epochs", "max_time", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "inference_mode"),
    *("fast_dev_run", "overfit_batches", "limit_train_batches", "limit_val_batches", "limit_test_batches", "use_distributed_sampler"),
    *("logger", "callbacks", "plugins", "enable_model_summary", "default_root_dir", "reload_dataloaders_every_n_epochs"),
}

# What a config may have Hydra make, by group: a config can come from elsewhere, with a run's folder, and must not run other code.
TARGETS = {
    "peft": (r"peft\.[A-Z]\w*|qpa\.adapters\.bottleneck\.BottleneckConfig", "a class of peft, as peft.LoraConfig"),
    "optimizer": (r"\w+\.optim\.[A-Z]\w*", "a class of a package's optim module, as torch.optim.AdamW"),
    "trainer": (r"pytorch_lightning\.Trainer", "pytorch_lightning.Trainer"),
}


def _twice(number: object) -> object:
    """Of a number its double; anything else as it is, for the check that follows to name."""
    return 2 * number if isinstance(number, int | float) else number


def _variable(name: str, default: object = None) -> object:
    """Of the environment; one that is empty counts as not set."""
    return os.environ.get(name) or default


OmegaConf.register_new_resolver("variable", _variable, replace=True)  # conf/logger/wandb.yaml
OmegaConf.register_new_resolver("twice", _twice, replace=True)  # conf/peft/lora.yaml: the same scaling at every rank


class Section(BaseModel):
    """A config group: types are not coerced, unknown keys are refused. Of its keys, those not marked themselves say `part` of a run."""

    part: ClassVar[Part] = Part.SHOWN

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=False)


PYDANTIC_WORDS = {
    "Input should": "should",
    "Field required": "has to be given",
    "Extra inputs are not permitted": "no key of the chosen group; leave it out, or choose another",
}

S = TypeVar("S", bound=Section)


class OpenSection(Section):
    """A config group whose further keys are arguments of the class it names in `_target_`."""

    model_config = ConfigDict(extra="allow")

    target: str = Field(alias="_target_")

    def arguments(self) -> dict[str, Any]:
        """Every further key, to hand to the class."""
        return dict(self.model_extra or {})


class ModelConfig(Section):
    """Group `model`: which frozen causal language model, and where its weights are from."""

    part = Part.TASK

    source: Literal["package", "hub"]
    package: str | None
    file: str | None
    sha256: str | None
    install: Annotated[str | None, Part.SHOWN]
    hub: str | None
    path: str | None
    weights: Literal["published", "random"]
    num_layers: int | None = Field(ge=1)
    attention: Annotated[str | None, Part.COURSE]
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], Part.MEASURE]
    gradient_checkpointing: Annotated[bool, Part.COURSE]
    quantization: Literal["nf4"] | None
    architecture: dict[str, Any] | None


class GeneratorConfig(Section):
    """Group `generator`: `qpa` generates the adapter's weights, `none` trains them themselves."""

    part = Part.METHOD

    kind: Literal["qpa", "none"]
    circuits: Literal["per_module", "shared"] | None
    start: Literal["peft", "paper"] | None
    lr: Annotated[float, Part.SHOWN] = Field(gt=0)

    @model_validator(mode="after")
    def _refuse_half_a_generator(self) -> "GeneratorConfig":
        if self.kind == "qpa" and self.circuits is None:
            raise ValueError("circuits=null: should be 'per_module' or 'shared'")
        if self.kind == "qpa" and self.start is None:
            raise ValueError("start=null: should be 'peft' or 'paper'")
        return self


class CircuitConfig(Section):
    """Group `circuit`: the ansatz, what runs it, and how it is measured and differentiated."""

    part = Part.ANSATZ

    rotations: Annotated[list[Literal["RX", "RY", "RZ"]], Part.SIZES] = Field(min_length=1)
    entangler: Literal["linear", "reverse_linear", "ring", "all_to_all", "brick"]
    gate: Literal["CNOT", "CZ"]
    final_rotations: Annotated[bool, Part.SIZES]
    qubits: Annotated[int | None, Part.METHOD] = Field(ge=1)
    layers: Annotated[int, Part.SIZES] = Field(ge=1)
    backend: Annotated[Literal["statevector", "torchquantum", "pennylane", "qiskit"], Part.COURSE]
    device: Annotated[str | None, Part.COURSE]
    shots: Annotated[int | None, Part.COURSE] = Field(ge=1)
    gradient: Annotated[Literal["exact", "parameter_shift", "spsa"] | None, Part.COURSE]
    noise: Annotated[float | None, Part.COURSE] = Field(gt=0, lt=1)
    mitigate_readout: Annotated[bool, Part.COURSE]

    @property
    def samples(self) -> bool:
        """Whether circuits give samples, so that no exact gradient is to be had."""
        return self.shots is not None or self.backend == "qiskit"

    @property
    def rule(self) -> str:
        """How gradients are computed: `exact` is autograd through a simulator."""
        return self.gradient or ("parameter_shift" if self.samples else "exact")

    @model_validator(mode="after")
    def _refuse_what_does_not_go_together(self) -> "CircuitConfig":
        if set(self.rotations) == {"RZ"}:
            raise ValueError("rotations=[RZ] leaves every probability as it is; add RY or RX")
        if self.device is not None and self.backend not in ("pennylane", "qiskit"):
            raise ValueError(f"device={self.device}: backend={self.backend} has none; leave it out, or backend=qiskit or pennylane")
        if self.gradient == "exact" and self.samples:
            raise ValueError("gradient=exact needs a simulator's exact probabilities; parameter_shift or spsa")
        if self.backend == "qiskit" and self.shots is None and self.device not in (None, "aer"):
            raise ValueError(f"device={self.device} gives samples: say how many for each circuit, as in circuit.shots=1024")
        on_aer = self.backend == "qiskit" and self.device in (None, "aer") and self.shots is not None
        if self.noise is not None and not on_aer:
            raise ValueError(f"noise={self.noise} is of backend=qiskit device=aer with shots alone; fake devices bring their own")
        if self.mitigate_readout and not (self.backend == "qiskit" and (self.device or "aer") != "aer"):
            raise ValueError("mitigate_readout=true corrects a fake or real device of backend=qiskit; set it to false")
        return self


class PlainLatentsConfig(Section):
    """Group `latents`: the circuits, or a control in their place that has no settings of its own."""

    part = Part.METHOD

    kind: Literal["circuit", "frozen_circuit", "table", "zeros", "random"]


class MLPLatentsConfig(Section):
    """Group `latents`, kind `mlp`: a small network per circuit."""

    part = Part.METHOD

    kind: Literal["mlp"]
    hidden: int | None = Field(ge=1)


class MPSLatentsConfig(Section):
    """Group `latents`, kind `mps`: a matrix-product state per circuit."""

    part = Part.METHOD

    kind: Literal["mps"]
    bond_dimension: int | None = Field(ge=1)


LatentsConfig = PlainLatentsConfig | MLPLatentsConfig | MPSLatentsConfig


class RowsMapperConfig(Section):
    """Group `mapper`, kinds `tied` (layers share their rows) and `codes` (products of learned codes in a basis of shared rows)."""

    part = Part.METHOD

    kind: Literal["tied", "codes"]
    width: int = Field(ge=1)
    chunk_size: int | None = Field(ge=1)


class MLPMapperConfig(Section):
    """Group `mapper`, kind `mlp`: the paper's, from a basis state's bits and its probability to a chunk of weights."""

    part = Part.METHOD

    kind: Literal["mlp"]
    hidden: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    activation: Literal["tanh", "silu", "gelu", "relu", "none"]
    chunk_size: int | None = Field(ge=1)


MapperConfig = RowsMapperConfig | MLPMapperConfig


class OptimizerConfig(OpenSection):
    """Group `optimizer`: a torch optimizer, linear warm-up, and decay to zero."""

    part = Part.COURSE

    lr: Annotated[float, Part.RATE] = Field(gt=0)
    warmup: float = Field(ge=0, lt=1)
    decay: Literal["linear", "cosine"]


class DataConfig(Section):
    """Group `data`: text, its split, and the windows it is cut into."""

    part = Part.TASK

    source: Literal["pydoc", "hub", "files"]
    protocol: Literal["packed", "paper"]
    hub: str | None
    hub_config: str | None
    text_column: str
    special_tokens: bool
    train_files: Annotated[list[str], Part.SHOWN]
    val_files: Annotated[list[str], Part.SHOWN]
    test_files: Annotated[list[str], Part.SHOWN]
    forgetting_files: Annotated[list[str], Part.SHOWN]
    val_fraction: float | None = Field(gt=0, lt=1)
    max_held_out_windows: Annotated[int | None, Part.MEASURE] = Field(ge=1)
    context: int = Field(ge=2)
    batch_size: Annotated[int, Part.READ] = Field(ge=1)
    cache_hidden: Annotated[bool | None, Part.SHOWN]
    cache_hidden_gib: Annotated[float, Part.SHOWN] = Field(gt=0)


class TrainerConfig(OpenSection):
    """Group `trainer`: arguments of `pytorch_lightning.Trainer`."""

    part = Part.COURSE

    strategy: Annotated[Literal["single", "ddp"], Part.SHOWN]
    devices: Annotated[int, Part.READ] = Field(ge=1)
    num_nodes: Annotated[int, Part.SHOWN] = Field(ge=1)
    accelerator: Literal["auto", "cpu", "gpu", "cuda"]
    max_steps: Annotated[int, Part.READ] = Field(ge=1)
    val_every: int = Field(ge=1)
    checkpoint_every: Annotated[int, Part.SHOWN] = Field(ge=1)
    accumulate_grad_batches: Annotated[int, Part.READ] = Field(ge=1)
    gradient_clip_val: float | None = Field(gt=0)
    log_every_n_steps: Annotated[int, Part.SHOWN] = Field(ge=1)
    precision: Annotated[Literal["auto", "32-true", "bf16-mixed"], Part.MEASURE]
    compile: bool
    enable_progress_bar: Annotated[bool, Part.SHOWN]

    @model_validator(mode="after")
    def _refuse_what_the_run_sets(self) -> "TrainerConfig":
        if ours := OURS.intersection(self.arguments()):
            raise ValueError(f"{', '.join(sorted(ours))} cannot be set: a run counts steps, and reads data.max_held_out_windows")
        if self.strategy == "single" and self.processes != 1:
            problem = f"devices={self.devices}: a run trains on one device; on several: trainer=ddp trainer.devices={self.devices}"
            raise ValueError(f"{problem}; several runs at once: -m hydra/launcher=processes")
        return self

    @property
    def processes(self) -> int:
        """How many train together."""
        return self.devices * self.num_nodes


class LoggerConfig(Section):
    """Group `logger`: Weights & Biases, or none beside the run's own files."""

    part = Part.SHOWN

    kind: Literal["wandb", "none"]
    project: str | None
    entity: str | None
    mode: Literal["offline", "online", "disabled"] | None
    group: str | None

    @field_validator("mode", mode="wrap")
    @classmethod
    def _name_the_variable(cls, mode: object, check: ValidatorFunctionWrapHandler) -> str | None:
        """wandb itself knows more modes, and a config that says nothing takes its variable."""
        try:
            return check(mode)
        except ValidationError:
            if mode != os.environ.get("WANDB_MODE"):
                raise
            raise ValueError("should be offline, online or disabled; it is the environment variable WANDB_MODE") from None


class PlanConfig(Section):
    """Group `plan`, of `qpa.plan` alone."""

    output: Literal["table", "json"]
    target_ratio: float | None = Field(gt=0)


class TuneConfig(Section):
    """Group `tune`, of `qpa.tune` alone."""

    trials: int = Field(ge=1)


class AnalysisConfig(Section):
    """`conf/analysis.yaml`, of `qpa.analysis` alone."""

    what: Literal["gradient_variance", "contribution", "spectrum", "entanglement"]
    run: str | None
    baseline: str | None
    out: str | None
    ansaetze: list[str] = Field(min_length=1)
    qubits: list[Annotated[int, Field(ge=1, le=14)]] = Field(min_length=1)
    blocks: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    samples: int = Field(ge=2)
    draws: int = Field(ge=1)
    seed: int = Field(ge=0, lt=2**32)


class Config(Section):
    """A whole run."""

    model: ModelConfig
    peft: Annotated[dict[str, Any], Part.METHOD]
    generator: GeneratorConfig
    latents: LatentsConfig = Field(discriminator="kind")
    circuit: CircuitConfig
    mapper: MapperConfig = Field(discriminator="kind")
    optimizer: OptimizerConfig
    data: DataConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    name: Annotated[str, Part.SHOWN]
    run_dir: Annotated[str | None, Part.SHOWN]
    seed: Annotated[int, Part.SEED] = Field(ge=0, lt=2**32)
    ckpt: Annotated[str | None, Part.SHOWN]
    force: Annotated[bool, Part.SHOWN]
    fail_fast: Annotated[bool, Part.SHOWN]
    cache_dir: Annotated[str | None, Part.SHOWN]
    baseline: Annotated[str | None, Part.SHOWN]

    @property
    def folder(self) -> Path:
        """Where the run's files lie: `run_dir`, or `outputs/NAME-HASH` with the hash of all that the run computes."""
        if self.run_dir:
            return Path(self.run_dir)
        return Path("outputs") / f"{self.name}-{self.fingerprint()}"

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that change when a value that the result depends on changes."""
        return hashed([COMPUTATION, IDENTITY.effective(self.model_dump(by_alias=True)), self.digests(), self.weights()])

    def lineage(self) -> dict[str, Any]:
        """By key, what a run and one that goes on from its checkpoint share: not steps, rates, or what runs the circuits."""
        shared = (Part.SEED, Part.TASK, Part.METHOD, Part.ANSATZ, Part.SIZES)
        kept = IDENTITY.picked(self.model_dump(by_alias=True), *shared)
        kept["model.path"] = Path(self.model.path or "").name  # a model may be moved
        return kept | {"texts": self.digests(), "computation": COMPUTATION}

    def weights(self) -> list[str | None]:
        """SHA-256 of what `model.path` holds: another model saved in its place is another."""
        folder = Path(self.model.path or "")
        files = sorted((*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.json"))) if self.model.path else []
        return [f"{file.name} {_digest_once(file, file.stat().st_size, file.stat().st_mtime_ns)}" for file in files]

    def digests(self) -> dict[str, list[str | None]]:
        """SHA-256 of every text file by split, None of one that is not there; `hub`: of a local folder in the hub's place."""
        data = self.data
        files = {"train": data.train_files, "val": data.val_files, "test": data.test_files, "forgetting": data.forgetting_files}
        found = {split: [_digest(Path(file)) for file in given] for split, given in files.items()}
        local = data.hub if data.source == "hub" and data.hub and os.path.isdir(data.hub) else None
        return found | ({"hub": _folder_digests(Path(local))} if local else {})


IDENTITY = Identity(Config)


def _folder_digests(folder: Path) -> list[str | None]:
    """Of all its files, each with its name, which tells the split."""
    return [f"{file.relative_to(folder)} {_digest(file)}" for file in files_of(folder, key="data.hub")]


@cache
def _digest_once(file: Path, size: int, changed: int) -> str | None:
    return _digest(file)


def _digest(file: Path) -> str | None:
    if not file.is_file():
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def parse(config: DictConfig | Mapping[str, Any]) -> Config:
    """Check a composed config.

    Raises:
        ConfigError: the first value that has the wrong type or range, with what would be right.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
    except OmegaConfBaseException as error:
        raise ConfigError(error.full_key or "config", "?", str(error).splitlines()[0]) from error
    found = checked(Config, plain)
    for group, (pattern, right) in TARGETS.items():
        section = cast(dict[str, Any], plain)[group]
        target = section.get("_target_")
        if not isinstance(target, str) or not re.fullmatch(pattern, target):
            raise ConfigError(f"{group}._target_", target, f"should be {right}")
        if _names_classes(list(section.values())):
            raise ConfigError(group, "...", "only the group itself may have a _target_, not what is in it")
    return found


def _names_classes(value: object) -> bool:
    """Whether a `_target_`, which Hydra would call, is anywhere in a value."""
    if isinstance(value, dict):
        return "_target_" in value or _names_classes(list(value.values()))
    return isinstance(value, list) and any(map(_names_classes, value))


def checked(section: type[S], plain: object, *, within: str | None = None) -> S:
    """A section of the config from plain values, its keys named `within` a group in errors.

    Raises:
        ConfigError: as for `parse`.
    """
    try:
        return section.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        path = first["loc"]
        if path and path[0] in ("mapper", "latents"):
            path = (path[0], *path[2:])  # without the kind that pydantic has chosen the class by
        path = (within, *path) if within else path
        value = None if first["type"] == "missing" else first["input"]
        problem = first["msg"].removeprefix("Value error, ")
        for theirs, clearer in PYDANTIC_WORDS.items():
            problem = problem.replace(theirs, clearer)
        raise ConfigError(".".join(map(str, path)), value if not isinstance(value, dict) else "...", problem) from error
