"""Every YAML file of `conf/` composes, checks, and names classes that exist."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig

from qpa.assembly import assemble
from qpa.config import Config, parse
from qpa.errors import ConfigError

CONF = Path(__file__).parents[1] / "conf"
CHOICES = [f"{path.parent.name}={path.stem}" for path in sorted(CONF.glob("*/*.yaml"))]
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_its_targets_exist(choice: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[choice, "name=test"])
    parsed = parse(config)
    for target in (parsed.peft["_target_"], parsed.optimizer.target, parsed.trainer.target):
        assert callable(get_class(target))


@pytest.mark.parametrize(
    "choice", [c for c in CHOICES if c.split("=")[0] in ("peft", "generator", "circuit", "mapper", "optimizer", "experiment")]
)
def test_every_choice_of_a_method_builds(make_config: Callable[..., Config], choice: str) -> None:
    assembly = assemble(make_config(choice), None)
    assert assembly.parameters.trainable > 0


def test_groups_are_those_of_the_readme() -> None:
    table = (CONF.parent / "README.md").read_text()
    assert {group for group in GROUPS if f"| `{group}` |" in table} == GROUPS


def test_unknown_key_is_refused(compose_config: Callable[..., DictConfig]) -> None:
    config = compose_config()
    config.circuit.qubit = 8
    with pytest.raises(ConfigError, match=r"circuit.qubit=8: no key"):
        parse(config)


def test_run_folder_changes_with_what_is_computed_and_with_nothing_else(make_config: Callable[..., Config]) -> None:
    base = make_config().fingerprint()
    assert make_config("force=true", "name=other", "logger=wandb", "ckpt=last").fingerprint() == base
    assert make_config("seed=2").fingerprint() != base
    assert make_config("circuit.layers=3").fingerprint() != base
