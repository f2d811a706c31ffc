"""The measures: those of spotpy and of plain numpy, whatever batches the forecasts came in."""

import numpy as np
import pytest
import torch
from spotpy import objectivefunctions
from torch import Tensor

from qpa.tasks.forecasting import efficiency
from qpa.tasks.forecasting.efficiency import SCORES, OverAll


def pairs() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    observed = torch.rand(331, generator=draw, dtype=torch.float64) * 40 + 3
    return observed * 0.8 + torch.randn(331, generator=draw, dtype=torch.float64) * 5, observed


def test_efficiencies_are_spotpys() -> None:
    forecast, observed = pairs()
    given = observed.numpy(), forecast.numpy()
    assert efficiency.nash_sutcliffe(forecast, observed).item() == pytest.approx(objectivefunctions.nashsutcliffe(*given), rel=1e-12)
    assert efficiency.kling_gupta(forecast, observed).item() == pytest.approx(objectivefunctions.kge(*given), rel=1e-12)
    assert efficiency.squared_error(forecast, observed).item() == pytest.approx(objectivefunctions.mse(*given), rel=1e-12)


def test_peaks_are_the_highest_that_were_observed() -> None:
    forecast, observed = (part.numpy() for part in pairs())
    top = np.argsort(observed)[-7:]  # 2 % of 331
    expected = np.mean(np.abs(forecast[top] - observed[top]) / observed[top])
    assert efficiency.peak_error(*pairs()).item() == pytest.approx(expected, rel=1e-12)


def test_perfect_mean_and_constant_forecasts() -> None:
    _, observed = pairs()
    for measure, best in (("nash_sutcliffe", 1), ("kling_gupta", 1), ("squared_error", 0), ("peak_error", 0)):
        assert getattr(efficiency, measure)(observed, observed).item() == pytest.approx(best)
    mean = observed.mean().expand(len(observed))
    assert efficiency.nash_sutcliffe(mean, observed).item() == pytest.approx(0)
    assert efficiency.kling_gupta(mean, observed).item() == pytest.approx(1 - 2**0.5)


@pytest.mark.parametrize("name", SCORES)
def test_batches_and_their_order_change_nothing(name: str) -> None:
    forecast, observed = pairs()
    whole, apart = OverAll(SCORES[name]), OverAll(SCORES[name])
    whole.update(forecast, observed)
    for part in torch.randperm(331, generator=torch.Generator().manual_seed(1)).split(50):
        apart.update(forecast[part], observed[part])
    assert apart.compute().item() == pytest.approx(whole.compute().item(), rel=1e-12)
