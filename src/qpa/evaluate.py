"""`python -m qpa.evaluate run=DIR [KEY=VALUE ...]`: perplexity of a finished run's adapter and of its base model.

The adapter is read as any user would read it, by stock peft from `DIR/adapter`. Other text: `data=text
data.train_files=[...] data.test_files=[...]`, or `data.test_files=[...]` alone.
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qpa import cli, preflight, source, text, tokenizer
from qpa.config import Config
from qpa.errors import ConfigError
from qpa.files import write_json
from qpa.verbs import named_run

USAGE = "usage: python -m qpa.evaluate run=DIR [KEY=VALUE ...]"


def main(arguments: list[str]) -> None:
    """Evaluate, print a table, and write `evaluation.json` into the run's folder."""
    folder, config, _ = named_run(arguments, usage=USAGE)
    if not (folder / "adapter").is_dir():
        raise ConfigError("run", folder, "has no adapter/; python -m qpa.export run=DIR makes it from the best checkpoint")
    preflight.check(config)
    found = evaluate(config, folder / "adapter")
    write_json(folder / "evaluation.json", {"data": config.data.model_dump(), **found})
    table = Table("", "base model", "adapted", "tokens", title=str(folder), title_justify="left")
    for split, numbers in found.items():
        tokens = f"{numbers['tokens']:,}" if "tokens" in numbers else "padding too"
        table.add_row(f"{split} perplexity", f"{numbers['base_perplexity']:.3f}", f"{numbers['perplexity']:.3f}", tokens)
    Console(soft_wrap=True).print(table)


def evaluate(config: Config, adapter: Path) -> dict[str, dict[str, float | int]]:
    """By split, `perplexity`, `base_perplexity` and `tokens` of a saved adapter on the config's text; `legacy` as in `training`."""
    texts = text.read(config.data)
    base_folder = source.folder(config)
    encoder = tokenizer.load(base_folder)
    from qpa import data, job  # seconds of imports, after the checks

    windows = data.windows(config, texts, encoder, source.cache_folder(config))
    return job.evaluate(config, base_folder=base_folder, windows=windows, adapter=adapter)


if __name__ == "__main__":
    with cli.one_line_errors():
        main(sys.argv[1:])
