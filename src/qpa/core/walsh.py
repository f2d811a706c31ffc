"""Walsh functions: signs that are products of the signs of a basis state's bits, and their sums (the Walsh-Hadamard transform)."""

import torch
from torch import Tensor


def walsh_sums(numbers: Tensor) -> Tensor:
    """Of `numbers` `[..., S]` the sums `y_i = sum_j (-1)^|i & j| x_j`, in `S log S` additions; `S` is a power of two."""
    size = numbers.shape[-1]
    found, half = numbers, size // 2
    while half:
        pairs = found.view(*numbers.shape[:-1], -1, 2, half)
        first, second = pairs.unbind(-2)
        found = torch.stack([first + second, first - second], dim=-2).view(numbers.shape)
        half //= 2
    return found
