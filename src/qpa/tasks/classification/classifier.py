"""How labelled texts are read: the model's own logits, cross entropy of one label or of each of several, and what they are judged by."""

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import SumMetric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelConfusionMatrix,
    MultilabelExactMatch,
    MultilabelF1Score,
)
from transformers import PreTrainedModel

from qpa.adapters.methods import AdaptedModel
from qpa.tasks.classification.labels import Labels
from qpa.tasks.task import Learner

Batch = Mapping[str, Tensor]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MOST_CONFUSED = 100  # labels of which a confusion matrix is kept


class Classifier(Learner):
    """Reads texts with a model that has a head for labels.

    Args:
        model: it, with an adapter or without.
        labels: that it tells.
    """

    def __init__(self, model: AdaptedModel | PreTrainedModel, labels: Labels) -> None:
        self.model, self.labels = model, labels
        self.base = model if isinstance(model, PreTrainedModel) else cast(PreTrainedModel, model.get_base_model())
        pairs = getattr(self.base.config, "type_vocab_size", 0) > 1 and "token_type_ids" in inspect.signature(self.base.forward).parameters
        self.inputs = INPUTS if pairs else INPUTS[:2]

    def logits(self, batch: Batch) -> Tensor:
        """Of each text one number for each label, `[B, labels]`, in fp32."""
        return cast(Any, self.model)(**{name: batch[name] for name in self.inputs}).logits.float()

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed over texts; of several labels each text's mean over them."""
        logits, labels = self.logits(batch), batch["labels"]
        count = torch.tensor(len(labels), device=logits.device)
        if self.labels.several:
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1).sum(), count
        return F.cross_entropy(logits, labels, reduction="sum"), count

    def scores(self) -> nn.ModuleDict:
        """Macro-F1 and accuracy (of several labels: all right), and which label is taken for which."""
        number = len(self.labels.names)
        if self.labels.several:
            found = {"macro_f1": MultilabelF1Score(number, average="macro"), "accuracy": MultilabelExactMatch(number)}
            confusion = MultilabelConfusionMatrix(number)
        else:
            found = {"macro_f1": MulticlassF1Score(number, average="macro"), "accuracy": MulticlassAccuracy(number, average="micro")}
            confusion = MulticlassConfusionMatrix(number)
        return nn.ModuleDict({**found, "examples": SumMetric(), **({"confusion": confusion} if number <= MOST_CONFUSED else {})})

    def score(self, batch: Batch, split: str, scores: nn.ModuleDict) -> None:
        """Count one batch of texts."""
        logits, labels = self.logits(batch), batch["labels"]
        for name, score in scores.items():
            cast(Any, score).update(*([len(labels)] if name == "examples" else [logits, labels.long()]))

    def outputs(self, batch: Batch) -> Tensor:
        """Logits."""
        return self.logits(batch)

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """On a processor without what none of the texts fills: it is read faster, and a GPU would be waited for."""
        if device.type == "cpu":
            width = int(batch["attention_mask"].sum(1).max())
            batch = {name: tensor[:, :width] if name in INPUTS else tensor for name, tensor in batch.items()}
        return super().to_device(batch, device)

    def changes_from_step_to_step(self) -> str:
        """transformers looks at each attention mask."""
        return "transformers looks at the padding of each batch"

    def blocks(self) -> list[nn.Module]:
        """The model's layers, as far as it says what they are."""
        return [m for m in self.base.modules() if type(m).__name__ in (self.base._no_split_modules or ())]
