"""The mapper: a small MLP from what is known of a chunk to the chunk's `C` weights (paper, section 3.2)."""

from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS = {"tanh": nn.Tanh, "silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU, "none": nn.Identity}


class Mapper(nn.Module):
    """MLP `inputs -> hidden[0] -> ... -> outputs`, an activation after each hidden layer.

    The last layer starts at zero, so that the first generated residual is zero and the adapted model is the base model.
    """

    def __init__(self, *, inputs: int, hidden: Sequence[int], outputs: int, activation: str) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        layers: list[nn.Module] = []
        for size, following in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(size, following), ACTIVATIONS[activation]()]
        self.hidden = nn.Sequential(*layers)
        self.last = nn.Linear(sizes[-1], outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor) -> Tensor:
        """`[N, inputs]` -> `[N, outputs]`."""
        return self.last(self.hidden(features))
