"""`python -m qpa.evaluate run=DIR [tasks=[...]] [KEY=VALUE ...]`: a finished run's metrics again, or other text's.

The adapter is read as any user would read it, by stock peft from `DIR/adapter`. Other text: `data=text
data.train_files=[...] data.test_files=[...]`, or `data.test_files=[...]` alone. With `tasks`, tasks of the LM Evaluation
Harness instead, by name or as task files of your own.
"""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qpa.commands import cli
from qpa.commands.composing import named_run
from qpa.config import Config
from qpa.errors import ConfigError
from qpa.files import write_json

USAGE = "usage: python -m qpa.evaluate run=DIR [tasks=[NAME,FILE.yaml,...]] [KEY=VALUE ...]"


def main(arguments: list[str]) -> None:
    """Evaluate, print a table, and write `evaluation.json` (of tasks: `tasks.json`) into the run's folder."""
    folder, config, options = named_run(arguments, usage=USAGE, options=("tasks",))
    if not (folder / "adapter").is_dir():
        raise ConfigError("run", folder, "has no adapter/; python -m qpa.export run=DIR makes it from the best checkpoint")
    if "tasks" in options:
        show_tasks(config, folder, [task.strip() for task in options["tasks"].strip("[]").split(",")])
    else:
        show_metrics(config, folder)


def show_metrics(config: Config, folder: Path) -> None:
    """On the config's held-out data."""
    from qpa.runs.evaluate import evaluate  # seconds of imports, after the run's config is known to be one

    task, found = evaluate(config, folder)
    write_json(folder / "evaluation.json", {"data": config.data.model_dump(), **found})
    table = Table("", "base model", "adapted", task.counted, title=escape(str(folder)), title_justify="left")
    for split, numbers in found.items():
        for name in (name for name, value in numbers.items() if f"base_{name}" in numbers and not isinstance(value, list)):
            counted = f"{int(numbers[task.counted]):,}" if task.counted in numbers else ""
            table.add_row(f"{split} {name}", f"{numbers[f'base_{name}']:.3f}", f"{numbers[name]:.3f}", counted)
    Console(soft_wrap=True).print(table)


def show_tasks(config: Config, folder: Path, names: list[str]) -> None:
    """The harness's tasks on a run's adapter and its base model."""
    from qpa.adapters import base_weights, saved
    from qpa.runs.restored import here
    from qpa.tasks.language import harness
    from qpa.tasks.language.task import Language
    from qpa.training.quiet import quiet

    quiet()
    task = here(config).task
    if not isinstance(task, Language):
        raise ConfigError(
            "tasks", ",".join(names), f"the LM Evaluation Harness has tasks for language models, this run is task={config.task.kind}"
        )
    own = base_weights.changes_base(config.peft)
    models = {"adapted": saved.load_adapter(task.base(own=own), folder / "adapter"), "base": task.base()}
    found = {kind: harness.evaluate(model, task.encoder, names, batch_size=config.data.batch_size) for kind, model in models.items()}
    write_json(folder / "tasks.json", found)
    table = Table("task", "metric", "base model", "adapted", title=escape(str(folder)), title_justify="left")
    for name, metrics in found["adapted"].items():
        for metric, value in metrics.items():
            table.add_row(name, metric, f"{found['base'][name][metric]:.4g}", f"{value:.4g}")
    Console(soft_wrap=True).print(table)


script = cli.script(main)

if __name__ == "__main__":
    script()
