"""A finished run's objects again: the model, and its generator as it was drawn and as it was trained."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qpa.config import Config
from qpa.config.context import Context
from qpa.core.adaptation import Adaptation, GeneratedAdaptation
from qpa.core.generator import Generator
from qpa.core.latents.circuits import Circuits
from qpa.errors import ConfigError, UserError
from qpa.library.circuit import exactly
from qpa.runs import parts
from qpa.runs import plan as plans
from qpa.runs.parts import Parts
from qpa.runs.plan import Plan
from qpa.training import checkpoints
from qpa.training.names import BEST, CHECKPOINTS
from qpa.training.quiet import quiet


def here(config: Config) -> Plan:
    """The plan of a run on record, looked at by one process, whatever the run was trained on."""
    alone = {"strategy": "single", "devices": 1, "num_nodes": 1, "compile": False}
    return plans.make(config.model_copy(update={"trainer": config.trainer.model_copy(update=alone)}), Context())


def best(folder: Path) -> Path:
    """The checkpoint of a run's best step.

    Raises:
        ConfigError: it has none.
    """
    checkpoint = folder / CHECKPOINTS / BEST
    if not checkpoint.is_file():
        raise ConfigError("run", folder, f"has no {CHECKPOINTS}/{BEST}")
    return checkpoint


@dataclass(frozen=True)
class Restored:
    """A run with its best checkpoint.

    Attributes:
        circuits: with the trained angles.
        initial_angles: `[K, A, Q]`, radians.
    """

    parts: Parts
    generator: Generator
    circuits: Circuits
    initial_angles: Tensor


def restore(config: Config, folder: Path, *, exact: bool = False) -> Restored:
    """Build a run's objects from its config and load the best checkpoint.

    Args:
        config: of the run.
        folder: of the run.
        exact: simulate the circuits exactly, whatever has run them: enough where only their angles are looked at.

    Raises:
        ConfigError: the run has no checkpoint, or no trained circuits.
    """
    checkpoint = best(folder)
    if config.generator.kind != "qpa" or config.latents.kind != "circuit":
        raise ConfigError("run", folder, "has no trained circuits; choose one with generator=qpa and latents=circuit")
    if exact:
        config = config.model_copy(update={"circuit": exactly(config.circuit)})
    quiet()
    built = parts.build(here(config))
    adaptation = built.adaptation
    assert isinstance(adaptation, GeneratedAdaptation)
    circuits = adaptation.generator.latents
    assert isinstance(circuits, Circuits)
    before = circuits.angles.detach().clone()
    load(adaptation, checkpoint)
    return Restored(built, adaptation.generator, circuits, before)


def load(adaptation: Adaptation, checkpoint: Path) -> None:
    """Give an adaptation a checkpoint's weights.

    Raises:
        ConfigError: the checkpoint is damaged or does not fit.
    """
    try:
        with torch.no_grad():  # no step follows: circuits that are sampled are run without those of a gradient
            adaptation.load_state_dict(checkpoints.read(checkpoint)["state_dict"])
    except (checkpoints.DamagedError, UserError, RuntimeError, TypeError, AttributeError) as error:
        raise ConfigError("run", checkpoint, "damaged, or of another config; ckpt=last trains on from a good one") from error
