"""Batches of a data set: training in a seeded endless order, held-out data in its own order; shared out over processes."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from qpa.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """What one of the processes that train together reads.

    Attributes:
        batch_size: examples of a micro-batch.
        accumulate: micro-batches of an optimizer step.
        rank: which process, from 0.
        processes: how many there are.
        pinned: whether batches lie in memory that a GPU copies from while it computes.
    """

    batch_size: int
    accumulate: int
    rank: int
    processes: int
    pinned: bool = False

    @property
    def of_a_step(self) -> int:
        """Examples that all processes read for one optimizer step."""
        return self.batch_size * self.accumulate * self.processes


def train_loader(examples: Dataset, share: Share, *, seed: int, from_step: int, steps: int) -> DataLoader:
    """Exactly the examples that the optimizer steps after `from_step` read, up to step `steps`.

    Of several processes each reads as many, and together what one would with as many times the batch size.
    """
    whole = Shuffled(_count(examples), seed=seed, start=from_step * share.of_a_step, stop=steps * share.of_a_step)
    return DataLoader(examples, batch_size=share.batch_size, sampler=OwnPart(whole, share), pin_memory=share.pinned)


def held_out_loader(examples: Dataset, share: Share, *, split: str) -> DataLoader:
    """All examples once, in their own order; of several processes each reads every so many-th.

    Raises:
        ConfigError: there are fewer examples than processes.
    """
    count = _count(examples)
    if count < share.processes:
        problem = f"the held-out split {split} has only {count} examples, and every process reads one; at most so many"
        raise ConfigError("trainer.devices", share.processes, problem)
    order = range(share.rank, count, share.processes) if share.processes > 1 else None
    return DataLoader(examples, batch_size=share.batch_size, sampler=order, pin_memory=share.pinned)


def _count(examples: Any) -> int:
    assert isinstance(examples, Sized)
    return len(examples)


class Shuffled(Sampler[int]):
    """Examples of a training run in an order that depends on seed and place alone, so that a resumed run goes on exactly.

    Args:
        examples: how many there are.
        seed: of the shuffling; every pass has its own order.
        start: place in the endless sequence to go on from.
        stop: place to end at; also the length, as Lightning counts the examples before `start` as read.
    """

    def __init__(self, examples: int, *, seed: int, start: int, stop: int) -> None:
        self.examples, self.seed, self.start, self.stop = examples, seed, start, stop

    def __len__(self) -> int:
        return self.stop

    def __iter__(self) -> Iterator[int]:
        order: list[int] = []
        current = -1
        for place in range(self.start, self.stop):
            pass_number, index = divmod(place, self.examples)
            if pass_number != current:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + pass_number)
                order, current = torch.randperm(self.examples, generator=generator).tolist(), pass_number
            yield order[index]


class OwnPart(Sampler[int]):
    """One process's part of a training run's examples: of every `batch_size * processes` of them its own `batch_size`.

    Args:
        whole: the examples of all.
        share: whose part.
    """

    def __init__(self, whole: Shuffled, share: Share) -> None:
        self.whole, self.share = whole, share

    def __len__(self) -> int:
        return len(self.whole) // self.share.processes

    def __iter__(self) -> Iterator[int]:
        batch, rank, processes = self.share.batch_size, self.share.rank, self.share.processes
        return (example for place, example in enumerate(self.whole) if place // batch % processes == rank)
