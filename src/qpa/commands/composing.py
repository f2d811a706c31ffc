"""What the verbs beside `train.py` share: composing configs, and a finished run named on the command line."""

from pathlib import Path
from typing import Literal

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType

from qpa.config import Config, parse
from qpa.config.composing import CONF, as_overrides
from qpa.errors import UsageError
from qpa.runs import record
from qpa.tasks.task import Metric

RUN = "qpa_run"  # what Hydra knows a finished run's config as


def goal(metric: Metric) -> Literal["minimize", "maximize"]:
    """What Optuna and W&B call the direction in which a metric is better."""
    return "minimize" if metric.better == "lower" else "maximize"


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


def changed(config: Config, arguments: list[str]) -> Config:
    """The config with some keys replaced, or whole groups, composed by Hydra like those of `train.py`.

    Raises:
        ConfigError: a changed value cannot work.
    """
    if not arguments:
        return config
    plain, overrides = config.model_dump(by_alias=True), []
    for override in OverridesParser.create().parse_overrides(as_overrides(arguments)):
        line, group = override.input_line or "", override.key_or_group
        is_group = (CONF / group).is_dir()
        if is_group:  # a choice takes the group's place with all its keys
            plain.pop(group, None)
        overrides.append(f"+{line}" if is_group and override.type is OverrideType.CHANGE else line)
    ConfigStore.instance().store(name=RUN, node=plain)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose(RUN, overrides=overrides))


def choices_with(key: str) -> list[str]:
    """The choices of a config group, as `GROUP=CHOICE`, that have a dotted key."""
    group, _, _ = key.partition(".")
    files = sorted((CONF / group).glob("[!_]*.yaml")) if group in Config.model_fields else []
    return [f"{group}={file.stem}" for file in files if key in _keys(file)]


def _keys(file: Path) -> set[str]:
    """The keys `GROUP.KEY` that a choice's file sets, or those it builds on."""
    text = file.read_text()
    content = yaml.safe_load(text)
    bases = [base for base in content.pop("defaults", []) if isinstance(base, str) and base != "_self_"]
    groups = content if text.startswith("# @package _global_") else {file.parent.name: content}
    own = {f"{group}.{key}" for group, section in groups.items() if isinstance(section, dict) for key in section}
    return own.union(*(_keys(file.with_name(f"{base}.yaml")) for base in bases))
