"""How images are read: resized and normalised as the model wants them, cross entropy, and what they are judged by."""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics import MeanMetric, Metric, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat
from transformers import PreTrainedModel

from qpa.tasks.task import Learner
from qpa.tasks.vision.pictures import Pictures
from qpa.tasks.vision.view import View

Batch = Mapping[str, Tensor]
MOST_CONFUSED = 100  # classes of which a confusion matrix is kept
MOST_WORST = 16  # images that are shown
BINS = 15  # of the calibration error (Guo et al. 2017, arXiv 1706.04599)
WHITE = 255


class Images(Dataset):
    """Pictures as tensors: `images`, bytes of one size, `labels`, and the `places` that they have among the pictures.

    Args:
        pictures: them.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.pixels, self.labels = torch.from_numpy(pictures.pixels), torch.from_numpy(pictures.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.pixels[index], "labels": self.labels[index], "places": torch.tensor(index)}


class Worst(Metric):
    """The images of the highest loss: a row for each of place, class, what it is said to be, and loss."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.rows: list[Tensor]

    def update(self, logits: Tensor, labels: Tensor, places: Tensor) -> None:
        """Count one batch."""
        losses = F.cross_entropy(logits, labels, reduction="none")
        self.rows.append(torch.stack([places.float(), labels.float(), logits.argmax(1).float(), losses], dim=1))

    def compute(self) -> Tensor:
        """The worst first, `[MOST_WORST, 4]` at most."""
        rows = dim_zero_cat(self.rows)
        return rows[rows[:, 3].argsort(descending=True)[:MOST_WORST]]


class Classifier(Learner):
    """Reads images with a model that tells their classes.

    Args:
        model: it, with an adapter or without.
        view: how it reads an image.
        classes: that it tells.
    """

    def __init__(self, model: nn.Module, view: View, classes: int) -> None:
        self.model, self.view, self.classes = model, view, classes

    @property
    def base(self) -> nn.Module:
        """The model without what an adapter has wrapped around it."""
        return cast(Any, self.model).get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def seen(self, images: Tensor) -> Tensor:
        """Bytes `[B, C, H, W]` as what the model reads, `[B, C, S, S]`; one channel is repeated where it reads more."""
        size = (self.view.size, self.view.size)
        found = images.float()
        if images.shape[-2:] != size:
            found = F.interpolate(found, size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(numbers, device=images.device)[:, None, None] for numbers in (self.view.mean, self.view.std))
        return (found / WHITE - mean) / std  # for each channel the same gray

    def logits(self, batch: Batch) -> Tensor:
        """Of each image one number for each class, `[B, classes]`, in fp32."""
        said = self.model(self.seen(batch["images"]))
        return getattr(said, "logits", said).float()

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed over images."""
        logits = self.logits(batch)
        return F.cross_entropy(logits, batch["labels"], reduction="sum"), torch.tensor(len(logits), device=logits.device)

    def scores(self) -> nn.ModuleDict:
        """Accuracy, cross entropy, expected calibration error, the worst images, and which class is taken for which."""
        found = {
            "accuracy": MulticlassAccuracy(self.classes, average="micro"),
            "loss": MeanMetric(),
            "calibration": MulticlassCalibrationError(self.classes, n_bins=BINS),
            "examples": SumMetric(),
            "worst": Worst(),
        }
        return nn.ModuleDict(found | ({"confusion": MulticlassConfusionMatrix(self.classes)} if self.classes <= MOST_CONFUSED else {}))

    def score(self, batch: Batch, split: str, scores: nn.ModuleDict) -> None:
        """Count one batch of images."""
        logits, labels = self.logits(batch), batch["labels"]
        given: dict[str, tuple[Any, ...]] = {
            "loss": (F.cross_entropy(logits, labels, reduction="none"),),
            "examples": (len(labels),),
            "worst": (logits, labels, batch["places"]),
            "calibration": (logits.softmax(1), labels),  # of logits that all lie within 0 and 1 torchmetrics thinks that they are shares
        }
        for name, score in scores.items():
            cast(Any, score).update(*given.get(name, (logits, labels)))

    def outputs(self, batch: Batch) -> Tensor:
        """Logits."""
        return self.logits(batch)

    def blocks(self) -> list[nn.Module]:
        """Of a transformers model its layers, as far as it says what they are."""
        base = self.base
        if not isinstance(base, PreTrainedModel):
            return []
        return [module for module in base.modules() if type(module).__name__ in (base._no_split_modules or ())]

    def checkpoint_gradients(self) -> None:
        """Of a transformers model: compute its layers again in the backward pass."""
        cast(PreTrainedModel, self.base).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
