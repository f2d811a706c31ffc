"""How functions are read: scaled as the network wants them, relative L2 error, and what it is judged by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics import MeanMetric, SumMetric

from qpa.tasks.operators.samples import Samples
from qpa.tasks.task import Learner

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of all inputs and of all outputs that a network was first trained on: it reads and says both scaled."""

    input_mean: float
    input_std: float
    output_mean: float
    output_std: float

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """That of training samples."""
        inputs, outputs = samples.inputs.astype(float), samples.outputs.astype(float)
        return cls(float(inputs.mean()), _deviation(inputs), float(outputs.mean()), _deviation(outputs))


def _deviation(values: np.ndarray) -> float:
    """1 where all are the same, of which rounding would make a small one."""
    return float(values.std()) if np.ptp(values) else 1.0


class Pairs(Dataset):
    """Samples as tensors: `inputs` and `outputs`."""

    def __init__(self, samples: Samples) -> None:
        self.inputs, self.outputs = torch.from_numpy(samples.inputs), torch.from_numpy(samples.outputs)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[index], "outputs": self.outputs[index]}


class Operator(Learner):
    """Reads functions with a network.

    Args:
        model: it, with an adapter or without.
        scale: what it reads and says is divided by.
    """

    def __init__(self, model: nn.Module, scale: Scale) -> None:
        self.model, self.scale = model, scale

    def solutions(self, inputs: Tensor) -> Tensor:
        """What it says to functions `[B, 1, G, ...]`, in their own units, of the same shape."""
        scale = self.scale
        return self.model((inputs - scale.input_mean) / scale.input_std) * scale.output_std + scale.output_mean

    def errors(self, batch: Batch) -> Tensor:
        """Relative L2 errors `[B]`: the norm of what is wrong by that of the solution (eq. 7 of Kovachki et al. 2023, arXiv 2108.08481)."""
        wrong = (self.solutions(batch["inputs"]) - batch["outputs"]).flatten(1)
        return wrong.norm(dim=1) / batch["outputs"].flatten(1).norm(dim=1)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Relative errors, summed over samples."""
        errors = self.errors(batch)
        return errors.sum(), torch.tensor(len(errors), device=errors.device)

    def scores(self) -> nn.ModuleDict:
        """Mean relative error."""
        return nn.ModuleDict({"relative_l2": MeanMetric(), "samples": SumMetric()})

    def score(self, batch: Batch, split: str, scores: nn.ModuleDict) -> None:
        """Count one batch."""
        cast(Any, scores["relative_l2"]).update(self.errors(batch))
        cast(Any, scores["samples"]).update(len(batch["inputs"]))

    def outputs(self, batch: Batch) -> Tensor:
        """Solutions."""
        return self.solutions(batch["inputs"])
