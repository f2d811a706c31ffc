"""Composing beside `train.py`: a run's own config with some of it changed, YAML files of one's own, where a key is."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.errors import HydraException

from qpa.commands.cli import describe
from qpa.commands.composing import changed, choices_with, named_run
from qpa.config import Config, parse
from qpa.config.composing import composed
from qpa.errors import ConfigError
from qpa.runs import record

MakeConfig = Callable[..., Config]


@pytest.fixture
def of_files(make_config: MakeConfig) -> Config:
    """Data of another source than the default's, with other keys."""
    return make_config("generator=none", "data.val_files=[val.txt]")


@pytest.mark.parametrize(
    ("override", "group", "expected"),
    [
        ("data.test_files=[x.txt]", "data", {"test_files": ["x.txt"]}),
        ("data.train_files=[]", "data", {"train_files": []}),
        ("data.test_files=[a.txt,'b, c.txt',\"d(1).txt\"]", "data", {"test_files": ["a.txt", "b, c.txt", "d(1).txt"]}),
        ("data.val_fraction=null", "data", {"val_fraction": None}),
        ("+peft.layers_to_transform=[0,1]", "peft", {"layers_to_transform": [0, 1]}),
        ("+peft.rank_pattern={q_proj:3}", "peft", {"rank_pattern": {"q_proj": 3}}),
        ("++peft.r=3", "peft", {"r": 3}),
        ("optimizer.lr=1e-4", "optimizer", {"lr": 1e-4}),
        ("data.context=${data.batch_size}", "data", {"context": 4}),
    ],
)
def test_key_is_changed_as_hydras_grammar_has_it_and_all_else_is_the_runs(
    of_files: Config, override: str, group: str, expected: dict[str, object]
) -> None:
    before = of_files.model_dump(by_alias=True)
    assert changed(of_files, [override]).model_dump(by_alias=True) == before | {group: before[group] | expected}
    assert changed(of_files, []) is of_files


def test_choice_takes_the_place_of_a_whole_group(of_files: Config) -> None:
    pydoc = changed(of_files, ["data.context=64", "data=pydoc"])
    assert pydoc.data.model_dump() == composed("train", [])["data"] | {"context": 64}
    assert pydoc.model_dump(exclude={"data"}) == of_files.model_dump(exclude={"data"})
    generated = changed(of_files, ["generator=qpa"])
    assert (generated.generator.kind, generated.optimizer.lr, of_files.optimizer.lr) == ("qpa", 1e-2, 5e-3)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "data.hub=x",
            "data.hub: no key of the chosen data, but of data=cifar10, data=fashion_mnist, data=hub, data=image_hub, data=mnist",
        ),
        ("data.files=[x]", "data.files: there is no such key"),
        ("generator.lr=1", "generator.lr: is optimizer.lr now"),
        ("+data.hub=x", "data.hub=x: no key of the chosen group"),
        (
            "data=books",
            "data=books: there is no such choice; there are burgers, cartpole, cifar10, darcy, digits, fashion_mnist, files, ",
        ),
        ("data.context=few", "data.context=few: should be a valid integer"),
        ("~data.context", "data.context=None: has to be given"),
        ("data.test_files=[a(b", "data.test_files=[a(b: has signs"),
        ("seed=1,2", "seed=1,2"),
    ],
)
def test_what_cannot_be_changed_is_one_line(of_files: Config, override: str, words: str) -> None:
    with pytest.raises((ConfigError, HydraException)) as caught:
        changed(of_files, [override])
    assert words in describe(caught.value)
    assert "\n" not in describe(caught.value)


def test_runs_own_config_is_what_a_verb_changes(of_files: Config, tmp_path: Path) -> None:
    Path(of_files.run_dir).mkdir()
    record.save_config(Path(of_files.run_dir), of_files)
    _, found, options = named_run([f"run={Path(of_files.run_dir)}", "tasks=[arc]", "data.test_files=[x]"], usage="", options=("tasks",))
    assert (found, options) == (changed(of_files, ["data.test_files=[x]"]), {"tasks": "[arc]"})


ANSATZ = "{defaults: [_measured], rotations: [RY, RZ], entangler: ring, gate: CNOT, final_rotations: true}"


@pytest.mark.parametrize("option", ["--config-dir", "--config-dir=", "-cd"])
def test_yaml_files_of_ones_own_are_choices_too(tmp_path: Path, make_config: MakeConfig, option: str) -> None:
    folder = tmp_path / "my, (own) files"
    (folder / "circuit").mkdir(parents=True)
    (folder / "circuit" / "mine.yaml").write_text(ANSATZ)
    given = [f"{option}{folder}"] if option.endswith("=") else [option, str(folder)]
    found = parse(composed("train", [*given, "circuit=mine"])).circuit
    assert (found.rotations, found.entangler, found.layers) == (["RY", "RZ"], "ring", 2)
    assert changed(make_config(), [*given, "circuit=mine"]).circuit == found


@pytest.mark.parametrize("arguments", [["--config-dir", "nowhere"], ["--config-dir=nowhere"], ["--config-dir"], ["-cd="]])
def test_folder_of_ones_own_that_is_not_there_is_one_line(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        composed("train", arguments)


def test_key_of_another_choice_is_found() -> None:
    assert choices_with("generator.circuits") == ["generator=paper", "generator=qpa", "generator=shared"]
    assert choices_with("mapper.width") == ["mapper=codes", "mapper=tied"]
    assert choices_with("peft.use_dora") == ["peft=dora"]
    for key in ("peft.rank", "seed", "sweeps.study", "hydra.mode", "../x.y", ""):
        assert choices_with(key) == []
