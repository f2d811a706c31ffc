"""Reading windows with a language model, and what is measured of held-out text."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from qpa.tasks.language.hidden_store import HiddenStore
from qpa.tasks.language.language_model import LanguageModel
from qpa.tasks.language.loss import next_token_nll
from qpa.tasks.language.perplexity import LegacyPerplexity, Perplexity

Batch = Mapping[str, Tensor]
HELD_OUT = ("val", "test", "forgetting")  # the order of the dataloaders that `trainer.test` is given; the last only where there is one


class Reading(LightningModule):
    """Reads windows: hidden states of every token, from a store where there is one, and the loss of the next.

    Args:
        language: what reads.
        stores: by split, hidden states that are kept.
    """

    def __init__(self, language: LanguageModel, stores: Mapping[str, HiddenStore]) -> None:
        super().__init__()
        self.model = language.model
        self.language = language
        self.stores = dict(stores)

    def nll(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Summed NLL in nats of windows whose hidden states are given, and the number of tokens it is summed over."""
        language = self.language
        return next_token_nll(language.head, hidden, labels, vocabulary=language.vocabulary, parameters=language.head_parameters())

    def hidden(self, batch: Batch, split: str) -> Tensor:
        """What the head reads of every token, `[B, T, hidden]`: from the store where there is one, else from the body."""
        store = self.stores.get(split)
        if store is None:
            return self.language.body(batch["input_ids"])
        indices = batch["index"].tolist()
        kept = store.read(indices)
        if kept is None:
            kept = self.language.frozen_body(batch["input_ids"]).to(store.dtype)  # as it is read later
            store.write(indices, kept)
        return kept.to(self.device, non_blocking=True)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """All but the windows' numbers, which only the store on disk reads."""
        return {name: t if name == "index" else t.to(device, non_blocking=True) for name, t in batch.items()}

    @contextmanager
    def as_stock_peft(self) -> Iterator[None]:
        """Held-out text is read as stock PEFT reads it with the exported adapter: no autocast, nothing compiled."""
        with torch.autocast(self.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
            yield


class HeldOut(Reading):
    """Perplexity of one model on each held-out text.

    Args:
        language: the model, adapted or not.
        stores: as for `Reading`.
        paper_protocol: count the test text as the paper's released code does as well.
    """

    def __init__(self, language: LanguageModel, stores: Mapping[str, HiddenStore], *, paper_protocol: bool) -> None:
        super().__init__(language, stores)
        self.splits = nn.ModuleDict({split: Perplexity() for split in HELD_OUT})
        self.legacy = LegacyPerplexity() if paper_protocol else None

    def test_step(self, batch: Batch, _: int, dataloader_idx: int = 0) -> None:
        """Count one batch."""
        split = HELD_OUT[dataloader_idx]
        with self.as_stock_peft():
            hidden = self.hidden(batch, split)
            self.perplexity(split).update(*self.nll(hidden, batch["labels"]))
            if self.legacy is not None and split == "test":
                self.legacy.update(*self.nll(hidden, batch["input_ids"]))

    def perplexity(self, split: str) -> Perplexity:
        """Of one text."""
        return cast(Perplexity, self.splits[split])
