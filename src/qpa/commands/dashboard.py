"""`python -m qpa.dashboard entity=NAME [project=NAME]`: save the project's view in Weights & Biases: ratio against quality first.

Needs `make setup EXTRAS=dashboard`, an account (`wandb login`), and runs that were logged online or sent by `wandb sync`.
What is not given is as for runs: `WANDB_ENTITY`, `WANDB_PROJECT`, else the defaults of conf/logger/wandb.yaml.
"""

from typing import Any

from qpa.commands import cli
from qpa.config.composing import composed
from qpa.errors import UsageError, UserError
from qpa.tasks.task import Metric, find

USAGE = "usage: python -m qpa.dashboard entity=NAME [project=NAME]  (or WANDB_ENTITY, WANDB_PROJECT)"
NAME = "QPA against LoRA"


def main(arguments: list[str]) -> None:
    """Make the view and print its address."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    plain = composed("train", ["logger=wandb"])
    place = plain["logger"] | given
    if len(given) != len(arguments) or not place["entity"] or not given.keys() <= {"entity", "project"}:
        raise UsageError(USAGE)
    made = workspace(place["entity"], place["project"], find(plain["task"]["kind"]).metric)
    from wandb.errors import Error

    try:
        made.save()
    except (Error, OSError, ValueError) as error:
        raise UserError(f"the view could not be saved: {' '.join(str(error).split())}") from error
    print(made.url)


def workspace(entity: str, project: str, metric: Metric) -> Any:
    """The view, not saved: what a QPA user compares, then how it was trained.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as views
    except ImportError as error:
        raise UserError("the dashboard needs wandb-workspaces; run make setup EXTRAS=dashboard") from error
    test = f"test/{metric.name}"
    compared: list[Any] = [
        panels.ScatterPlot(title="parameters against quality", x="params/ratio", y=test, log_x=True),
        panels.ScatterPlot(title="trained numbers against quality", x="params/trainable", y=test, log_x=True),
        panels.BarPlot(title=f"test {metric.name}", metrics=[test]),
        panels.BarPlot(title="seconds per step", metrics=["seconds_per_step"]),
    ]
    trained: list[Any] = [panels.LinePlot(title=name, y=[name]) for name in (f"val/{metric.name}", "train/loss", "train/gradient_norm")]
    sections = [views.Section(name=name, panels=of, is_open=True) for name, of in (("compared", compared), ("training", trained))]
    return views.Workspace(entity=entity, project=project, name=NAME, sections=sections)


script = cli.script(main)

if __name__ == "__main__":
    script()
