"""`qpa.load`: a compact adapter expanded on its base model."""

from pathlib import Path

import torch
from torch import Tensor, nn

from qpa.adapters import base_identity, methods, start
from qpa.adapters.methods import AdaptedModel, adapter_tensors
from qpa.core.expansion import expanded
from qpa.core.generator import view
from qpa.core.layout import Layout
from qpa.errors import ConfigError, UserError
from qpa.library import compact
from qpa.library.compact import Compact
from qpa.library.sizes import layout_of


def load(base: nn.Module, folder: str | Path) -> nn.Module:
    """Expand a compact adapter on its base model; no circuit, no mapper is left in what comes back.

    Args:
        base: the model that it was trained on, or that model with an adapter of the same PEFT config on it, whose weights are replaced.
            Where no PEFT adapter was generated but a module's own weights, a module of the same kind: its weights are replaced.
        folder: what `generated.save` has written.

    Returns:
        As stock peft reads an adapter, a `PeftModel` that is not trained; or the module.

    Raises:
        UserError: the folder is damaged, of another base model, or its weights do not come out bit by bit as they were saved.
    """
    found = compact.read(Path(folder))
    base_identity.check(base_identity.weights_of_base(base, frozen=False), found.description.base)
    model = _with_adapter(base, found)
    drawn = start.drawn(model, seed=found.settings.seed, dtype=found.dtype)
    parameters = _parameters(model, found, [*drawn])
    layout = layout_of(found.settings, adapter_tensors(model, parameters))  # pyright: ignore[reportArgumentType]
    if compact.tensors_hash(layout) != found.description.tensors:
        raise UserError(f"{folder}: is of another base model: its adapter has other tensors than are given here")
    weights = _weights(found, layout, drawn)
    with torch.no_grad():
        for slot in layout.slots:
            parameters[slot.tensor.name].copy_(view(weights, slot))
        for name, tensor in found.named(compact.PLAIN).items():
            model.get_parameter(name).copy_(tensor)
    return methods.frozen(model) if isinstance(model, AdaptedModel) else model


def _with_adapter(base: nn.Module, found: Compact) -> nn.Module:
    config = methods.read_config(found.folder)
    if config is None or isinstance(base, AdaptedModel):
        return base
    try:
        with torch.random.fork_rng(devices=[]):
            return methods.put_on(base, config)
    except ConfigError as error:
        raise UserError(f"{found.folder}: is of another base model: {error}") from error


def _parameters(model: nn.Module, found: Compact, drawn: list[str]) -> dict[str, nn.Parameter]:
    """By name, what is generated, in the order that the layout had."""
    there = dict(model.named_parameters())
    names = drawn if found.description.names is None else found.description.names
    if missing := [name for name in (*names, *found.named(compact.PLAIN)) if name not in there]:
        raise UserError(f"{found.folder}: is of another base model: it has a {missing[0]}, and the given one has none")
    return {name: there[name] for name in names}


def _weights(found: Compact, layout: Layout, drawn: dict[str, Tensor]) -> Tensor:
    """All weights, bit by bit as they were saved."""
    flat, known = torch.zeros(layout.size), found.named(compact.START)
    for slot in layout.slots:
        name = slot.tensor.name
        if name in known or name in drawn:
            view(flat, slot).copy_(known.get(name, drawn.get(name)))  # pyright: ignore[reportArgumentType]
    generator = compact.exact_generator(found.settings, layout, flat)
    state = found.named(compact.GENERATOR)
    generator.check_state(state)
    weights, _ = expanded(generator, state, compact.doubtful(found))
    if compact.weights_hash(weights) != found.description.weights:
        then = ", ".join(f"{name} {version}" for name, version in found.description.versions.items())
        raise UserError(f"{found.folder}: its weights do not come out here bit by bit as they were saved; it was written by {then}")
    return weights
