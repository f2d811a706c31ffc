"""How good forecasts are: measures over a whole split, in float64, whatever batches and processes they were read in."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

HIGHEST = 0.02  # the share of times whose observed values count as peaks


def squared_error(forecast: Tensor, observed: Tensor) -> Tensor:
    """Mean squared error, in the target's unit squared."""
    return (forecast - observed).square().mean()


def nash_sutcliffe(forecast: Tensor, observed: Tensor) -> Tensor:
    """One less the squared error over that of the observed values' own mean (Nash & Sutcliffe 1970): 1 is perfect, 0 is the mean."""
    return 1 - (forecast - observed).square().sum() / (observed - observed.mean()).square().sum()


def kling_gupta(forecast: Tensor, observed: Tensor) -> Tensor:
    """One less the distance of correlation, ratio of deviations and ratio of means from 1 (Gupta et al. 2009).

    A forecast that never changes is not correlated.
    """
    spread, spread_observed = forecast.std(correction=0), observed.std(correction=0)
    together = ((forecast - forecast.mean()) * (observed - observed.mean())).mean()
    correlation = torch.where(spread > 0, together / (spread * spread_observed), 0)
    ratios = torch.stack([correlation, spread / spread_observed, forecast.mean() / observed.mean()])
    return 1 - (ratios - 1).square().sum().sqrt()


def peak_error(forecast: Tensor, observed: Tensor) -> Tensor:
    """Mean of the relative errors at the highest `HIGHEST` of observed values, one at least; 0.1 is 10 %."""
    top = observed.topk(max(1, round(HIGHEST * len(observed)))).indices
    return ((forecast[top] - observed[top]) / observed[top]).abs().mean()


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"nse": nash_sutcliffe, "mse": squared_error}
RATIOS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"kge": kling_gupta, "peak_error": peak_error}  # to what is observed, so above zero


def measured_by(*, ratios: bool) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """All measures by name.

    Args:
        ratios: whether those too that are ratios to what is observed.
    """
    return SCORES | (RATIOS if ratios else {})


class OverAll(Metric):
    """A measure of all forecasts together.

    Args:
        measure: from forecasts `[n]` and observed values `[n]`.
    """

    def __init__(self, measure: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.measure = measure
        self.add_state("pairs", default=[], dist_reduce_fx="cat")
        self.pairs: list[Tensor]

    def update(self, forecast: Tensor, observed: Tensor) -> None:
        """Keep one batch."""
        self.pairs.append(torch.stack([forecast.double(), observed.double()], 1))

    def compute(self) -> Tensor:
        """Over all that were kept."""
        forecast, observed = dim_zero_cat(self.pairs).unbind(1)
        return self.measure(forecast, observed)
