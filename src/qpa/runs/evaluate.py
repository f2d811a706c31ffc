"""Measuring a finished run's adapter again, on the run's own held-out data or on other."""

from pathlib import Path

from qpa.config import Config
from qpa.runs.measure import measure
from qpa.runs.restored import here
from qpa.tasks.task import Measured, Task
from qpa.training import loggers
from qpa.training.loggers import Logged
from qpa.training.quiet import quiet
from qpa.training.trainer import make_trainer


def evaluate(config: Config, folder: Path) -> tuple[Task, Measured]:
    """What a run's exported adapter and its base model reach on the config's data.

    Args:
        config: of the run, perhaps with other data.
        folder: of the run.
    """
    quiet()
    plan = here(config)
    task = plan.task
    task.read()
    task.prepare()
    trainer = make_trainer(plan.config.trainer, folder, steps=task.steps, context=plan.context, metric=task.metric, callbacks=[])
    logged = Logged(plan.config.logger, plan.config.model_dump(by_alias=True), plan.context, task.metric, "evaluate")
    with loggers.opened(logged, folder / "evaluation") as opened:
        trainer.loggers = opened
        found = measure(plan, trainer, folder / "adapter")
        numbers = {f"{split}/{key}": value for split, several in found.items() for key, value in several.items()}
        loggers.summarise(opened, {key: value for key, value in numbers.items() if not isinstance(value, list)})
    return task, found
