"""The closing table of a run, made from its record alone."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qpa.runs.record import Record


def show(result: Record, folder: Path) -> None:
    """Print the table; the last line is the run's folder."""
    console = Console(soft_wrap=True)
    console.print(build(result))
    print(folder)


def build(result: Record) -> Table:
    """What a user wants to know of a finished run."""
    ours = result["qpa"]
    params, test, val = ours["params"], ours["test"], ours["val"]
    latents = result["run_info"]["train_config"]["latents"]["kind"]
    features = "circuit angles" if latents == "circuit" else f"{latents} in the circuit's place"
    table = Table(title=escape(result["run_info"]["experiment_name"]), show_header=False, title_justify="left", pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_row("test perplexity, base model", f"{test['base_perplexity']:.3f}")
    table.add_row("test perplexity, adapted", f"[bold]{test['perplexity']:.3f}[/bold]")
    table.add_row("validation, base -> adapted", f"{val['base_perplexity']:.3f} -> {val['perplexity']:.3f}")
    if "gain_kept" in test:
        kept = "-" if test["gain_kept"] is None else f"[bold]{test['gain_kept']:.1%}[/bold]"
        table.add_row(escape(f"gain kept of {ours['baseline']['name']}"), kept)
    if other := ours.get("forgetting"):
        table.add_row("another text, base -> adapted", f"{other['base_perplexity']:.3f} -> {other['perplexity']:.3f}")
    table.add_row("test tokens", f"{test['tokens']:,}", end_section=True)
    table.add_row(f"trained: {features}", f"{params['circuit']:,}")
    table.add_row("trained: mapper", f"{params['mapper']:,}")
    table.add_row("trained: total", f"[bold]{params['trainable']:,}[/bold]")
    table.add_row("plain PEFT would train", f"{params['plain_peft']:,}")
    table.add_row("ratio", f"[bold]{params['ratio']:.2%}[/bold]", end_section=True)
    if used := ours.get("usage"):
        table.add_row("circuits run", f"{used['circuits']:,} in {used['jobs']:,} jobs")
        table.add_row("shots", f"{used['shots']:,}", end_section=True)
    table.add_row("time per step", "-" if ours["seconds_per_step"] is None else f"{ours['seconds_per_step']:.2f} s")
    table.add_row("peak memory", f"{ours['peak_memory_bytes'] / 2**30:.2f} GiB")
    table.add_row("whole run", f"{result['run_info']['total_time'] / 60:.1f} min")
    table.add_row("plain PEFT adapter", f"adapter/ ({result['train_info']['file_size'] / 1e6:.1f} MB)")
    return table
