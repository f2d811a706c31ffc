"""Environments and settings that cannot be played: one line each, with the way out, before anything is written."""

import sys
from pathlib import Path

import gymnasium
import pytest
from conftest import train_run
from playing import config

from qpa.config import parse
from qpa.config.composing import composed
from qpa.errors import ConfigError
from qpa.runs import evaluate

NO_SUCH = r"^data.environment=\S+: there is no such environment; "


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.environment=CartPol-v1"], NO_SUCH + r"did you mean CartPole-v1, CartPole-v0"),
        (["data.environment=CartPole-v9"], NO_SUCH + r"did you mean CartPole-v1, CartPole-v0"),
        (["data.environment=CartPole"], r"has no version, and another one is another task; give data.environment=CartPole-v1"),
        (["data.environment=xyz"], NO_SUCH + r"CartPole-v1 is one"),
        (["data.environment=minigrid:MiniGrid-Empty-5x5-v7"], NO_SUCH + "did you mean MiniGrid-Empty-5x5-v0"),
        (["data.environment=nothing_here:Some-v0"], r"the package nothing_here is not installed; run pip install nothing_here"),
        (
            ["data.environment=Pendulum-v1"],
            r"its actions are Box, and a policy here chooses one of several; choose another, as CartPole-v1",
        ),
        (["data.environment=minigrid:MiniGrid-Empty-5x5-v0"], r"not all parts .* are numbers; data.observation= one of direction, image"),
        (["data=minigrid", "data.observation=picture"], r"^data.observation=picture: there is no such part; there are direction, image"),
        (["data.observation=image"], r"^data.observation=image: there is no such part; observations have none; leave it out"),
        (["data.actions=3"], r"^data.actions=3: CartPole-v1 has 2; give at most so many, or null for all"),
        (["data.actions=0"], r"^data.actions=0: should be greater than or equal to 1"),
        (["data.batch_size=0"], r"^data.batch_size=0: should be greater than or equal to 1"),
        (["data.val_episodes=0"], r"^data.val_episodes=0: should be greater than or equal to 1"),
        (["data.environment=Blackjack-v1", "data.max_episode_steps=null"], r"^data.max_episode_steps=None: Blackjack-v1 has no limit of"),
        (["task.gamma=1.5"], r"^task.gamma=1.5: should be less than or equal to 1"),
        (["task.entropy=-1"], r"^task.entropy=-1(.0)?: should be greater than or equal to 0"),
        (["model.activation=gelu"], r"^model.activation=gelu: should be 'relu' or 'tanh'"),
        (["model=mnist_cnn"], r"^model.source=cnn: .*"),
        (["trainer=ddp"], r"^trainer.strategy=ddp: episodes are played in one process; use trainer=default"),
        (["trainer.max_epochs=2"], r"^trainer.max_epochs=2(.0)?: episodes have no end to count; give trainer.max_steps alone"),
        (["peft=prompt"], r"^peft=peft.PromptTuningConfig: its prompts stand before text, and a policy reads none"),
    ],
)
@pytest.mark.few(22)
def test_what_cannot_be_played_is_one_line(tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        train_run(config(tmp_path, *overrides))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_package_that_an_environment_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(*_: object, **__: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed,\nrun `pip install x`")

    monkeypatch.setattr(gymnasium, "make", needs)
    with pytest.raises(ConfigError, match=r"^data.environment=CartPole-v1: cannot be made: Box2D is not installed, run `pip install x`$"):
        train_run(config(tmp_path))


def test_data_of_another_task_is_one_line() -> None:
    found = parse(composed("train", ["task=control", "name=tiny", "data=digits"]))
    with pytest.raises(ConfigError, match=r"^data.source=image_package: this task reads no such data; choose another"):
        train_run(found)


def test_an_environment_of_a_package_that_is_not_named_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in gymnasium.registry if name.startswith("MiniGrid")]:
        monkeypatch.delitem(gymnasium.registry, name)
    words = r"is of the package minigrid; give data.environment=minigrid:MiniGrid-Empty-5x5-v0$"
    with pytest.raises(ConfigError, match=words):
        train_run(config(tmp_path, "data.environment=MiniGrid-Empty-5x5-v0"))


@pytest.mark.parametrize(("missing", "data"), [("gymnasium", "cartpole"), ("minigrid", "minigrid")])
def test_without_the_extra_one_line_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, data: str) -> None:
    from qpa.tasks.control import environments

    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(environments, "_importable", lambda module: False)
    for name in [name for name in gymnasium.registry if missing == "minigrid" and name.startswith("MiniGrid")]:
        monkeypatch.delitem(gymnasium.registry, name)
    with pytest.raises(ConfigError, match=rf"{missing}.*make setup EXTRAS=control$"):
        train_run(config(tmp_path, f"data={data}"))


def test_policy_of_another_environment_is_refused(tmp_path: Path) -> None:
    train_run(config(tmp_path, "trainer.max_steps=1"))
    with pytest.raises(ConfigError, match=r"^data.environment=Acrobot-v1: the policy plays CartPole-v1, with 4 numbers seen and 2 actions"):
        evaluate.evaluate(config(tmp_path, "data.environment=Acrobot-v1"), tmp_path / "run")
