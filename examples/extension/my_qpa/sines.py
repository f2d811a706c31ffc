import torch
from torch import Tensor, nn

from qpa.config import LatentsConfig
from qpa.core.latents.base import SPREAD, Latents
from qpa.core.layout import Layout


class Sines(Latents):
    """A sine over the basis states of each circuit, its size and frequency trained."""

    class Settings(LatentsConfig):
        pass

    def __init__(self, layout: Layout, settings: Settings, *, budget: int) -> None:
        super().__init__(layout)
        self.size = nn.Parameter(SPREAD * torch.randn(layout.circuits, 1))
        self.frequency = nn.Parameter(torch.ones(layout.circuits, 1))
        self.register_buffer("angle", torch.linspace(0, 2 * torch.pi, 2**layout.qubits), persistent=False)

    def of_states(self) -> Tensor:
        """A number for every basis state of every circuit, `[K, S]`."""
        return self.size * torch.sin(self.frequency * self.angle)
