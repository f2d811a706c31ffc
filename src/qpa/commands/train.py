"""`python train.py [GROUP=CHOICE] [KEY=VALUE] ...`: fine-tune a model, or many of them in a multirun."""

from typing import Any

from omegaconf import DictConfig

from qpa.commands.cli import one_line_errors
from qpa.config import parse
from qpa.runs import run, sweep


def train(composed: DictConfig, kept: dict[Any, Any]) -> None:
    """Plan one composed config and run it.

    Args:
        composed: by Hydra.
        kept: what this process keeps from one job of a multirun to the next, as a base model.
    """
    here = sweep.context(kept)
    if here.sweep is not None:
        sweep.run_job(composed, here, run.train)
        return
    with one_line_errors():  # here already: Hydra would add a line of its own
        run.train(run.ready(parse(composed), here))


if __name__ == "__main__":
    raise SystemExit("qpa: training starts with python train.py, in the folder that has conf/")
