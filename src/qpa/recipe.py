"""From config to generator: latents, mapper, start."""

import torch
from torch import Tensor, nn

from qpa.circuits import backend
from qpa.config import CodeMapperConfig, Config, MLPLatentsConfig, MPSLatentsConfig
from qpa.generator import Generator
from qpa.latents import Circuits, Fixed, MatrixProductStates, SmallMLPs, Table
from qpa.layout import Layout
from qpa.mapper import CodeMapper, Mapper, MLPMapper


def make_generator(config: Config, layout: Layout, start: Tensor) -> Generator:
    """The config's latents and mapper, their initial weights drawn from the seed, on top of the PEFT method's own start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        latents, mapper = make_latents(config, layout), make_mapper(config, layout)
    return Generator(layout, latents=latents, mapper=mapper, start=start if config.generator.start == "peft" else None)


def make_latents(config: Config, layout: Layout) -> nn.Module:
    """The config's circuits, or the control in their place."""
    settings, layers = config.latents, config.circuit.layers
    budget = layers * layout.qubits
    if isinstance(settings, MPSLatentsConfig):
        return MatrixProductStates(layout, bond_dimension=settings.bond_dimension, budget=budget)
    if isinstance(settings, MLPLatentsConfig):
        return SmallMLPs(layout, hidden=settings.hidden, budget=budget)
    if settings.kind == "table":
        return Table(layout)
    if settings.kind in ("zeros", "random"):
        return Fixed(layout, random=settings.kind == "random")
    return Circuits(layout, layers=layers, backend=backend(config.circuit.backend), trained=settings.kind == "circuit")


def make_mapper(config: Config, layout: Layout) -> Mapper:
    """The config's mapper."""
    settings, from_zero = config.mapper, config.generator.start == "peft"
    if isinstance(settings, CodeMapperConfig):
        return CodeMapper(layout, width=settings.width, from_zero=from_zero)
    return MLPMapper(layout, hidden=settings.hidden, activation=settings.activation, from_zero=from_zero)
