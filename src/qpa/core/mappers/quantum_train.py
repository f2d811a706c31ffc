"""Mapper `quantum_train`: as whole networks were first generated (arXiv 2402.16465, 2405.11304), one basis state a weight."""

import hashlib
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
        random_labels: read random signs in place of a basis state's bits, drawn anew whenever what is trained has changed. The released
            code of QPA draws them at every forward; here the same numbers always make the same weights, so that a saved network is the
            one that was measured.
        from_zero: as in `SharedRows`.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        hidden: Sequence[int],
        activation: str,
        gain: float,
        bound: float,
        power: float,
        random_labels: bool = False,
        from_zero: bool = True,
    ) -> None:
        super().__init__(layout, hidden=hidden, activation=activation, from_zero=from_zero)
        self.gain, self.bound, self.power, self.random_labels = gain, bound, power, random_labels

    def forward(self, features: Tensor, start: Start | None = None) -> Tensor:
        """The circuit's numbers `S p - 1` `[N]` -> all chunks as one flat vector; `start` as in `SharedRows`."""
        return super().forward(self.scaled(features), start)

    def labels(self) -> Tensor:
        """As the paper's mapper, or random signs in their place, `[N, Q]`."""
        if not self.random_labels or self.bits.is_meta:
            return super().labels()
        numbers = torch.cat([parameter.detach().flatten() for parameter in self.parameters()]).float().cpu().numpy()
        seed = int.from_bytes(hashlib.sha256(numbers.tobytes()).digest()[:8], "big") >> 1
        signs = torch.randint(0, 2, self.bits.shape, generator=torch.Generator().manual_seed(seed))
        return (2 * signs - 1).to(self.bits)

    def scaled(self, features: Tensor) -> Tensor:
        """What the MLP reads of them, `[N]`. Less than -1 counts as -1: what stands in a circuit's place may be, but no probability."""
        gain, bound, power = self.constants()
        scaled = (gain / 2 * (1 + features)).clamp(min=SMALLEST)
        powers = (bound * torch.tanh(scaled)) ** power
        return powers - powers.mean()

    def constants(self) -> tuple[float | Tensor, float | Tensor, float | Tensor]:
        """`gain`, `bound` and `power`."""
        return self.gain, self.bound, self.power
