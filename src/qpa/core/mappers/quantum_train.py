"""Mapper `quantum_train`: as whole networks were first generated (arXiv 2402.16465, 2405.11304), one basis state a weight."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qpa.core.layout import Layout
from qpa.core.mappers.paper import PaperMapper
from qpa.core.mappers.rows import Start

SMALLEST = 1e-6  # of what is raised to the power, whose slope has no bound at zero; of a uniform state it is gain / 2


class QuantumTrainMapper(PaperMapper):
    """The paper's MLP, which reads of a basis state with probability `p` not `p` but `(bound * tanh(gain * S p / 2)) ** power`.

    From it its mean over all chunks is taken away. So weights differ by orders of magnitude less than probabilities do.

    Args:
        layout: chunks and circuits.
        hidden: sizes of the hidden layers.
        activation: after each of them; the published MLP has none.
        gain, bound, power: the published `g`, `b` and `a`.
        from_zero: as in `SharedRows`.
    """

    def __init__(
        self, layout: Layout, *, hidden: Sequence[int], activation: str, gain: float, bound: float, power: float, from_zero: bool = True
    ) -> None:
        super().__init__(layout, hidden=hidden, activation=activation, from_zero=from_zero)
        self.gain, self.bound, self.power = gain, bound, power

    def forward(self, features: Tensor, start: Start | None = None) -> Tensor:
        """The circuit's numbers `S p - 1` `[N]` -> all chunks as one flat vector; `start` as in `SharedRows`."""
        return super().forward(self.scaled(features), start)

    def scaled(self, features: Tensor) -> Tensor:
        """What the MLP reads of them, `[N]`. Less than -1 counts as -1: what stands in a circuit's place may be, but no probability."""
        scaled = (self.gain / 2 * (1 + features)).clamp(min=SMALLEST)
        powers = (self.bound * torch.tanh(scaled)) ** self.power
        return powers - powers.mean()
