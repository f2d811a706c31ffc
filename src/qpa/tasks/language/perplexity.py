"""Perplexity: negative log-likelihood summed over real tokens, divided by their count, exponentiated once; and the share of right ones."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

MOST_PIECES = 1000  # of a text, on a run's record


class Perplexity(Metric):
    """`exp(sum of NLL / number of tokens)` over all batches and processes: the same number with any batch size."""

    full_state_update = False
    nll: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nll: Tensor, tokens: Tensor) -> None:
        """Add one batch: its summed NLL in nats and the number of tokens summed over."""
        self.nll += nll
        self.tokens += tokens

    def compute(self) -> Tensor:
        """Perplexity as a float64 scalar."""
        return (self.nll / self.tokens).exp()


class Pieces(Metric):
    """The text in pieces, for the error of having read this text and no other: each one's summed NLL and number of tokens.

    A piece is a window, or as many that follow one another as leave at most `MOST_PIECES`.
    """

    full_state_update = False
    numbers: list[Tensor]
    sums: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("numbers", [], dist_reduce_fx="cat")
        self.add_state("sums", [], dist_reduce_fx="cat")

    def update(self, numbers: Tensor, nll: Tensor, tokens: Tensor) -> None:
        """Add windows: their numbers in the text, summed NLL in nats, and tokens summed over, all `[B]`."""
        self.numbers.append(numbers.to(nll.device))
        self.sums.append(torch.stack([nll, tokens], 1))

    def compute(self) -> Tensor:
        """`[pieces, 2]` in the order of the text, float64."""
        sums = dim_zero_cat(self.sums)[dim_zero_cat(self.numbers).argsort()]
        return torch.stack([part.sum(0) for part in sums.split(math.ceil(len(sums) / MOST_PIECES))])


class Tokens(Metric):
    """How many tokens perplexity is taken over, in all batches and processes."""

    full_state_update = False
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, tokens: Tensor) -> None:
        """Add the tokens of one batch."""
        self.tokens += tokens

    def compute(self) -> Tensor:
        """The count."""
        return self.tokens


class Accuracy(Metric):
    """The share of tokens that are those which the model holds most likely, over all batches and processes."""

    full_state_update = False
    hits: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, hits: Tensor, tokens: Tensor) -> None:
        """Add one batch: how many tokens were right, of how many."""
        self.hits += hits
        self.tokens += tokens

    def compute(self) -> Tensor:
        """The share as a float64 scalar."""
        return self.hits.double() / self.tokens


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

    def update(self, nll: Tensor, tokens: Tensor) -> None:
        """Add one batch, padding counted: its summed NLL in nats and the number of tokens summed over."""
        self.means += nll / tokens
        self.batches += 1

    def compute(self) -> Tensor:
        """The number as a float64 scalar."""
        return (self.means / self.batches).exp()
