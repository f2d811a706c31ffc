"""From a config to the objects of a run: base model, PEFT adapter, generator, adaptation."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from qpa import base_model, peft_model
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
        usage: what circuits have run and how often they were measured; None where they are simulated exactly.
    """

    model: AdaptedModel
    adaptation: Adaptation
    parameters: Parameters
    layout: Layout | None
    usage: Usage | None


def assemble(config: Config, folder: Path | None) -> Assembly:
    """Load the base model from `folder` (None: random weights), wrap it, and build what is trained, all drawn from the seed."""
    peft_config = peft_model.make_config(config.peft)
    base = _shared_base(config, folder)
    model = peft_model.wrap(base, peft_config, seed=config.seed, gradient_checkpointing=config.model.gradient_checkpointing)
    parameters = peft_model.adapter_parameters(model)
    for parameter in parameters.values():
        parameter.data = parameter.data.clone()  # peft may train biases of the base, whose memory other runs share
    plain = sum(p.numel() for p in parameters.values())
    layout = check_layout(config, peft_model.adapter_tensors(model))
    if layout is None:
        return Assembly(model, DirectAdaptation(parameters), direct(plain), None, None)
    leaves = Leaves(layout, parameters)
    generator = make_generator(config, layout, leaves.values)
    return Assembly(
        model, GeneratedAdaptation(generator, leaves), count(generator, plain), layout, getattr(generator.latents, "usage", None)
    )


def planned_adapter(config: Config, folder: Path | None) -> tuple[list[AdapterTensor], int]:
    """What the PEFT method trains on the model and the bytes it saves, from the model's shapes alone: real modules on the meta device.

    Raises:
        ConfigError: the method cannot be put on this model.
    """
    dtype = base_model.frozen_dtype(config.trainer.accelerator)
    return peft_model.planned(lambda: base_model.load(config.model, folder, dtype=dtype, meta=True), peft_model.make_config(config.peft))


def load_base(config: Config, folder: Path | None) -> PreTrainedModel:
    """The frozen model; random weights are drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return base_model.load(config.model, folder, dtype=base_model.frozen_dtype(config.trainer.accelerator))


def _shared_base(config: Config, folder: Path | None) -> PreTrainedModel:
    """The same for training: modules of its own on weights that stay loaded for the next run of this process, as in a sweep."""
    dtype = base_model.frozen_dtype(config.trainer.accelerator)
    key = (config.model.model_dump_json(), folder, config.seed if folder is None else 0, dtype)
    if key not in _KEPT:
        _KEPT.clear()  # first: two would not always fit
        _KEPT[key] = load_base(config, folder)
    return base_model.sharing_weights(_KEPT[key])
