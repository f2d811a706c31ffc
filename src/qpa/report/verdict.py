"""The comparison in words, from its numbers alone."""

import math

from rich.console import Console
from rich.markup import escape

from qpa.report.compare import Comparison, Difference, Setting, told
from qpa.report.runs import Found
from qpa.report.statistics import MARGIN
from qpa.tasks.task import Metric

NAMES = {"circuit": "the circuit", "frozen_circuit": "an untrained circuit", "table": "a learned table", "mlp": "a small MLP"}
NAMES |= {"mps": "a matrix-product state", "zeros": "nothing in its place", "random": "random numbers"}
NAMES |= {"shared_table": "a table of as many numbers", "random_features": "random features", "subspace": "a random subspace"}

MOST_TOLD = 6  # settings in words; where there are more, those on the front


def show(found: Found, comparisons: list[Comparison]) -> None:
    """Print the whole verdict, and what was left out of it."""
    console = Console(soft_wrap=True, highlight=False)
    for line in words(found, comparisons):
        console.print(escape(line))


def words(found: Found, comparisons: list[Comparison]) -> list[str]:
    """The lines of `show`."""
    lines = []
    if len(comparisons) > 1:
        lines.append(f"{len(comparisons)} tasks (model, data, how much is read): runs are compared within each, not across.")
    for comparison in comparisons:
        runs = sum(len(s.runs) for s in comparison.settings)
        lines += [f"{comparison.name}: {runs} run(s) of {len(comparison.settings)} setting(s)"]
        lines += [f"  {sentence}" for sentence in sentences(comparison)]
    lines += [f"Not finished: {folder} ({reason})" for folder, reason in found.unfinished.items()]
    return lines + [f"Damaged, left out: {folder} ({reason})" for folder, reason in found.damaged.items()]


def named(latents: str) -> str:
    """What stands in the circuit's place, in words; what a plug-in brings goes by its own name."""
    return NAMES.get(latents, latents)


def decimals(value: float, width: float | None = None, *, least: int) -> int:
    """After the point, for three digits of a value, or of the half width of its interval where that is greater."""
    size = max(abs(value), width or 0.0)
    return least if size == 0 else max(least, 2 - math.floor(math.log10(size)))


def unit_of_differences(metric: Metric) -> str:
    """Of per cents these are points."""
    return "points" if metric.unit == "%" else metric.unit


def label(setting: Setting, comparison: Comparison) -> str:
    """A setting's name in a figure: what tells it from the task's other settings."""
    run = setting.first
    methods = {s.first.method for s in comparison.settings if s.first.latents == run.latents}
    if comparison.baseline:
        methods.add(comparison.baseline.first.method)
    place = named(run.latents) if len(methods) == 1 else f"{run.method}, {named(run.latents)}"
    kind = f"plain {run.method}" if run.plain else place
    values = [f"{key.split('.')[-1]}={value}" for key, value in told(setting, comparison.varied[run.latents])]
    return f"{kind} ({', '.join(values)})" if values else kind


def sentences(comparison: Comparison) -> list[str]:
    """The circuit's case first, then plain PEFT, then what is on the Pareto front against it."""
    lines = _against_controls(comparison) if comparison.against_controls else []
    if comparison.baseline is None:
        return [*lines, "No plain PEFT run of this task: nothing to compare with (generator=none)."]
    plain = comparison.baseline
    lines.append(f"Plain {plain.first.method}, {plain.first.trainable:,} numbers: {_estimate(plain)}.")
    told = [d for d in comparison.against_baseline if d.setting in comparison.front or len(comparison.against_baseline) <= MOST_TOLD]
    lines += [_against_baseline(difference, comparison) for difference in told]
    if others := len(comparison.against_baseline) - len(told):
        lines.append(f"{others} other setting{'s are' if others > 1 else ' is'} not on the Pareto front.")
    return lines


