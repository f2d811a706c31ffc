"""Fine-tune a model: `python train.py [GROUP=CHOICE] [KEY=VALUE] ...`; `--help` lists the groups."""

import hydra
from omegaconf import DictConfig

from qpa.commands.cli import one_line_errors
from qpa.commands.overview import overview
from qpa.commands.train import train

kept = {}  # between the jobs of a multirun


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: DictConfig) -> None:
    """One run, or one job of a multirun."""
    train(composed, kept)


if __name__ == "__main__":
    with one_line_errors(), overview():
        main()
