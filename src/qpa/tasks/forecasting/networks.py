"""The networks: each reads a scaled window and says one number. Symbols: `B` windows of `W` times and `F` columns, `D` the width."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qpa.config import LSTMConfig, SeriesModelConfig, SeriesTransformerConfig, expected

SPREAD = 0.02  # of the first numbers of places, as in GPT-2 and ViT


def make(model: SeriesModelConfig, *, columns: int, window: int, seed: int, device: torch.device) -> nn.Module:
    """A frozen network with weights drawn from the seed.

    Args:
        model: config group `model`.
        columns: `F`.
        window: `W`.
        seed: of the weights, drawn on the CPU: the same on every device.
        device: where to; on the meta device it has shapes without weights.
    """
    meta = device.type == "meta"
    with torch.random.fork_rng(devices=[]), device if meta else torch.device("cpu"):
        torch.manual_seed(seed)
        found = _network(model, columns, window)
    return (found if meta else found.to(device)).requires_grad_(False).eval()


def _network(model: SeriesModelConfig, columns: int, window: int) -> nn.Module:
    if isinstance(model, LSTMConfig):
        return LSTM(columns, hidden=model.hidden, layers=model.layers)
    model = expected("model", model, SeriesTransformerConfig)
    return Transformer(columns, window, width=model.width, heads=model.heads, hidden=model.hidden, layers=model.layers)


class LSTM(nn.Module):
    """Recurrent layers, and a linear one that reads the last time's state (arXiv 2407.08617: two layers of 50, one column)."""

    def __init__(self, columns: int, *, hidden: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(columns, hidden, layers, batch_first=True)
        self.linear = nn.Linear(hidden, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Windows `[B, W, F]` -> forecasts `[B]`."""
        states, _ = self.lstm(inputs)
        return self.linear(states[:, -1]).squeeze(1)


class Transformer(nn.Module):
    """An encoder whose blocks normalise first; a linear layer reads what the last time has become."""

    def __init__(self, columns: int, window: int, *, width: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(columns, width)
        self.places = nn.Parameter(torch.empty(window, width).normal_(std=SPREAD))
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Windows `[B, W, F]` -> forecasts `[B]`."""
        found = self.embedding(inputs) + self.places
        for block in self.blocks:
            found = block(found)
        return self.linear(self.norm(found[:, -1])).squeeze(1)


class Block(nn.Module):
    """What `nn.TransformerEncoderLayer(norm_first=True)` without dropout is, of linear layers alone: that one, when it only reads, takes
    their weights past whatever an adapter has put around them.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, found: Tensor) -> Tensor:
        """`[B, W, D]` -> the same shape."""
        parts = self.attention(self.norm1(found)).unflatten(2, (3, self.heads, -1))  # [B, W, 3, heads, D / heads]
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        found = found + self.out(seen)
        return found + self.linear2(F.relu(self.linear1(self.norm2(found))))
