"""How windows are read: hidden states of every token, from a store where there is one, and the loss of the next."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from qpa.tasks.language.hidden_store import HiddenStore
from qpa.tasks.language.language_model import LanguageModel
from qpa.tasks.language.loss import next_token_nll, next_token_scores
from qpa.tasks.language.perplexity import Accuracy, LegacyPerplexity, Perplexity, Pieces, Tokens
from qpa.tasks.task import Learner

LEGACY = "legacy/perplexity"
COMPARED = 64  # tokens by which a saved adapter is compared with the trained one

Windows = Mapping[str, Tensor]


class Reader(Learner):
    """Reads windows with a language model.

    Args:
        language: what reads.
        stores: by split, hidden states that are kept.
        paper_protocol: train as the paper's released code does, padding counted as text, and count held-out text so as well.
    """

    def __init__(self, language: LanguageModel, stores: Mapping[str, HiddenStore], *, paper_protocol: bool) -> None:
        self.model = language.model
        self.language, self.stores, self.paper_protocol = language, dict(stores), paper_protocol

    def loss(self, batch: Windows) -> tuple[Tensor, Tensor]:
        """Summed NLL in nats, and the tokens it is summed over."""
        return self.nll(self.hidden(batch, "train"), batch["input_ids" if self.paper_protocol else "labels"])

    def scores(self) -> nn.ModuleDict:
        """Perplexity, accuracy, the tokens they are taken over, the text in pieces, and the paper's own number by its protocol."""
        legacy = {LEGACY: LegacyPerplexity()} if self.paper_protocol else {}
        return nn.ModuleDict({"perplexity": Perplexity(), "accuracy": Accuracy(), "tokens": Tokens(), "pieces": Pieces(), **legacy})

    def score(self, batch: Windows, split: str, scores: nn.ModuleDict) -> None:
        """Count one batch of windows."""
        hidden, language = self.hidden(batch, split), self.language
        nll, hits, tokens = next_token_scores(language.head, hidden, batch["labels"], vocabulary=language.vocabulary)
        cast(Perplexity, scores["perplexity"]).update(nll.sum(), tokens.sum())
        cast(Accuracy, scores["accuracy"]).update(hits, tokens.sum())
        cast(Tokens, scores["tokens"]).update(tokens.sum())
        cast(Pieces, scores["pieces"]).update(batch["index"], nll, tokens)
        if self.paper_protocol:
            cast(LegacyPerplexity, scores[LEGACY]).update(*self.nll(hidden, batch["input_ids"]))

    def outputs(self, batch: Windows) -> Tensor:
        """Logits of the first tokens, `[1, t, vocabulary]`."""
        return self.language.head(self.hidden(batch, "val")[:, :COMPARED])

    def nll(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Summed NLL in nats of windows whose hidden states are given, and the number of tokens it is summed over."""
        language = self.language
        return next_token_nll(language.head, hidden, labels, vocabulary=language.vocabulary, parameters=language.head_parameters())

    def hidden(self, batch: Windows, split: str) -> Tensor:
        """What the head reads of every token, `[B, T, hidden]`: from the store where there is one, else from the body."""
        store = self.stores.get(split)
        ids, positions = batch["input_ids"], batch.get("positions")
        if store is None:
            return self.language.body(ids, positions)
        indices = batch["index"].tolist()
        kept = store.read(indices)
        if kept is None:
            kept = self.language.frozen_body(ids, positions).to(store.dtype)  # as it is read later
            store.write(indices, kept)
        return kept.to(self.language.base.device, non_blocking=True)

    def to_device(self, batch: Windows, device: torch.device) -> Windows:
        """All but the windows' numbers, which only the store on disk reads."""
        return {name: t if name == "index" else t.to(device, non_blocking=True) for name, t in batch.items()}

    def changes_from_step_to_step(self) -> str | None:
        """Reading from disk, what Python decides by chance, and dropout where it has to be drawn twice alike."""
        if "train" in self.stores:
            return "hidden states are read from disk"
        if self.language.skips_at_random():
            return "modules are left out at random (module_dropout or layerdrop), and a replay would always leave out the same"
        recomputed = any(getattr(module, "gradient_checkpointing", False) for module in self.language.base.modules())
        if recomputed and self.language.draws():
            return "with gradient checkpointing, dropout would have to be drawn again as it was; set it to 0"
        return None

    def blocks(self) -> list[nn.Module]:
        """The decoder's layers."""
        return self.language.layers()

    def compile(self) -> None:
        """The decoder's layers."""
        torch.compiler.reset()  # what an earlier job of a sweep has compiled counts against the limit
        self.language.compile()
