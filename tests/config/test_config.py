"""Every YAML file of `conf/` composes, checks, and names classes that exist."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, build, fingerprint
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig

from qpa.commands import plan
from qpa.config import Config, parse
from qpa.config.composing import composed
from qpa.errors import ConfigError
from qpa.training.optimizer import make_optimizer

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
    built = build(config)
    trained = list(built.adaptation.parameters())
    assert built.plan.counts.trainable == sum(p.numel() for p in trained)
    optimizer, _ = make_optimizer(config.optimizer, built.adaptation, steps=config.trainer.max_steps)
    before = [p.detach().clone() for p in trained]
    built.adaptation.write()
    ids = torch.arange(64).view(2, 32)
    built.model(input_ids=ids, labels=ids).loss.backward()
    built.adaptation.collect()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in trained)
    assert any(not torch.equal(p, b) for p, b in zip(trained, before, strict=True))


@pytest.mark.few(6)
@pytest.mark.parametrize("choice", [c for c in CHOICES if c.startswith("experiment=")])
def test_every_experiment_is_counted_at_full_size_and_builds_at_a_tiny_one(
    make_config: Callable[..., Config], capsys: pytest.CaptureFixture, choice: str
) -> None:
    plan.main([choice, "plan.output=json"])
    assert json.loads(capsys.readouterr().out)["trainable"] > 0
    text = (CONF / f"{choice.replace('=', '/')}.yaml").read_text()
    if "override /task" in text:
        return  # its task's own tests have it at a tiny size
    model = re.search(r"override /model: (\w+)", text)
    chunks = ["mapper.chunk_size=64"] if "paper" in choice else []
    built = build(make_config(choice, *chunks, model=model[1] if model else "smollm2"))
    assert built.plan.counts.trainable > 0


def test_plan_has_every_key_of_a_run() -> None:
    assert set(composed("plan", [])) == {*composed("train", []), "plan"}


def test_groups_are_those_of_the_docs() -> None:
    table = (CONF.parent / "docs/configuration.md").read_text()
    assert {group for group in GROUPS if f"| `{group}` |" in table} == GROUPS


def set_by(file: Path) -> dict[str, Any]:
    """The keys that a YAML file of a group sets, `GROUP.KEY`, deeper ones too, with their values; not those of the files it builds on."""
    text = file.read_text()
    content = yaml.safe_load(text)
    content.pop("defaults", None)
    whole = content if text.startswith("# @package _global_") else {file.parent.name: content}
    return {path: reduce(dict.__getitem__, path.split("."), whole) for path in leaves(whole)}


def built_on(file: Path) -> list[Path]:
    """The file itself, and all that it builds on."""
    bases = [base for base in yaml.safe_load(file.read_text()).get("defaults", []) if isinstance(base, str) and base != "_self_"]
    return [file, *(path for base in bases for path in built_on(file.with_name(f"{base}.yaml")))]


DEFAULTS = [path for path in sorted(CONF.glob("*/*.yaml")) if path.parent.name not in ("hydra", "experiment", "sweeps")]


@pytest.mark.parametrize("file", DEFAULTS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_file_sets_no_default_that_a_file_it_builds_on_has_already(file: Path) -> None:
    own, *others = [set_by(path) for path in built_on(file)]
    assert not [(path, value) for path, value in own.items() if any(path in other and other[path] == value for other in others)]


def test_every_default_is_in_one_file() -> None:
    """Of those that compose together, one of each group and `train.yaml`: no key is set in two groups, but by what whole networks bring."""
    groups: dict[str, set[str]] = {}
    for file in DEFAULTS:
        brought = {"circuit.layers", "latents.start", "optimizer.lr"} if any(word in file.stem for word in ("whole", "qtrl")) else set()
        groups.setdefault(file.parent.name, set()).update(set_by(file).keys() - brought)
    train = yaml.safe_load((CONF / "train.yaml").read_text())
    keys = [key for of_group in groups.values() for key in of_group] + [key for key in train if key != "defaults"]
    assert len(keys) > 100
    assert len(keys) == len(set(keys))
    assert set(leaves(composed("train", []))) <= set(keys)


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        ([], 1e-2),
        (["generator=none"], 5e-3),
        (["generator=none", "optimizer.lr=0.25"], 0.25),
        (["generator=paper"], 1e-2),
        (["experiment=all_linear/lora"], 5e-3),
        (["experiment=all_linear/vera"], 3e-2),
        (["experiment=all_linear/vera", "optimizer.lr=0.25"], 0.25),
        (["experiment=paper/gpt2_lora"], 1e-5),
        (["experiment=paper/gpt2_lora", "generator=none"], 1e-5),
    ],
)
def test_default_rate_is_the_generators_and_whatever_is_given_wins(overrides: list[str], rate: float) -> None:
    assert composed("train", overrides)["optimizer"]["lr"] == rate


def test_rate_of_an_optimizer_of_ones_own_wins_over_the_generators(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "sgd.yaml").write_text("{_target_: torch.optim.SGD, lr: 0.5, warmup: 0.0, decay: linear}")
    config = parse(composed("train", ["--config-dir", str(tmp_path), "optimizer=sgd", "generator=none"]))
    assert (config.optimizer.target, config.optimizer.lr) == ("torch.optim.SGD", 0.5)


@pytest.mark.parametrize(("environment", "name"), [("Acrobot-v1", "policy-Acrobot-v1-"), ("ALE/Pong:v5", "policy-ALE-Pong-v5-")])
def test_name_of_a_run_is_of_its_environment_and_one_folder(environment: str, name: str) -> None:
    assert composed("train", ["task=control", f"data.environment={environment}"])["name"].startswith(name)


def test_unknown_key_is_refused(compose_config: Callable[..., DictConfig]) -> None:
    config = compose_config()
    config.circuit.qubit = 8
    with pytest.raises(ConfigError, match=r"circuit.qubit=8: no key"):
        parse(config)


# What changes no result: where a run's files are and what they are called, what is shown, and how a run is begun or ended.
WITHOUT_EFFECT = re.compile(
    r"(name|study|run_dir|cache_dir|ckpt|force|fail_fast|baseline)|logger\..*|trainer\.(capture|log_every_n_steps|enable_progress_bar|checkpoint_every)"
    r"|model\.install|data\.(cache_hidden|cache_hidden_gib)"
)
TOGETHER = {"trainer.strategy", "trainer.devices", "trainer.num_nodes"}  # see test_ddp
FILES = {f"data.{split}_files" for split in ("train", "val", "test", "forgetting")}  # see test_identity: their content counts
NUMBERS, LISTS, CLASSES = [True, False, 2, 3, 0.25], [["other"], ["RX"]], ["torch.optim.SGD", "peft.LoHaConfig"]
WORDS = ["other", "none", "table", "codes", "shared", "paper", "cosine", "32-true", "auto", "hub", "published", "wandb", "online"]
OTHER = [
    *NUMBERS,
    *WORDS,
    *LISTS,
    *CLASSES,
    "00:00:01:00",
    "nf4",
    "ring",
    "CZ",
    "qiskit",
    "aer",
    "spsa",
    "bfloat16",
    "drop",
    "last",
    "random",
]


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


TOLD_BY = {"task.kind", "model.source", "data.source", "generator.kind", "logger.kind"}  # each has keys of its own: see below


def test_run_folder_changes_with_what_is_computed_and_with_nothing_else(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where `cache_dir=other` and its kin are made
    sampled = ["circuit.backend=qiskit", "circuit.shots=50"]
    bases = [make_config("logger=wandb"), make_config(*sampled), make_config(*sampled, "circuit.device=fake_manila")]
    tried, known = set(), set()
    for base in bases:
        plain = base.model_dump(by_alias=True)
        known |= set(leaves(plain))
        for path in leaves(plain):
            if path not in TOGETHER | FILES and (other := changed(plain, path)):
                assert (fingerprint(other) == fingerprint(base)) == bool(WITHOUT_EFFECT.fullmatch(path)), path
                tried.add(path)
    assert known - tried - TOGETHER - FILES == TOLD_BY | {"trainer._target_"}  # which can only be Lightning's


def test_run_folder_changes_with_the_choice_of_a_group_but_for_the_logger() -> None:
    choices = ["generator=none", "generator=paper", "latents=mlp", "mapper=codes", "mapper=paper", "data=text", "data=hub", "model=gpt2"]
    found = {choice: fingerprint(parse(composed("train", [choice]))) for choice in ("seed=1", *choices)}
    assert len(set(found.values())) == len(found)
    assert fingerprint(parse(composed("train", ["logger=none"]))) == found["seed=1"]


def test_run_folder_of_a_baseline_does_not_change_with_the_generator(make_config: Callable[..., Config]) -> None:
    plain = fingerprint(make_config("generator=none"))
    assert fingerprint(make_config("generator=none", "circuit.layers=3", "mapper=codes", "latents=table")) == plain
    assert fingerprint(make_config("generator=none", "peft.r=3")) != plain


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["circuit.gate=CU3"], ["entangler=linear", "gate=CU3 has angles", "entangler=ring", "gate=CNOT or CZ"]),
        (["circuit=u3_cu3_ring", "circuit.entangler=brick"], ["entangler=brick", "gate=CU3 has angles", "entangler=ring"]),
        (["circuit=ry_cry_ring", "circuit.qubits=1"], ["qubits=1", "gate=CRY has angles", "two qubits or more"]),
        (["circuit=ry_crx_ring", "circuit.rotations=[RZ]"], ["rotations=[RZ]", "add RY or RX"]),
    ],
)
def test_gates_with_angles_that_some_qubit_would_not_have_are_one_line(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(composed("train", ["logger=none", *overrides]))
    assert all(word in str(raised.value) for word in words)
    assert "\n" not in str(raised.value)


def test_a_layout_of_one_qubit_refuses_gates_with_angles(make_config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"circuit.gate=CU3: .*circuit.qubits=2"):
        build(make_config("circuit=u3_cu3_ring", "mapper.chunk_size=896"))


def test_a_plan_counts_the_circuits_of_every_angles_shift_rule(make_config: Callable[..., Config]) -> None:
    from qpa.commands.plan import circuits_per_step
    from qpa.config.context import Context
    from qpa.runs import plan as plans

    found = plans.make(make_config("circuit=u3_cu3_ring", "circuit.layers=2", "circuit.shots=10", "circuit.qubits=4"), Context())
    assert found.layout is not None
    assert found.counts.latents == found.layout.circuits * 2 * 6 * 4
    assert circuits_per_step(found) == found.layout.circuits * (1 + 2 * 4 * (2 * 5 + 4))
