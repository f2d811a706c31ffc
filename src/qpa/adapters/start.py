"""An adapter's initial weights as the seed gives them, whatever random state it was put on in; drawn again without the base's weights.

peft draws them from torch's random state while it puts an adapter on. So they are what it draws from the seed on a hollow copy of the
model: the same modules, whose weights are all one and take no memory. Where a start depends on the base's weights or on more than
the seed, it is not drawn here, and a compact adapter has to hold it.
"""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from qpa.adapters.bottleneck import BottleneckModel
from qpa.adapters.methods import AdaptedModel, AdapterConfig, adapter_parameters, put_on
from qpa.core.draws import SameEverywhere, drawn

PLAIN = (True, "gaussian", "orthogonal")  # of `init_lora_weights`: no more than draws


@dataclass(frozen=True)
class Start:
    """What a seed gives.

    Attributes:
        tensors: all that the PEFT method trains, by name, in the model's order.
        everywhere: those that are bit by bit the same on every machine.
    """

    tensors: dict[str, Tensor]
    everywhere: dict[str, Tensor]


def draw(module: nn.Module, parameters: Mapping[str, nn.Parameter], *, seed: int) -> None:
    """Give an adapter that does nothing yet the initial weights of a seed; any other module stays as it is.

    Args:
        module: with the adapter.
        parameters: which of its tensors.
        seed: of the draws.
    """
    start = of_seed(module, seed=seed)
    found = {name: tensor for name, tensor in start.tensors.items() if name in parameters} if start else {}
    zero = [name for name, tensor in found.items() if not tensor.any()]
    if not zero or any(bool(parameters[name].any()) for name in zero):
        return  # it may have learned something
    with torch.no_grad():
        for name, tensor in found.items():
            if not _constant(tensor):  # else its start is not drawn
                parameters[name].copy_(tensor)


def of_seed(module: nn.Module, *, seed: int, dtype: torch.dtype | None = None) -> Start | None:
    """The initial weights that a seed gives a module's adapter; None where there is none, or the seed alone does not give them.

    Args:
        module: with the adapter.
        seed: of the draws.
        dtype: of the base's weights, as which peft rounds what it draws; None for that of its weights here.
    """
    if not isinstance(module, PeftModel | BottleneckModel):
        return None
    name = adapter_name(module)
    config = module.peft_config.get(name or "")
    if name is None or config is None or getattr(config, "init_lora_weights", True) not in PLAIN:
        return None
    try:
        return put_on_drawn(_unquantised(stripped(_hollow(module, dtype)), dtype), config, seed=seed, name=name)[1]
    except Exception:  # whatever a method does with weights that are not there
        return None


def put_on_drawn(base: nn.Module, config: AdapterConfig, *, seed: int, name: str) -> tuple[AdaptedModel, Start]:
    """Put an adapter on, its initial weights drawn from a seed.

    Raises:
        ConfigError: as for `put_on`.
    """
    config = to_train(config)
    with drawn(seed), torch.device("cpu"), SameEverywhere() as draws, warnings.catch_warnings(action="ignore"):
        model = put_on(base, config, name=name)
    tensors = {name: p.detach().clone() for name, p in adapter_parameters(model).items()}
    return model, Start(tensors, {name: tensor for name, tensor in tensors.items() if not draws.others or _constant(tensor)})


def to_train(config: AdapterConfig) -> AdapterConfig:
    """The same, as it was before its adapter was saved."""
    config = copy.copy(config)
    config.inference_mode = False  # pyright: ignore[reportAttributeAccessIssue]
    return config


def adapter_name(model: AdaptedModel) -> str | None:
    """Of the one adapter that a model has switched on; None where it has none, or several."""
    if not isinstance(model, PeftModel):
        return "default"
    return model.active_adapters[0] if len(model.active_adapters) == 1 else None


def stripped(model: AdaptedModel) -> nn.Module:
    """The base model again, without the adapter."""
    tuner: Any = model.base_model if isinstance(model, PeftModel) else model
    return tuner.unload() if hasattr(tuner, "unload") else model.get_base_model()  # which prompts leave as it is


def _constant(tensor: Tensor) -> bool:
    return bool((tensor == tensor.flatten()[:1]).all())


def _hollow(module: AdaptedModel, dtype: torch.dtype | None) -> AdaptedModel:
    """A copy whose weights are all one, and take no memory."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        kept = dtype if dtype is not None and parameter.is_floating_point() else parameter.dtype
        filled = torch.ones((), dtype=kept).expand(parameter.shape)
        memo[id(parameter)] = nn.Parameter(filled, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(module, memo)


def _unquantised(base: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Linear layers in place of those whose weights are codes: peft draws the same for them, rounded as they compute."""
    for name, layer in [*base.named_modules()]:
        if isinstance(layer, nn.Linear) and not layer.weight.is_floating_point():
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            filled = torch.ones((), dtype=dtype or getattr(layer, "compute_dtype", None)).expand(plain.weight.shape)
            plain.weight, plain.bias = nn.Parameter(filled, requires_grad=False), layer.bias
            base.set_submodule(name, plain)
    return base
