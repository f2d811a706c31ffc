"""Fine-tune a language model: `python train.py [GROUP=CHOICE] [KEY=VALUE] ...`; `--help` lists the groups."""

import hydra
from omegaconf import DictConfig

from qpa import cli, config, sweep


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: DictConfig) -> None:
    """Check the config, then train."""
    with sweep.job(fail_fast=composed.fail_fast is True) as job:
        job.config = config.parse(composed)
        from qpa import run  # after the check: what it imports takes seconds

        run.train(job.config)


if __name__ == "__main__":
    with cli.one_line_errors(), sweep.overview():
        main()
