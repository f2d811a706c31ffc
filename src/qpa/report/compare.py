"""What the runs say: a mean and an interval for every setting, and paired differences against plain PEFT and between latents.

Seeds are the sample: intervals are 95 % Student-t intervals over them, differences are paired by seed (paired t-test), and tests are
corrected for their number in a table (Holm). What other held-out data would have given is in the bootstrap's interval alone.
Runs are compared within one task only; rates are chosen on the validation split, never by test.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np

from qpa.config import IDENTITY
from qpa.config.identity import SUBSPACE, Part
from qpa.report import statistics
from qpa.report.runs import Run
from qpa.report.statistics import LEVEL, Estimate, estimate
from qpa.runs.baseline import gain_kept
from qpa.tasks.task import Metric

TOLD = ("generator.kind", "latents.kind", "peft._target_", "peft.r", "peft.use_dora", "peft.target_modules")


@dataclass(frozen=True)
class Setting:
    """All seeds of one setting."""

    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """One of them, for what all share."""
        return self.runs[0]

    @property
    def test(self) -> Estimate:
        """Of the metric on the test split."""
        return estimate([run.test for run in self.runs])

    @property
    def val(self) -> float:
        """Mean of the metric on the validation split."""
        return fmean(run.val for run in self.runs)


@dataclass(frozen=True)
class Difference:
    """The test metric of one setting less that of another, over the seeds that both have.

    Attributes:
        setting, against: the two.
        difference: its mean and interval over seeds.
        spread: its standard deviation over them; None of one seed.
        p: of the paired t-test; None of one seed.
        equivalence_p: of the test that what is kept of the other's gain is all of it, but for `MARGIN`; None of one seed, or where the
            other has gained nothing.
        over_data: the 95 % interval of the mean over other held-out data, where both runs have their test split's pieces on record.
        tests: how many the two p-values are corrected for.
    """

    setting: Setting
    against: Setting
    difference: Estimate
    spread: float | None
    p: float | None
    equivalence_p: float | None
    over_data: tuple[float, float] | None
    tests: int = 1

    @property
    def gain_kept(self) -> Estimate | None:
        """The share that is kept of the other's gain over the base model, by seed; None where it has gained nothing."""
        return estimate(shares) if (shares := _shares(self.setting, self.against)) else None

    @property
    def better(self) -> bool:
        """Whether its mean says that the setting is the better one."""
        return self.setting.first.metric.improves(self.difference.mean, on=0.0)

    @property
    def detectable(self) -> float | None:
        """What difference so many seeds would have shown, four times in five; None of one seed."""
        return None if self.spread is None else self.spread * statistics.detectable(self.difference.seeds, tests=self.tests)

    @property
    def significant(self) -> bool:
        """Whether it is more than chance would easily do."""
        return self.p is not None and self.p < LEVEL

    @property
    def as_good(self) -> bool:
        """Whether what is kept of the other's gain is all of it, but for `MARGIN`."""
        return self.equivalence_p is not None and self.equivalence_p < LEVEL


@dataclass(frozen=True)
class Comparison:
    """One task's settings, and what they say against each other.

    Attributes:
        task, name: its hash, and what it is: model, data, how much is read.
        metric: what is compared.
        settings: all, by trained count.
        best: of those that differ in their rate alone, the one that validation prefers.
        baseline: plain PEFT as LoRA where there is one, at the rate and rank that validation prefers; None without any.
        against_baseline: every other setting at its own best rate.
        against_controls: every circuit against what stands in its place, each at the best of the rates that both were run at, all
            else equal; against a random subspace of as many numbers too.
        varied: by latents, the config keys that are needed to tell its settings apart, beyond the method.
        front: of the best, by trained count and test metric: nothing is better in one and no worse in the other.
    """

    task: str
    name: str
    metric: Metric
    settings: list[Setting]
    best: list[Setting]
    baseline: Setting | None
    against_baseline: list[Difference]
    against_controls: list[Difference]
    varied: dict[str, list[str]]
    front: list[Setting]


