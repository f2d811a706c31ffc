"""A comparison as one table: a row per setting at its best rate, beside plain PEFT. On the page, and as Markdown for documents."""

import statistics
from pathlib import Path

from qpa.report.compare import Comparison, Difference, Estimate, Setting
from qpa.report.verdict import label, sentences

HEADS = ("setting", "trained", "of plain PEFT", "test perplexity", "above plain PEFT", "gain kept", "s per step", "peak memory")
Row = tuple[str, ...]


def rows(comparison: Comparison) -> list[Row]:
    """As many strings as `HEADS` for plain PEFT and every other setting at its best rate, most trained numbers first.

    "± " is half a 95 % interval over seeds, their number in brackets; p is of the paired t-test. Time and memory are medians over seeds.
    Without plain PEFT there are all settings, compared with nothing.
    """
    plain = comparison.baseline
    if plain is None:
        return [_row(setting, None, comparison) for setting in reversed(comparison.settings)]
    beside = [(plain, None), *((d.setting, d) for d in comparison.against_baseline)]
    beside.sort(key=lambda pair: -pair[0].first.trainable)
    return [_row(setting, difference, comparison) for setting, difference in beside]


def write_markdown(path: Path, comparisons: list[Comparison]) -> None:
    """Every task's name, the first sentence of its verdict, and its table."""
    parts = [f"## {c.name}\n\n{sentences(c)[0]}\n\n{markdown(c)}\n" for c in comparisons]
    path.write_text("\n".join(parts), encoding="utf-8")


def markdown(comparison: Comparison) -> str:
    """The table alone."""
    lines = [HEADS, ("---",) * len(HEADS), *rows(comparison)]
    return "\n".join(f"| {' | '.join(cell.replace('|', ' ') for cell in line)} |" for line in lines)


def _row(setting: Setting, difference: Difference | None, comparison: Comparison) -> Row:
    run = setting.first
    plain = comparison.baseline.first.trainable if comparison.baseline else run.plain_peft
    times = [r.seconds_per_step for r in setting.runs if r.seconds_per_step]
    memory = statistics.median(r.peak_memory_bytes for r in setting.runs)
    return (
        label(setting, comparison),
        f"{run.trainable:,}",
        f"{run.trainable / plain:.2%}",
        f"{_estimate(setting.perplexity)} ({setting.perplexity.seeds})",
        _above(difference) if difference else "",
        _estimate(difference.gain_kept, percent=True) if difference and difference.gain_kept else "",
        f"{statistics.median(times):.2f}" if times else "",
        f"{memory / 2**30:.2f} GiB",
    )


def _above(difference: Difference) -> str:
    chance = "" if difference.p is None else f", p = {difference.p:.2g}"
    return _estimate(difference.difference) + chance


def _estimate(found: Estimate, *, percent: bool = False) -> str:
    scale, digits, unit = (100, 1, " %") if percent else (1, 2, "")
    width = "" if found.half_width is None else f" ± {scale * found.half_width:.{digits}f}"
    return f"{scale * found.mean:.{digits}f}{width}{unit}"
