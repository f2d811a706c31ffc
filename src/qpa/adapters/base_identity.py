"""Whether a model is the one that an adapter was trained on: a few of its frozen numbers, kept beside a compact adapter.

They are compared as bf16 would round them, so that a model may be loaded in another precision; a weight that is quantised is left out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qpa.adapters.methods import AdaptedModel
from qpa.errors import UserError

TENSORS, NUMBERS = 32, 8  # of which, and how many of each: about 4 KB
ROUNDING = 2.0**-7  # relative: twice what bf16 rounds away
TINY = 1e-6
INSIDE, BESIDE = (
    (".base_layer", ".token_adapter"),
    "original_module",
)  # what peft puts into names; a weight with a trained copy in its place

Known = dict[str, list[float]]


def known_by(weights: Mapping[str, Tensor]) -> Known:
    """Of a model's weights by name, some numbers of some."""
    names = [name for name, tensor in weights.items() if tensor.is_floating_point() and tensor.numel()]
    return {names[i]: _numbers(weights[names[i]]) for i in _spread(len(names), TENSORS)}


def check(weights: Mapping[str, Tensor], known: Known) -> None:
    """Refuse another model.

    Raises:
        UserError: where it is another.
    """
    for name, numbers in known.items():
        if name not in weights:
            raise UserError(f"this compact adapter is of another base model: it has a {name}, and the given one has none")
        if not weights[name].is_floating_point():
            continue
        here, there = torch.tensor(_numbers(weights[name])), torch.tensor(numbers)
        if here.shape != there.shape or not torch.allclose(here, there, rtol=ROUNDING, atol=TINY):
            raise UserError(f"this compact adapter is of another base model: {name} has other numbers in the given one")


def weights_of_base(module: nn.Module, *, without: Iterable[nn.Parameter] = ()) -> dict[str, Tensor]:
    """A model's weights by the names that they have without an adapter.

    Args:
        module: with an adapter or not.
        without: what is trained, be it of the base itself.
    """
    adapted = isinstance(module, AdaptedModel)  # pyright: ignore[reportArgumentType]
    base: Any = module.get_base_model() if adapted else module  # pyright: ignore[reportAttributeAccessIssue]
    adapters = {*module.peft_config} if adapted else set()  # pyright: ignore[reportArgumentType]
    trained = {id(parameter) for parameter in without}
    found = {}
    for name, parameter in base.named_parameters():
        if id(parameter) not in trained and not {*adapters, BESIDE} & {*name.split(".")}:
            for part in INSIDE:
                name = name.replace(part, "")
            found[name] = parameter.detach()
    return found


def commonest_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    """Of a model's weights, those that are codes left out; float32 where there is no other."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in weights.values():
        if tensor.is_floating_point():
            counts[tensor.dtype] += tensor.numel()
    return counts.most_common(1)[0][0] if counts else torch.float32


def _numbers(tensor: Tensor) -> list[float]:
    flat = tensor.detach().reshape(-1)
    return [float(f"{number:.5g}") for number in flat[_spread(len(flat), NUMBERS)].float().cpu().tolist()]  # more than bf16 has


def _spread(size: int, most: int) -> list[int]:
    """Up to so many places, evenly spread."""
    count = min(size, most)
    return [i * size // count for i in range(count)]
