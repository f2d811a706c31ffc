"""A finished run's objects again: the model, and its generator as it was drawn and as it was trained."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from qpa.config import Config
from qpa.core.adaptation import Adaptation, GeneratedAdaptation
from qpa.core.circuits import backends
from qpa.core.generator import Generator
from qpa.core.latents import Circuits
from qpa.errors import ConfigError
from qpa.runs.parts import Assembly, assemble
from qpa.tasks.language import source
from qpa.training import checkpoints
from qpa.training.quiet import quiet


@dataclass(frozen=True)
class Restored:
    """A run with its best checkpoint.

    Attributes:
        circuits: with the trained angles.
        initial_angles: `[K, A, Q]`, radians.
    """

    assembly: Assembly
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
    checkpoint = folder / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file():
        raise ConfigError("run", folder, "has no checkpoints/best.ckpt")
    if config.generator.kind != "qpa" or config.latents.kind != "circuit":
        raise ConfigError("run", folder, "has no trained circuits; choose one with generator=qpa and latents=circuit")
    if exact:
        config = config.model_copy(update={"circuit": backends.exactly(config.circuit)})
    quiet()
    assembly = assemble(config, source.folder(config))
    adaptation = assembly.adaptation
    assert isinstance(adaptation, GeneratedAdaptation)
    circuits = adaptation.generator.latents
    assert isinstance(circuits, Circuits)
    before = circuits.angles.detach().clone()
    load(adaptation, checkpoint)
    return Restored(assembly, adaptation.generator, circuits, before)


def load(adaptation: Adaptation, checkpoint: Path) -> None:
    """Give an adaptation a checkpoint's weights.

    Raises:
        ConfigError: the checkpoint is damaged or does not fit.
    """
    try:
        adaptation.load_state_dict(checkpoints.read(checkpoint)["state_dict"])
    except (checkpoints.DamagedError, RuntimeError, TypeError, AttributeError) as error:
        raise ConfigError("run", checkpoint, "damaged, or of another config; ckpt=last trains on from a good one") from error
