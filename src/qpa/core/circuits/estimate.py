"""Probabilities from samples, and gradients that need no more than samples.

A device is a function from angles `[N, A, Q]` to estimated probabilities `[N, 2**Q]`, without a gradient: all `N` circuits are
one job. Which samples a simulator draws follows from its seed and the job's angles alone, so that the same circuits always give the
same weights, in whatever loop, and a resumed run the same as an uninterrupted one. They are drawn where the angles are: a GPU draws others
than a processor. Both rules here run a step's circuits and those
that their gradient needs as one such job. Symbols: `K` circuits, `A Q` angles each.
"""

import hashlib
import math
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.cost import Usage
from qpa.core.circuits.states import Simulator


class Device(Protocol):
    """What runs circuits, exactly or not."""

    def __call__(self, angles: Tensor) -> Tensor:
        """Probabilities `[N, 2**Q]` of the circuits with these angles."""
        ...


# Radians: so far that 1,000 shots can tell the two sides apart. The other angles move too, which damps a slope by up to cos(0.3) for
# each: 5 to 30 % less on average at the sizes used here (tests/core/test_circuits.py), which a rate makes up for.
SPSA_REACH = 0.3
LEAST = torch.finfo(torch.float64).tiny


def job_seed(seed: int, angles: Tensor) -> int:
    """The seed of one job, 30 bits of SHA-256: its own for every seed and all angles of the job."""
    numbers = angles.detach().cpu().contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(f"{seed} ".encode() + numbers).digest()[:4], "big") >> 2


def unsampled(exact: Simulator) -> Device:
    """A device that is a simulator without shots."""
    return lambda angles: exact(angles.detach())


class Sampled:
    """A device that samples from an exact simulator's probabilities.

    Args:
        exact: the simulator.
        shots: per circuit.
        seed: of samples.
    """

    def __init__(self, exact: Simulator, *, shots: int, seed: int) -> None:
        self.exact, self.shots, self.seed = exact, shots, seed
        self.usage = Usage()

    def __call__(self, angles: Tensor) -> Tensor:
        """Relative frequencies, `[N, 2**Q]`."""
        exact = self.exact(angles.detach()).double()
        random = torch.Generator(angles.device).manual_seed(job_seed(self.seed, angles))
        self.usage.add(len(angles), self.shots, 0.0)
        return (multinomial(exact, self.shots, random) / self.shots).to(angles)


def multinomial(probabilities: Tensor, shots: int, random: torch.Generator) -> Tensor:
    """How many of `shots` samples find each basis state, `[N, 2**Q]`: qubit after qubit, those alike so far are split in two."""
    found = probabilities.new_full((len(probabilities), 1), shots)
    while found.shape[1] < probabilities.shape[1]:
        halves = probabilities.view(*found.shape, 2, -1).sum(3)  # of the next qubit's 0 and 1
        share = (halves[..., 1] / halves.sum(2).clamp(min=LEAST)).clamp(max=1)
        ones = torch.binomial(found, share, generator=random)
        found = torch.stack([found - ones, ones], 2).flatten(1)
    return found


def parameter_shift(ansatz: Ansatz, device: Device) -> Simulator:
    """Differentiable by a sum of terms `weight (p(t + by) - p(t - by))` for every angle `t`, as the ansatz has them."""
    return partial(_differentiable, _Shifted, device, ansatz)


def spsa(device: Device, seed: int) -> Simulator:
    """Differentiable by one difference along random signs (Spall 1992): noisy, but three circuits for any number of angles."""
    return partial(_differentiable, _Perturbed, device, seed)


def _differentiable(rule: Any, device: Device, own: Ansatz | int, angles: Tensor) -> Tensor:
    return rule.apply(device, own, angles) if torch.is_grad_enabled() and angles.requires_grad else device(angles)


class _Shifted(torch.autograd.Function):
    """Forward runs the circuits and all shifted ones; their differences are kept, `[K, A Q, 2**Q]`."""

    @staticmethod
    def forward(ctx: Any, device: Device, ansatz: Ansatz, angles: Tensor) -> Tensor:
        """Probabilities `[K, 2**Q]`."""
        _, per_qubit, qubits = angles.shape
        count, rules = per_qubit * qubits, ansatz.shifts(per_qubit)
        terms = [(place, *term) for place in range(count) for term in rules[place // qubits]]
        places = torch.tensor([place for place, _, _ in terms], device=angles.device)
        by, weights = torch.tensor([term for _, *term in terms], dtype=angles.dtype, device=angles.device).unbind(1)
        shifts = (torch.eye(count, dtype=angles.dtype, device=angles.device)[places] * by[:, None]).view(-1, 1, per_qubit, qubits)
        jobs = torch.cat([angles[None], angles + shifts, angles - shifts])  # [1 + 2 M, K, A, Q] of M terms
        found = device(jobs.flatten(0, 1)).view(len(jobs), len(angles), -1)
        above, below = found[1:].chunk(2)
        slopes = found.new_zeros(count, *found.shape[1:])
        ctx.save_for_backward(slopes.index_add_(0, places, (above - below) * weights[:, None, None]))
        ctx.shape = angles.shape
        return found[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of the angles, from that of the probabilities."""
        (slopes,) = ctx.saved_tensors
        return None, None, torch.einsum("aks,ks->ka", slopes, gradient).view(ctx.shape)


class _Perturbed(torch.autograd.Function):
    """Forward runs the circuits and two more of each, every angle moved by the same amount up or down."""

    @staticmethod
    def forward(ctx: Any, device: Device, seed: int, angles: Tensor) -> Tensor:
        """Probabilities `[K, 2**Q]`."""
        random = torch.Generator().manual_seed(job_seed(seed, angles))
        signs = torch.randint(0, 2, angles.shape, generator=random, device="cpu").to(angles) * 2 - 1  # the same on every device
        found = device(torch.cat([angles, angles + SPSA_REACH * signs, angles - SPSA_REACH * signs]))
        here, above, below = found.chunk(3)
        ctx.save_for_backward((above - below) / (2 * math.sin(SPSA_REACH)), signs)
        return here

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of the angles, from that of the probabilities."""
        slopes, signs = ctx.saved_tensors
        return None, None, (slopes * gradient).sum(1)[:, None, None] * signs
