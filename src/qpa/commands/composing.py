"""What the verbs beside `train.py` share: composing configs, and a finished run named on the command line."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from qpa.config import Config, parse
from qpa.errors import UsageError
from qpa.runs import record

CONF = Path(__file__).resolve().parents[3] / "conf"


def composed(name: str, overrides: list[str]) -> dict[str, Any]:
    """A config of `conf/` with overrides, resolved, as plain values."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, overrides=overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # run names ask it for the chosen groups
    with open_dict(config):
        config.pop("hydra")
    return OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportReturnType]


def named_run(arguments: list[str], *, usage: str, options: tuple[str, ...] = ()) -> tuple[Path, Config, dict[str, str]]:
    """Read `run=DIR`, the verb's own options, and overrides in Hydra's grammar of the run's config.

    Raises:
        UsageError: no `run=DIR`.
        ConfigError: the folder is not a run's, or a changed value cannot work.
    """
    split = dict(a.split("=", 1) for a in arguments if "=" in a and a.split("=", 1)[0] in ("run", *options))
    if "run" not in split or any(option in arguments for option in options):  # an option without its value
        raise UsageError(usage)
    folder = Path(split.pop("run"))
    overrides = [a for a in arguments if a.split("=", 1)[0] not in ("run", *options)]
    return folder, changed(record.load_config(folder), overrides), split


def changed(config: Config, overrides: list[str]) -> Config:
    """The config with some keys or whole groups replaced, composed by Hydra like those of `train.py`."""
    if not overrides:
        return config
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", overrides=overrides)
    plain = OmegaConf.create(config.model_dump(by_alias=True))
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        OmegaConf.update(plain, key, OmegaConf.select(composed, key), merge=False)
    return parse(plain)
