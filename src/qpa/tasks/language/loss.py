"""Next-token loss without ever holding the logits of all tokens: head and cross entropy for a few tokens at a time.

Each piece's gradients are taken right after its loss, while its logits are there, and its logits are then dropped; backward
only scales them (the idea of Liger-Kernel's fused linear cross entropy, Hsu et al. 2024, arXiv 2410.10989, for any head).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label that torch's cross entropy leaves out

# Logits of one piece in fp32, bytes. On the CPU what stays under 32 MiB is kept by the allocator and nearly in the cache; twice
# that is fetched from the system anew each time, at half the speed (docs/log.md); but a product of fewer than LEAST rows is slower still.
# On a GPU a matrix product is fast that has many
# rows, and no tile of them half empty; logits, their softmax and gradient are then four or five such pieces.
CPU_BYTES = 1 << 25
LEAST = 128  # rows
GPU_SHARE = 128  # of its memory
TILE = 128  # rows


def next_token_nll(
    head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor, *, vocabulary: int, parameters: list[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Summed next-token negative log-likelihood and the number of tokens it is summed over.

    Args:
        head: hidden states `[n, hidden]` to logits `[n, vocab]`; the softmax is taken in fp32.
        hidden: `[B, T, hidden]`, what the head reads of each token.
        labels: `[B, T]`, the input's own token ids; positions marked -100 count nowhere.
        vocabulary: width of the logits.
        parameters: what the head trains.

    Returns:
        The sum in nats and the count, both scalars.
    """
    following = labels[:, 1:].flatten()
    reads = hidden[:, :-1].flatten(0, 1)
    tokens = (following != IGNORED).sum()
    piece = rows_of_a_piece(hidden.device, vocabulary)
    trained = [p for p in parameters or [] if p.requires_grad]
    if torch.is_grad_enabled() and (reads.requires_grad or trained):
        return _PiecewiseNLL.apply(reads, following, head, piece, *trained), tokens  # pyright: ignore[reportReturnType]
    pieces = zip(reads.split(piece), following.split(piece), strict=True)
    return torch.stack([_nll(head, h, y) for h, y in pieces]).sum(), tokens


@torch.no_grad()
def next_token_scores(
    head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor, *, vocabulary: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Summed NLL in nats of each window `[B]`, how many tokens are those that the model holds most likely, and each window's tokens `[B]`.

    Args:
        head, hidden, labels, vocabulary: as for `next_token_nll`.
    """
    following, reads = labels[:, 1:].flatten(), hidden[:, :-1].flatten(0, 1)
    piece = rows_of_a_piece(hidden.device, vocabulary)
    found = []
    for h, y in zip(reads.split(piece), following.split(piece), strict=True):
        logits = head(h).float()
        hits = logits.argmax(-1) == y  # none where y is IGNORED
        found.append((F.cross_entropy(logits, y, ignore_index=IGNORED, reduction="none"), hits))
    nll, hits = (torch.cat(parts) for parts in zip(*found, strict=True))
    return nll.view(len(labels), -1).sum(1, dtype=torch.float64), hits.sum(), (labels[:, 1:] != IGNORED).sum(1)


def rows_of_a_piece(device: torch.device, vocabulary: int) -> int:
    """How many tokens' logits are held at once."""
    if device.type != "cuda":
        return max(LEAST, CPU_BYTES // (4 * vocabulary))
    rows = torch.cuda.get_device_properties(device).total_memory // GPU_SHARE // (4 * vocabulary)
    return max(TILE, rows // TILE * TILE)


def _nll(head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), labels, ignore_index=IGNORED, reduction="sum")


class _PiecewiseNLL(torch.autograd.Function):
    """The sum over all pieces; its gradients are ready when it is."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], piece: int, *parameters: Tensor) -> Tensor:
        wanted = hidden.requires_grad
        total = hidden.new_zeros((), dtype=torch.float32)
        of_hidden = torch.empty_like(hidden) if wanted else hidden.new_empty(0)
        of_parameters = [torch.zeros_like(p) for p in parameters]
        for start in range(0, len(hidden), piece):
            rows = slice(start, start + piece)
            with torch.enable_grad():
                part = hidden[rows].detach().requires_grad_(wanted)
                nll = _nll(head, part, labels[rows])
                found = torch.autograd.grad(nll, [*([part] if wanted else []), *parameters], allow_unused=True)
            total += nll.detach()
            if wanted:
                of_hidden[rows] = found[0]
            for whole, new in zip(of_parameters, found[wanted:], strict=True):
                if new is not None:  # TinyLoRA's head holds the vectors of other modules too
                    whole += new
        ctx.wanted = wanted
        ctx.save_for_backward(of_hidden, *of_parameters)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        of_hidden, *of_parameters = ctx.saved_tensors
        return of_hidden * scale if ctx.wanted else None, None, None, None, *(g * scale for g in of_parameters)
