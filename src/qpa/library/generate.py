"""`qpa.generate`: a module's weights taken over by a generator, to be trained in whatever loop there is."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from qpa.adapters import start
from qpa.adapters.methods import AdaptedModel, adapter_tensors
from qpa.config import Settings
from qpa.core.adaptation import Leaves, generated_by
from qpa.core.layout import Layout
from qpa.errors import UserError
from qpa.library import compact
from qpa.library.arguments import Argument, settings_from
from qpa.library.recipe import check_numbers, counted, make_generator
from qpa.library.sizes import layout_for_here
from qpa.library.taken_over import TakenOver


class Generated(TakenOver):
    """A module's weights, generated. Trained are its parameters, the generator's, through `optimizer`."""

    def save(self, folder: str | Path) -> None:
        """Write what makes the weights in place of the weights: the generator alone, which `qpa.load` expands.

        What is trained plainly beside it is in the file as well. The module's weights become those that come out of the file, which differ
        by float32's own rounding.

        Args:
            folder: where to; a whole one with the name is replaced.

        Raises:
            UserError: the weights could not be made from the file again.
        """
        compact.save(self, Path(folder))


def generate(
    module: nn.Module,
    *,
    parameters: Iterable[nn.Parameter] | None = None,
    seed: int = 1,
    generator: Argument = None,
    latents: Argument = None,
    circuit: Argument = None,
    mapper: Argument = None,
) -> Generated:
    """Take over a module's trainable weights: they are generated from now on, and what is trained is the generator.

    The initial weights of a PEFT adapter that does nothing yet, as LoRA's `B = 0`, are drawn anew from the seed, so that a compact file
    need not hold them; any others stay, and what is generated is added to them.

    Args:
        module: a PEFT model, or any other.
        parameters: which of the module's parameters to take, None for all that are trainable. The others may be trained plainly.
        seed: of the generator and of the adapter's initial weights.
        generator: config group `generator`: `qpa`, `paper`, or a dict of keys, as `{"circuits": "shared"}`.
        latents: config group `latents`: `circuit`, or a control in its place, as `zeros`.
        circuit: config group `circuit`: an ansatz, as `efficient_su2`, or a dict of keys, as `{"qubits": 8}`.
        mapper: config group `mapper`: `tied`, `codes`, `paper`, `quantum_train`, or a dict of keys, as `{"width": 2}`.

    Raises:
        UserError: the module's weights cannot be taken over, or the settings do not fit them; in one line, with the way out.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"module: should be a torch.nn.Module, as a PEFT model, and is a {type(module).__name__}")
    settings = settings_from(seed=seed, generator=generator, latents=latents, circuit=circuit, mapper=mapper)
    chosen = _chosen(module, parameters)
    check_parameters(chosen)
    layout = layout_for_here(settings, adapter_tensors(cast(AdaptedModel, module), chosen))
    check_numbers(settings, counted(settings, layout))
    if settings.generator.start == "peft":
        start.draw(module, chosen, seed=seed)
    generated = take_over(module, chosen, layout, settings)
    generated.write()
    return generated


def take_over(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    layout: Layout,
    settings: Settings,
    *,
    beside: Iterable[nn.Parameter] = (),
) -> Generated:
    """The same once the layout is known; the module's weights stay as they are until `write`.

    Args:
        module: a PEFT model, or any other.
        parameters: by name, which of its parameters to take.
        layout: of these.
        settings: of the generator.
        beside: others that are trained plainly with it.

    Raises:
        UserError: the parameters cannot be generated.
    """
    check_parameters(parameters)
    leaves = Leaves(layout, parameters)
    with torch.inference_mode(False), torch.device("cpu"), _in_fp32():  # whatever the loop around has set
        generator = make_generator(settings, layout, leaves.values().cpu())
    generated = Generated(generator.to(leaves.device), leaves, beside)
    object.__setattr__(generated, "module", module)  # not registered: its weights are not what is trained
    generated.settings, generated.layout = settings, layout
    return generated


def check_parameters(parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse what cannot be generated.

    Raises:
        UserError: what, and the way out.
    """
    if not parameters:
        raise UserError("nothing in the module is trainable, so there is nothing to generate; put an adapter on, or requires_grad_(True)")
    devices = sorted({str(parameter.device) for parameter in parameters.values()})
    if len(devices) > 1 or devices == ["meta"]:
        way_out = "move the module to one that is real first, as module.to('cpu')"
        raise UserError(f"the module's trainable parameters are on {' and '.join(devices)}, and are generated on one device; {way_out}")
    for name, parameter in parameters.items():
        if generated_by(parameter) is not None:
            raise UserError(f"{name} is generated already; use what the first qpa.generate has returned, or build the module anew")
    places = sorted((*_memory(parameter), name) for name, parameter in parameters.items())
    for (_, end, one), (first, _, other) in pairwise(places):
        if first < end:
            raise UserError(f"{other} and {one} share memory, where a generator makes two weights; untie them")


def _memory(parameter: nn.Parameter) -> tuple[int, int]:
    """Where its numbers begin and end."""
    numbers = 1 + sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))
    return parameter.data_ptr(), parameter.data_ptr() + numbers * parameter.itemsize


def _chosen(module: nn.Module, parameters: Iterable[nn.Parameter] | None) -> dict[str, nn.Parameter]:
    """By name, the parameters to take over; one that stands in several places under the first of its names."""
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if lazy := [name for name, parameter in trainable.items() if is_lazy(parameter)]:
        raise UserError(f"{lazy[0]} has no shape yet; run the module once first")
    asked = {id(p) for p in (trainable.values() if parameters is None else _wanted(parameters))}
    if not asked <= {id(p) for p in module.parameters()}:
        raise UserError("parameters: not all of them are parameters of the module; give some of module.parameters()")
    chosen = {name: p for name, p in trainable.items() if id(p) in asked and p.numel()}
    if parameters is not None and not chosen:
        raise UserError("parameters: none of them is trainable; give some of module.parameters() that are")
    return chosen


def _wanted(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    try:
        wanted = [pair[1] if isinstance(pair, tuple) else pair for pair in parameters]  # or named
    except TypeError:
        wanted = [None]
    if isinstance(parameters, Tensor) or not all(isinstance(parameter, nn.Parameter) for parameter in wanted):
        raise UserError("parameters: should be some of module.parameters(), as module.body.parameters()")
    return cast("list[nn.Parameter]", wanted)


@contextmanager
def _in_fp32() -> Iterator[None]:
    """Generators are in fp32, whatever torch's default is."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