Value = Callable[[Setting], float]


def trained(setting: Setting) -> float:
    """How many numbers a setting trains."""
    return setting.first.trainable


def tested(setting: Setting) -> float:
    """The test metric, mean over seeds, so that less is better."""
    return ascending(setting.first.metric, setting.test.mean)


def ascending(metric: Metric, value: float) -> float:
    """The value, turned round where more is better: the best is the least."""
    return value if metric.better == "lower" else -value


def compare(runs: Iterable[Run]) -> list[Comparison]:
    """A comparison per task, the one with most runs first."""
    tasks: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        tasks[run.task].append(run)
    return [_compare(task, found) for task, found in sorted(tasks.items(), key=lambda item: -len(item[1]))]


def paired(setting: Setting, against: Setting) -> Difference | None:
    """Over common seeds; None where there is none."""
    pairs = _pairs(setting, against)
    if not pairs:
        return None
    differences = [ours.test - other.test for ours, other in pairs]
    shares = _shares(setting, against)
    return Difference(
        setting,
        against,
        estimate(differences),
        spread=stdev(differences) if len(differences) > 1 else None,
        p=statistics.paired_p(differences),
        equivalence_p=statistics.equivalence_p(shares) if shares else None,
        over_data=_over_data(pairs),
    )


def corrected(differences: Iterable[Difference | None]) -> list[Difference]:
    """Those of one table that there are, with p-values corrected for their number (Holm), of either kind of test."""
    found = [difference for difference in differences if difference]
    tests = statistics.holm([d.p for d in found]), statistics.holm([d.equivalence_p for d in found])
    number = max(1, sum(d.p is not None for d in found))
    return [replace(d, p=p, equivalence_p=q, tests=number) for d, p, q in zip(found, *tests, strict=True)]


def _pairs(setting: Setting, against: Setting) -> list[tuple[Run, Run]]:
    """Of the seeds that both have."""
    theirs = {run.seed: run for run in against.runs}
    return [(run, theirs[run.seed]) for run in setting.runs if run.seed in theirs]


def _shares(setting: Setting, against: Setting) -> list[float] | None:
    """By seed, how much is kept of the other's gain; None where it has gained nothing with one of them."""
    metric = setting.first.metric
    shares = [gain_kept(metric, (ours.base, ours.test), (other.base, other.test)) for ours, other in _pairs(setting, against)]
    return None if None in shares else [share for share in shares if share is not None]


def _over_data(pairs: Sequence[tuple[Run, Run]]) -> tuple[float, float] | None:
    """Where all of the runs have the same pieces on record."""
    sums = [(ours.pieces, other.pieces) for ours, other in pairs]
    alike = {tuple(count for _, count in pieces) if pieces else None for pair in sums for pieces in pair}
    if len(alike) != 1 or None in alike:
        return None
    return statistics.over_pieces([(np.array(ours), np.array(other)) for ours, other in sums], _metric_of(pairs[0][0].metric))


def _metric_of(metric: Metric) -> Callable[[statistics.Sums], statistics.Sums]:
    """Its value of sums and what they are summed over, `[..., 2]`."""
    return lambda sums: np.exp(sums[..., 0] / sums[..., 1]) if metric.scale == "log" else sums[..., 0] / sums[..., 1]


def _compare(task: str, runs: list[Run]) -> Comparison:
    groups: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        groups[run.setting].setdefault(run.seed, run)  # the same run in two folders is one run
    settings = sorted((Setting(tuple(seeds.values())) for seeds in groups.values()), key=lambda s: (s.first.trainable, tested(s)))
    plain = [s for s in settings if s.first.plain]
    lora = [s for s in plain if s.first.method.startswith("LoRA")] or plain
    baseline = preferred(lora) if lora else None
    best = tuned(settings)
    told = corrected(paired(s, baseline) for s in best if s is not baseline) if baseline else []
    controls = corrected(_controls([s for s in settings if not s.first.plain]))
    varied = {kind[0].first.latents: _varied(kind) for kind in _grouped(settings, lambda run: run.latents)}
    first = runs[0]
    return Comparison(task, first.task_name, first.metric, settings, best, baseline, told, controls, varied, front(best))


