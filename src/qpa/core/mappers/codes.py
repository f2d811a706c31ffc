"""Mapper `codes`: every chunk a product of learned codes, in a basis of shared rows."""

import torch
from torch import Tensor, nn

from qpa.core.layout import Layout
from qpa.core.mappers.rows import SharedRows, Start

LABELS = ("kind", "depth", "row", "segment")  # what the layout knows of a chunk
CODE_GAIN = 3.0  # the output is 3 / width times the product: 1e-2 is then the best of three rates at widths 14 and 32 (docs/results.md)


class CodeMapper(nn.Module):
    """A chunk is the circuit's factor times a product of learned codes, in a basis of shared rows.

    A chunk has four labels: the kind of tensor, the depth, the row, the segment of a cut row. Each value of each label has a
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
        self.rows = SharedRows(layout, width, from_zero=from_zero)

    def forward(self, features: Tensor, start: Start | None = None) -> Tensor:
        """The circuit's numbers `[N]` -> all chunks as one flat vector; `start` as in `SharedRows`."""
        hidden = (self.gain * (1 + features))[:, None].expand(-1, self.width)
        for code, index in zip(self.codes, self.indices, strict=True):
            hidden = hidden * code[index]
        return self.rows(hidden, start)
