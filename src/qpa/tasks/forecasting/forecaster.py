"""How windows are read: squared errors of what is scaled, and measures of what is in the target's own unit."""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics import SumMetric

from qpa.tasks.forecasting.efficiency import OverAll, measured_by
from qpa.tasks.forecasting.windows import Windows
from qpa.tasks.task import Learner

Batch = Mapping[str, Tensor]
FORECASTS = "forecasts"


class Examples(Dataset):
    """A split's windows as tensors: `inputs`, scaled, `[W, F]`, and the value `observed` later, in its own unit and in float64.

    Args:
        windows: of the series.
        split: which.
    """

    def __init__(self, windows: Windows, split: str) -> None:
        self.values, self.window = torch.from_numpy(windows.scaled).float(), windows.window
        self.starts, self.observed = windows.starts(split).tolist(), torch.from_numpy(windows.observed(split))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = self.starts[index]
        return {"inputs": self.values[start : start + self.window], "observed": self.observed[index]}


class Forecaster(Learner):
    """Reads windows with a network that says one scaled number.

    Args:
        model: it, with an adapter or without.
        scale: mean and deviation of the target while training.
        ratios: whether measures that are ratios to what is observed have a meaning.
    """

    def __init__(self, model: nn.Module, scale: tuple[float, float], *, ratios: bool) -> None:
        self.model, self.scale, self.ratios = model, scale, ratios

    def outputs(self, batch: Batch) -> Tensor:
        """Scaled forecasts, `[B]`, in fp32."""
        return self.model(batch["inputs"]).float()

    def forecasts(self, batch: Batch) -> Tensor:
        """In the target's own unit, `[B]`, in float64."""
        mean, deviation = self.scale
        return self.outputs(batch).double() * deviation + mean

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Squared errors in deviations of the target, summed over windows."""
        mean, deviation = self.scale
        wanted = ((batch["observed"] - mean) / deviation).float()
        return F.mse_loss(self.outputs(batch), wanted, reduction="sum"), torch.tensor(len(wanted), device=wanted.device)

    def scores(self) -> nn.ModuleDict:
        """Each measure over all forecasts, and how many they are."""
        found = {name: OverAll(measure) for name, measure in measured_by(ratios=self.ratios).items()}
        return nn.ModuleDict({**found, FORECASTS: SumMetric()})

    def score(self, batch: Batch, split: str, scores: nn.ModuleDict) -> None:
        """Count one batch of windows."""
        forecasts, observed = self.forecasts(batch), batch["observed"]
        for name, score in scores.items():
            cast(Any, score).update(*((len(observed),) if name == FORECASTS else (forecasts, observed)))
