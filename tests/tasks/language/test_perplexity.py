"""Perplexity against a sum over single tokens in numpy, whatever the batches."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import folder_of, train_run

from qpa.config import Config
from qpa.runs import record
from qpa.tasks.language.loss import next_token_nll, next_token_scores
from qpa.tasks.language.perplexity import MOST_PIECES, LegacyPerplexity, Perplexity, Pieces
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


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_pieces_are_the_windows_in_order_however_they_are_read(batch: int) -> None:
    metric, order = Pieces(), torch.tensor([4, 0, 6, 2, 1, 5, 3])
    for some in order.split(batch):
        nll, _, tokens = next_token_scores(lambda hidden: hidden, LOGITS[some], LABELS[some], vocabulary=50)
        metric.update(some, nll, tokens)
    alone = [token_nll(LOGITS[place, None], LABELS[place, None]) for place in range(7)]
    assert metric.compute().tolist() == [[pytest.approx(nll.item(), rel=1e-6), tokens.item()] for nll, tokens in alone]


def test_pieces_of_a_long_text_are_few_and_hold_all_of_it() -> None:
    metric, count = Pieces(), 2 * MOST_PIECES + 1
    metric.update(torch.arange(count), torch.ones(count, dtype=torch.float64), torch.full((count,), 3))
    found = metric.compute()
    assert len(found) <= MOST_PIECES
    assert found.sum(0).tolist() == [count, 3 * count]


def test_pieces_on_record_are_those_of_the_perplexity_beside_them(make_config: Callable[..., Config]) -> None:
    config = make_config()
    train_run(config)
    found = record.read(folder_of(config))["qpa"]
    for split, prefix in (("val", ""), ("test", ""), ("test", "base_")):
        nll, tokens = np.sum(found[split][f"{prefix}pieces"], axis=0)
        assert tokens == found[split]["tokens"]
        assert np.exp(nll / tokens) == pytest.approx(found[split][f"{prefix}perplexity"], rel=1e-9)
