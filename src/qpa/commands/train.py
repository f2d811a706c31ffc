"""`qpa-train [GROUP=CHOICE] [KEY=VALUE] ...`, in a checkout `python train.py`: fine-tune a model, or many of them in a multirun."""

from typing import Any

import hydra
from omegaconf import DictConfig

from qpa.commands.cli import one_line_errors
from qpa.commands.overview import overview
from qpa.config import parse
from qpa.config.composing import CONF
from qpa.runs import run, sweep

KEPT: dict[Any, Any] = {}  # between the jobs of a multirun


def train(composed: DictConfig) -> None:
    """Plan one config that Hydra composed, and run it: one run, or one job of a multirun."""
    here = sweep.context(KEPT)
    if here.sweep is not None:
        sweep.run_job(composed, here, run.train)
        return
    with one_line_errors():  # here already: Hydra would add a line of its own
        run.train(run.ready(parse(composed), here))


def script() -> None:
    """What is typed, from any folder."""
    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
    with one_line_errors(), overview():
        main(train)()  # the name `train` stays the function itself, which launchers then pickle by its name


if __name__ == "__main__":
    script()
