from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric, SumMetric

from qpa.config import DataConfig, ModelConfig, TaskConfig, expected
from qpa.tasks.loaders import held_out_loader, train_loader
from qpa.tasks.task import Batch, Learner, Metric, Task


class Points(Dataset):
    """Points of a curve, the same ones for every seed."""

    class Settings(DataConfig):
        points: int

    def __init__(self, points: int, seed: int) -> None:
        self.x = torch.rand(points, 1, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.x[i], "y": torch.sin(6 * self.x[i])}


class Network:
    class Settings(ModelConfig):
        width: int


class Regressor(Learner):
    """Squared errors of a network."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return (self.model(batch["x"]) - batch["y"]).square().sum(), torch.tensor(len(batch["x"]))

    def scores(self) -> nn.ModuleDict:
        return nn.ModuleDict({"error": MeanMetric(), "points": SumMetric()})

    def score(self, batch: Batch, split: str, scores: nn.ModuleDict) -> None:
        scores["error"].update((self.model(batch["x"]) - batch["y"]).square())
        scores["points"].update(len(batch["x"]))

    def outputs(self, batch: Batch) -> Tensor:
        return self.model(batch["x"])


class Curve(Task):
    """A small frozen network, adapted to a curve."""

    class Settings(TaskConfig):
        pass

    metric: ClassVar[Metric] = Metric("error", "", better="lower")
    counted: ClassVar[str] = "points"

    def skeleton(self) -> nn.Module:
        with torch.device("meta"):
            return self._network()

    def base(self, *, own: bool = False) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return self._network()

    def _network(self) -> nn.Module:
        width = expected("model", self.config.model, Network.Settings).width
        layers = nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        return nn.Sequential(*layers).requires_grad_(False)

    def title(self) -> str:
        return "a network on a curve"

    def prepare(self) -> None:
        points = expected("data", self.config.data, Points.Settings).points
        self.splits = {split: Points(points, seed) for seed, split in enumerate(("train", "val", "test"))}

    def examples(self) -> int:
        return len(self.splits["train"])

    def train_loader(self, *, from_step: int) -> DataLoader:
        return train_loader(self.splits["train"], self.share, seed=self.config.seed, from_step=from_step, steps=self.steps)

    def held_out(self) -> dict[str, DataLoader]:
        return {split: held_out_loader(self.splits[split], self.share, split=split) for split in ("val", "test")}

    def probe(self) -> Batch:
        return next(iter(self.held_out()["val"]))

    def learner(self, model: nn.Module, *, trained: bool = False) -> Regressor:
        return Regressor(model)
