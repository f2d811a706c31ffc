"""The optimizer, and its rate over the steps: linear warm-up, then decay to zero."""

import math
from collections.abc import Iterable

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from qpa.config import OptimizerConfig
from qpa.errors import ConfigError


def make_optimizer(settings: OptimizerConfig, parameters: Iterable[Parameter], *, steps: int) -> tuple[Optimizer, LambdaLR]:
    """The config's optimizer and schedule.

    Args:
        settings: config group `optimizer`.
        parameters: what is trained.
        steps: of the whole run.

    Raises:
        ConfigError: the optimizer refuses its arguments; its own words are in the text.
    """
    arguments = settings.arguments() | {"_target_": settings.target, "lr": settings.lr}
    try:
        optimizer = instantiate(arguments, _partial_=True, _convert_="all")(parameters)
    except (InstantiationException, TypeError, ValueError) as error:
        raise ConfigError("optimizer", settings.target, f"refuses its arguments: {error}") from error
    return optimizer, LambdaLR(optimizer, lambda step: rate(settings, step, steps=steps))


def rate(settings: OptimizerConfig, step: int, *, steps: int) -> float:
    """Share of the full learning rate at an optimizer step, counted from 0, of `steps`."""
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    left = max(0.0, (steps - step) / max(1, steps - warmup + 1))
    return left if settings.decay == "linear" else 0.5 * (1 - math.cos(math.pi * left))
