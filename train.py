"""Fine-tune a language model: `python train.py [GROUP=CHOICE] [KEY=VALUE] ...`; `--help` lists the groups."""

import hydra
from omegaconf import DictConfig

from qpa.commands import cli
from qpa.commands.overview import overview
from qpa.config import Config
from qpa.runs import sweep


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: DictConfig) -> None:
    """Check the config, then train."""
    sweep.run_job(composed, train)


def train(config: Config) -> None:
    """Imported only now, after the check: what it imports takes seconds."""
    from qpa.runs import run

    run.train(config)


if __name__ == "__main__":
    with cli.one_line_errors(), overview():
        main()
