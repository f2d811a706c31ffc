"""The optimizer, and its rate over the steps: linear warm-up, then decay to zero."""

import math
import pkgutil

from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from qpa.config import OptimizerConfig
from qpa.core.adaptation import Adaptation
from qpa.errors import ConfigError, UserError, line

FUSED = (Adam, AdamW, SGD)  # kinds that torch has as one kernel
WAYS = {"fused", "foreach", "capturable", "differentiable"}  # to compute a step, which a config may choose among


def make_optimizer(settings: OptimizerConfig, adaptation: Adaptation, *, steps: int) -> tuple[Optimizer, LambdaLR]:
    """The config's optimizer and schedule.

    Args:
        settings: config group `optimizer`.
        adaptation: what is trained.
        steps: of the whole run.

    Raises:
        ConfigError: there is no such optimizer, or it refuses its arguments; its own words are in the text.
    """
    try:
        kind = pkgutil.resolve_name(settings.target)
        if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
            raise TypeError("it is no torch optimizer")
        fused = {"fused": True} if _fuses(kind, settings, adaptation) else {}
        optimizer = adaptation.optimizer(kind, lr=settings.lr, **settings.arguments(), **fused)
        vars(optimizer).pop("_step_supports_amp_scaling", None)  # which Lightning takes for a reason not to clip; no loss is scaled here
    except UserError as error:
        raise ConfigError("optimizer", settings.target, str(error)) from error
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError("optimizer", settings.target, f"refuses its arguments: {line(error)}") from error
    return optimizer, LambdaLR(optimizer, lambda step: rate(settings, step, steps=steps))


def _fuses(kind: type[Optimizer], settings: OptimizerConfig, adaptation: Adaptation) -> bool:
    on_gpu = all(parameter.device.type == "cuda" for parameter in adaptation.parameters())
    return on_gpu and kind in FUSED and not WAYS & settings.arguments().keys()


def rate(settings: OptimizerConfig, step: int, *, steps: int) -> float:
    """Share of the full learning rate at an optimizer step, counted from 0, of `steps`."""
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    left = max(0.0, (steps - step) / max(1, steps - warmup + 1))
    return left if settings.decay == "linear" else 0.5 * (1 - math.cos(math.pi * left))
