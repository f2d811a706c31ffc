"""What a task is: its data, model, loss and metrics. Everything above this room knows tasks by these classes alone.

A task is a folder beside this file, whose `task.py` has it as `TASK`, or a class that a package of yours offers under the entry point
`qpa.task` (docs/extending.md).
Splits are named `train`, `val` (chooses steps and rates), `test`, and whatever else a task holds out.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from qpa.config import Config
from qpa.config.context import Context
from qpa.errors import ConfigError

if TYPE_CHECKING:  # a mistake in a config is found before torch is imported
    import torch
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from qpa.adapters.methods import AdaptedModel
    from qpa.core.layout import AdapterTensor
    from qpa.tasks.loaders import Share

Batch = Any
Value = float | list[Any]  # of a metric: a number, or of one that is a matrix its rows
Measured = dict[str, dict[str, Any]]  # by split, the metrics of the adapted model, and as `base_NAME` of the base model


@dataclass(frozen=True)
class Metric:
    """What a model is judged by.

    Attributes:
        name: as it stands in records, tables and figures, e.g. `perplexity`.
        unit: of its values, empty where they have none.
        better: which direction is.
        scale: what a gain is: a difference of values (`linear`) or of their logarithms (`log`, as of perplexity, whose logarithm is
            the NLL).
    """

    name: str
    unit: str
    better: Literal["lower", "higher"]
    scale: Literal["linear", "log"] = "linear"

    def improves(self, value: float, on: float | None) -> bool:
        """Whether a value is better than another, or than none."""
        return on is None or (value < on if self.better == "lower" else value > on)

    def gain(self, base: float, adapted: float) -> float:
        """How much better the adapted model is than the base; negative where it is worse."""
        more, less = (base, adapted) if self.better == "lower" else (adapted, base)
        return math.log(more / less) if self.scale == "log" else more - less


@dataclass(frozen=True)
class Picture:
    """What a task draws of a finished run.

    Attributes:
        kind: of its file.
        title: over it in the report.
        words: what is seen.
    """

    kind: Literal["png", "gif"]
    title: str
    words: str


@dataclass(frozen=True)
class Question:
    """A held-out prompt that a model answers in words.

    Attributes:
        prompt: its text.
        reference: the data's answer.
    """

    prompt: str
    reference: str


class Learner(ABC):
    """A model, adapted or not, and how the task has it read a batch.

    Attributes:
        model: what is trained or measured.
    """

    model: "nn.Module"

    @abstractmethod
    def loss(self, batch: Batch) -> "tuple[Tensor, Tensor]":
        """Of a training batch the summed loss and what it is summed over: right over micro-batches and processes."""

    @abstractmethod
    def scores(self) -> "nn.ModuleDict":
        """Fresh metrics of one split by name (`torchmetrics`, summed over processes): the task's metric, what it counts, any others.

        One named `GROUP/NAME` is none of the split's: it is logged as it is called, and recorded under GROUP, of the test split.
        One that computes a matrix, as which label is taken for which, is recorded and not logged.
        """

    @abstractmethod
    def score(self, batch: Batch, split: str, scores: "nn.ModuleDict") -> None:
        """Count one batch of a held-out split into its `scores`."""

    @abstractmethod
    def outputs(self, batch: Batch) -> "Tensor":
        """What the model says of a batch: by this a saved adapter is compared with the model that was trained."""

    def to_device(self, batch: Batch, device: "torch.device") -> Batch:
        """Bring a batch to where the model is."""
        return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    def state(self) -> dict[str, Any]:
        """What it has counted in training that a run that goes on from a checkpoint has to know; plain numbers, by name."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - nothing was counted
        """The counterpart."""

    def told(self) -> dict[str, float]:
        """Once after each optimizer step's last micro-batch: by name, what it has found beside the loss, to be logged as `train/NAME`."""
        return {}

    def changes_from_step_to_step(self) -> str | None:
        """Why the loss of batches of one size cannot be recorded once and replayed on a GPU (`qpa.core.recorded`); None where it can."""
        return "this task does not say whether they can be"

    def blocks(self) -> "list[nn.Module]":
        """What the model is made of, one after the other: none holds another, nor a weight of another. Where they are not known, none."""
        return []

    def spread(self, device: "torch.device") -> None:  # noqa: B027 - this and the next two: a model that is whole has nothing to do
        """Before the first reading, in every process: leave only this process's part of the model there (`qpa.training.sharding`)."""

    def level(self, device: "torch.device") -> None:  # noqa: B027
        """After the last of some held-out batches, in every process: let all have read equally many."""

    def drop(self) -> None:  # noqa: B027
        """After the last reading: free this process's part."""

    def compile(self) -> None:
        """`torch.compile` what the model is made of.

        Raises:
            ConfigError: it does not say what that is.
        """
        raise ConfigError("trainer.compile", True, "this task's models are not compiled; set it to false")


