"""The compact form of a generated adapter: what makes its weights, in place of the weights.

A folder. `compact.safetensors` holds the generator's trained numbers, those initial weights that the seed does not give, and what was
trained plainly beside the generator. `compact.json` holds what else the weights depend on: settings, seed, the base model's precision;
and what tells whether they have come out as they were: some numbers of the base model, and a hash of all weights. With an adapter
there is peft's own `adapter_config.json`. There is no code in any of them.
"""

import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qpa.adapters import base_identity, base_weights, methods, start
from qpa.adapters.methods import AdaptedModel
from qpa.config import Settings
from qpa.core.expansion import Doubtful, expanded
from qpa.core.generator import Generator, view
from qpa.core.layout import Layout
from qpa.errors import UserError, line
from qpa.files import whole_folder
from qpa.library.circuit import exactly, execution
from qpa.library.recipe import make_generator

if TYPE_CHECKING:
    from qpa.library.generate import Generated

FORMAT = 1
DESCRIPTION, NUMBERS = "compact.json", "compact.safetensors"
GENERATOR, START, PLAIN, PLACES, VALUES = "generator.", "start.", "plain.", "doubtful.places", "doubtful.values"
PACKAGES = ("qpa", "torch", "peft", "transformers")
SAME = 1e-5  # of a tensor's largest weight: float32 as training computes it, against float64


class Description(BaseModel):
    """What `compact.json` says.

    Attributes:
        format: of the folder.
        settings: of the generator, as `qpa.config.Settings` has them.
        dtype: of the base model's weights when the adapter was put on, which rounds its initial weights.
        names: of the weights that are generated, in their order; None for all that the PEFT method trains.
        tensors: a hash of their names and shapes.
        base: some numbers of what was not trained.
        weights: a hash of all weights, expanded.
        versions: of the packages that have written it; shown where something is other.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: int
    settings: dict[str, Any]
    dtype: str
    names: list[str] | None
    tensors: str
    base: dict[str, list[float]]
    weights: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Compact:
    """A compact folder, read."""

    folder: Path
    description: Description
    numbers: dict[str, Tensor]

    @cached_property
    def settings(self) -> Settings:
        """Of the generator."""
        return Settings.model_validate(self.description.settings)

    @property
    def dtype(self) -> torch.dtype:
        """Of the base model's weights."""
        return getattr(torch, self.description.dtype)

    def named(self, prefix: str) -> dict[str, Tensor]:
        """The numbers of one part, by their names in it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.numbers.items() if name.startswith(prefix)}


def read(folder: Path) -> Compact:
    """A compact folder's content.

    Raises:
        UserError: there is none, it is damaged, or of another version of the format.
    """
    if not (folder / DESCRIPTION).is_file():
        raise UserError(f"{folder}: holds no compact adapter; give the folder that generated.save or qpa.export compact=true has written")
    try:
        plain = json.loads((folder / DESCRIPTION).read_text())
        if isinstance(plain, dict) and plain.get("format", FORMAT) != FORMAT:
            raise UserError(f"{folder}: is of format {plain['format']}, and this qpa reads {FORMAT}; install the qpa that has written it")
        found = Compact(folder, Description.model_validate(plain), load_file(folder / NUMBERS))
        _ = found.settings, found.dtype
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else line(error)
        raise UserError(f"{folder}: the compact adapter is damaged ({reason}); copy or save it again") from error
    return found


def save(generated: "Generated", folder: Path) -> None:
    """Write a generated adapter's compact form.

    Raises:
        UserError: its weights could not be made from it again.
    """
    _check_target(folder)
    _check_exact(generated)
    module, settings, layout = generated.module, generated.settings, generated.layout
    leaves = {slot.tensor.name: p for slot, p in zip(layout.slots, generated.leaves.parameters, strict=True)}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in generated.generator.state_dict().items()}
    begun = generated.generator.start
    flat = torch.zeros(layout.size) if begun is None else begun.flat(layout)
    weights, doubtful = expanded(exact_generator(settings, layout, flat), state)
    _check_same(layout, weights, leaves)
    dtype = _dtype(module)
    drawn = start.drawn(module, seed=settings.seed, dtype=dtype)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    numbers = {f"{GENERATOR}{name}": tensor for name, tensor in state.items()}
    numbers |= {f"{PLAIN}{name}": p.detach().cpu().contiguous() for name, p in trained.items() if name not in leaves}
    if begun is not None:
        numbers |= {f"{START}{name}": tensor for name, tensor in _split(layout, flat).items() if not _equal(drawn.get(name), tensor)}
    numbers |= {PLACES: doubtful.places, VALUES: doubtful.values}
    description = Description(
        format=FORMAT,
        settings=settings.model_dump(by_alias=True),
        dtype=str(dtype).removeprefix("torch."),
        names=None if leaves.keys() == drawn.keys() else [*leaves],
        tensors=tensors_hash(layout),
        base=base_identity.known_by(base_identity.weights_of_base(module, frozen=True)),
        weights=weights_hash(weights),
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
    )
    with whole_folder(folder) as scratch:
        save_file(numbers, scratch / NUMBERS)
        (scratch / DESCRIPTION).write_text(description.model_dump_json() + "\n")
        if isinstance(module, AdaptedModel):
            methods.save_config(module, scratch)


def exact_generator(settings: Settings, layout: Layout, flat: Tensor) -> Generator:
    """The generator of a compact folder, its circuits simulated exactly by what is always there."""
    return make_generator(settings.model_copy(update={"circuit": exactly(settings.circuit)}), layout, flat)


def doubtful(compact: Compact) -> Doubtful:
    """The weights that a machine could round either way, as they were rounded."""
    return Doubtful(compact.numbers[PLACES], compact.numbers[VALUES])


def tensors_hash(layout: Layout) -> str:
    """Of the names and shapes of all that is generated."""
    names = sorted((slot.tensor.name, slot.tensor.shape) for slot in layout.slots)
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def weights_hash(weights: Tensor) -> str:
    """Of all weights, bit by bit."""
    return hashlib.sha256(weights.contiguous().numpy().tobytes()).hexdigest()


def _check_target(folder: Path) -> None:
    """Refuse to take the place of anything but an older compact folder."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).is_file()):
        raise UserError(f"{folder}: is something else than a compact adapter, and would be replaced; give a folder of its own")


