"""Every YAML file of `conf/` composes, checks, and names classes that exist."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import reduce
from typing import Any

import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig

from qpa.commands import plan
from qpa.commands.composing import composed
from qpa.config import Config, parse
from qpa.errors import ConfigError
from qpa.runs.parts import assemble
from qpa.training.module import FineTuning

CONF = ROOT / "conf"
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
def test_every_choice_of_a_method_trains_what_it_counts(make_config: Callable[..., Config], choice: str) -> None:
    config = make_config(choice)
    assembly = assemble(config, None)
    trained = list(assembly.adaptation.parameters())
    assert assembly.parameters.trainable == sum(p.numel() for p in trained)
    optimizer = FineTuning(config, assembly.model, assembly.adaptation).configure_optimizers()["optimizer"]
    before = [p.detach().clone() for p in trained]
    assembly.adaptation.write()
    ids = torch.arange(64).view(2, 32)
    assembly.model(input_ids=ids, labels=ids).loss.backward()
    assembly.adaptation.collect()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in trained)
    assert any(not torch.equal(p, b) for p, b in zip(trained, before, strict=True))


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


# What changes no result: where a run's files are and what they are called, what is shown, and how a run is begun or ended.
WITHOUT_EFFECT = re.compile(
    r"(name|run_dir|cache_dir|ckpt|force|fail_fast|baseline)|logger\..*|trainer\.(log_every_n_steps|enable_progress_bar|checkpoint_every)"
    r"|model\.install|generator\.lr|data\.(cache_hidden|cache_hidden_gib)"
)
TOGETHER = {"trainer.strategy", "trainer.devices", "trainer.num_nodes"}  # see test_ddp
FILES = {f"data.{split}_files" for split in ("train", "val", "test", "forgetting")}  # see test_identity: their content counts
NUMBERS, LISTS, CLASSES = [True, False, 2, 3, 0.25], [["other"], ["RX"]], ["torch.optim.SGD", "peft.LoHaConfig"]
WORDS = ["other", "none", "table", "codes", "shared", "paper", "cosine", "32-true", "auto", "hub", "published", "wandb", "online"]
OTHER = [*NUMBERS, *WORDS, *LISTS, *CLASSES, "nf4", "ring", "CZ", "qiskit", "aer", "spsa", "bfloat16"]


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[str]:
    """The paths of all values, `group.key`."""
    for key, value in tree.items():
        yield from leaves(value, f"{path}{key}.") if isinstance(value, dict) else [f"{path}{key}"]


def changed(plain: dict[str, Any], path: str) -> Config | None:
    """The config with another value there that is accepted; None if there is none."""
    *groups, key = path.split(".")
    for value in OTHER:
        config = copy.deepcopy(plain)
        place = reduce(dict.__getitem__, groups, config)
        if type(place[key]) is type(value) and place[key] == value:
            continue
        place[key] = value
        with suppress(ConfigError):
            return parse(config)
    return None


def test_run_folder_changes_with_what_is_computed_and_with_nothing_else(make_config: Callable[..., Config]) -> None:
    sampled = ["circuit.backend=qiskit", "circuit.shots=50"]
    bases = [make_config(), make_config(*sampled), make_config(*sampled, "circuit.device=fake_manila")]
    tried = set()
    for base in bases:
        plain = base.model_dump(by_alias=True)
        for path in leaves(plain):
            if path not in TOGETHER | FILES and (other := changed(plain, path)):
                assert (other.fingerprint() == base.fingerprint()) == bool(WITHOUT_EFFECT.fullmatch(path)), path
                tried.add(path)
    assert set(leaves(plain)) - tried - TOGETHER - FILES == {"trainer._target_"}  # which can only be Lightning's


def test_run_folder_of_a_baseline_does_not_change_with_the_generator(make_config: Callable[..., Config]) -> None:
    plain = make_config("generator=none").fingerprint()
    assert make_config("generator=none", "circuit.layers=3", "mapper=codes", "latents=table").fingerprint() == plain
    assert make_config("generator=none", "peft.r=3").fingerprint() != plain
