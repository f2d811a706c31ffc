"""Configs composed by Hydra from the YAML files in `conf/`, wherever they are asked for."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from qpa.errors import ConfigError

CONF = Path(__file__).resolve().parents[1] / "conf"  # in a checkout a link to the folder at its top


def composed(name: str, arguments: list[str]) -> dict[str, Any]:
    """A config of `conf/` with overrides, resolved, as plain values.

    Raises:
        ConfigError: there is no folder as the option `--config-dir` says.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, overrides=as_overrides(arguments), return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # run names ask it for the chosen groups
    with open_dict(config):
        config.pop("hydra")
    return OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportReturnType]


def as_overrides(arguments: list[str]) -> list[str]:
    """The same with Hydra's option for YAML files of one's own, `--config-dir DIR` or `-cd DIR`, as the override that means it.

    Raises:
        ConfigError: there is no such folder.
    """
    found: list[str] = []
    words = iter(arguments)
    for word in words:
        option, _, value = word.partition("=")
        if option not in ("--config-dir", "-cd"):
            found.append(word)
            continue
        folder = Path(value or next(words, ""))
        if not folder.is_dir() or folder == Path():
            raise ConfigError(option, folder, "there is no such folder")
        found.append(f'hydra.searchpath=["file://{folder.resolve()}"]')
    return found
