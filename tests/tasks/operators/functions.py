"""What the tests of operators share: a tiny network on a coarse grid."""

from pathlib import Path
from typing import Any

from conftest import train_run

from qpa.config import Config, parse
from qpa.config.composing import composed
from qpa.runs import record

TINY = ["model.modes=4", "model.hidden=4", "model.layers=2", "data.train=12", "data.val=5", "data.test=6", "data.batch_size=4"]
GRIDS = {"burgers": ["data=burgers", "data.grid=32", "data.time=0.3"], "darcy": ["data=darcy", "data.grid=12"]}


def arguments(folder: Path, *overrides: str, data: str = "burgers") -> list[str]:
    """Of the command line."""
    trainer = ["trainer=default", "trainer.max_steps=4", "trainer.val_every=2", "trainer.accelerator=cpu", "circuit.layers=1"]
    places = [f"cache_dir={folder}/cache", f"run_dir={folder}/run", "logger=none", "name=tiny"]
    return ["task=operators", *GRIDS[data], *TINY, *trainer, *places, *overrides]


def config(folder: Path, *overrides: str, data: str = "burgers") -> Config:
    """The same, composed and checked."""
    return parse(composed("train", arguments(folder, *overrides, data=data)))


def run(found: Config) -> dict[str, Any]:
    """Trained; its record."""
    train_run(found)
    assert found.run_dir
    return record.read(Path(found.run_dir))["qpa"]
