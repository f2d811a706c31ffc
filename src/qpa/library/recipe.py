"""From settings to generator: circuits or a control in their place, mapper, start."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from qpa.config import IDENTITY, CircuitConfig, Settings, plugin
from qpa.config.identity import UNTRAINED
from qpa.config.part import Part
from qpa.core.circuits import backends
from qpa.core.counts import Counts, count
from qpa.core.draws import drawn
from qpa.core.generator import Generator
from qpa.core.latents.circuits import Circuits, FromCircuits
from qpa.core.latents.features import RandomFeatures
from qpa.core.latents.fixed import random, zeros
from qpa.core.latents.mlp import SmallMLPs
from qpa.core.latents.mps import MatrixProductStates
from qpa.core.latents.table import SharedTable, Table
from qpa.core.layout import Layout
from qpa.core.mappers.codes import CodeMapper
from qpa.core.mappers.paper import PaperMapper
from qpa.core.mappers.quantum_train import QuantumTrainMapper
from qpa.core.mappers.quantum_train_scaled import QuantumTrainScaledMapper
from qpa.core.mappers.subspace import SubspaceMapper
from qpa.core.mappers.tied import TiedMapper
from qpa.errors import ConfigError, line
from qpa.library.circuit import angles, ansatz, exactly, execution

TRAINED_BYTES = 16  # of a number, its gradient, and Adam's two averages

# By kind. Other kinds are classes of packages that are installed (`qpa.config.kinds`), called in the same way.
MAPPERS: dict[str, Callable[..., nn.Module]] = {
    "tied": lambda layout, settings, from_zero: TiedMapper(layout, width=settings.width, from_zero=from_zero),
    "codes": lambda layout, settings, from_zero: CodeMapper(layout, width=settings.width, from_zero=from_zero),
    "paper": lambda layout, settings, from_zero: PaperMapper(
        layout, hidden=settings.hidden, activation=settings.activation, from_zero=from_zero
    ),
    "quantum_train": lambda layout, settings, from_zero: QuantumTrainMapper(layout, **_published(settings), from_zero=from_zero),
    "quantum_train_scaled": lambda layout, settings, from_zero: QuantumTrainScaledMapper(
        layout, **_published(settings), from_zero=from_zero
    ),
    "subspace": lambda layout, settings, from_zero: SubspaceMapper(layout, numbers=settings.numbers, from_zero=from_zero),
}
CONTROLS: dict[str, Callable[..., nn.Module]] = {
    "table": lambda layout, settings, budget: Table(layout),
    "shared_table": lambda layout, settings, budget: SharedTable(layout, budget=budget),
    "random_features": lambda layout, settings, budget: RandomFeatures(layout, budget=budget),
    "mlp": lambda layout, settings, budget: SmallMLPs(layout, hidden=settings.hidden, budget=budget),
    "mps": lambda layout, settings, budget: MatrixProductStates(layout, bond_dimension=settings.bond_dimension, budget=budget),
    "zeros": lambda layout, settings, budget: zeros(layout),
    "random": lambda layout, settings, budget: random(layout),
}


def make_generator(settings: Settings, layout: Layout, start: Tensor) -> Generator:
    """Latents and mapper, each drawn from a stream of its own, on top of a start.

    Args:
        settings: of the generator.
        layout: of the weights.
        start: the weights as they are before, `[size]`; taken where `generator.start` is `peft`.
    """
    started = settings.generator.start == "peft"
    latents = make_latents(settings, layout)
    with drawn(settings.seed, "mapper"):
        mapper = make_mapper(settings.mapper, layout, from_zero=started)
    first, words = start if started else None, in_words(settings)
    return Generator(layout, latents=latents, mapper=mapper, start=first, settings=words, recordable=_recordable(settings))


def _recordable(settings: Settings) -> bool:
    """Of other packages' parts, samples, and other simulators nobody knows what they do beside their tensors; random labels are drawn."""
    run = execution(settings.circuit)
    own = (run.backend, run.rule) == ("statevector", "exact") if settings.runs_circuits else settings.latents.kind in CONTROLS
    return own and settings.mapper.kind in MAPPERS and getattr(settings.mapper, "labels", "basis") == "basis"


