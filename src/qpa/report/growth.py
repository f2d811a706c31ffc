"""How gains grow with what there is to train on: comparisons that differ in `data.train_bytes` alone, as a figure and a table."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from qpa.report.compare import Comparison, Setting
from qpa.report.looks import Figure, colour_of, styled
from qpa.report.runs import AMOUNT
from qpa.report.statistics import Estimate, estimate
from qpa.report.verdict import named, unit_of_differences
from qpa.tasks.task import Metric

DASHES = ("solid", "dash", "dot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down")
APART = 1.02  # the factor from one line's points to the next's, so that intervals do not hide one another


@dataclass(frozen=True)
class Growth:
    """Comparisons from little to much.

    Attributes:
        name: of the least's task, without the amount.
        metric: of all.
        amounts: bytes of training data.
        comparisons: one for each.
    """

    name: str
    metric: Metric
    amounts: tuple[int, ...]
    comparisons: tuple[Comparison, ...]


def growths(comparisons: Sequence[Comparison]) -> list[Growth]:
    """Of comparisons, those that have the same but for the amount, two at least."""
    families: dict[str, dict[int, Comparison]] = defaultdict(dict)
    for comparison in comparisons:
        first = comparison.settings[0].first
        if AMOUNT in first.config:
            families[first.family][first.config[AMOUNT]] = comparison
    return [_growth(found) for found in families.values() if len(found) > 1]


def _growth(found: dict[int, Comparison]) -> Growth:
    amounts, comparisons = zip(*sorted(found.items()), strict=True)
    first: Comparison = comparisons[0]
    return Growth(first.name.replace(f", the first {amounts[0]:,} bytes", ""), first.metric, amounts, comparisons)


def figure(growth: Growth) -> Figure:
    """What each setting gains over the base model, with its interval over seeds, by bytes of training data."""
    drawn, lines = Figure(), _lines(growth)
    seen: dict[str, int] = defaultdict(int)
    for number, (name, settings) in enumerate(lines.items()):
        latents = next(iter(settings.values())).first.latents
        gains = {amount: _gain(setting) for amount, setting in settings.items()}
        look = seen[latents]
        seen[latents] += 1
        drawn.add_scatter(
            x=[amount * APART ** (number - len(lines) / 2) for amount in gains],
            y=[gain.mean for gain in gains.values()],
            error_y=dict(type="data", array=[gain.half_width or 0 for gain in gains.values()], thickness=1, width=3),
            mode="lines+markers",
            line=dict(color=colour_of(latents), width=2, dash=DASHES[look % len(DASHES)]),
            marker=dict(color=colour_of(latents), size=8, symbol=SYMBOLS[look % len(SYMBOLS)]),
            name=name,
            hovertemplate=f"{name}<br>%{{x:.3s}}B, %{{y:.4g}}<extra></extra>",
        )
    ticks = [_bytes(amount) for amount in growth.amounts]
    drawn.update_xaxes(title="training data", type="log", tickvals=list(growth.amounts), ticktext=ticks)
    drawn.update_yaxes(title=f"gain over the base model, {_unit(growth.metric)}")
    return styled(drawn, 480 + 12 * len(lines))


def heads(growth: Growth) -> tuple[str, ...]:
    """What stands above the columns."""
    return "setting", "trained", *map(_bytes, growth.amounts)


def rows(growth: Growth) -> list[tuple[str, ...]]:
    """As many strings as `heads` for every setting: of the baseline the gain over the base model, of the others what they keep of it."""
    found = []
    for name, settings in _lines(growth).items():
        trained = next(iter(settings.values())).first.trainable
        cells = (_cell(comparison, settings.get(amount)) for amount, comparison in zip(growth.amounts, growth.comparisons, strict=True))
        found.append((name, f"{trained:,}", *cells))
    return found


def _cell(comparison: Comparison, setting: Setting | None) -> str:
    if setting is None:
        return ""
    if setting is comparison.baseline:
        return f"{_said(_gain(setting), 3)} {_unit(comparison.metric)}"
    (difference,) = (d for d in comparison.against_baseline if d.setting is setting) if comparison.baseline else (None,)
    kept = difference and difference.gain_kept
    if difference is None or kept is None:
        return f"{_said(_gain(setting), 3)} {_unit(comparison.metric)}"
    return f"{_said(kept.times(100), 1)} %" + (", as good" if difference.as_good else ", worse" if difference.significant else "")


def _lines(growth: Growth) -> dict[str, dict[int, Setting]]:
    """By name, the settings at their best rates that train the same numbers in the same way, by amount; most trained numbers first."""
    lines: dict[tuple[int, str], dict[int, Setting]] = defaultdict(dict)
    for amount, comparison in zip(growth.amounts, growth.comparisons, strict=True):
        modules = comparison.baseline.first.method.partition(" on ")[2] if comparison.baseline else ""
        for setting in comparison.best:
            run = setting.first
            method = run.method.removesuffix(f" on {modules}")
            name = f"plain {method}" if run.plain else named(run.latents)
            lines[-run.trainable, f"{name}, {run.trainable:,} numbers"].setdefault(amount, setting)
    return {name: settings for (_, name), settings in sorted(lines.items(), key=lambda item: item[0])}


def _gain(setting: Setting) -> Estimate:
    return estimate([run.metric.gain(run.base, run.test) for run in setting.runs])


def _said(found: Estimate, digits: int) -> str:
    return f"{found.mean:.{digits}f}" + ("" if found.half_width is None else f" ± {found.half_width:.{digits}f}")


def _unit(metric: Metric) -> str:
    """Of gains: of a log scale, nats per token of a perplexity."""
    return "nats" if metric.scale == "log" else unit_of_differences(metric) or metric.name


def _bytes(amount: int) -> str:
    return f"{amount / 1e6:g} MB" if amount >= 1e6 else f"{amount / 1e3:g} kB"
