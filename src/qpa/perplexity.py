"""Perplexity: negative log-likelihood summed over real tokens, divided by their count, exponentiated once."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from qpa.data import IGNORED


def token_nll(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed next-token negative log-likelihood and the number of tokens it is summed over.

    Args:
        logits: `[B, T, vocab]`, any float dtype; the softmax is taken in fp32.
        labels: `[B, T]`, the input's own token ids; positions marked -100 count nowhere.

    Returns:
        The sum in nats and the count, both scalars.
    """
    predicted, following = logits[:, :-1], labels[:, 1:]
    nll = F.cross_entropy(predicted.flatten(0, 1).float(), following.flatten(), ignore_index=IGNORED, reduction="sum")
    return nll, (following != IGNORED).sum()


class Perplexity(Metric):
    """`exp(sum of NLL / number of tokens)` over all batches and processes: the same number with any batch size."""

    full_state_update = False
    nll: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add one batch, shapes as in `token_nll`."""
        nll, tokens = token_nll(logits, labels)
        self.nll += nll
        self.tokens += tokens

    def compute(self) -> Tensor:
        """Perplexity as a float64 scalar."""
        return (self.nll / self.tokens).exp()


class LegacyPerplexity(Metric):
    """The released code's "perplexity": padding counted as text, batch means averaged, then exponentiated.

    Only for comparison with the paper's tables: most of what it predicts is padding after padding.
    """

    full_state_update = False
    means: Tensor
    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("means", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("batches", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, input_ids: Tensor) -> None:
        """Add one batch: logits `[B, T, vocab]` and all ids `[B, T]`, padding too."""
        nll, tokens = token_nll(logits, input_ids)
        self.means += nll / tokens
        self.batches += 1

    def compute(self) -> Tensor:
        """The number as a float64 scalar."""
        return (self.means / self.batches).exp()
