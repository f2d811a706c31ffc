"""The statistics of a comparison: intervals over seeds, tests corrected for their number, equivalence, and what few seeds cannot see."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE  # of a test
MARGIN = 0.05  # of a gain: what is within it of another's is as good
EQUAL = 1e-12  # values that differ by less are the same
POWER = 0.8  # the chance to see a difference that is called detectable
QUANTILES = (np.arange(20_000) + 0.5) / 20_000  # by which means over a distribution are taken
RESAMPLES, BATCH = 2000, 100  # of the bootstrap, and how many at once


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; `half_width` of its 95 % interval is None of a single seed."""

    mean: float
    half_width: float | None
    seeds: int

    def times(self, factor: float) -> "Estimate":
        """In another unit."""
        return Estimate(factor * self.mean, None if self.half_width is None else factor * self.half_width, self.seeds)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % t-interval."""
    count = len(values)
    if count < 2:
        return Estimate(statistics.fmean(values), None, count)
    spread = statistics.stdev(values) / math.sqrt(count)
    return Estimate(statistics.fmean(values), float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread, count)


def paired_p(differences: Sequence[float]) -> float | None:
    """Of the paired t-test, from the pairs' differences; None of a single pair."""
    if len(differences) < 2:
        return None
    if not _varied(differences):
        return float(max(map(abs, differences)) <= EQUAL)
    return float(stats.ttest_1samp(differences, 0.0).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def equivalence_p(shares: Sequence[float]) -> float | None:
    """Of the two one-sided t-tests that shares of a gain lie within `MARGIN` of all of it (Schuirmann 1987); None of a single one."""
    if len(shares) < 2:
        return None
    if not _varied(shares):
        return float(abs(shares[0] - 1) >= MARGIN)
    least, most = (stats.ttest_1samp(shares, 1 + end, alternative=side) for end, side in ((-MARGIN, "greater"), (MARGIN, "less")))
    return float(max(least.pvalue, most.pvalue))  # pyright: ignore[reportAttributeAccessIssue]


def _varied(values: Sequence[float]) -> bool:
    """Whether they differ by more than rounding does."""
    return statistics.stdev(values) > EQUAL * max(1.0, *map(abs, values))


def holm(found: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number (Holm 1979); those that are None stay, and count for nothing."""
    known = [p for p in found if p is not None]
    steps = [(len(known) - rank) * p for rank, p in enumerate(sorted(known))]
    return [p and min(1.0, max(step for step, other in zip(steps, sorted(known), strict=True) if other <= p)) for p in found]


@cache
def detectable(pairs: int, *, tests: int) -> float:
    """The least difference, in standard deviations of the pairs' differences, that so many pairs show with `POWER`, if it is one of so
    many that are tested (the first of Holm's steps)."""
    least = stats.t.ppf(1 - LEVEL / tests / 2, pairs - 1) * np.sqrt(stats.chi2.ppf(QUANTILES, pairs - 1) / (pairs - 1))

    def chance(effect: float) -> float:
        """That t, a normal number about `effect * sqrt(pairs)` over its estimated deviation, is beyond the level's bound."""
        return float(stats.norm.cdf(effect * math.sqrt(pairs) - least).mean())

    root: Any = optimize.brentq(lambda effect: chance(effect) - POWER, 0.0, 2 * least.max())
    return float(root)


Sums = NDArray[np.float64]  # [pieces, 2]: of each piece of the held-out data the sum and what it is summed over


def over_pieces(pairs: Sequence[tuple[Sums, Sums]], value: Callable[[Sums], Sums]) -> tuple[float, float] | None:
    """The 95 % interval of a difference over what other held-out data would have given: both sides read the same pieces.

    Pieces are drawn anew with replacement, the same for both sides and all pairs (the paired bootstrap; percentiles).

    Args:
        pairs: for each seed, the sums of one side and of the other.
        value: totals `[..., 2]` to the metric `[...]`.

    Returns:
        Its ends; None where there are fewer than two pieces.
    """
    sides = np.array(pairs)  # [seeds, 2, pieces, 2]
    sides = sides[:, :, sides[0, 0, :, 1] > 0]  # a window may have nothing that counts
    if sides.shape[2] < 2:
        return None

    def difference(drawn: NDArray[np.int64], axis: int) -> Sums:
        values = value(sides[:, :, drawn].sum(axis - 1))
        return (values[:, 0] - values[:, 1]).mean(0)

    numbers = (np.arange(sides.shape[2]),)
    how = {"n_resamples": RESAMPLES, "batch": BATCH, "confidence_level": CONFIDENCE, "method": "percentile", "rng": 0}
    interval = stats.bootstrap(numbers, difference, **how).confidence_interval
    return float(interval.low), float(interval.high)
