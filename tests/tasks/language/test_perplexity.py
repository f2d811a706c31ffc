"""Perplexity against a sum over single tokens in numpy, whatever the batches."""

import numpy as np
import pytest
import torch

from qpa.tasks.language.loss import next_token_nll
from qpa.tasks.language.perplexity import LegacyPerplexity, Perplexity
from qpa.tasks.language.windows import IGNORED

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(7, 12, 50, generator=GENERATOR) * 4
LABELS = torch.randint(0, 50, (7, 12), generator=GENERATOR)
LABELS[6, 5:] = IGNORED  # a short last window


def token_nll(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return next_token_nll(lambda hidden: hidden, logits, labels, vocabulary=logits.shape[-1])


def token_by_token() -> tuple[float, int]:
    total, count = 0.0, 0
    for window, labels in zip(LOGITS.double().numpy(), LABELS.numpy(), strict=True):
        for logits, label in zip(window[:-1], labels[1:], strict=True):
            if label != IGNORED:
                total += np.log(np.exp(logits).sum()) - logits[label]
                count += 1
    return total, count


def test_nll_is_summed_over_real_tokens_only() -> None:
    total, count = token_by_token()
    nll, tokens = token_nll(LOGITS, LABELS)
    assert tokens == count == 6 * 11 + 4
    assert nll.item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_perplexity_is_the_same_with_any_batch_size(batch: int) -> None:
    metric = Perplexity()
    for logits, labels in zip(LOGITS.split(batch), LABELS.split(batch), strict=True):
        metric.update(*token_nll(logits, labels))
    total, count = token_by_token()
    assert metric.compute().item() == pytest.approx(np.exp(total / count), rel=1e-6)


def test_unlikely_tokens_do_not_underflow() -> None:
    logits = torch.tensor([[[0.0, 300.0], [0.0, 300.0]]])
    nll, _ = token_nll(logits, torch.tensor([[0, 0]]))
    assert nll == 300


def test_legacy_number_averages_batch_means_over_padding_too() -> None:
    metric, ids = LegacyPerplexity(), LABELS.where(LABELS != IGNORED, 3)
    means = []
    for logits, labels in zip(LOGITS.split(4), ids.split(4), strict=True):
        metric.update(*token_nll(logits, labels))
        means.append(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).item())
    assert metric.compute().item() == pytest.approx(np.exp(np.mean(means)), rel=1e-6)
