import torch
from pydantic import Field
from torch import Tensor, nn

from qpa.config import MapperConfig
from qpa.core.layout import Layout
from qpa.core.mappers.rows import SharedRows, Start


class WaveMapper(nn.Module):
    """Each chunk is a mix of `width` shared rows, with random phases of its own that its number shifts."""

    class Settings(MapperConfig):
        width: int = Field(ge=1)

    def __init__(self, layout: Layout, settings: Settings, *, from_zero: bool) -> None:
        super().__init__()
        self.register_buffer("phases", 2 * torch.pi * torch.rand(len(layout.chunks), settings.width))
        self.rows = SharedRows(layout, settings.width, from_zero=from_zero)

    def forward(self, features: Tensor, start: Start | None = None) -> Tensor:
        """The chunks' numbers `[N]` -> all weights as one flat vector `[size]`."""
        return self.rows(torch.cos(self.phases + features[:, None]), start)
