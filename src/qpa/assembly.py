"""From a config to the objects of a run: base model, PEFT adapter, generator, adaptation."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qpa import base_model, base_weights, numerics, peft_model
from qpa.adaptation import Adaptation, DirectAdaptation, GeneratedAdaptation, Leaves
from qpa.circuits.cost import Usage
from qpa.config import Config
from qpa.layout import AdapterTensor, Layout
from qpa.parameters import Parameters, count, direct
from qpa.peft_model import AdaptedModel
from qpa.preflight import check_layout
from qpa.recipe import make_generator

_KEPT: dict[tuple, PreTrainedModel] = {}  # the last base model


@dataclass(frozen=True)
class Assembly:
    """The objects of one run.

    Attributes:
        layout: None when the adapter's own weights are trained.
        initial: of an adapter that has rewritten weights of the base, its state when it was put on: export takes it away again.
        usage: what circuits have run and how often they were measured; None where they are simulated exactly.
    """

    model: AdaptedModel
    adaptation: Adaptation
    parameters: Parameters
    layout: Layout | None
    initial: dict[str, Tensor] | None
    usage: Usage | None


def assemble(config: Config, folder: Path | None) -> Assembly:
    """Load the base model from `folder` (None: random weights), wrap it, and build what is trained, all drawn from the seed."""
    peft_config = peft_model.make_config(config.peft)
    base = base_to_adapt(config, folder)
    rewrites = base_weights.rewrites_base(config.peft)
    if rewrites:
        peft_model.untie(base, base.modules())
    model = peft_model.wrap(base, peft_config, seed=config.seed, gradient_checkpointing=config.model.gradient_checkpointing)
    initial = peft_model.initial_state(model) if rewrites else None
    parameters = peft_model.adapter_parameters(model)
    plain = sum(p.numel() for p in parameters.values())
    layout = check_layout(config, peft_model.adapter_tensors(model))
    if layout is None:
        return Assembly(model, DirectAdaptation(parameters), direct(plain), None, initial, None)
    leaves = Leaves(layout, parameters)
    generator = make_generator(config, layout, leaves.values)
    usage = getattr(generator.latents, "usage", None)
    return Assembly(model, GeneratedAdaptation(generator, leaves), count(generator, plain), layout, initial, usage)


def planned_adapter(config: Config, folder: Path | None) -> tuple[list[AdapterTensor], int]:
    """What the PEFT method trains on the model and the bytes it saves, from the model's shapes alone: real modules on the meta device.

    Raises:
        ConfigError: the method cannot be put on this model.
    """
    dtype = numerics.dtype(config)
    return peft_model.planned(lambda: base_model.load(config.model, folder, dtype=dtype, meta=True), peft_model.make_config(config.peft))


def load_base(config: Config, folder: Path | None) -> PreTrainedModel:
    """The frozen model; random weights are drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return base_model.load(config.model, folder, dtype=numerics.dtype(config))


def base_to_adapt(config: Config, folder: Path | None) -> PreTrainedModel:
    """The same for an adapter to be put on: in memory of its own where the method writes into the base's weights."""
    base = shared_base(config, folder)
    writes = base_weights.trains_base(config.peft) or base_weights.rewrites_base(config.peft)
    return copy.deepcopy(base) if writes else base


def shared_base(config: Config, folder: Path | None) -> PreTrainedModel:
    """The same for all that leaves it as it is: modules of its own on weights that stay loaded, for the next run of a sweep too."""
    dtype = numerics.dtype(config)
    key = (config.model.model_dump_json(), folder, config.seed if folder is None else 0, dtype)
    if key not in _KEPT:
        _KEPT.clear()  # first: two would not always fit
        _KEPT[key] = load_base(config, folder)
    return base_model.sharing_weights(_KEPT[key])