def _against_controls(comparison: Comparison) -> list[str]:
    """Whether the circuit matters, a sentence for each circuit; the numbers in one more."""
    circuits: dict[str, list[Difference]] = {}
    for difference in comparison.against_controls:
        circuits.setdefault(difference.setting.first.setting, []).append(difference)
    lines = []
    for differences in circuits.values():
        groups: dict[str, list[Difference]] = {}
        for difference in differences:
            groups.setdefault(_judged(difference), []).append(difference)
        claims = [f"{words} {_listed([named(d.against.first.latents) for d in group])}" for words, group in groups.items()]
        numbers = [f"against {named(d.against.first.latents)}{_other_rate(d)} {_signed(d)}" for d in differences]
        name = "the circuit" if len(circuits) == 1 else label(differences[0].setting, comparison)
        lines += [f"{name[0].upper()}{name[1:]} {'; it '.join(claims)}.", f"Its {comparison.metric.name}: {'; '.join(numbers)}."]
    return lines


def _other_rate(difference: Difference) -> str:
    """Said where both have no rate in common."""
    ours, theirs = difference.setting.first.learning_rate, difference.against.first.learning_rate
    return "" if ours == theirs else f", whose rate is {theirs:g} and not {ours:g},"


def _judged(difference: Difference) -> str:
    seeds = difference.difference.seeds
    if seeds == 1:
        return "cannot be told by one seed from"
    if difference.significant:
        better = "better than" if difference.better else "worse than"
        return f"is {better}" + (f" (by less than {MARGIN:.0%} of its gain)" if difference.as_good else "")
    return "does as well as" if difference.as_good else f"is not distinguishable, with {seeds} seeds, from"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _against_baseline(difference: Difference, comparison: Comparison) -> str:
    share = difference.setting.first.trainable / difference.against.first.trainable
    name = label(difference.setting, comparison)
    return f"At {share:.2%} of its numbers, {name}: {_estimate(difference.setting)}, {_signed(difference)}{_gain(difference)}."


def _gain(difference: Difference) -> str:
    kept = difference.gain_kept
    if kept is None:
        return ""
    return (
        f"; {kept.mean:.1%}"
        + (f" ± {_short(100 * kept.half_width, 2)} points" if kept.half_width is not None else "")
        + " of its gain is kept"
    )


def _signed(difference: Difference) -> str:
    found, unit = difference.difference, unit_of_differences(difference.setting.first.metric)
    amount = f"{_short(abs(found.mean), 3)} {unit}".rstrip() + (" lower" if found.mean < 0 else " higher")
    if found.half_width is None:
        return f"{amount}, one seed: no interval{_over_data(difference)}"
    low, high = found.mean - found.half_width, found.mean + found.half_width
    chance = "" if difference.p is None else f", paired t-test p = {difference.p:.2g}"
    interval = f"95 % interval {_short(low, 3, '+')} to {_short(high, 3, '+')}, {found.seeds} seeds"
    return f"{amount}, {interval}{chance}{_unseen(difference)}{_over_data(difference)}"


def _unseen(difference: Difference) -> str:
    """Where nothing can be said: what difference there would have had to be."""
    if difference.significant or difference.as_good or not difference.detectable:
        return ""
    return f" ({_short(difference.detectable, 2)} would have been seen)"


def _over_data(difference: Difference) -> str:
    if difference.over_data is None:
        return ""
    low, high = (_short(end, 3, "+") for end in difference.over_data)
    return f", over other held-out data {low} to {high}"


def _short(value: float, digits: int, sign: str = "") -> str:
    """Rounded to so many digits; large numbers without an exponent, as 120 and not 1.2e+02."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:{sign},.0f}" if abs(rounded) >= 10**digits else f"{value:{sign}.{digits}g}"


def _estimate(setting: Setting) -> str:
    """The metric on the test split, with its name and unit."""
    metric, found = setting.first.metric, setting.test
    width = f" ± {_short(found.half_width, 2)}" if found.half_width is not None else ""
    return f"{metric.name} {found.mean:.{decimals(found.mean, least=3)}f}{width}" + (f" {metric.unit}" if metric.unit else "")
