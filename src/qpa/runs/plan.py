"""A run as far as it can be known before data and weights are there: checked, counted, named. Made once, and handed on."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpa.adapters import base_weights
from qpa.config import IDENTITY, Config, QPAGeneratorConfig
from qpa.config.context import Context
from qpa.config.identity import COMPUTATION, SAMPLING, STEPS, Part, hashed
from qpa.core.layout import AdapterTensor, Layout
from qpa.errors import ConfigError
from qpa.library.circuit import execution
from qpa.library.sizes import check_memory, layout_for_here
from qpa.tasks.task import Task, find

if TYPE_CHECKING:
    from qpa.core.counts import Counts

WEIGHT_BYTES = 4  # generated and exported weights are fp32
SHARED = (Part.SEED, Part.TASK, Part.METHOD, Part.ANSATZ, Part.SIZES)  # of a run and one that goes on from its checkpoint


@dataclass(frozen=True)
class Plan:
    """What a run is going to be.

    Attributes:
        config: with what this machine decides written into it.
        context: of the run.
        task: what is learned.
        tensors: what the PEFT method trains.
        adapter_bytes: that the exported adapter's tensors take.
        layout: which generated number goes where; None where the adapter itself is trained.
        counts: of what is trained.
    """

    config: Config
    context: Context
    task: Task
    tensors: tuple[AdapterTensor, ...]
    adapter_bytes: int
    layout: Layout | None
    counts: "Counts"

    @cached_property
    def content(self) -> dict[str, Any]:
        """Digests of what the config's paths lead to."""
        return self.task.content()

    @cached_property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that change when a value that the result depends on changes."""
        return fingerprint(self.config, self.content)

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """What this run and one that goes on from its checkpoint share: not steps, rates, or what runs the circuits."""
        return lineage(self.config, self.content)

    @property
    def folder(self) -> Path:
        """Where the run's files lie: `run_dir`, or `outputs/NAME-HASH` with the hash of all that the run computes."""
        if self.config.run_dir:
            return Path(self.config.run_dir)
        return Path("outputs") / f"{self.config.name}-{self.fingerprint}"

    def notes(self) -> list[str]:
        """What a user should know before the run, though it can work."""
        found = self.task.notes()
        if self.counts.beside:
            found.append(f"the new head's {self.counts.beside:,} numbers are trained plainly, and counted on both sides of the ratio")
        if self.counts.ratio > 1:
            counts = f"{self.counts.trainable:,} numbers are trained to generate {self.counts.plain_peft:,}"
            found.append(f"{counts}; python -m qpa.plan finds fewer")
        return found


def make(config: Config, context: Context, *, read: bool = False) -> Plan:
    """Check a config and plan its run; what is quick to find comes first.

    Args:
        config: of the run.
        context: of the run.
        read: look at the data as well, as far as that is quick.

    Raises:
        ConfigError: the first thing found that cannot work, with the way out.
    """
    task = find(config.task.kind)(config, context)
    check(config)
    task.check()
    known = task.known_tensors()
    layout = _layout(config, known) if known is not None else None
    if read:
        task.read()
    task = task.resolved()  # from here on torch: a second
    config = task.config
    if known is None:
        tensors, adapter_bytes = _of_real_modules(config, task)
        layout = _layout(config, tensors)
    else:
        tensors, adapter_bytes = known, sum(t.size for t in known) * WEIGHT_BYTES
    return Plan(config, context, task, tuple(tensors), adapter_bytes, layout, _counts(config, tensors, layout))


def fingerprint(config: Config, content: dict[str, Any]) -> str:
    """Of a config and what its paths lead to."""
    sampling = [SAMPLING] if samples(config) else []
    return hashed([COMPUTATION, *sampling, IDENTITY.effective(config.model_dump(by_alias=True)), *content.values()])


def lineage(config: Config, content: dict[str, Any]) -> dict[str, Any]:
    """By key, what a run of a config and one that goes on from its checkpoint share."""
    kept = IDENTITY.picked(config.model_dump(by_alias=True), *SHARED)
    if "model.path" in kept:
        kept["model.path"] = Path(kept["model.path"] or "").name  # a model may be moved
    sampling = {"sampling": SAMPLING} if samples(config) else {}
    return kept | sampling | {"texts": content["texts"], "computation": STEPS}


def check(config: Config) -> None:
    """Refuse what does not go together, whatever the task.

    Raises:
        ConfigError: what, and the way out.
    """
    base_weights.check(config.peft)
    prompt = config.peft.get("num_virtual_tokens", 1)
    if not isinstance(prompt, int) or prompt < 1:
        raise ConfigError("peft.num_virtual_tokens", prompt, "should be an integer of at least 1")
    if config.trainer.compile and not shutil.which(os.environ.get("CXX", "g++")):
        raise ConfigError("trainer.compile", True, "needs a C++ compiler, and none is on the PATH; install g++, or set it to false")
    if config.trainer.processes > 1 and samples(config):
        problem = "every process would sample circuits of its own, and train another adapter; use trainer=default, or leave shots out"
        raise ConfigError("trainer.strategy", config.trainer.strategy, problem)
    if config.trainer.shards and config.peft.get("layer_replication"):
        problem = "layers that share weights cannot be parts of their own (trainer=fsdp); leave it out, or use trainer=ddp"
        raise ConfigError("peft.layer_replication", config.peft["layer_replication"], problem)
    if config.generator.kind == "qpa" and config.circuit.qubits:
        check_memory(config.circuit, circuits=1, qubits=config.circuit.qubits)


def _counts(config: Config, tensors: Sequence[AdapterTensor], layout: Layout | None) -> "Counts":
    from qpa.core.counts import direct  # torch: a second
    from qpa.library.recipe import check_numbers, counted

    if layout is None:
        return direct(sum(t.size for t in tensors))
    settings = config.settings
    counts = counted(settings, layout, beside=sum(t.size for t in tensors if t.beside))
    check_numbers(settings, counts)
    return counts


def _of_real_modules(config: Config, task: Task) -> tuple[list[AdapterTensor], int]:
    """What the PEFT method trains and the bytes it saves, from real modules on the meta device."""
    from qpa.adapters import methods  # peft: seconds
    from qpa.training.quiet import quiet

    quiet()
    tensors, adapter_bytes = methods.planned(task.skeleton, methods.make_config(config.peft))
    if not sum(t.size for t in tensors):
        raise ConfigError("peft", config.peft["_target_"], "trains nothing on this model; choose other settings of it")
    return tensors, adapter_bytes


def _layout(config: Config, tensors: Sequence[AdapterTensor]) -> Layout | None:
    """The config's layout of those that are generated, None where nothing is."""
    if not isinstance(config.generator, QPAGeneratorConfig):
        return None
    return layout_for_here(config.settings, [tensor for tensor in tensors if not tensor.beside])


def samples(config: Config) -> bool:
    """Whether circuits run, and give samples."""
    return config.generator.kind == "qpa" and config.settings.runs_circuits and execution(config.circuit).samples
