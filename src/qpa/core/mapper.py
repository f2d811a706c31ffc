"""The mapper: from what is known of a chunk, its place in the model and the circuit's number for it, to the chunk's weights.

All kinds end in one layer per chunk length that all chunks of that length share. It starts at zero where a frozen start is
added: the first generated residual is zero, so the adapted model is what the PEFT method starts as.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from qpa.core.circuits.states import basis_bits
from qpa.core.layout import Layout

ACTIVATIONS = {"tanh": nn.Tanh, "silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU, "none": nn.Identity}
LABELS = ("kind", "layer", "row", "segment")  # what the layout knows of a chunk
CODE_GAIN = 3.0  # the output is 3 / width times the product: 1e-2 is then the best of three rates at widths 14 and 32 (docs/results.md)


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
        self.lengths = len(parts)

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """By chunk length: which chunks, `[n]`, and their values, `[n, length]`."""
        return [(getattr(self, f"kept{i}"), getattr(self, f"chunks{i}")) for i in range(self.lengths)]


class SharedRows(nn.Module):
    """The last layer: hidden numbers to chunks, one linear map per chunk length.

    Args:
        layout: which lengths there are.
        hidden: `h` of each length.
        bias: whether each map has one.
        from_zero: start at zero, else at torch's own initial weights.
    """

    def __init__(self, layout: Layout, hidden: Sequence[int], *, bias: bool, from_zero: bool) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(h, length, bias=bias) for h, length in zip(hidden, layout.lengths, strict=True))
        for parameter in self.parameters() if from_zero else ():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Sequence[Tensor], start: Start | None, out: Tensor | None) -> Tensor:
        """`[n, h]` of each length -> all chunks as one flat vector, added to `start`, written into `out` where one is given."""
        maps = cast("list[nn.Linear]", list(self.maps))
        biases = [m.bias for m in maps if m.bias is not None]
        return _Rows.apply(start.parts() if start else None, out, len(maps), *hidden, *(m.weight for m in maps), *biases)  # pyright: ignore[reportReturnType]


class _Rows(torch.autograd.Function):
    """One matrix product per length each way, in its own part of one flat vector: all that is as large as the adapter is read once."""

    @staticmethod
    def forward(ctx: Any, start: list[tuple[Tensor, Tensor]] | None, out: Tensor | None, lengths: int, *numbers: Tensor) -> Tensor:
        hidden, weights, biases = numbers[:lengths], numbers[lengths : 2 * lengths], numbers[2 * lengths :]
        sizes = [len(part) * len(weight) for part, weight in zip(hidden, weights, strict=True)]
        flat = hidden[0].new_empty(sum(sizes)) if out is None else out
        for i, (chunks, part) in enumerate(zip(flat.split(sizes), hidden, strict=True)):
            grid = chunks.view(len(part), -1)
            torch.mm(part, weights[i].t(), out=grid)
            if biases:
                grid += biases[i]
            if start:
                grid.index_add_(0, *start[i])
        if out is not None:
            ctx.mark_dirty(out)
        ctx.sizes, ctx.biased = sizes, bool(biases)
        ctx.save_for_backward(*hidden, *weights)
        return flat

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        lengths = len(ctx.sizes)
        hidden, weights = ctx.saved_tensors[:lengths], ctx.saved_tensors[lengths:]
        grids = [g.view(len(part), -1) for g, part in zip(gradient.split(ctx.sizes), hidden, strict=True)]
        of_hidden = [grid @ weight for grid, weight in zip(grids, weights, strict=True)]
        of_weights = [grid.t() @ part for grid, part in zip(grids, hidden, strict=True)]
        of_biases = [grid.sum(0) for grid in grids] if ctx.biased else []
        return None, None, None, *of_hidden, *of_weights, *of_biases


class CodeMapper(nn.Module):
    """A chunk is the circuit's factor times a product of learned codes, in a basis of shared rows.

    A chunk has four labels: the kind of tensor, the layer, the row, the segment of a cut row. Each value of each label has a
    learned code of `width` numbers, started at random signs; a chunk's hidden numbers are the element-wise product of its
    codes times `1 + f`, `f` being the circuit's number for its basis state (a CP decomposition, Hitchcock 1927, of all
    weights over the labels, weighted by the circuit).
    """

    def __init__(self, layout: Layout, *, width: int, from_zero: bool = True) -> None:
        super().__init__()
        self.width = width
        self.gain = CODE_GAIN / width
        self.codes = nn.ParameterList()
        indices = []
        for label in LABELS:
            values = [getattr(chunk, label) for chunk in layout.chunks]
            place = {value: i for i, value in enumerate(dict.fromkeys(values))}
            if len(place) > 1:  # a label with one value says nothing
                indices.append([place[value] for value in values])
                self.codes.append(nn.Parameter(torch.randint(0, 2, (len(place), width)) * 2.0 - 1))
        self.register_buffer("indices", torch.tensor(indices, dtype=torch.long), persistent=False)
        self.indices: Tensor
        self.counts = list(layout.lengths.values())
        self.rows = SharedRows(layout, [width] * len(self.counts), bias=False, from_zero=from_zero)

    def forward(self, features: Tensor, start: Start | None = None, out: Tensor | None = None) -> Tensor:
        """The circuit's numbers `[N]` -> all chunks as one flat vector; `start` and `out` as in `SharedRows`."""
        hidden = (self.gain * (1 + features))[:, None].expand(-1, self.width)
        for code, index in zip(self.codes, self.indices, strict=True):
            hidden = hidden * code[index]
        return self.rows(hidden.split(self.counts), start, out)


