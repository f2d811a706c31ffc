"""What the tests of control share: a short run of a small policy."""

from pathlib import Path

from conftest import planned

from qpa.config import Config, parse
from qpa.config.composing import composed
from qpa.tasks.control.task import Control


def arguments(folder: Path, *overrides: str) -> list[str]:
    """Of the command line."""
    sizes = ["model.hidden=[8]", "circuit.layers=2", "data.val_episodes=3", "data.test_episodes=5", "data.max_episode_steps=40"]
    trainer = ["trainer.max_steps=4", "trainer.val_every=2", "trainer.accelerator=cpu", "optimizer.lr=0.01", "data.batch_size=2"]
    places = [f"cache_dir={folder}/cache", f"run_dir={folder}/run", "logger=none", "name=tiny"]
    return ["task=control", *sizes, *trainer, *places, *overrides]


def config(folder: Path, *overrides: str) -> Config:
    """The same, composed and checked."""
    return parse(composed("train", arguments(folder, *overrides)))


def task_of(found: Config) -> Control:
    task = planned(found).task
    assert isinstance(task, Control)
    return task
