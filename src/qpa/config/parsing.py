"""From a composed config to a checked one."""

import re
from collections.abc import Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import qpa.config.resolvers  # noqa: F401 - conf/ asks for them
from qpa.config.section import checked
from qpa.config.whole import Config
from qpa.errors import ConfigError

# What a config may have Hydra make, by group: a config can come from elsewhere, with a run's folder, and must not run other code.
TARGETS = {
    "peft": (r"peft\.[A-Z]\w*|qpa\.adapters\.(bottleneck\.Bottleneck|whole\.Whole)Config", "a class of peft, as peft.LoraConfig"),
    "optimizer": (r"\w+\.optim\.[A-Z]\w*", "a class of a package's optim module, as torch.optim.AdamW"),
    "trainer": (r"pytorch_lightning\.Trainer", "pytorch_lightning.Trainer"),
}


def parse(config: DictConfig | Mapping[str, Any]) -> Config:
    """Check a composed config.

    Raises:
        ConfigError: the first value that has the wrong type or range, with what would be right.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
    except OmegaConfBaseException as error:
        raise ConfigError(error.full_key or "config", "?", str(error).splitlines()[0]) from error
    found = checked(Config, plain)
    for group, (pattern, right) in TARGETS.items():
        section = cast(dict[str, Any], plain)[group]
        target = section.get("_target_")
        if not isinstance(target, str) or not re.fullmatch(pattern, target):
            raise ConfigError(f"{group}._target_", target, f"should be {right}")
        if _names_classes(list(section.values())):
            raise ConfigError(group, "...", "only the group itself may have a _target_, not what is in it")
    return found


def _names_classes(value: object) -> bool:
    """Whether a `_target_`, which Hydra would call, is anywhere in a value."""
    if isinstance(value, dict):
        return "_target_" in value or _names_classes(list(value.values()))
    return isinstance(value, list) and any(map(_names_classes, value))