class TiedMapper(nn.Module):
    """Neighbouring layers share their rows; the circuit gives every chunk its own factor on the row it takes.

    Each kind of tensor has a bank of at most `width` rows. The rows of a tensor are taken together in groups, the layers in
    blocks, and all chunks of one group and block are the same bank row times `1 + f`. With as many bank rows as chunks
    nothing is shared: plain PEFT.

    Divided by the root of the rows of a tensor, one rate fits all sizes: `g` rows that are the same act as one of `sqrt(g)` times
    their size, whose best rate is as many times larger.
    """

    def __init__(self, layout: Layout, *, width: int, from_zero: bool = True) -> None:
        super().__init__()
        self.counts = list(layout.lengths.values())
        taken, rows_of_tensor = _banks(layout, width)
        firsts = itertools.accumulate(self.counts, initial=0)
        parts = [taken[first : first + count] for first, count in zip(firsts, self.counts, strict=False)]
        numbers = [{row: i for i, row in enumerate(dict.fromkeys(part))} for part in parts]
        for i, (part, number) in enumerate(zip(parts, numbers, strict=True)):
            index = torch.tensor([number[row] for row in part])
            self.register_buffer(f"taken{i}", nn.functional.one_hot(index, len(number)).float(), persistent=False)
        self.register_buffer("gain", torch.tensor(rows_of_tensor).rsqrt(), persistent=False)
        self.gain: Tensor
        self.rows = SharedRows(layout, [len(number) for number in numbers], bias=False, from_zero=from_zero)

    def forward(self, features: Tensor, start: Start | None = None, out: Tensor | None = None) -> Tensor:
        """The circuit's numbers `[N]` -> all chunks as one flat vector; `start` and `out` as in `SharedRows`."""
        factors = (self.gain * (1 + features)).split(self.counts)
        hidden = [getattr(self, f"taken{i}") * factor[:, None] for i, factor in enumerate(factors)]
        return self.rows(hidden, start, out)


def _banks(layout: Layout, width: int) -> tuple[list[tuple[int, int]], list[int]]:
    """For every chunk, which row of which bank it takes, and how many rows its tensor has."""
    families: dict[tuple[str, int], list[int]] = {}
    for i, chunk in enumerate(layout.chunks):
        families.setdefault((chunk.kind, chunk.length), []).append(i)
    taken, rows_of_tensor = [(0, 0)] * len(layout.chunks), [0] * len(layout.chunks)
    for number, members in enumerate(families.values()):
        family = [layout.chunks[i] for i in members]
        rows = _ranks(chunk.row for chunk in family)
        places = _ranks((chunk.layer, chunk.segment) for chunk in family)
        bank = min(width, len(rows) * len(places))
        groups = min(len(rows), max(math.isqrt(bank), math.ceil(bank / len(places))))
        for i, chunk in zip(members, family, strict=True):
            group = rows[chunk.row] * groups // len(rows)
            first, end = bank * group // groups, bank * (group + 1) // groups
            taken[i] = number, first + places[chunk.layer, chunk.segment] * (end - first) // len(places)
            rows_of_tensor[i] = len(rows)
    return taken, rows_of_tensor


def _ranks(values: Iterable[Any]) -> dict[Any, int]:
    """Of each value its place among all in order."""
    return {value: i for i, value in enumerate(sorted(set(values)))}


class MLPMapper(nn.Module):
    """The paper's mapper (section 3.2): an MLP from a basis state's `Q` bits and the circuit's number to the chunk.

    Sizes `Q + 1 -> hidden[0] -> ... -> C`, an activation after each hidden layer.
    """

    def __init__(self, layout: Layout, *, hidden: Sequence[int], activation: str, from_zero: bool = True) -> None:
        super().__init__()
        sizes = [layout.qubits + 1, *hidden]
        layers: list[nn.Module] = []
        for size, following in itertools.pairwise(sizes):
            layers += [nn.Linear(size, following), ACTIVATIONS[activation]()]
        self.hidden = nn.Sequential(*layers)
        self.counts = list(layout.lengths.values())
        self.rows = SharedRows(layout, [sizes[-1]] * len(self.counts), bias=True, from_zero=from_zero)
        states = torch.tensor([chunk.state for chunk in layout.chunks])
        self.register_buffer("bits", basis_bits(states, layout.qubits), persistent=False)
        self.bits: Tensor

    def forward(self, features: Tensor, start: Start | None = None, out: Tensor | None = None) -> Tensor:
        """The circuit's numbers `[N]` -> all chunks as one flat vector; `start` and `out` as in `SharedRows`."""
        hidden = self.hidden(torch.cat([self.bits, features[:, None]], dim=1))
        return self.rows(hidden.split(self.counts), start, out)


Mapper = TiedMapper | CodeMapper | MLPMapper
