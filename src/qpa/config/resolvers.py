"""What the YAML files in `conf/` can ask for, as `${variable:NAME}` and `${named:VALUE,DEFAULT}`."""

import os
import re

from omegaconf import OmegaConf


def _twice(number: object) -> object:
    """Of a number its double; anything else as it is, for the check that follows to name."""
    return 2 * number if isinstance(number, int | float) else number


def _variable(name: str, default: object = None) -> object:
    """Of the environment; one that is empty counts as not set."""
    return os.environ.get(name) or default


def _without(value: object, default: object) -> object:
    """A default where something else is not given; where it is, nothing."""
    return default if value is None else None


def _named(value: object, default: object) -> object:
    """A value as part of a file's name, or a default where there is none."""
    return default if value is None else re.sub(r"[^\w.-]+", "-", str(value))


OmegaConf.register_new_resolver("variable", _variable, replace=True)  # conf/train.yaml, conf/logger/wandb.yaml
OmegaConf.register_new_resolver("twice", _twice, replace=True)  # conf/peft/lora.yaml: the same scaling at every rank
OmegaConf.register_new_resolver("without", _without, replace=True)  # conf/trainer/default.yaml: steps without epochs
OmegaConf.register_new_resolver("named", _named, replace=True)  # conf/train.yaml: environments have no choice of their own each