def tuned(settings: Iterable[Setting]) -> list[Setting]:
    """Of settings that differ in their learning rate alone, the preferred one."""
    return [preferred(rates) for rates in _grouped(settings, lambda run: run.tuned)]


def preferred(settings: Sequence[Setting]) -> Setting:
    """What validation prefers, never test; a single seed only where there is nothing else."""
    return min(settings, key=lambda s: (len(s.runs) == 1, ascending(s.first.metric, s.val)))


def _controls(settings: list[Setting]) -> Iterator[Difference | None]:
    """Of settings that share all but what makes the mapper's features, and of subspaces: the circuit against each, equally well tuned."""
    for beside in _grouped(settings, lambda run: run.place):
        kinds = {kinds[0].first.latents: kinds for kinds in _grouped(beside, lambda run: run.latents)}
        if circuits := kinds.pop("circuit", []):
            for controls in (*kinds.values(), _subspaces(settings, preferred(circuits))):
                sides = _at_shared_rates(circuits, controls)
                if controls:
                    yield paired(*map(preferred, sides))


def _subspaces(settings: list[Setting], beside: Setting) -> list[Setting]:
    """Random subspaces of the same tensors and as many numbers: they have no mapper that a circuit could have."""
    alike = SUBSPACE, beside.first.method, beside.first.trainable
    return [s for s in settings if (s.first.latents, s.first.method, s.first.trainable) == alike]


def _at_shared_rates(*sides: list[Setting]) -> list[list[Setting]]:
    """Of both those at the rates that both were run at, lest one has had more to choose from; all, where that would cost seeds."""
    rates = set.intersection(*({s.first.learning_rate for s in side} for side in sides))
    kept = [[s for s in side if s.first.learning_rate in rates] for side in sides]
    enough = all(few and len(preferred(few).runs) >= len(preferred(all_).runs) for few, all_ in zip(kept, sides, strict=True) if all_)
    return kept if enough else list(sides)


def _grouped(settings: Iterable[Setting], by: Callable[[Run], str]) -> list[list[Setting]]:
    """In order of what comes first."""
    groups: dict[str, list[Setting]] = defaultdict(list)
    for setting in settings:
        groups[by(setting.first)].append(setting)
    return list(groups.values())


def told(setting: Setting, keys: Iterable[str]) -> tuple[tuple[str, object], ...]:
    """These of the setting's keys, with their values."""
    config = setting.first.config
    return tuple((key, config[key]) for key in keys if key in config)


def _varied(settings: list[Setting]) -> list[str]:
    """Keys are added, the rate first and those of `peft` last, while they tell settings apart that were alike before."""
    candidates = dict.fromkeys(key for s in settings for key in s.first.config if key not in TOLD)
    kept: list[str] = []
    known = 0
    for key in ("", *sorted(candidates, key=lambda key: (key.startswith("peft."), IDENTITY.part(key) is not Part.RATE))):
        found = len({(s.first.method, str(told(s, [*kept, key]))) for s in settings})
        kept += [key] if found > known and key else []
        known = max(known, found)
    return kept


def front(settings: Sequence[Setting], x: Value = trained, y: Value = tested) -> list[Setting]:
    """The Pareto front of two values of which less is better, by `x`: no other setting is better in one and as good in the other."""
    settings = [s for s in settings if math.isfinite(x(s)) and math.isfinite(y(s))]
    points = [(x(s), y(s)) for s in settings]
    kept = [s for s, (a, b) in zip(settings, points, strict=True) if not any(p <= a and q <= b and (p, q) != (a, b) for p, q in points)]
    return sorted(kept, key=lambda s: (x(s), y(s)))
