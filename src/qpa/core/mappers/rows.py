"""What all mappers end in: rows that chunks share, on top of a frozen start.

Symbols: `N` chunks, `n` of them of one length, `h` hidden numbers of a chunk.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from qpa.core.layout import Layout


class Start(nn.Module):
    """What is added to all that is generated, frozen. Kept are the chunks that are not zero: of LoRA's, half are.

    Args:
        layout: where each chunk lies.
        start: one flat vector, `[size]`; without values, as on the meta device, every chunk counts as kept.
    """

    def __init__(self, layout: Layout, start: Tensor) -> None:
        super().__init__()
        parts = start.split([length * count for length, count in layout.lengths.items()])
        for i, (length, part) in enumerate(zip(layout.lengths, parts, strict=True)):
            grid = part.view(-1, length)
            kept = torch.arange(len(grid), device=start.device) if start.is_meta else grid.any(1).nonzero().flatten()
            self.register_buffer(f"kept{i}", kept, persistent=False)
            self.register_buffer(f"chunks{i}", grid[kept], persistent=False)
        self.lengths, self.counts, self.sizes = len(parts), [*layout.lengths.values()], [len(part) for part in parts]

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """By chunk length: which chunks, `[n]`, and their values, `[n, length]`."""
        return [(getattr(self, f"kept{i}"), getattr(self, f"chunks{i}")) for i in range(self.lengths)]

    def added(self, flat: Tensor) -> Tensor:
        """A flat vector `[size]` with it."""
        parts = flat.split(self.sizes)
        grids = [part.view(-1, size // count) for part, size, count in zip(parts, self.sizes, self.counts, strict=True)]
        return torch.cat([grid.index_add(0, *own).flatten() for grid, own in zip(grids, self.parts(), strict=True)])

    def flat(self, layout: Layout) -> Tensor:
        """All of it again, `[size]`."""
        grids = [torch.zeros(count, length) for length, count in layout.lengths.items()]
        for grid, (kept, chunks) in zip(grids, self.parts(), strict=True):
            grid[kept.cpu()] = chunks.to(grid)
        return torch.cat([grid.flatten() for grid in grids])


class SharedRows(nn.Module):
    """From hidden numbers to chunks, one linear map per chunk length.

    Args:
        layout: which lengths there are, and how many chunks of each.
        hidden: `h`, or that of each length.
        bias: whether each map has one.
        from_zero: start at zero, else at torch's own initial weights.
    """

    def __init__(self, layout: Layout, hidden: int | Sequence[int], *, bias: bool = False, from_zero: bool) -> None:
        super().__init__()
        self.counts = list(layout.lengths.values())
        sizes = [hidden] * len(self.counts) if isinstance(hidden, int) else hidden
        self.maps = nn.ModuleList(nn.Linear(h, length, bias=bias) for h, length in zip(sizes, layout.lengths, strict=True))
        for parameter in self.parameters() if from_zero else ():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor | Sequence[Tensor], start: Start | None = None) -> Tensor:
        """Hidden numbers to all chunks as one flat vector `[size]`.

        Args:
            hidden: of all chunks, `[N, h]`, or by length, `[n, h]` each.
            start: what the chunks are added to.
        """
        parts = hidden.split(self.counts) if isinstance(hidden, Tensor) else hidden
        maps = cast("list[nn.Linear]", list(self.maps))
        biases = [m.bias for m in maps if m.bias is not None]
        return _Rows.apply(start.parts() if start else None, len(maps), *parts, *(m.weight for m in maps), *biases)  # pyright: ignore[reportReturnType]


class _Rows(torch.autograd.Function):
    """One matrix product per length each way, in its own part of one flat vector: all that is as large as the adapter is read once."""

    @staticmethod
    def forward(ctx: Any, start: list[tuple[Tensor, Tensor]] | None, lengths: int, *numbers: Tensor) -> Tensor:
        """`numbers`: hidden numbers of every length, then weights, then biases or none."""
        hidden, weights, biases = numbers[:lengths], numbers[lengths : 2 * lengths], numbers[2 * lengths :]
        sizes = [len(part) * len(weight) for part, weight in zip(hidden, weights, strict=True)]
        flat = hidden[0].new_empty(sum(sizes))
        for i, (chunks, part) in enumerate(zip(flat.split(sizes), hidden, strict=True)):
            grid = chunks.view(len(part), -1)
            torch.mm(part, weights[i].t(), out=grid)
            if biases:
                grid += biases[i]
            if start:
                grid.index_add_(0, *start[i])
        ctx.sizes, ctx.biased = sizes, bool(biases)
        ctx.save_for_backward(*hidden, *weights)
        return flat

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of all `numbers`, from that of the flat vector."""
        lengths = len(ctx.sizes)
        hidden, weights = ctx.saved_tensors[:lengths], ctx.saved_tensors[lengths:]
        grids = [g.view(len(part), -1) for g, part in zip(gradient.split(ctx.sizes), hidden, strict=True)]
        of_hidden = [grid @ weight for grid, weight in zip(grids, weights, strict=True)]
        of_weights = [grid.t() @ part for grid, part in zip(grids, hidden, strict=True)]
        of_biases = [grid.sum(0) for grid in grids] if ctx.biased else []
        return None, None, *of_hidden, *of_weights, *of_biases
