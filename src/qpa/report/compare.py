"""What the runs say: a mean and an interval for every setting, and paired differences against plain PEFT and between latents.

Seeds are the sample: intervals are 95 % Student-t intervals over them, differences are paired by seed (paired t-test).
Runs are compared within one task only; rates are chosen on the validation split, never by test.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from scipy import stats

from qpa.config import IDENTITY
from qpa.config.identity import SUBSPACE, Part
from qpa.report.runs import Run
from qpa.runs.baseline import gain_kept
from qpa.tasks.task import Metric

CONFIDENCE = 0.95
TOLD = ("generator.kind", "latents.kind", "peft._target_", "peft.r", "peft.use_dora", "peft.target_modules")


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; `half_width` of its 95 % interval is None of a single seed."""

    mean: float
    half_width: float | None
    seeds: int

    def times(self, factor: float) -> "Estimate":
        """In another unit."""
        return Estimate(factor * self.mean, None if self.half_width is None else factor * self.half_width, self.seeds)


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
        return statistics.fmean(run.val for run in self.runs)


@dataclass(frozen=True)
class Difference:
    """The test metric of one setting less that of another, over the seeds that both have; `p` of the paired t-test."""

    setting: Setting
    against: Setting
    difference: Estimate
    p: float | None

    @property
    def gain_kept(self) -> Estimate | None:
        """The share that is kept of the other's gain over the base model, by seed; None where it has gained nothing."""
        theirs = {run.seed: (run.base, run.test) for run in self.against.runs}
        ours = {run.seed: (run.base, run.test) for run in self.setting.runs if run.seed in theirs}
        shares = [gain_kept(self.setting.first.metric, pair, theirs[seed]) for seed, pair in ours.items()]
        return None if None in shares else estimate([share for share in shares if share is not None])

    @property
    def better(self) -> bool:
        """Whether its mean says that the setting is the better one."""
        return self.setting.first.metric.improves(self.difference.mean, on=0.0)

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        width = self.difference.half_width
        return width is not None and abs(self.difference.mean) > width


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


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % t-interval."""
    count = len(values)
    if count < 2:
        return Estimate(statistics.fmean(values), None, count)
    spread = statistics.stdev(values) / math.sqrt(count)
    return Estimate(statistics.fmean(values), float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread, count)


def paired(setting: Setting, against: Setting) -> Difference | None:
    """Over common seeds; None where there is none."""
    theirs = {run.seed: run.test for run in against.runs}
    pairs = [(run.test, theirs[run.seed]) for run in setting.runs if run.seed in theirs]
    if not pairs:
        return None
    differences = [ours - other for ours, other in pairs]
    found = estimate(differences)
    varied = found.half_width is not None and found.half_width > 0
    ours, others = zip(*pairs, strict=True)
    p = float(stats.ttest_rel(ours, others).pvalue) if varied else None  # pyright: ignore[reportAttributeAccessIssue]
    return Difference(setting, against, found, p)


def _compare(task: str, runs: list[Run]) -> Comparison:
    groups: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        groups[run.setting].setdefault(run.seed, run)  # the same run in two folders is one run
    settings = sorted((Setting(tuple(seeds.values())) for seeds in groups.values()), key=lambda s: (s.first.trainable, tested(s)))
    plain = [s for s in settings if s.first.plain]
    lora = [s for s in plain if s.first.method.startswith("LoRA")] or plain
    baseline = preferred(lora) if lora else None
    best = tuned(settings)
    differences = [paired(s, baseline) for s in best if s is not baseline] if baseline else []
    controls = list(_controls([s for s in settings if not s.first.plain]))
    varied = {kind[0].first.latents: _varied(kind) for kind in _grouped(settings, lambda run: run.latents)}
    first, told = runs[0], [d for d in differences if d]
    return Comparison(task, first.task_name, first.metric, settings, best, baseline, told, controls, varied, front(best))


def tuned(settings: Iterable[Setting]) -> list[Setting]:
    """Of settings that differ in their learning rate alone, the preferred one."""
    return [preferred(rates) for rates in _grouped(settings, lambda run: run.tuned)]


def preferred(settings: Sequence[Setting]) -> Setting:
    """What validation prefers, never test; a single seed only where there is nothing else."""
    return min(settings, key=lambda s: (len(s.runs) == 1, ascending(s.first.metric, s.val)))


def _controls(settings: list[Setting]) -> Iterator[Difference]:
    """Of settings that share all but what makes the mapper's features, and of subspaces: the circuit against each, equally well tuned."""
    for beside in _grouped(settings, lambda run: run.place):
        kinds = {kinds[0].first.latents: kinds for kinds in _grouped(beside, lambda run: run.latents)}
        if circuits := kinds.pop("circuit", []):
            for controls in (*kinds.values(), _subspaces(settings, preferred(circuits))):
                sides = _at_shared_rates(circuits, controls)
                if controls and (difference := paired(*map(preferred, sides))):
                    yield difference


def _subspaces(settings: list[Setting], beside: Setting) -> list[Setting]:
    """Random subspaces of the same tensors and as many numbers: they have no mapper that a circuit could have."""
    alike = SUBSPACE, beside.first.method, beside.first.trainable
    return [s for s in settings if (s.first.latents, s.first.method, s.first.trainable) == alike]


def _at_shared_rates(*sides: list[Setting]) -> list[list[Setting]]:
    """Of both those at the rates that both were run at, lest one has had more to choose from; all, where no rate is shared."""
    rates = set.intersection(*({s.first.learning_rate for s in side} for side in sides))
    return [[s for s in side if s.first.learning_rate in rates] or side for side in sides]


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
