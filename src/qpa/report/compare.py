"""What the runs say: a mean and an interval for every setting, and paired differences against plain PEFT and between latents.

Seeds are the sample: intervals are 95 % Student-t intervals over them, differences are paired by seed (paired t-test).
Runs are compared within one task only; rates are chosen by validation perplexity, never by test.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scipy import stats

from qpa.config import GENERATED_ONLY
from qpa.report.runs import UNSHARED, Run

CONFIDENCE = 0.95
NAMED = (*UNSHARED, "generator.kind", "latents.kind", "peft")  # told by seed, method or generator, or of no effect on a result


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; `half_width` of its 95 % interval is None of a single seed."""

    mean: float
    half_width: float | None
    seeds: int


@dataclass(frozen=True)
class Setting:
    """All seeds of one setting."""

    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """One of them, for what all share."""
        return self.runs[0]

    @property
    def perplexity(self) -> Estimate:
        """On the test text."""
        return estimate([run.perplexity for run in self.runs])

    @property
    def val_perplexity(self) -> float:
        """Mean on the validation text."""
        return statistics.fmean(run.val_perplexity for run in self.runs)


@dataclass(frozen=True)
class Difference:
    """Test perplexity of one setting less that of another, over the seeds that both have; `p` of the paired t-test."""

    setting: Setting
    against: Setting
    difference: Estimate
    p: float | None

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        width = self.difference.half_width
        return width is not None and abs(self.difference.mean) > width


@dataclass(frozen=True)
class Comparison:
    """One task's settings, and what they say against each other.

    Attributes:
        settings: by trained count.
        baseline: plain PEFT as LoRA where there is one, at the rate and rank that validation prefers; None without any.
        against_baseline: every other method at its own best rate.
        against_controls: every circuit against what stands in its place, all else equal.
        varied: config keys that tell settings apart, but for what a setting's method and generator say.
        front: of trained count and test perplexity: nothing is better in one and no worse in the other.
    """

    task: str
    settings: list[Setting]
    baseline: Setting | None
    against_baseline: list[Difference]
    against_controls: list[Difference]
    varied: list[str]
    front: list[Setting]


Value = Callable[[Setting], float]


def trained(setting: Setting) -> float:
    """How many numbers a setting trains."""
    return setting.first.trainable


def perplexity(setting: Setting) -> float:
    """On the test text, mean over seeds."""
    return setting.perplexity.mean


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
    theirs = {run.seed: run.perplexity for run in against.runs}
    pairs = [(run.perplexity, theirs[run.seed]) for run in setting.runs if run.seed in theirs]
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
    settings = sorted((Setting(tuple(seeds.values())) for seeds in groups.values()), key=lambda s: (s.first.trainable, s.perplexity.mean))
    plain = [s for s in settings if s.first.generator == "none"]
    baseline = min([s for s in plain if s.first.method.startswith("LoRA")] or plain, key=lambda s: s.val_perplexity, default=None)
    tuned = _best_rates(settings)
    others = [paired(s, baseline) for s in tuned if s is not baseline] if baseline else []
    controls = [
        paired(s, other)
        for s in tuned
        for other in settings
        if s.first.generator == "circuit" and other.first.generator != "circuit" and other.first.beside == s.first.beside
    ]
    return Comparison(task, settings, baseline, [d for d in others if d], [d for d in controls if d], _varied(settings), front(settings))


def uses(run: Run, key: str) -> bool:
    """Whether a config key has any effect on the run."""
    group = key.partition(".")[0]
    if run.generator == "none":
        return group not in GENERATED_ONLY
    return group != "circuit" or run.generator in ("circuit", "frozen_circuit")


def _varied(settings: list[Setting]) -> list[str]:
    runs = [s.first for s in settings]
    keys = dict.fromkeys(key for run in runs for key in run.config if key.partition(".")[0] not in NAMED and key not in NAMED)
    return [key for key in keys if len({str(run.config.get(key)) for run in runs if uses(run, key)}) > 1]


def _best_rates(settings: list[Setting]) -> list[Setting]:
    """Of settings that differ in their rate alone (as their counts and kinds tell), the one that validation prefers."""
    best: dict[tuple, Setting] = {}
    for setting in settings:
        run = setting.first
        key = (run.method, run.generator, run.trainable)
        if key not in best or setting.val_perplexity < best[key].val_perplexity:
            best[key] = setting
    return list(best.values())


def front(settings: Sequence[Setting], x: Value = trained, y: Value = perplexity) -> list[Setting]:
    """The Pareto front of two values of which less is better, by `x`: no other setting is better in one and as good in the other."""
    points = [(x(s), y(s)) for s in settings]
    kept = [s for s, (a, b) in zip(settings, points, strict=True) if not any(p <= a and q <= b and (p, q) != (a, b) for p, q in points)]
    return sorted(kept, key=lambda s: (x(s), y(s)))
