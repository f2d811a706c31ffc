"""DoRA (Liu et al. 2024, arXiv 2402.09353) without its dense product: the norms that it divides by, from the low-rank factors.

peft multiplies `B A` out in every forward pass, as large as the weight `W` itself, to take the norm of each row of `W + s B A`. With
`V = W A^T`, as thin as the adapter, the square of that norm is `|W|^2 + s B . (2 V + s B A A^T)`, row by row: `W` is read once, and nothing
as large is made.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.lora.dora import DoraLinearLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

ROWS_BYTES = 1 << 21  # of the weight in fp32 at a time on the CPU: it stays in the cache


class LowRankDora(DoraLinearLayer):
    """peft's DoRA of a linear module, its numbers to rounding."""

    _frozen: tuple[Any, Tensor] | None = None  # norms of the frozen weight's rows

    def forward(
        self, x: Tensor, *, lora_A: nn.Linear, lora_B: nn.Linear, scaling: float, base_layer: Any, base_result: Tensor | None = None,
        adapter_name: str = "default",
    ) -> Tensor:  # fmt: skip
        """What is added to the base module's output.

        Args:
            x: what the module reads, `[..., in]`.
            lora_A: `[r, in]`.
            lora_B: `[out, r]`.
            scaling: of the product of both.
            base_layer: the module.
            base_result: its output, where `x` is what it has read; else, after dropout, None.
            adapter_name: peft's.
        """
        norm = self.norm(base_layer, lora_A.weight, lora_B.weight, scaling)
        scale = (self.weight / norm.to(self.weight.dtype)).view(1, -1)
        if base_result is None:
            base_result = F.linear(x, self._rows(base_layer).to(x.dtype))
        elif base_layer.bias is not None:
            base_result = base_result - base_layer.bias
        assert base_result is not None
        return (scale - 1) * base_result + scale * lora_B(lora_A(x)) * scaling

    @torch.no_grad()
    def norm(self, base_layer: Any, first: Tensor, second: Tensor, scaling: float) -> Tensor:
        """Of each row of the adapted weight, `[out]`, fp32.

        Args:
            base_layer: whose weight it is.
            first: the factor `A`, `[r, in]`.
            second: the factor `B`, `[out, r]`.
            scaling: of their product.
        """
        with torch.autocast(first.device.type, enabled=False):
            first, second = first.float(), second.float()
            known, rows = _content(base_layer.weight), self._rows(base_layer)
            if self._frozen is None or self._frozen[0] != known:
                self._frozen = known, torch.cat([torch.linalg.norm(part, dim=1) for part in _in_fp32(rows)])
            norm = self._frozen[1]
            along = torch.cat([part @ first.T for part in _in_fp32(rows)])
            more = scaling * (second * (2 * along + scaling * (second @ (first @ first.T)))).sum(1)
            grown = norm * (1 + more / norm.square()).clamp(min=0).sqrt()  # without an update the very number that peft has
            return torch.where(norm > 0, grown, more.clamp(min=0).sqrt())

    def _rows(self, base_layer: nn.Module) -> Tensor:
        """The weight, `[out, in]`."""
        weight = dequantize_module_weight(base_layer)
        return weight.T if self.fan_in_fan_out else weight


def without_dense_products(model: nn.Module) -> None:
    """Have every linear module of a model that peft has put DoRA on compute it so."""
    for module in model.modules():
        if type(module) is DoraLinearLayer:
            cast(Any, module).__class__ = LowRankDora


@contextmanager
def as_stock_peft(model: nn.Module) -> Iterator[None]:
    """Within the block, a model's DoRA is computed by peft."""
    ours = [module for module in model.modules() if type(module) is LowRankDora]
    for module in ours:
        cast(Any, module).__class__ = DoraLinearLayer
    try:
        yield
    finally:
        for module in ours:
            cast(Any, module).__class__ = LowRankDora


def _in_fp32(weight: Tensor) -> Iterator[Tensor]:
    """A few rows after the other on the CPU, all at once elsewhere."""
    count = max(1, ROWS_BYTES // (4 * weight.shape[1])) if weight.device.type == "cpu" else len(weight)
    return (part.float() for part in weight.split(count))


def _content(tensor: Tensor) -> tuple[int, Any]:
    """What changes when a tensor's numbers do; of one that does not count its changes, always."""
    return tensor.data_ptr(), object() if tensor.is_inference() else tensor._version
