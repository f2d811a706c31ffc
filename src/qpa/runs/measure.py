"""The exported adapter, and what is measured of it: what another user will have, not the model that was trained."""

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pytorch_lightning import Trainer
from torch import Tensor, nn

from qpa.adapters import base_weights, dora, saved
from qpa.errors import ExportError
from qpa.files import read_json, write_json
from qpa.runs.parts import Parts
from qpa.runs.plan import Plan
from qpa.tasks.task import Learner, Measured, Value
from qpa.training.held_out import HeldOut, outputs
from qpa.training.sharding import Sharded

Scores = dict[str, dict[str, Value]]  # by split, each metric
SAME = 1e-3  # of the outputs' spread: the same numbers, computed the same way


@contextmanager
def adapter_folder(plan: Plan, folder: Path) -> Iterator[Path]:
    """Where the adapter is written: of several processes the first writes the run's, the others one of their own to read it from."""
    if plan.context.first:
        yield folder / "adapter"
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place) / "adapter"


def export(parts: Parts, adapter: Path) -> None:
    """Write the adapter as its adaptation has made it."""
    task = parts.plan.task
    saved.save_adapter(parts.model, adapter, base_name=task.base_name(), initial=parts.initial)
    task.save_beside(adapter)


def measure(
    plan: Plan, trainer: Trainer, adapter: Path, *, trained: Tensor | None = None, known: Mapping[str, dict[str, Value]] | None = None
) -> Measured:
    """Every metric on held-out data: of the base model as it is published, and with a saved adapter on it, as stock peft reads it.

    Whatever a method has done to the base's weights in training, these are what another user will have.

    Args:
        plan: of the run.
        trainer: what runs the loaders.
        adapter: the saved adapter's folder.
        trained: what the model that was trained says of the task's probe.
        known: by split, what it reaches, where that was measured when it was trained: it need not be read again.

    Returns:
        By split, `NAME` of the adapted and `base_NAME` of the base model, and over how much.

    Raises:
        ExportError: the saved adapter does not say what the trained model says.
    """
    task = plan.task
    task.check_beside(adapter)
    adapted = _adapted(plan, adapter)
    adapted.spread(trainer.strategy.root_device)
    if trained is not None and not saved.same_outputs(outputs(adapted, task.probe()), trained, within=SAME):
        problem = "the saved adapter, read by peft on the published base model, does not say what the trained model says"
        raise ExportError(f"peft={plan.config.peft['_target_']}: {problem}; choose another method or other settings of it")
    dora.without_dense_products(adapted.model)
    after, before = _read(plan, trainer, adapted, known or {}), _base(plan, trainer)
    found = {split: _beside(before[split], after[split], counted=task.counted) for split in before}
    return found | _groups(before["test"], after["test"])


def _base(plan: Plan, trainer: Trainer) -> Scores:
    """What the published base model reaches, which is the same in every run: by one process it is read once."""
    kept = plan.task.base_file() if plan.config.trainer.processes == 1 else None
    if kept and kept.exists():
        with suppress(ValueError, OSError):
            return read_json(kept)
    found = _read(plan, trainer, _shared_out(plan, plan.task.base(), whole=[]), {})
    if kept and all(math.isfinite(value) for scores in found.values() for value in scores.values() if isinstance(value, float)):
        with suppress(OSError):  # the disk is full, or another run writes the same just now: no reason to lose this one
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, found)
    return found


def _adapted(plan: Plan, adapter: Path) -> Learner:
    """The published base with a saved adapter on it."""
    base = plan.task.base(own=base_weights.changes_base(plan.config.peft))
    its = {id(parameter) for parameter in base.parameters()}
    model = saved.load_adapter(base, adapter)
    return _shared_out(plan, model, whole=[p for p in model.parameters() if id(p) not in its])


def _shared_out(plan: Plan, model: nn.Module, *, whole: list[nn.Parameter]) -> Learner:
    learner = plan.task.learner(model)
    return Sharded(learner, whole) if plan.config.trainer.shards else learner


def _read(plan: Plan, trainer: Trainer, learner: Learner, known: Mapping[str, dict[str, Value]]) -> Scores:
    """All held-out data that is not known, with a model that is not used afterwards."""
    loaders = {split: loader for split, loader in plan.task.held_out().items() if split not in known}
    reader = HeldOut(learner, list(loaders))
    trainer.test(reader, list(loaders.values()), verbose=False)
    learner.drop()
    return {**known, **reader.found()}


def _beside(before: dict[str, Value], after: dict[str, Value], *, counted: str) -> dict[str, Value]:
    """The metrics that are the split's own."""
    own = {name: value for name, value in after.items() if "/" not in name}
    return own | {f"base_{name}": before[name] for name in own if name != counted}


def _groups(before: dict[str, Value], after: dict[str, Value]) -> Measured:
    """Those that stand under a group of their own."""
    found: Measured = {}
    for group, _, name in (full.partition("/") for full in after if "/" in full):
        found[group] = {name: after[f"{group}/{name}"], f"base_{name}": before[f"{group}/{name}"]}
    return found