class Task(ABC):
    """One task, as a config describes it. Made for each run; nothing heavy happens before it is asked for.

    Args:
        config: of the run.
        context: of the run.
    """

    metric: ClassVar[Metric]
    """What steps, rates and runs are chosen by."""
    counted: ClassVar[str]
    """What losses are summed over, in words; also the name of their number among `scores`."""
    over: ClassVar[str | None] = None
    """Which of what `Learner.told` says curves are drawn over; None: optimizer steps."""
    also: ClassVar[Mapping[str, str]] = {}
    """Splits held out beside `val` and `test`, each with its name in tables."""
    picture: ClassVar[Picture] = Picture("png", "Drawn", "What the task has drawn of each run.")
    """What `draw` draws, of a task that draws."""

    def __init__(self, config: Config, context: Context) -> None:
        self.config, self.context = config, context

    def check(self) -> None:  # noqa: B027 - a task may have nothing to refuse
        """Refuse what can be known to be wrong from the config alone; quick, and without torch.

        Raises:
            ConfigError: the first thing found, with the way out.
        """

    def notes(self) -> list[str]:
        """What a user should know before the run, though it can work."""
        return []

    def advice(self) -> str | None:
        """In a line, what measurements say of a run like this one; None where there are none."""
        return None

    def resolved(self) -> Self:
        """The same with `auto` in its config replaced by what this machine computes in: a run is known by that, not by the machine."""
        trainer = self.config.trainer
        precision = "32-true" if trainer.precision == "auto" else trainer.precision
        return self.of(self.config.model_copy(update={"trainer": trainer.model_copy(update={"precision": precision})}))

    def of(self, config: Config) -> Self:
        """The same of another config; what has been read stays."""
        found = copy.copy(self)
        found.config = config
        return found

    def known_tensors(self) -> "list[AdapterTensor] | None":
        """What the PEFT method trains, from the config's numbers alone; None where only the real modules tell."""
        return None

    @abstractmethod
    def skeleton(self) -> "nn.Module":
        """The base model's modules on the meta device: shapes without weights. Anew at each call."""

    @property
    def share(self) -> "Share":
        """What this process reads, for `qpa.tasks.loaders`."""
        from qpa.tasks.loaders import Share
        from qpa.tasks.numerics import on_gpu

        trainer, batch_size = self.config.trainer, self.config.data.batch_size
        pinned = on_gpu(trainer.accelerator)
        return Share(batch_size, trainer.accumulate_grad_batches, self.context.rank, trainer.processes, pinned)

    def content(self) -> dict[str, Any]:
        """Digests, by name, of what the config's paths lead to: files of other content make another run. `texts` are of the data."""
        return {"texts": {}}

    @abstractmethod
    def title(self) -> str:
        """Model and data in a few words, for reports."""

    def protocol(self) -> dict[str, Any]:
        """What the metric is a metric of, for the record.

        The report knows one of its names: `reference`, by name and split the metrics of what needs no training.
        """
        return {}

    def inputs(self) -> "dict[str, Tensor] | None":
        """A batch of some examples as what the model itself reads, by name, for its graph; None: such models have none here."""
        return None

    def base_name(self) -> str | None:
        """The name under which others find the base model, for the exported adapter; None where nobody can."""
        return None

    def full(self) -> int:
        """What the loss of a full micro-batch is summed over: its examples, where nothing else is counted."""
        return self.config.data.batch_size

    def examples(self) -> int | None:
        """How many there are to train on, once the data are prepared; None: the task does not say."""
        return None

    @property
    def steps(self) -> int:
        """Optimizer steps of a whole run. Where they are `trainer.max_epochs`, they are known once the data are prepared.

        Raises:
            ConfigError: the task does not say how many examples there are.
        """
        trainer = self.config.trainer
        if trainer.max_epochs is None:
            return cast(int, trainer.max_steps)  # one of the two is given
        examples = self.examples()
        if examples is None:
            problem = "this task does not say how many examples a pass has; give trainer.max_steps"
            raise ConfigError("trainer.max_epochs", trainer.max_epochs, problem)
        steps = math.ceil(Fraction(str(trainer.max_epochs)) * examples / self.share.of_a_step)  # as it was written: 0.07 of 100 are 7
        return min(steps, trainer.max_steps or steps)

    def amount(self) -> int:
        """How much of what is counted a whole run reads in training; known when its steps are."""
        trainer = self.config.trainer
        return self.full() * trainer.accumulate_grad_batches * trainer.processes * self.steps

    def read(self) -> None:  # noqa: B027  # or nothing that is quick to read
        """Read the data as far as that is quick, before anything is written.

        Raises:
            ConfigError: the data cannot be learned from.
        """

    def fetch(self) -> None:  # noqa: B027 - or all that it needs is here
        """Bring here what the run needs from elsewhere, before anything heavy is imported.

        Raises:
            ConfigError: it cannot be had.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Read the data and make all that is read of it, or take it from the cache.

        Raises:
            ConfigError: the data cannot be learned from.
        """

    @abstractmethod
    def train_loader(self, *, from_step: int) -> "DataLoader":
        """Exactly what the optimizer steps after `from_step` read."""

    @abstractmethod
    def held_out(self) -> "dict[str, DataLoader]":
        """Loaders of `val`, `test`, and of those of `also` that there are.

        Raises:
            ConfigError: there is less than one example for each process.
        """

    @abstractmethod
    def probe(self) -> Batch:
        """A small held-out batch, always the same, of which a model says several numbers."""

    def questions(self) -> Sequence[Question]:
        """Held-out prompts that the base and the adapted model are to answer; none where there is nothing to answer."""
        return ()

    def answers(self, model: "nn.Module", questions: Sequence[Question]) -> list[str]:
        """What a model answers."""
        raise NotImplementedError

    def marks(self, answers: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        """By name, how good answers are."""
        return {}

    @abstractmethod
    def base(self, *, own: bool = False) -> "nn.Module":
        """The frozen base model as it is published, where this process computes (`qpa.tasks.numerics.home`).

        Args:
            own: in memory of its own, for what writes into its weights.
        """

    @abstractmethod
    def learner(self, model: "nn.Module", *, trained: bool = False) -> Learner:
        """How the task reads batches with a model.

        Args:
            model: the base model, or what the PEFT method has made of it.
            trained: whether it is going to be trained.

        Raises:
            ConfigError: the adapted model does not run, or a setting does not suit it.
        """

    @classmethod
    def remarks(cls, ours: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What else a user wants to know of a finished run: names and values, from its record's part `qpa`."""
        return []

    def draw(self, measured: Measured, adapter: Path, file: Path) -> None:  # noqa: B027 - most tasks have nothing to look at
        """Draw what a reader of the report should see of a finished run, as `picture` says.

        Args:
            measured: what it has reached.
            adapter: the folder of the exported adapter.
            file: where to.
        """

    def save_beside(self, adapter: Path) -> None:  # noqa: B027 - as a rule an adapter says it all
        """Write into an exported adapter's folder what else its user needs."""

    def check_beside(self, adapter: Path) -> None:  # noqa: B027
        """Before an adapter is measured: refuse one that was trained for something else; take over what it was trained with, as a scale.

        Raises:
            ConfigError: for what.
        """

    def base_file(self) -> Path | None:
        """Where it is kept what the base model reaches, named after all that this depends on; None: it is measured in every run."""
        return None

    def save_merged(self, adapted: "Callable[[nn.Module], AdaptedModel]", folder: Path) -> None:
        """Fold an adapter into the base model and save the whole as others read it.

        Args:
            adapted: puts the saved adapter on a base model.
            folder: where to, empty.

        Raises:
            ConfigError: it cannot be folded in.
            ExportError: the saved model does not say what the adapter says.
        """
        raise ConfigError("merged", "true", "this task's models have no file of their own to merge into; use the adapter itself")


def find(kind: str) -> type[Task]:
    """The class of a task: that of a folder in this room, or one that an installed package offers."""
    if kind.isidentifier() and (Path(__file__).parent / kind / "task.py").is_file():
        return import_module(f"qpa.tasks.{kind}.task").TASK
    from qpa.config.kinds import plugin

    return plugin("task", kind)
