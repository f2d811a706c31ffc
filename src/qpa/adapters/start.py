"""An adapter's initial weights as the seed gives them, whatever random state it was put on in; drawn again without the base's weights.

peft draws them from torch's random state while it puts an adapter on. So they are what it draws from the seed on a hollow copy of the
model: the same modules, whose weights are all one and take no memory. Where a start depends on the base's weights or on more than
the seed, it is not drawn here, and a compact adapter has to hold it.
"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from qpa.adapters.bottleneck import BottleneckModel
from qpa.adapters.methods import adapter_parameters, put_on

PLAIN = (True, "gaussian", "orthogonal")  # of `init_lora_weights`: no more than draws


def draw(module: nn.Module, parameters: Mapping[str, nn.Parameter], *, seed: int) -> None:
    """Give an adapter that does nothing yet the initial weights of a seed; any other module stays as it is.

    Args:
        module: with the adapter.
        parameters: which of its tensors.
        seed: of the draws.
    """
    found = {name: tensor for name, tensor in drawn(module, seed=seed).items() if name in parameters}
    zero = [name for name, tensor in found.items() if not tensor.any()]
    if not zero or any(bool(parameters[name].any()) for name in zero):
        return  # it may have learned something
    with torch.no_grad():
        for name, tensor in found.items():
            if bool((tensor != tensor.flatten()[0]).any()):  # else its start is not drawn
                parameters[name].copy_(tensor)


def drawn(module: nn.Module, *, seed: int, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """By name, the initial weights that a seed gives the module's adapter; empty where the seed alone does not give them.

    Args:
        module: with the adapter.
        seed: of the draws.
        dtype: of the base's weights, as which peft rounds what it draws; None for that of its weights here.
    """
    if not isinstance(module, PeftModel | BottleneckModel):
        return {}
    name = module.active_adapter if isinstance(module, PeftModel) else "default"
    config = copy.copy(module.peft_config.get(cast(str, name)))
    if config is None or getattr(config, "init_lora_weights", True) not in PLAIN:
        return {}
    config.inference_mode = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), warnings.catch_warnings(action="ignore"):
            base = _stripped(_hollow(module, dtype))
            torch.manual_seed(seed)
            fresh = put_on(base, config, name=cast(str, name))
    except Exception:  # whatever a method does with weights that are not there
        return {}
    return {name: parameter.detach() for name, parameter in adapter_parameters(fresh).items()}


def _hollow(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A copy whose weights are all one, and take no memory."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        kept = dtype if dtype is not None and parameter.is_floating_point() else parameter.dtype
        filled = torch.ones((), dtype=kept).expand(parameter.shape)
        memo[id(parameter)] = nn.Parameter(filled, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(module, memo)


def _stripped(model: nn.Module) -> nn.Module:
    """The base model without the adapter."""
    tuner: Any = getattr(model, "base_model", None)
    if isinstance(model, BottleneckModel):
        for module in model.get_base_model().modules():
            module._forward_hooks.clear()
        return model.get_base_model()
    return tuner.unload() if hasattr(tuner, "unload") else cast(PeftModel, model).get_base_model()
