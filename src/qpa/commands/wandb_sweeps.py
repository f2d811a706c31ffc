"""`python -m qpa.wandb_sweeps [out=sweeps/wandb]`: each file of `sweeps/` as a sweep of Weights & Biases, for its agents.

The agents start `qpa-train` with the sweep file itself, so that all that it fixes stands there alone.
"""

from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from qpa.commands import cli
from qpa.commands.composing import goal
from qpa.config.composing import CONF
from qpa.errors import UsageError
from qpa.files import write_whole
from qpa.tasks.task import Metric, find

SWEEPS = CONF / "sweeps"
USAGE = "usage: python -m qpa.wandb_sweeps [out=sweeps/wandb]"
WIDTH = 120  # of a line, characters


def main(arguments: list[str]) -> None:
    """Write the files and print where to."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if len(given) != len(arguments) or not given.keys() <= {"out"}:
        raise UsageError(USAGE)
    out = Path(given.get("out", "sweeps/wandb"))
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(SWEEPS.glob("*.yaml")):
        write_whole(out / file.name, text(file, metric(file.stem)).encode())
        print(out / file.name)


def text(file: Path, metric: Metric) -> str:
    """The file that `wandb sweep` reads, for one of `sweeps/`: its question, and a grid of the values that it sweeps."""
    name = file.stem
    question = next(line for line in file.read_text().splitlines() if not line.startswith("# @package"))
    sweep = {
        "program": "qpa-train",
        "method": "grid",
        "metric": {"name": f"test/{metric.name}", "goal": goal(metric)},
        "parameters": {key: {"values": values} for key, values in grid(name).items()},
        "command": ["${env}", "${program}", f"sweeps={name}", "hydra.mode=RUN", "logger.mode=online", "${args_no_hyphens}"],
    }
    made = f"# Made by `python -m qpa.wandb_sweeps`. `wandb sweep sweeps/wandb/{name}.yaml`, then `wandb agent` with the name it prints."
    return f"{question}\n{made}\n{yaml.safe_dump(sweep, sort_keys=False, default_flow_style=None, width=WIDTH)}"


def metric(name: str) -> Metric:
    """What a sweep file's runs are judged by."""
    return find(_composed(name).task.kind).metric


def grid(name: str) -> dict[str, list[Any]]:
    """By key, the values that a sweep file sweeps over."""
    params = _composed(name).hydra.sweeper.params
    overrides = OverridesParser.create().parse_overrides([f"{key}={values}" for key, values in params.items()])
    return {override.get_key_element(): list(override.sweep_iterator()) for override in overrides}


def _composed(name: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=[f"sweeps={name}"], return_hydra_config=True)


script = cli.script(main)

if __name__ == "__main__":
    script()
