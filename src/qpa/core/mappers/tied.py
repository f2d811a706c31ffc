"""Mapper `tied`, the default: tensors of one kind share rows across the depth of the network."""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qpa.core.layout import Layout
from qpa.core.mappers.rows import SharedRows, Start


class TiedMapper(nn.Module):
    """Neighbouring decoder layers share their rows; the circuit gives every chunk its own factor on the row it takes.

    Each kind of tensor has a bank of at most `width` rows. The rows of a tensor are taken together in groups, the depths in
    spans, and all chunks of one group and span are the same bank row times `1 + f`. With as many bank rows as chunks nothing
    is shared: plain PEFT.

    Divided by the root of the rows of a tensor, one rate fits all sizes: `g` rows that are the same act as one of `sqrt(g)` times
    their size, whose best rate is as many times larger.
    """

    def __init__(self, layout: Layout, *, width: int, from_zero: bool = True) -> None:
        super().__init__()
        counts = list(layout.lengths.values())
        taken, rows_of_tensor = _banks(layout, width)
        firsts = itertools.accumulate(counts, initial=0)
        parts = [taken[first : first + count] for first, count in zip(firsts, counts, strict=False)]
        numbers = [{row: i for i, row in enumerate(dict.fromkeys(part))} for part in parts]
        for i, (part, number) in enumerate(zip(parts, numbers, strict=True)):
            index = torch.tensor([number[row] for row in part])
            self.register_buffer(f"taken{i}", nn.functional.one_hot(index, len(number)).float(), persistent=False)
        self.register_buffer("gain", torch.tensor(rows_of_tensor).rsqrt(), persistent=False)
        self.gain: Tensor
        self.rows = SharedRows(layout, [len(number) for number in numbers], from_zero=from_zero)

    def forward(self, features: Tensor, start: Start | None = None) -> Tensor:
        """The circuit's numbers `[N]` -> all chunks as one flat vector; `start` as in `SharedRows`."""
        factors = (self.gain * (1 + features)).split(self.rows.counts)
        hidden = [getattr(self, f"taken{i}") * factor[:, None] for i, factor in enumerate(factors)]
        return self.rows(hidden, start)


def _banks(layout: Layout, width: int) -> tuple[list[tuple[int, int]], list[int]]:
    """For every chunk, which row of which bank it takes, and how many rows its tensor has."""
    families: dict[tuple[str, int], list[int]] = {}
    for i, chunk in enumerate(layout.chunks):
        families.setdefault((chunk.kind, chunk.length), []).append(i)
    taken, rows_of_tensor = [(0, 0)] * len(layout.chunks), [0] * len(layout.chunks)
    for number, members in enumerate(families.values()):
        family = [layout.chunks[i] for i in members]
        rows = _ranks(chunk.row for chunk in family)
        places = _ranks((chunk.depth, chunk.segment) for chunk in family)
        bank = min(width, len(rows) * len(places))
        groups = min(len(rows), max(math.isqrt(bank), math.ceil(bank / len(places))))
        for i, chunk in zip(members, family, strict=True):
            group = rows[chunk.row] * groups // len(rows)
            first, end = bank * group // groups, bank * (group + 1) // groups
            taken[i] = number, first + places[chunk.depth, chunk.segment] * (end - first) // len(places)
            rows_of_tensor[i] = len(rows)
    return taken, rows_of_tensor


def _ranks(values: Iterable[Any]) -> dict[Any, int]:
    """Of each value its place among all in order."""
    return {value: i for i, value in enumerate(sorted(set(values)))}