def _check_exact(generated: "Generated") -> None:
    """Refuse what no file could give again."""
    settings, module = generated.settings, generated.module
    if settings.runs_circuits and execution(settings.circuit).samples:
        raise UserError("the circuits are sampled, so that no machine gives the same weights again; save the adapter itself")
    if isinstance(module, PeftModel) and base_weights.rewrites_base(module.active_peft_config.to_dict()):
        raise UserError("this start has rewritten weights of the base model, which is no more the published one; save the adapter itself")


def _check_same(layout: Layout, weights: Tensor, leaves: Mapping[str, nn.Parameter]) -> None:
    """Refuse weights that are not what the generator makes."""
    for name, tensor in _split(layout, weights).items():
        there = leaves[name].detach().float().cpu()
        within = (SAME + torch.finfo(leaves[name].dtype).eps) * float(tensor.abs().max())
        if not bool(((there - tensor).abs() <= within).all()):
            raise UserError(f"{name} is not what its generator makes; something else has changed it, so save the adapter itself")


def _split(layout: Layout, flat: Tensor) -> dict[str, Tensor]:
    """A flat vector as the tensors in it."""
    return {slot.tensor.name: view(flat, slot).contiguous() for slot in layout.slots}


def _equal(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and torch.equal(one.float(), other)


def _dtype(module: nn.Module) -> torch.dtype:
    """The commonest of the base model's weights."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in base_identity.weights_of_base(module, frozen=True).values():
        counts[tensor.dtype] += tensor.numel() if tensor.is_floating_point() else 0
    return max(counts, key=lambda dtype: counts[dtype], default=torch.float32)
