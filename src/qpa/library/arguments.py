"""What `qpa.generate` is given, as settings: names of choices and keys as in the config groups, over the defaults of `conf/`."""

import operator
from collections.abc import Mapping
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import qpa.config.resolvers  # noqa: F401 - conf/ asks for them
from qpa.config import Section, Settings, checked
from qpa.config.composing import CONF
from qpa.errors import ConfigError

Argument = str | Mapping[str, Any] | DictConfig | Section | None


def settings_from(*, seed: int, **groups: Argument) -> Settings:
    """Of a generator.

    Args:
        seed: of all that is drawn.
        groups: `generator`, `latents`, `circuit`, `mapper`: a choice of `conf/GROUP/` by name; or keys, whose `kind` is the choice where it
            is given; or None for the default.

    Raises:
        ConfigError: there is no such choice or key, or a value has the wrong type or range.
    """
    given = {group: _keys(group, argument) for group, argument in groups.items() if argument is not None}
    choices = {group: choice for group, (choice, _) in given.items() if choice is not None}
    plain = _composed(choices, list(groups))
    for group, (choice, keys) in given.items():
        theirs = choice is None and {"kind"} <= keys.keys() & plain[group].keys()  # of another package, whose defaults are not here
        plain[group] = ({} if theirs else plain[group]) | keys
    return checked(Settings, plain | {"seed": operator.index(seed) if hasattr(seed, "__index__") else seed})


def _keys(group: str, argument: Argument) -> tuple[str | None, dict[str, Any]]:
    """The choice that an argument names, None for the default or for what another package offers, and the keys it sets."""
    if isinstance(argument, str):
        if not _is_choice(group, argument):
            raise ConfigError(group, argument, f"there is no such choice; there are {', '.join(_choices(group))}; or give a dict of keys")
        return argument, {}
    if isinstance(argument, Section):
        argument = argument.model_dump()
    if OmegaConf.is_config(argument):
        argument = _resolved(group, argument)
    if not isinstance(argument, Mapping):
        raise ConfigError(group, argument, "should be the name of a choice, or a dict of keys")
    keys = dict(argument)
    kind = keys.get("kind")
    if isinstance(kind, str) and _is_choice(group, kind):
        return keys.pop("kind"), keys
    return None, keys


def _resolved(group: str, argument: Any) -> Any:
    try:
        return OmegaConf.to_container(argument, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(group, "...", f"{str(error).splitlines()[0]}; give plain values") from error


def _is_choice(group: str, name: str) -> bool:
    return name in _choices(group)


def _choices(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("[!_]*.yaml") if file.stem != "none")  # which generates nothing


def _composed(choices: dict[str, str], groups: list[str]) -> dict[str, Any]:
    """The groups as Hydra composes them, whether or not the process is an application of Hydra's itself."""
    kept = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("train", overrides=[f"{group}={choice}" for group, choice in choices.items()])
    finally:
        GlobalHydra.instance().hydra = kept
    return {group: OmegaConf.to_container(composed[group], resolve=True) for group in groups}
