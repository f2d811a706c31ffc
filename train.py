"""Fine-tune a language model: `python train.py [GROUP=CHOICE] [KEY=VALUE] ...`; `--help` lists the groups."""

import hydra
from omegaconf import DictConfig

from qpa import cli, config


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: DictConfig) -> None:
    """Check the config, then train."""
    with cli.one_line_errors():
        checked = config.parse(composed)
        from qpa import run  # after the check: what it imports takes seconds

        run.train(checked)


if __name__ == "__main__":
    with cli.one_line_errors():
        main()
