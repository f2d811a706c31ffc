"""Random numbers: every part of a run draws from a stream of its own, so that none depends on what another draws."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WHOLE = ("random_", "randint", "randperm", "rand", "bernoulli", "bernoulli_")  # made of whole numbers: the same on every machine


@contextmanager
def drawn(seed: int, part: str | None = None) -> Iterator[None]:
    """Within the context, what torch draws on the CPU belongs to a part of a run; afterwards its own state is as before.

    Args:
        seed: of the run.
        part: whose stream, as `mapper`; None for the seed's own, which the trained circuits start from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed if part is None else _derived(seed, part))
        yield


class SameEverywhere(TorchDispatchMode):
    """Within the context, uniform float32 numbers are bit by bit the same on every machine: as fused multiply-add makes them.

    Attributes:
        others: whether torch's own random state has given others, as normal numbers, whose last bits depend on the processor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.others = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Every operation of torch's within the context."""
        kwargs = kwargs or {}
        if func is torch.ops.aten.uniform_.default and args[0].dtype == torch.float32:
            return _uniform(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags and func.overloadpacket.__name__ not in WHOLE:
            self.others |= kwargs.get("generator") is None
        return func(*args, **kwargs)


def _uniform(tensor: Tensor, low: float = 0, high: float = 1, *, generator: torch.Generator | None = None) -> Tensor:
    """`tensor.uniform_`: in float64 nothing is rounded until the end."""
    first, last = torch.tensor([low, high]).to(tensor.dtype)
    tensor.uniform_(generator=generator)
    return tensor.copy_(tensor.double() * (last - first).double() + first.double())


def _derived(seed: int, part: str) -> int:
    """64 bits of SHA-256: a seed of its own for every pair."""
    return int.from_bytes(hashlib.sha256(f"{seed} {part}".encode()).digest()[:8], "big")
