"""How an adapter's weights are trained: themselves, or through a generator by one vector-Jacobian product per step.

The adapter's tensors stay real leaf parameters of the PEFT model. Each optimizer step, the generator's output is written
into them, any number of micro-batches run forward and backward, and their summed gradient is pushed back through the
generator once. Gradients equal those of a differentiable injection, and gradient checkpointing stays right, because the
model only ever sees ordinary parameters.
"""

from functools import reduce

import torch
from torch import Tensor, nn

from qpa.core.generator import Generator, view
from qpa.core.layout import Layout


class Leaves:
    """The adapter's parameters as views of one flat vector, and their gradients as views of another.

    Args:
        layout: where each tensor lies in the flat vector.
        parameters: the PEFT model's trainable parameters by name; their present values fill the vector, in their dtype
            (the widest, where they differ).
    """

    def __init__(self, layout: Layout, parameters: dict[str, nn.Parameter]) -> None:
        self.slots = [(parameters[slot.tensor.name], slot) for slot in layout.slots]
        dtype = reduce(torch.promote_types, (parameter.dtype for parameter, _ in self.slots))
        self.values = torch.zeros(layout.size, dtype=dtype)
        for parameter, slot in self.slots:
            view(self.values, slot).copy_(parameter.detach())
        self.bind(self.values.device)

    def bound(self, device: torch.device) -> bool:
        """Whether parameters and gradients are still our views: moving a model replaces both, `zero_grad` drops gradients."""
        parameter, slot = self.slots[0]
        here = self.values.device == device and parameter.data_ptr() == view(self.values, slot).data_ptr()
        return here and parameter.grad is not None and parameter.grad.data_ptr() == view(self.gradient, slot).data_ptr()

    def bind(self, device: torch.device) -> None:
        """Make every parameter and its gradient a view of ours, on `device`; gradients start at zero."""
        self.values = self.values.to(device)
        self.gradient = torch.zeros_like(self.values)
        for parameter, slot in self.slots:
            parameter.data = view(self.values, slot)
            parameter.grad = view(self.gradient, slot)


class GeneratedAdaptation(nn.Module):
    """Trains a generator in place of the adapter's weights. Its state and parameters are the generator's alone."""

    def __init__(self, generator: Generator, leaves: Leaves) -> None:
        super().__init__()
        self.generator = generator
        self.leaves = leaves
        self._generated: Tensor | None = None

    def write(self) -> None:
        """Put the generator's present output into the adapter, unless this step's output is already there.

        It must not change between forward and backward: views made by `.data` do not tell autograd that they were written to.
        """
        if self._generated is not None:
            return
        leaves, device = self.leaves, self.generator.device
        if not leaves.bound(device):
            leaves.bind(device)
        straight = leaves.values.detach() if leaves.values.dtype == torch.float32 and not self.generator.centred else None
        with torch.autocast(device.type, enabled=False):  # generated weights are fp32 under any trainer precision
            generated = self.generator(straight)
        if generated.data_ptr() != leaves.values.data_ptr():
            leaves.values.copy_(generated.detach())
        if generated.requires_grad:
            self._generated = generated

    def collect(self) -> None:
        """Turn the adapter's summed gradient into the generator's; the next `write` generates anew."""
        if self._generated is None:
            raise RuntimeError("collect() before write(): there is no generated output to differentiate")
        self._generated.backward(self.leaves.gradient.to(self._generated.dtype))
        self.leaves.gradient.zero_()
        self._generated = None


class DirectAdaptation(nn.Module):
    """The baseline: trains the adapter's own weights. There is nothing to write and nothing to collect."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(parameters.values())

    def write(self) -> None:
        """Nothing: the weights are where they are used."""

    def collect(self) -> None:
        """Nothing: backward has left the gradients on the weights themselves."""


Adaptation = GeneratedAdaptation | DirectAdaptation
