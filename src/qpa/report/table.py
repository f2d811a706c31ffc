"""A comparison as one table: a row per setting at its best rate, beside the baseline. On the page, and as Markdown for documents."""

import math
import re
from pathlib import Path

from qpa.report import growth
from qpa.report.axes import axes
from qpa.report.compare import Comparison, Difference, Setting, tested
from qpa.report.growth import Growth
from qpa.report.statistics import MARGIN, Estimate, estimate
from qpa.report.verdict import decimals, label, sentences

LEGEND = (
    "Each setting at the rate, of those that were run, that validation prefers. ± is half a 95 % interval over seeds, their number in "
    "brackets; differences and gain are over the seeds that both have. p is of the paired t-test, corrected for how many the table has "
    "(Holm). Gain kept: the gain over the base model, as a share of the baseline's; of perplexity, and whatever else has a log scale, "
    f"the logarithm's. As good: within {MARGIN:.0%} of the other's gain by two one-sided t-tests (p < 0.05, Holm), which a small and "
    "certain difference can be too; where neither is shown, the verdict says what difference would have been seen, four times in five. "
    "Over other held-out data: the 95 % interval of a bootstrap over the test split's pieces, both sides reading the same. Time and memory "
    "are means over seeds."
)
Row = tuple[str, ...]
SAME = 1e-3  # relative: what the base model reaches on one text, on whatever processor


def heads(comparison: Comparison) -> Row:
    """What stands above the columns."""
    compared = (axes(comparison.metric)["test"].title, "above the baseline", "gain kept")
    return "setting", "trained", "of the baseline's", *compared, *_elsewhere(comparison), "s per step", "peak memory"


def rows(comparison: Comparison) -> list[Row]:
    """As many strings as `heads` for every setting at its best rate, the baseline among them, most trained numbers first.

    Without a baseline nothing is compared; `of the baseline's` is then the share of what plain PEFT would train. Last what the task's
    protocol names as reference: what is reached without any of it.
    """
    differences = {d.setting.first.setting: d for d in comparison.against_baseline}
    shown = sorted(comparison.best, key=lambda s: (-s.first.trainable, tested(s)))
    return [_row(setting, differences.get(setting.first.setting), comparison) for setting in shown] + _references(comparison)


def write_markdown(path: Path, comparisons: list[Comparison], growths: list[Growth]) -> None:
    """The growths' tables, then every task's name, verdict and table."""
    parts = [LEGEND + "\n"]
    for one in growths:
        parts.append(f"## How much data it takes: {_escaped(one.name)}\n\n{markdown_of(one)}\n")
    for comparison in comparisons:
        verdict = "\n\n".join(_escaped(sentence) for sentence in sentences(comparison))
        parts.append(f"## {_escaped(comparison.name)}\n\n{verdict}\n\n{markdown(comparison)}\n")
    path.write_text("\n".join(parts), encoding="utf-8")


def markdown(comparison: Comparison) -> str:
    """The table alone."""
    return _table(heads(comparison), rows(comparison))


def markdown_of(grown: Growth) -> str:
    """The table of how gains grow, alone."""
    return _table(growth.heads(grown), growth.rows(grown))


def _table(titles: Row, content: list[Row]) -> str:
    lines = [titles, ("---",) * len(titles), *(map(_escaped, row) for row in content)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    return re.sub(r"([\\|*_`<])", r"\\\1", text)


def _row(setting: Setting, difference: Difference | None, comparison: Comparison) -> Row:
    run, plain, test = setting.first, comparison.baseline, setting.test
    seconds, memory = (axes(comparison.metric)[key].of(setting) for key in ("seconds", "memory"))
    digits = decimals(test.mean, test.half_width, least=2)
    return (
        label(setting, comparison) + (", the baseline" if setting is plain else ""),
        f"{run.trainable:,}",
        f"{run.trainable / (plain.first.trainable if plain else run.plain_peft):.2%}",
        f"{_estimate(test, digits)} ({test.seeds})",
        _above(difference, digits) if difference else "",
        _kept(difference) if difference else "",
        *(_forgotten(setting) for _ in _elsewhere(comparison)),
        f"{seconds:.2f}" if math.isfinite(seconds) else "",
        f"{memory:.2f} GiB",
    )


def _elsewhere(comparison: Comparison) -> Row:
    """The head of a column for what adapting costs on another text, where any run has one."""
    bases = [run.forgetting[0] for setting in comparison.settings for run in setting.runs if run.forgetting]
    one = bases and max(bases) - min(bases) <= SAME * max(bases)  # of two texts no mean is taken
    return (f"another text (base {bases[0]:.{decimals(bases[0], least=2)}f})",) if one else ()


def _forgotten(setting: Setting) -> str:
    values = [run.forgetting[1] for run in setting.runs if run.forgetting]
    if not values:
        return ""
    found = estimate(values)
    return f"{_estimate(found, decimals(found.mean, found.half_width, least=2))} ({found.seeds})"


def _references(comparison: Comparison) -> list[Row]:
    reached = comparison.settings[0].first.protocol.get("reference", {})
    values = {who: found["test"][comparison.metric.name] for who, found in reached.items()}
    empty = ("",) * (len(heads(comparison)) - 4)
    return [(who, "", "", f"{value:.{decimals(value, least=2)}f}", *empty) for who, value in values.items()]


def _above(difference: Difference, digits: int) -> str:
    found = difference.difference
    seeds = "" if found.seeds == len(difference.setting.runs) else f" ({found.seeds})"
    return _estimate(found, digits) + seeds + ("" if difference.p is None else f", p = {difference.p:.2g}")


def _kept(difference: Difference) -> str:
    if difference.gain_kept is None:
        return ""
    return f"{_estimate(difference.gain_kept.times(100), 1)} %" + (", as good" if difference.as_good else "")


def _estimate(found: Estimate, digits: int) -> str:
    return f"{found.mean:.{digits}f}" + ("" if found.half_width is None else f" ± {found.half_width:.{digits}f}")