def in_words(settings: Settings) -> str:
    """What a state of the generator has to have in common with it: all but the seed and what runs the circuits."""
    return json.dumps(IDENTITY.picked(settings.model_dump(by_alias=True), Part.METHOD, Part.ANSATZ, Part.SIZES), sort_keys=True)


def make_latents(settings: Settings, layout: Layout) -> nn.Module:
    """The circuits, or what stands in their place."""
    kind, scattered = settings.latents.kind, settings.latents.start == "random"
    with drawn(settings.seed, None if kind == "circuit" else "latents"):
        if settings.runs_circuits:
            return make_circuits(settings.circuit, layout, seed=settings.seed, trained=kind == "circuit", scattered=scattered)
        control = make_control(settings.latents, layout, budget=angles(settings.circuit, layout.qubits))
    if not scattered or kind in UNTRAINED:
        return control
    with drawn(settings.seed):  # where the circuits themselves would start
        return FromCircuits(make_circuits(exactly(settings.circuit), layout, seed=settings.seed, trained=False), control)


def make_circuits(circuit: CircuitConfig, layout: Layout, *, seed: int, trained: bool, scattered: bool = False) -> Circuits:
    """Circuits with angles from torch's present stream; `seed` is of the samples."""
    shape = ansatz(circuit)
    simulate, usage = backends.simulator(shape, execution(circuit), seed=seed)
    return Circuits(
        layout, shape, layers=circuit.layers, simulate=simulate, shots=circuit.shots, usage=usage, trained=trained, scattered=scattered
    )


def make_control(settings: Any, layout: Layout, *, budget: int) -> nn.Module:
    """Config group `latents` as a module, where it is not the circuits."""
    return _made_by("latents", settings.kind, CONTROLS)(layout, settings, budget=budget)


def make_mapper(settings: Any, layout: Layout, *, from_zero: bool) -> nn.Module:
    """Config group `mapper` as a module."""
    return _made_by("mapper", settings.kind, MAPPERS)(layout, settings, from_zero=from_zero)


def _published(settings: Any) -> dict[str, Any]:
    """What both mappers of Quantum-Train are made with."""
    given = {name: getattr(settings, name) for name in ("hidden", "activation", "gain", "bound", "power")}
    return given | {"random_labels": settings.labels == "random"}


def _made_by(group: str, kind: str, ours: dict[str, Callable[..., nn.Module]]) -> Callable[..., nn.Module]:
    if kind in ours:
        return ours[kind]
    return partial(_theirs, group, kind)


def _theirs(group: str, kind: str, *arguments: Any, **settings: Any) -> nn.Module:
    """A module of another package.

    Raises:
        ConfigError: it could not be made; its own words are in the text.
    """
    try:
        return plugin(group, kind)(*arguments, **settings)
    except Exception as error:  # whatever another's code raises
        raise ConfigError(f"{group}.kind", kind, f"could not be made ({line(error)})") from error


def counted(settings: Settings, layout: Layout, *, beside: int = 0) -> Counts:
    """What a run of this layout would train: its generator, built without memory, and so many numbers plainly beside it.

    Raises:
        ConfigError: there are too many numbers to count.
    """
    try:
        with torch.device("meta"):
            return count(make_generator(settings, layout, torch.zeros(layout.size)), layout.generated, beside=beside)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        problem = "this, mapper or latents have more numbers than can be counted; lower the largest"
        raise ConfigError("circuit.layers", settings.circuit.layers, problem) from error


def check_numbers(settings: Settings, counts: Counts) -> None:
    """Refuse a generator that does not fit half of this machine's memory.

    Raises:
        ConfigError: which part of it is the larger.
    """
    needed, room = counts.trainable * TRAINED_BYTES, psutil.virtual_memory().total // 2
    if needed > room:
        latents = ("circuit.layers", settings.circuit.layers) if settings.latents.kind == "circuit" else ("latents", settings.latents.kind)
        key, value = latents if counts.latents > counts.mapper else ("mapper", settings.mapper.kind)
        raise ConfigError(key, value, f"{counts.trainable:,} numbers would be trained, and need {needed / 2**30:,.0f} GiB; make it smaller")
