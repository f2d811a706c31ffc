"""What the YAML files in `conf/` can ask for: `${variable:NAME}` and `${twice:NUMBER}`."""

import os

from omegaconf import OmegaConf


def _twice(number: object) -> object:
    """Of a number its double; anything else as it is, for the check that follows to name."""
    return 2 * number if isinstance(number, int | float) else number


def _variable(name: str, default: object = None) -> object:
    """Of the environment; one that is empty counts as not set."""
    return os.environ.get(name) or default


OmegaConf.register_new_resolver("variable", _variable, replace=True)  # conf/train.yaml, conf/logger/wandb.yaml
OmegaConf.register_new_resolver("twice", _twice, replace=True)  # conf/peft/lora.yaml: the same scaling at every rank
