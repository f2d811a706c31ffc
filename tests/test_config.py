"""Every YAML file of `conf/` composes, checks, and names classes that exist."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig

from qpa import plan
from qpa.assembly import assemble
from qpa.config import Config, parse
from qpa.errors import ConfigError
from qpa.verbs import composed

CONF = Path(__file__).parents[1] / "conf"
FILES = [
    path.relative_to(CONF).with_suffix("")
    for path in sorted(CONF.glob("*/**/*.yaml"))
    if not {"wandb", "hydra"} & set(path.parts) and path.stem[0] != "_"
]
CHOICES = [f"{path.parts[0]}={'/'.join(path.parts[1:])}" for path in FILES]
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_its_targets_exist(choice: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[choice, "name=test"])
    parsed = parse(config)
    for target in (parsed.peft["_target_"], parsed.optimizer.target, parsed.trainer.target):
        assert callable(get_class(target))


METHOD_GROUPS = ("peft", "generator", "latents", "circuit", "mapper", "optimizer")


@pytest.mark.parametrize("choice", [c for c in CHOICES if c.split("=")[0] in METHOD_GROUPS])
def test_every_choice_of_a_method_builds(make_config: Callable[..., Config], choice: str) -> None:
    assembly = assemble(make_config(choice), None)
    assert assembly.parameters.trainable > 0


@pytest.mark.parametrize("choice", [c for c in CHOICES if c.startswith("experiment=")])
def test_every_experiment_is_counted_at_full_size_and_builds_at_a_tiny_one(
    make_config: Callable[..., Config], capsys: pytest.CaptureFixture, choice: str
) -> None:
    plan.main([choice, "plan.output=json"])
    assert json.loads(capsys.readouterr().out)["trainable"] > 0
    model = re.search(r"override /model: (\w+)", (CONF / f"{choice.replace('=', '/')}.yaml").read_text())
    chunks = ["mapper.chunk_size=64"] if "paper" in choice else []
    assembly = assemble(make_config(choice, *chunks, model=model[1] if model else "smollm2"), None)
    assert assembly.parameters.trainable > 0


def test_plan_has_every_key_of_a_run() -> None:
    assert set(composed("plan", [])) == {*composed("train", []), "plan"}


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
    assert make_config("force=true", "name=other", "logger=wandb", "ckpt=last", "trainer.log_every_n_steps=7").fingerprint() == base
    assert make_config("seed=2").fingerprint() != base
    assert make_config("circuit.layers=3").fingerprint() != base
