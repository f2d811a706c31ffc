"""A whole network as what is trained, or those of its weights that a pattern names: no adapter, but the weights themselves.

Saved as the network alone, in the names of its own state dict, its statistics with it; reading it needs no qpa:

    network.load_state_dict(safetensors.torch.load_file("outputs/NAME-HASH/adapter/model.safetensors"))
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qpa.adapters.bottleneck import CONFIG

PEFT_TYPE = "WHOLE"
WEIGHTS = "model.safetensors"


@dataclass
class WholeConfig:
    """Which weights of a network.

    Attributes:
        target_parameters: a regular expression, to which the whole name of a weight has to fit (as peft has it for modules): all that
            do are trained, the others stay as they are. None for all.
        base_model_name_or_path: the model whose weights they are, where it has a name.
        modules_to_save: last parts of the names of modules that are trained plainly beside, as a new head; those a model does not have
            are left out.
    """

    target_parameters: str | None = None
    base_model_name_or_path: str | None = None
    modules_to_save: list[str] | None = None
    peft_type: str = field(default=PEFT_TYPE, init=False)

    def __post_init__(self) -> None:
        try:
            re.compile(self.target_parameters or "")
        except (re.error, TypeError) as error:
            raise ValueError(f"target_parameters={self.target_parameters} is no regular expression ({error}), as conv.* is one") from error


class WholeModel(nn.Module):
    """A network whose weights are trained in their place; the part of peft's `PeftModel` interface that training and export need.

    A weight that stands in several places is one, under the first of its names.

    Raises:
        ValueError: no weight has such a name, or one is of codes that cannot be trained.
    """

    def __init__(self, base: nn.Module, config: WholeConfig) -> None:
        super().__init__()
        self.base_model: Any = base.requires_grad_(False)
        self.peft_config = {"default": config}
        wanted = config.modules_to_save or []
        self.heads = [name for name, _ in base.named_modules() if name.rsplit(".", 1)[-1] in wanted]
        chosen = _chosen(base, config.target_parameters)
        for parameter in [*chosen.values(), *(p for name in self.heads for p in base.get_submodule(name).parameters())]:
            parameter.requires_grad_(True)
        moving = {**chosen, **{name: base.get_buffer(name) for name in self.statistics()}}
        self._first = {name: tensor.detach().clone() for name, tensor in moving.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the network."""
        return self.base_model(*args, **kwargs)

    def get_base_model(self) -> nn.Module:
        """The network."""
        return self.base_model

    def unload(self) -> nn.Module:
        """The network, taken out of here with the weights that it has."""
        return self.base_model

    def statistics(self) -> list[str]:
        """Names of the network's own numbers that it counts as it is trained, as batch norm does."""
        saved = saved_tensors(self.base_model)
        return [name for name, _ in self.base_model.named_buffers() if name in saved]

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Within the block the network as it was before."""
        there = {**dict(self.base_model.named_parameters()), **dict(self.base_model.named_buffers())}
        now = {name: there[name].detach().clone() for name in self._first}
        _copy(self._first, there)
        try:
            yield
        finally:
            _copy(now, there)

    def save_pretrained(self, folder: str) -> None:
        """Write config and network; a weight that has several names is there under each."""
        self.save_config(Path(folder))
        own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in saved_tensors(self.base_model).items()}
        save_file(own, Path(folder) / WEIGHTS)

    def save_config(self, folder: Path) -> None:
        """Write the config alone."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(asdict(self.peft_config["default"]), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, base: nn.Module, folder: str) -> "WholeModel":
        """A saved network's weights in one of its kind."""
        config = read_whole_config(Path(folder))
        if config is None:
            raise ValueError(f"{folder}: is no whole network")
        model = cls(base, config)
        base.load_state_dict(load_file(Path(folder) / WEIGHTS))
        return model


def saved_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Of a state dict its tensors: some packages, as neuraloperator, put settings beside them."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def read_whole_config(folder: Path) -> WholeConfig | None:
    """The config in a saved network's folder, None where it is of another method."""
    saved = json.loads((folder / CONFIG).read_text())
    return WholeConfig(**saved) if saved.pop("peft_type") == PEFT_TYPE else None


def _chosen(base: nn.Module, pattern: str | None) -> dict[str, nn.Parameter]:
    """By the first of its names, each parameter one of whose names fits."""
    named = [*base.named_parameters(remove_duplicate=False)]
    fitting = {id(p) for name, p in named if pattern is None or re.fullmatch(pattern, name)}
    chosen = {name: p for name, p in base.named_parameters() if id(p) in fitting}
    if not chosen:
        some = ", ".join(name for name, _ in named[:3]) or "none at all"
        raise ValueError(f"target_parameters={pattern} fits the whole name of no weight; the model has {some}")
    if codes := [name for name, p in chosen.items() if not (p.is_floating_point() or p.is_complex())]:
        raise ValueError(f"{codes[0]} is of {chosen[codes[0]].dtype}, which cannot be trained; leave it out by target_parameters")
    return chosen


def _copy(values: dict[str, Tensor], there: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in values.items():
            there[name].copy_(tensor)
