"""`python -m benchmarks.pieces [--quick]`: head and loss of 8,192 tokens in pieces of several sizes, forward and backward.

Of a frozen bf16 head, beside Liger-Kernel's fused one where it is installed. The floor: two matrix products of hidden states by vocabulary,
for the logits and for the gradient of the hidden states, over the measured rate.
"""

import sys
from functools import partial
from importlib.util import find_spec

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.sides import DEVICE
from benchmarks.timing import NotTimedError, Rates, cell, each, finish, medians
from qpa.runs.record import forget_peak_memory, peak_memory
from qpa.tasks.language import loss

VOCABULARIES = {"SmolLM2": (49_152, 576), "Gemma-2-2B": (256_000, 2304)}  # and the hidden size
TOKENS, CONTEXT = 8192, 512
SIZES = [24, 25, 26, 27, 28, 29, 30, 31]  # log2 of a piece's bytes in fp32: 16 MiB to 2 GiB
LIGER = "Liger-Kernel"


def main(quick: bool) -> None:
    """Both vocabularies; print."""
    rates = Rates.measured(DEVICE)
    shapes = {"tiny": (1024, 32)} if quick else VOCABULARIES
    rows, why_not = each({name: partial(measure, *shape, rates, quick=quick) for name, shape in shapes.items()})
    table = Table("ms (peak GiB)", *rows)
    for side in {side: None for row in rows.values() if row for side in row["seconds"]}:
        table.add_row(side, *(_cell(row, side) for row in rows.values()))
    table.add_row("floor", *(cell(1e3 * row["floor_seconds"] if row else None, ".2f") for row in rows.values()))
    Console(soft_wrap=True).print(table)
    finish("pieces", quick, {"rows": rows, "why_not": why_not})


def _cell(row: dict | None, side: str) -> str:
    seconds = (row or {"seconds": {}})["seconds"].get(side)
    return "-" if row is None or seconds is None else f"{1e3 * seconds:.2f} ({row['peak_bytes'][side] / 2**30:.2f})"


def measure(vocabulary: int, width: int, rates: Rates, *, quick: bool) -> dict:
    """Median seconds and peak bytes by side."""
    windows, context = (2, 64) if quick else (TOKENS // CONTEXT, CONTEXT)
    head = nn.Linear(width, vocabulary, bias=False, device=DEVICE, dtype=torch.bfloat16).requires_grad_(False)
    hidden = torch.randn(windows, context, width, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    labels = torch.randint(vocabulary, (windows, context), device=DEVICE)
    sizes = SIZES[:2] if quick else SIZES
    pieces = {f"{2**size >> 20:,} MiB": partial(in_pieces, head, hidden, labels, 2**size) for size in sizes}
    sides, peaks, why_not = {}, {}, {}
    for name, once in {**pieces, LIGER: partial(fused, head, hidden, labels)}.items():
        forget_peak_memory()
        _, failed = each({name: once})
        why_not |= failed
        if not failed:
            sides[name], peaks[name] = once, peak_memory()
    seconds = medians(sides, repeats=3 if quick else 10, seconds=3 if quick else 8)
    floor = rates.floor(operations=4 * width * vocabulary * windows * context, moved=4 * width * vocabulary)
    return {"seconds": seconds | dict.fromkeys(why_not), "peak_bytes": peaks, "why_not": why_not, "floor_seconds": floor}


def in_pieces(head: nn.Linear, hidden: Tensor, labels: Tensor, size: int) -> None:
    """As a step has it, with pieces of `size` bytes."""
    usual, loss.rows_of_a_piece = loss.rows_of_a_piece, lambda device, vocabulary: max(1, size // (4 * vocabulary))
    hidden.grad = None
    try:
        nll, tokens = loss.next_token_nll(head, hidden, labels, vocabulary=head.out_features)
        (nll / tokens).backward()
    finally:
        loss.rows_of_a_piece = usual


def fused(head: nn.Linear, hidden: Tensor, labels: Tensor) -> None:
    """The same by Liger-Kernel."""
    if find_spec("liger_kernel") is None:
        raise NotTimedError("liger_kernel is not installed")
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # pyright: ignore[reportMissingImports]

    hidden.grad = None
    reads, following = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    LigerFusedLinearCrossEntropyLoss()(head.weight, reads, following).backward()


if __name__ == "__main__":
    main("--quick" in sys.argv)
