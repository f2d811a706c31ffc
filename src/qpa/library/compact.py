"""The compact form of a generated adapter: what makes its weights, in place of the weights.

A folder. `compact.safetensors` holds the generator's trained numbers, those initial weights that the seed does not give, and what was
trained plainly beside the generator. `compact.json` holds what else the weights depend on: settings, seed, the base model's precision;
and what tells whether they have come out as they were: some numbers of the base model, and hashes of the files and of all weights. With
an adapter there is peft's own `adapter_config.json`. There is no code in any of them.
"""

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from qpa.adapters import base_identity, base_weights, methods, start
from qpa.adapters.bottleneck import CONFIG
from qpa.adapters.methods import AdaptedModel, AdapterConfig
from qpa.adapters.start import Start
from qpa.config import Settings
from qpa.core.expansion import Doubtful, expanded
from qpa.core.generator import Generator, real, view
from qpa.core.layout import Layout
from qpa.errors import ConfigError, UserError, line
from qpa.files import from_json, whole_folder
from qpa.library.circuit import exactly, execution
from qpa.library.recipe import make_generator
from qpa.library.taken_over import TakenOver
from qpa.version import VERSION

FORMAT = 2  # 1: of an earlier qpa, or without tensors of more than two axes, which it read otherwise
DESCRIPTION, NUMBERS = "compact.json", "compact.safetensors"
GENERATOR, BEGUN, PLAIN, PLACES, VALUES = "generator.", "start.", "plain.", "doubtful.places", "doubtful.values"
PACKAGES = ("torch", "peft", "transformers")
SAME, ROUNDED = 1e-5, 2.0**-23  # float32 as training computes weights, against float64; how far off it is: see `qpa.core.expansion`


class Description(BaseModel):
    """What `compact.json` says.

    Attributes:
        format: of the folder.
        settings: of the generator, as `qpa.config.Settings` has them.
        dtype: to which peft rounded the initial weights, that of the base model when the adapter was put on.
        adapter: its name in the model; None where there is none.
        names: of the weights that are generated, in their order; None for all that the PEFT method trains.
        drawn: whether initial weights that are not among the numbers are those of the seed; else they are zero.
        tensors: a hash of their names and shapes.
        base: some numbers of what was not trained.
        config: a hash of `adapter_config.json`; None where there is none.
        numbers: a hash of `compact.safetensors`.
        weights: a hash of all weights, expanded.
        versions: of the packages that have written it; shown where something is other.
        whole: a hash of all this.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: int
    settings: dict[str, Any]
    dtype: str
    adapter: str | None
    names: list[str] | None
    drawn: bool
    tensors: str
    base: dict[str, list[float]]
    config: str | None
    numbers: str
    weights: str
    versions: dict[str, str]
    whole: str = ""

    @property
    def written_by(self) -> str:
        """The versions in words."""
        return "it was written by " + ", ".join(f"{name} {version}" for name, version in self.versions.items())

    def hashed(self) -> str:
        """What `whole` should be."""
        return _hash(json.dumps(self.model_dump(exclude={"whole"}), sort_keys=True).encode())


@dataclass(frozen=True)
class Compact:
    """A compact folder, read."""

    folder: Path
    description: Description
    settings: Settings
    config: AdapterConfig | None
    numbers: dict[str, Tensor]

    @cached_property
    def dtype(self) -> torch.dtype:
        """To which the initial weights are rounded."""
        return getattr(torch, self.description.dtype)

    def named(self, prefix: str) -> dict[str, Tensor]:
        """The numbers of one part, by their names in it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.numbers.items() if name.startswith(prefix)}

    @property
    def doubtful(self) -> Doubtful:
        """The weights that a machine could round either way, as they were rounded."""
        return Doubtful(self.numbers[PLACES], self.numbers[VALUES])


@dataclass(frozen=True)
class Begun:
    """What has to be known of a generated adapter's initial weights.

    Attributes:
        dtype, names, drawn: see `Description`.
        tensors: those that the seed does not give, by name.
    """

    dtype: torch.dtype
    names: list[str] | None
    drawn: bool
    tensors: dict[str, Tensor]


_known_begun: WeakKeyDictionary[TakenOver, Begun] = WeakKeyDictionary()


