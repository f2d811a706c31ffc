"""`python -m qpa.evaluate run=DIR [tasks=[...]] [KEY=VALUE ...]`: perplexity of a finished run's adapter and of its base model.

The adapter is read as any user would read it, by stock peft from `DIR/adapter`. Other text: `data=text
data.train_files=[...] data.test_files=[...]`, or `data.test_files=[...]` alone. With `tasks`, tasks of the LM Evaluation
Harness instead, by name or as task files of your own.
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qpa.commands import cli
from qpa.commands.composing import named_run
from qpa.config import Config
from qpa.errors import ConfigError
from qpa.files import write_json
from qpa.runs import preflight
from qpa.tasks.language import source, text, tokenizer

USAGE = "usage: python -m qpa.evaluate run=DIR [tasks=[NAME,FILE.yaml,...]] [KEY=VALUE ...]"


def main(arguments: list[str]) -> None:
    """Evaluate, print a table, and write `evaluation.json` (of tasks: `tasks.json`) into the run's folder."""
    folder, config, options = named_run(arguments, usage=USAGE, options=("tasks",))
    if not (folder / "adapter").is_dir():
        raise ConfigError("run", folder, "has no adapter/; python -m qpa.export run=DIR makes it from the best checkpoint")
    if "tasks" in options:
        show_tasks(config, folder, [task.strip() for task in options["tasks"].strip("[]").split(",")])
    else:
        show_perplexity(config, folder)


def show_perplexity(config: Config, folder: Path) -> None:
    """On the config's text."""
    preflight.check(config)
    found = evaluate(config, folder / "adapter")
    write_json(folder / "evaluation.json", {"data": config.data.model_dump(), **found})
    table = Table("", "base model", "adapted", "tokens", title=escape(str(folder)), title_justify="left")
    for split, numbers in found.items():
        tokens = f"{numbers['tokens']:,}" if "tokens" in numbers else "padding too"
        table.add_row(f"{split} perplexity", f"{numbers['base_perplexity']:.3f}", f"{numbers['perplexity']:.3f}", tokens)
    Console(soft_wrap=True).print(table)


def evaluate(config: Config, adapter: Path) -> dict[str, dict[str, float | int]]:
    """By split, `perplexity`, `base_perplexity` and `tokens` of a saved adapter on the config's text; `legacy` as in `training`."""
    texts = text.read(config.data)
    base_folder = source.folder(config)
    encoder = tokenizer.load(base_folder)
    from qpa.runs import job  # seconds of imports, after the checks
    from qpa.tasks.language import windows as data

    windows = data.windows(config, texts, encoder, source.cache_folder(config))
    return job.evaluate(config, base_folder=base_folder, windows=windows, adapter=adapter)


def show_tasks(config: Config, folder: Path, names: list[str]) -> None:
    """The harness's tasks on a run's adapter and its base model."""
    base_folder = source.folder(config)
    encoder = tokenizer.load(base_folder)
    from qpa.adapters import methods as peft_model
    from qpa.runs import parts as assembly
    from qpa.tasks.language import harness as tasks
    from qpa.training.quiet import quiet

    quiet()
    base = assembly.shared_base(config, base_folder)
    adapted = peft_model.load_adapter(assembly.base_to_adapt(config, base_folder), folder / "adapter")
    found = {
        kind: tasks.evaluate(model, encoder, names, batch_size=config.data.batch_size)
        for kind, model in {"adapted": adapted, "base": base}.items()
    }
    write_json(folder / "tasks.json", found)
    table = Table("task", "metric", "base model", "adapted", title=escape(str(folder)), title_justify="left")
    for task, metrics in found["adapted"].items():
        for metric, value in metrics.items():
            table.add_row(task, metric, f"{found['base'][task][metric]:.4g}", f"{value:.4g}")
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    with cli.one_line_errors():
        main(sys.argv[1:])
