"""`qpa.load`: a compact adapter expanded on its base model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from qpa.adapters import base_identity, methods, start
from qpa.adapters.methods import AdaptedModel, adapter_tensors
from qpa.adapters.start import Start
from qpa.core.expansion import expanded
from qpa.core.generator import Generator, real, view
from qpa.core.layout import Layout
from qpa.errors import ConfigError, UserError
from qpa.library import compact
from qpa.library.compact import Compact
from qpa.library.sizes import layout_of

LIKE = {"format", "settings", "dtype", "adapter", "names", "drawn", "tensors", "config"}  # what adapters share that were trained apart


@dataclass(frozen=True)
class Place:
    """What is the same for all adapters of a kind on a model.

    Attributes:
        kind: what they share.
        layout: of their weights.
        generator: with the initial weights that the seed gives.
    """

    kind: str
    layout: Layout
    generator: Generator


_places: WeakKeyDictionary[nn.Module, Place] = WeakKeyDictionary()  # of the last adapter's kind, so that the next is quickly there


def load(base: nn.Module, folder: str | Path | Compact) -> nn.Module:
    """Expand a compact adapter on its base model; no circuit, no mapper is left in what comes back.

    Args:
        base: the model that it was trained on, or what `load` has given back, whose adapter is replaced. Where no PEFT adapter was
            generated but a module's own weights, a module of the same kind: its weights are replaced.
        folder: what `generated.save` has written, or `qpa.library.compact.read` has read of it.

    Returns:
        As stock peft reads an adapter, a `PeftModel` that is not trained; or the module.

    Raises:
        UserError: the folder is damaged, of another base model, or its weights do not come out bit by bit as they were saved. The
            model is as it was.
    """
    found = folder if isinstance(folder, Compact) else compact.read(Path(folder))
    _check_adapter(base, found)
    base_identity.check(base_identity.weights_of_base(base), found.description.base)
    model, begun = _with_adapter(base, found)
    try:
        place = _place(model, found, begun)
        targets = _targets(model, found, place.layout)
        weights = _weights(found, place)
    except UserError:
        if model is not base:
            start.stripped(cast(AdaptedModel, model))
        raise
    with torch.no_grad():
        for slot in place.layout.slots:
            real(targets[slot.tensor.name]).copy_(view(weights, slot))
        for name, tensor in found.named(compact.PLAIN).items():
            targets[name].copy_(tensor)
    _places[model] = place
    return methods.frozen(model) if isinstance(model, AdaptedModel) else model


def _check_adapter(base: nn.Module, found: Compact) -> None:
    """Refuse a model with an adapter that the compact one could not take the place of."""
    name, config = found.description.adapter, found.config
    if name is None or config is None:
        return
    if not isinstance(base, AdaptedModel):
        if methods.is_adapted(base):
            way_out = "give what qpa.load gave back, or load the base model anew"
            raise UserError(f"{found.folder}: there is an adapter in the given model; {way_out}")
    elif methods.is_merged(base):
        raise UserError(f"{found.folder}: the adapter of the given model is merged; give the base model, as it was loaded")
    elif start.adapter_name(base) != name or methods.meaning(asdict(base.peft_config[name])) != methods.meaning(asdict(config)):
        raise UserError(f"{found.folder}: the adapter of the given model is of another kind; give the base model, as it was loaded")


def _with_adapter(base: nn.Module, found: Compact) -> tuple[nn.Module, Start | None]:
    """The model with an adapter like the compact one, and what the seed has drawn for it where that was done at once."""
    name, config = found.description.adapter, found.config
    if name is None or config is None or isinstance(base, AdaptedModel):
        return base, None
    floats = {(p.dtype, p.device.type) for p in base.parameters() if p.is_floating_point()}
    try:
        if floats == {(found.dtype, "cpu")}:
            return start.put_on_drawn(base, config, seed=found.settings.seed, name=name)
        with torch.random.fork_rng(devices=[]):
            return methods.put_on(base, start.to_train(config), name=name), None
    except ConfigError as error:
        raise UserError(f"{found.folder}: is of another base model: {error}") from error


def _place(model: nn.Module, found: Compact, begun: Start | None) -> Place:
    """Where the weights go, made anew unless the last adapter was of the same kind."""
    description, settings = found.description, found.settings
    kind = description.model_dump_json(include=LIKE)
    if model in _places and _places[model].kind == kind:
        return _places[model]
    if begun is None and (description.drawn or description.names is None):
        begun = start.of_seed(model, seed=settings.seed, dtype=found.dtype)
    drawn = begun.tensors if begun is not None else {}
    there = dict(model.named_parameters())
    names = [*drawn] if description.names is None else description.names
    _check_there(names, there, found)
    try:
        tensors = adapter_tensors(cast(AdaptedModel, model), {name: there[name] for name in names})
        if description.format == 1:
            tensors = [replace(tensor, along="last") if len(tensor.shape) > 2 else tensor for tensor in tensors]
        layout = layout_of(settings, tensors)
    except ConfigError as error:
        raise UserError(f"{found.folder}: is of another base model: {error}") from error
    if compact.tensors_hash(layout) != description.tensors:
        raise UserError(f"{found.folder}: is of another base model: its adapter has other tensors than are given here")
    flat = _filled(torch.zeros(layout.size), layout, drawn if description.drawn else {})
    return Place(kind, layout, compact.exact_generator(settings, layout, flat))


def _filled(flat: Tensor, layout: Layout, tensors: dict[str, Tensor]) -> Tensor:
    for slot in layout.slots:
        if slot.tensor.name in tensors:
            view(flat, slot).copy_(tensors[slot.tensor.name])
    return flat


def _targets(model: nn.Module, found: Compact, layout: Layout) -> dict[str, Tensor]:
    """By name, what is going to be written over."""
    there = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    plain = found.named(compact.PLAIN)
    _check_there([slot.tensor.name for slot in layout.slots], there, found)
    _check_there([*plain], there, found)
    if other := [name for name, tensor in plain.items() if tensor.shape != there[name].shape]:
        raise UserError(f"{found.folder}: is of another base model: {other[0]} has another shape in the given one")
    return there


def _check_there(names: list[str], there: Mapping[str, Tensor], found: Compact) -> None:
    if missing := [name for name in names if name not in there]:
        raise UserError(f"{found.folder}: is of another base model: it has a {missing[0]}, and the given one has none")


def _weights(found: Compact, place: Place) -> Tensor:
    """All weights, bit by bit as they were saved."""
    kept, state = found.named(compact.BEGUN), found.named(compact.GENERATOR)
    generator = place.generator
    if kept and generator.start is not None:
        flat = _filled(generator.start.flat(place.layout), place.layout, kept)
        generator = compact.exact_generator(found.settings, place.layout, flat)
    try:
        generator.check_state(state)
    except UserError as error:
        raise UserError(f"{found.folder}: {error}; {found.description.written_by}") from error
    weights, _ = expanded(generator, state, place.layout, found.doubtful)
    if compact.weights_hash(weights) != found.description.weights:
        raise UserError(f"{found.folder}: its weights do not come out here bit by bit as they were saved; {found.description.written_by}")
    return weights
