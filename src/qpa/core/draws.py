"""Random numbers: every part of a run draws from a stream of its own, so that none depends on what another draws."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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


def _derived(seed: int, part: str) -> int:
    """64 bits of SHA-256: a seed of its own for every pair."""
    return int.from_bytes(hashlib.sha256(f"{seed} {part}".encode()).digest()[:8], "big")
