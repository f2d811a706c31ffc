"""How gains grow with what there is to train on: comparisons that differ in `data.train_bytes` alone, as a figure and a table."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from qpa.report.compare import Comparison, Setting
from qpa.report.looks import Figure, colour_of, styled
from qpa.report.runs import AMOUNT, Run
from qpa.report.statistics import Estimate, estimate
from qpa.report.verdict import label, named, unit_of_differences
from qpa.tasks.task import Metric

DASHES = ("solid", "dash", "dot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down")
PLAIN = ("#222222", "#7f7f7f", "#8c564b", "#b8a800", "#3a6b6b")  # plain methods are many here, and apart from one another
APART = 1.04  # the factor from one line's points to the next's, so that intervals do not hide one another


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
        run = _first(settings)
        gains = {amount: _gain(setting) for amount, setting in settings.items()}
        colour = PLAIN[seen[run.latents] % len(PLAIN)] if run.plain else colour_of(run.latents)
        look = seen[run.latents]
        seen[run.latents] += 1
        drawn.add_scatter(
            x=[amount * APART ** (number - (len(lines) - 1) / 2) for amount in gains],
            y=[gain.mean for gain in gains.values()],
            error_y=dict(type="data", array=[gain.half_width or 0 for gain in gains.values()], thickness=1, width=3),
            mode="lines+markers",
            line=dict(color=colour, width=2, dash=DASHES[look % len(DASHES)]),
            marker=dict(color=colour, size=8, symbol=SYMBOLS[look % len(SYMBOLS)]),
            name=name,
            customdata=[_bytes(amount) for amount in gains],
            hovertemplate=f"{name}<br>%{{customdata}}: %{{y:.4g}}<extra></extra>",
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
        trained = _first(settings).trainable
        cells = (_cell(comparison, settings.get(amount)) for amount, comparison in zip(growth.amounts, growth.comparisons, strict=True))
        found.append((name.removesuffix(f", {trained:,} numbers"), f"{trained:,}", *cells))
    return found


def _cell(comparison: Comparison, setting: Setting | None) -> str:
    if setting is None:
        return ""
    if setting is comparison.baseline:
        return f"{_said(_gain(setting), 3)} {_unit(comparison.metric)}"
    difference = next((d for d in comparison.against_baseline if d.setting is setting), None)
    kept = difference and difference.gain_kept
    if difference is None or kept is None:
        return f"{_said(_gain(setting), 3)} {_unit(comparison.metric)}"
    words = [("better" if difference.better else "worse")] * difference.significant + ["as good"] * difference.as_good
    return ", ".join([f"{_said(kept.times(100), 1)} %", *words])


def _lines(growth: Growth) -> dict[str, dict[int, Setting]]:
    """By name, the settings at their best rates that differ in the amount alone; most trained numbers first."""
    lines: dict[str, dict[int, Setting]] = defaultdict(dict)
    for amount, comparison in zip(growth.amounts, growth.comparisons, strict=True):
        for setting in comparison.best:
            lines[setting.first.line][amount] = setting
    comparisons = dict(zip(growth.amounts, growth.comparisons, strict=True))
    told = [(settings, label(settings[min(settings)], comparisons[min(settings)])) for settings in lines.values()]
    told.sort(key=lambda pair: (-_first(pair[0]).trainable, pair[1]))
    names = [_name(_first(settings), growth) for settings, _ in told]
    apart = [name if names.count(name) == 1 else longer for name, (_, longer) in zip(names, told, strict=True)]
    return {f"{name}, {_first(settings).trainable:,} numbers": settings for name, (settings, _) in zip(apart, told, strict=True)}


def _first(settings: dict[int, Setting]) -> Run:
    return settings[min(settings)].first


def _name(run: Run, growth: Growth) -> str:
    baseline = growth.comparisons[0].baseline
    modules = baseline.first.method.partition(" on ")[2] if baseline else ""
    return f"plain {run.method.removesuffix(f' on {modules}')}" if run.plain else named(run.latents)


def _gain(setting: Setting) -> Estimate:
    return estimate([run.metric.gain(run.base, run.test) for run in setting.runs])


def _said(found: Estimate, digits: int) -> str:
    return f"{found.mean:.{digits}f}" + ("" if found.half_width is None else f" ± {found.half_width:.{digits}f}")


def _unit(metric: Metric) -> str:
    """Of gains: of a log scale, nats per token of a perplexity."""
    return "nats" if metric.scale == "log" else unit_of_differences(metric) or metric.name


def _bytes(amount: int) -> str:
    return f"{amount / 1e6:.3g} MB" if amount >= 1e6 else f"{amount / 1e3:.3g} kB"