def read(folder: Path) -> Compact:
    """A compact folder's content.

    Raises:
        UserError: there is none, it is damaged, or of another version of the format.
    """
    if not (folder / DESCRIPTION).is_file():
        raise UserError(f"{folder}: holds no compact adapter; give the folder that generated.save or qpa.export compact=true has written")
    try:
        plain = from_json((folder / DESCRIPTION).read_bytes())
        if isinstance(plain, dict) and plain.get("format", 1) not in range(1, FORMAT + 1):
            raise UserError(f"{folder}: is of format {plain['format']}, and this qpa reads {FORMAT}; install the qpa that has written it")
        description, content = Description.model_validate(plain), (folder / NUMBERS).read_bytes()
        _check_hashes(folder, description, content)
        return Compact(folder, description, Settings.model_validate(description.settings), methods.read_config(folder), load(content))
    except ConfigError as error:
        raise UserError(f"{folder}: {error}") from error
    except (OSError, ValueError, SafetensorError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else line(error)
        raise UserError(f"{folder}: the compact adapter is damaged ({reason}); copy or save it again") from error


def save(generated: TakenOver, folder: Path) -> None:
    """Write a generated adapter's compact form; the module then has its weights as they come out of it.

    Raises:
        UserError: its weights could not be made from it again.
    """
    _check_target(folder)
    _check_exact(generated)
    module, layout = generated.module, generated.layout
    leaves = {slot.tensor.name: p for slot, p in zip(layout.slots, generated.leaves.parameters, strict=True)}
    plain = _plain(module, leaves)
    base = base_identity.weights_of_base(module, without=[*leaves.values(), *(p for p in plain.values() if isinstance(p, nn.Parameter))])
    dtype = base_identity.commonest_dtype(base)
    begun = _begun(generated, leaves, dtype)
    weights, parts = _numbers(generated)
    _check_same(layout, weights, leaves)
    generated.leaves.write(weights.to(generated.leaves.device))  # so that the model and the file say the same, bit by bit
    numbers = parts | {f"{PLAIN}{name}": tensor.detach().cpu().clone().contiguous() for name, tensor in plain.items()}
    numbers |= {f"{BEGUN}{name}": tensor for name, tensor in begun.tensors.items()}
    adapted = isinstance(module, AdaptedModel)
    with whole_folder(folder) as scratch:
        save_file(numbers, scratch / NUMBERS)
        if adapted:
            methods.save_config(module, scratch)
        description = Description(
            format=2 if any(len(slot.tensor.shape) > 2 for slot in layout.slots) else 1,
            settings=generated.settings.model_dump(by_alias=True),
            dtype=str(dtype).removeprefix("torch."),
            adapter=start.adapter_name(module) if adapted else None,
            names=begun.names,
            drawn=begun.drawn,
            tensors=tensors_hash(layout),
            base=base_identity.known_by(base),
            config=_config_hash(scratch) if adapted else None,
            numbers=_hash((scratch / NUMBERS).read_bytes()),
            weights=weights_hash(weights),
            versions={"qpa": VERSION} | {name: importlib.metadata.version(name) for name in PACKAGES},
        )
        whole = description.model_copy(update={"whole": description.hashed()})
        (scratch / DESCRIPTION).write_text(whole.model_dump_json() + "\n")


def exact_generator(settings: Settings, layout: Layout, flat: Tensor) -> Generator:
    """The generator of a compact folder, its circuits simulated exactly by what is always there."""
    return make_generator(settings.model_copy(update={"circuit": exactly(settings.circuit)}), layout, flat)


def tensors_hash(layout: Layout) -> str:
    """Of the names and shapes of all that is generated."""
    names = sorted((slot.tensor.name, slot.tensor.shape) for slot in layout.slots)
    return _hash(json.dumps(names).encode())


def weights_hash(weights: Tensor) -> str:
    """Of all weights, bit by bit."""
    return _hash(weights.contiguous().numpy().tobytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _config_hash(folder: Path) -> str | None:
    if not (folder / CONFIG).is_file():
        return None
    return _hash(json.dumps(methods.meaning(from_json((folder / CONFIG).read_bytes()))).encode())


def _check_hashes(folder: Path, description: Description, content: bytes) -> None:
    """Refuse other files than were written."""
    same = {DESCRIPTION: description.whole == description.hashed(), NUMBERS: description.numbers == _hash(content)}
    same |= {CONFIG: description.config == _config_hash(folder)}
    if other := [name for name, is_same in same.items() if not is_same]:
        raise ValueError(f"{other[0]} is not what was saved")


def _check_target(folder: Path) -> None:
    """Refuse to take the place of anything but an older compact folder."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).is_file()):
        raise UserError(f"{folder}: is something else than a compact adapter, and would be replaced; give a folder of its own")


def _check_exact(generated: TakenOver) -> None:
    """Refuse what no file could give again."""
    settings, module = generated.settings, generated.module
    if settings.runs_circuits and execution(settings.circuit).samples:
        raise UserError("the circuits are sampled, so that no machine gives the same weights again; save the adapter itself")
    if not isinstance(module, PeftModel):
        return
    if len(module.active_adapters) != 1:
        raise UserError("several adapters are switched on, or none, and a compact adapter is one; model.set_adapter(NAME) first")
    config = module.active_peft_config.to_dict()
    if base_weights.rewrites_base(config) or config.get("init_lora_weights") in ("loftq", "corda", "lora_ga"):
        raise UserError("this start has rewritten weights of the base model, which is no more the published one; save the adapter itself")


def _plain(module: nn.Module, leaves: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """By name, what is not generated and yet not as in the base model: what else is trained, and statistics that training has moved."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad and name not in leaves}
    adapters = {*module.peft_config} if isinstance(module, AdaptedModel) else set()
    saved = module.state_dict(keep_vars=True)
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
    kept = {name: b for name, b in buffers.items() if "modules_to_save" in name or adapters.isdisjoint(name.split("."))}
    return trained | kept  # without a method's own, which it draws again


def _begun(generated: TakenOver, leaves: Mapping[str, nn.Parameter], dtype: torch.dtype) -> Begun:
    """Found once: it does not change in training."""
    if generated in _known_begun and _known_begun[generated].dtype == dtype:
        return _known_begun[generated]
    drawn = start.of_seed(generated.module, seed=generated.settings.seed, dtype=dtype)
    flat = generated.generator.start
    tensors = {} if flat is None else _split(generated.layout, flat.flat(generated.layout))
    names = None if drawn is not None and [*leaves] == [*drawn.tensors] else [*leaves]
    kept = {name: tensor for name, tensor in tensors.items() if not _given(drawn, name, tensor)}
    _known_begun[generated] = Begun(dtype, names, drawn is not None and flat is not None, kept)
    return _known_begun[generated]


def _numbers(generated: TakenOver) -> tuple[Tensor, dict[str, Tensor]]:
    """All weights as every machine makes them, and what makes them."""
    layout, begun = generated.layout, generated.generator.start
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in generated.generator.state_dict().items()}
    flat = torch.zeros(layout.size) if begun is None else begun.flat(layout)
    weights, doubtful = expanded(exact_generator(generated.settings, layout, flat), state, layout)
    parts = {f"{GENERATOR}{name}": tensor for name, tensor in state.items()}
    return weights, parts | {PLACES: doubtful.places, VALUES: doubtful.values}


def _check_same(layout: Layout, weights: Tensor, leaves: Mapping[str, nn.Parameter]) -> None:
    """Refuse weights that are not what the generator makes."""
    if not bool(weights.isfinite().all()):
        raise UserError("some weights are infinite or NaN: training has diverged; lower its rate")
    most = float(weights.abs().max())
    for name, tensor in _split(layout, weights).items():
        there, largest = real(leaves[name].detach()).float().cpu(), float(tensor.abs().max())
        within = SAME * math.sqrt(largest * most) + ROUNDED * most + torch.finfo(leaves[name].dtype).eps * largest
        if not bool(((there - tensor).abs() <= within).all()):
            raise UserError(f"{name} is not what its generator makes; something else has changed it, so save the adapter itself")


def _split(layout: Layout, flat: Tensor) -> dict[str, Tensor]:
    """A flat vector as the tensors in it."""
    return {slot.tensor.name: view(flat, slot).contiguous() for slot in layout.slots}


def _given(drawn: Start | None, name: str, tensor: Tensor) -> bool:
    """Whether a start need not be kept: the seed gives it on every machine, or where it gives none it is zero."""
    if drawn is None:
        return not bool(tensor.any())
    return name in drawn.everywhere and torch.equal(drawn.everywhere[name].float(), tensor)
