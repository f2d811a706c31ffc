"""The sweeps that W&B's agents run are those of `sweeps/`."""

from itertools import islice, product
from pathlib import Path

import pytest
import yaml
from conftest import fingerprint

from qpa.commands import wandb_sweeps
from qpa.config import parse
from qpa.config.composing import composed
from qpa.errors import UsageError
from qpa.tasks.task import Metric

QUESTIONS = sorted(wandb_sweeps.SWEEPS.glob("*.yaml"))
JOBS = 4  # of a question


def test_committed_files_are_what_the_command_makes(tmp_path: Path) -> None:
    wandb_sweeps.main([f"out={tmp_path}"])
    committed = {file.name: file.read_text() for file in (wandb_sweeps.SWEEPS / "wandb").glob("*.yaml")}
    assert len(committed) == len(QUESTIONS)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == committed


@pytest.mark.few(2)
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda file: file.stem)
def test_agents_job_is_the_same_run_as_hydras(question: Path) -> None:
    sweep = yaml.safe_load((wandb_sweeps.SWEEPS / "wandb" / question.name).read_text())
    fixed = [word for word in sweep["command"] if "=" in word]
    hydras = yaml.safe_load(question.read_text())["hydra"]["sweeper"]["params"]
    values = {key: of["values"] for key, of in sweep["parameters"].items()}
    assert all(len(values[key]) == len(str(written).split(",")) for key, written in hydras.items())
    for job in islice(product(*values.values()), JOBS):
        chosen = [f"{key}={value}" for key, value in zip(values, job, strict=True)]
        by_wandb = parse(composed("train", [*fixed, *chosen]))
        by_hydra = parse(composed("train", [f"sweeps={question.stem}", *chosen]))
        assert (fingerprint(by_wandb), by_wandb.name) == (fingerprint(by_hydra), by_hydra.name)
        assert by_wandb.logger.model_dump() == by_hydra.logger.model_dump() | {"mode": "online"}
        assert by_wandb.study == question.stem


def test_goal_is_the_metrics(tmp_path: Path) -> None:
    for better, goal in (("lower", "minimize"), ("higher", "maximize")):
        sweep = yaml.safe_load(wandb_sweeps.text(QUESTIONS[0], Metric("accuracy", "%", better)))
        assert sweep["metric"] == {"name": "test/accuracy", "goal": goal}


def test_wrong_word_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="usage"):
        wandb_sweeps.main(["sweeps/seeds.yaml"])
