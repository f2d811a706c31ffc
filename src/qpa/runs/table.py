"""The closing table of a run, made from its record alone."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qpa.config.earlier import judged
from qpa.config.identity import NONE, standing
from qpa.runs import answers
from qpa.runs.record import Record
from qpa.tasks.task import Metric, find

ANSWERS = "answers"  # the group of a record that says how good they are
SHOWN, WIDTH, LONGEST = 3, 80, 400  # answers of the closing table: how many, and characters of a line and of each


def show(result: Record, folder: Path) -> None:
    """Print the table; the last line is the run's folder."""
    console = Console(soft_wrap=True)
    console.print(build(result))
    if samples := answers.read(folder)[:SHOWN]:
        console.print(_answered(samples))
    print(folder)


def _answered(samples: list[answers.Sample]) -> Table:
    """What was asked and answered."""
    table = Table(show_header=False, pad_edge=False, show_lines=False)
    table.add_column(style="dim")
    table.add_column(max_width=WIDTH, overflow="fold")
    for sample in samples:
        for name in ("prompt", "reference", "base", "adapted"):
            table.add_row(name, escape(_shortened(sample[name])), end_section=name == "adapted")
    return table


def _shortened(text: str) -> str:
    """In a few lines: of a long prompt, its end."""
    text = text.strip()
    return text if len(text) <= LONGEST else f"... {text[-LONGEST:]}"


def build(result: Record) -> Table:
    """What a user wants to know of a finished run."""
    ours = result["qpa"] | judged(result)
    table = Table(title=escape(result["run_info"]["experiment_name"]), show_header=False, title_justify="left", pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    _measured(table, ours)
    _trained(table, ours["params"], result["run_info"]["train_config"])
    if used := ours.get("usage"):
        table.add_row("circuits run", f"{used['circuits']:,} in {used['jobs']:,} jobs")
        table.add_row("shots", f"{used['shots']:,}", end_section=True)
    _length(table, ours)
    table.add_row("time per step", "-" if ours["seconds_per_step"] is None else f"{ours['seconds_per_step']:.2f} s")
    table.add_row("peak memory", f"{ours['peak_memory_bytes'] / 2**30:.2f} GiB")
    table.add_row("whole run", f"{result['run_info']['total_time'] / 60:.1f} min")
    table.add_row("plain PEFT adapter", f"adapter/ ({result['train_info']['file_size'] / 1e6:.1f} MB)")
    return table


def _measured(table: Table, ours: Record) -> None:
    """The task's metric, before and after."""
    task = find(ours["task"]["kind"])
    metric = Metric(**ours["metric"])
    name, test = metric.name, ours["test"]
    unit = f", {metric.unit}" if metric.unit else ""
    table.add_row(f"test {name}{unit}, base model", f"{test[f'base_{name}']:.3f}")
    table.add_row(f"test {name}{unit}, adapted", f"[bold]{test[name]:.3f}[/bold]")
    table.add_row("validation, base -> adapted", _change(ours["val"], name))
    for group, title in (("test", "test"), (ANSWERS, "answers")):
        for other in _compared(ours.get(group, {}), but=name):
            table.add_row(f"{title} {other.replace('_', ' ')}, base -> adapted", _change(ours[group], other))
    if "gain_kept" in test:
        kept = "-" if test["gain_kept"] is None else f"[bold]{test['gain_kept']:.1%}[/bold]"
        table.add_row(escape(f"gain kept of {ours['baseline']['name']}"), kept)
    for split, title in task.also.items():
        if found := ours.get(split):
            table.add_row(f"{title}, base -> adapted", _change(found, name))
    for said, value in task.remarks(ours):
        table.add_row(escape(said), escape(value))
    table.add_row(f"test {task.counted}", f"{int(test[task.counted]):,}", end_section=True)


def _compared(found: Record, *, but: str) -> list[str]:
    """What else was measured of both models."""
    return [name for name, value in found.items() if f"base_{name}" in found and name != but and isinstance(value, float)]


def _length(table: Table, ours: Record) -> None:
    """How long it was trained, and why no longer; not on record of older runs."""
    if steps := ours.get("steps"):
        epochs = "" if ours["epochs"] is None else f", {ours['epochs']:.3g} epochs"
        table.add_row("steps", f"{steps:,}{epochs}")
    if ours.get("stopped"):
        table.add_row("ended early", escape(ours["stopped"]))


def _change(found: Record, name: str) -> str:
    return f"{found[f'base_{name}']:.3f} -> {found[name]:.3f}"


def _trained(table: Table, params: Record, config: Record) -> None:
    """What the trained numbers are, beside what plain PEFT would train."""
    kind = standing(config)
    features = "circuit angles" if kind in (NONE, "circuit") else f"{kind} in the circuit's place"
    table.add_row(f"trained: {features}", f"{params['circuit']:,}")
    table.add_row("trained: mapper", f"{params['mapper']:,}")
    if beside := params.get("beside"):
        table.add_row("trained: plainly beside them (head)", f"{beside:,}")
    table.add_row("trained: total", f"[bold]{params['trainable']:,}[/bold]")
    table.add_row("plain PEFT would train", f"{params['plain_peft']:,}")
    table.add_row("ratio", f"[bold]{params['ratio']:.2%}[/bold]", end_section=True)
