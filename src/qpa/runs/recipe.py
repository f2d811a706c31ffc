"""From config to generator: latents, mapper, start."""

import psutil
import torch
from torch import Tensor, nn

from qpa.config import Config, MLPLatentsConfig, MPSLatentsConfig, RowsMapperConfig
from qpa.core.circuits import backends
from qpa.core.counts import Parameters, count
from qpa.core.generator import Generator
from qpa.core.latents import Circuits, MatrixProductStates, SmallMLPs, Table, random, zeros
from qpa.core.layout import Layout
from qpa.core.mapper import CodeMapper, Mapper, MLPMapper, TiedMapper
from qpa.errors import ConfigError

TRAINED_BYTES = 16  # of a number, its gradient, and Adam's two averages


def make_generator(config: Config, layout: Layout, start: Tensor) -> Generator:
    """The config's latents and mapper, their initial weights drawn from the seed, on top of the PEFT method's own start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        runs = config.latents.kind == "circuit"
        circuits = make_circuits(config if runs else _exactly(config), layout, trained=True)  # drawn for controls too: then all
        mapper = make_mapper(config, layout)  # start from the same mapper
        latents = circuits if runs else make_control(config, layout)
    return Generator(layout, latents=latents, mapper=mapper, start=start if config.generator.start == "peft" else None)


def make_circuits(config: Config, layout: Layout, *, trained: bool) -> Circuits:
    """The config's circuits."""
    simulate, usage = backends.simulator(config.circuit, seed=config.seed)
    circuit = config.circuit
    shape = backends.ansatz(circuit)
    return Circuits(layout, shape, blocks=circuit.layers, simulate=simulate, shots=circuit.shots, usage=usage, trained=trained)


def _exactly(config: Config) -> Config:
    return config.model_copy(update={"circuit": backends.exactly(config.circuit)})


def make_control(config: Config, layout: Layout) -> nn.Module:
    """What the config has in the circuits' place."""
    settings = config.latents
    budget = backends.ansatz(config.circuit).rotation_layers(config.circuit.layers) * layout.qubits
    if isinstance(settings, MPSLatentsConfig):
        return MatrixProductStates(layout, bond_dimension=settings.bond_dimension, budget=budget)
    if isinstance(settings, MLPLatentsConfig):
        return SmallMLPs(layout, hidden=settings.hidden, budget=budget)
    if settings.kind == "frozen_circuit":
        return make_circuits(config, layout, trained=False)
    return {"table": Table, "zeros": zeros, "random": random}[settings.kind](layout)


def make_mapper(config: Config, layout: Layout) -> Mapper:
    """The config's mapper."""
    settings, from_zero = config.mapper, config.generator.start == "peft"
    if isinstance(settings, RowsMapperConfig):
        kind = TiedMapper if settings.kind == "tied" else CodeMapper
        return kind(layout, width=settings.width, from_zero=from_zero)
    return MLPMapper(layout, hidden=settings.hidden, activation=settings.activation, from_zero=from_zero)


def counted(config: Config, layout: Layout) -> Parameters:
    """What a run of this layout would train: its generator, built without memory.

    Raises:
        ConfigError: there are too many numbers to count.
    """
    try:
        with torch.device("meta"):
            return count(make_generator(config, layout, torch.zeros(layout.size)), layout.generated)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        problem = "this, mapper or latents have more numbers than can be counted; lower the largest"
        raise ConfigError("circuit.layers", config.circuit.layers, problem) from error


def check_numbers(config: Config, layout: Layout) -> None:
    """Refuse a generator that does not fit half of this machine's memory.

    Raises:
        ConfigError: which part of it is the larger.
    """
    parts = counted(config, layout)
    needed, room = parts.trainable * TRAINED_BYTES, psutil.virtual_memory().total // 2
    if needed > room:
        features = ("circuit.layers", config.circuit.layers) if config.latents.kind == "circuit" else ("latents", config.latents.kind)
        key, value = features if parts.circuit > parts.mapper else ("mapper", config.mapper.kind)
        raise ConfigError(key, value, f"{parts.trainable:,} numbers would be trained, and need {needed / 2**30:,.0f} GiB; make it smaller")
