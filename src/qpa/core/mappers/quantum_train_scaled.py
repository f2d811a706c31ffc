"""Mapper `quantum_train_scaled`: as `quantum_train`, with its constants trained and a trained factor for each tensor.

So the released code of the LSTM for floods has it (Lin et al. 2024, arXiv 2407.08617), whose count it is: 3 constants and, of ten tensors,
10 factors. There the factors of the last two tensors start at 26 and 37, here all at 1; and there the mean is taken away before they
multiply, here after.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from qpa.core.layout import Layout
from qpa.core.mappers.quantum_train import QuantumTrainMapper
from qpa.core.mappers.rows import Start


class QuantumTrainScaledMapper(QuantumTrainMapper):
    """The mapper of Quantum-Train, its chunks times a factor for each tensor.

    Args:
        layout: chunks and circuits; of a chunk of several tensors it is the first's factor.
        gain, bound, power: where these three start; their logarithms are trained, so that they stay positive.
        settings: as of `QuantumTrainMapper`.
    """

    def __init__(self, layout: Layout, *, gain: float, bound: float, power: float, **settings: Any) -> None:
        super().__init__(layout, gain=gain, bound=bound, power=power, **settings)
        self.logarithms = nn.Parameter(torch.tensor([gain, bound, power]).log())
        tensors = [(chunk.kind, chunk.depth) for chunk in layout.chunks]
        numbers = {tensor: number for number, tensor in enumerate(dict.fromkeys(tensors))}
        self.factors = nn.Parameter(torch.ones(len(numbers)))
        lengths = zip((numbers[tensor] for tensor in tensors), (chunk.length for chunk in layout.chunks), strict=True)
        self.runs = [(number, sum(n for _, n in run)) for number, run in itertools.groupby(lengths, key=lambda pair: pair[0])]

    def forward(self, features: Tensor, start: Start | None = None) -> Tensor:
        """The circuit's numbers `S p - 1` `[N]` -> all chunks as one flat vector `[size]`; `start` is not multiplied."""
        made = super().forward(features) * torch.cat([self.factors[number].expand(count) for number, count in self.runs])
        return start.added(made) if start else made

    def constants(self) -> tuple[Tensor, Tensor, Tensor]:
        """As they are by now."""
        gain, bound, power = self.logarithms.exp()
        return gain, bound, power
