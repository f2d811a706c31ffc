"""What a batch is made of: the seeds of episodes. Those of a run's training, and those held out for every run, have none in common."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from qpa.tasks.loaders import Share, held_out_loader

OF_A_RUN = 1 << 30  # at most so many episodes; a run's seed is below 2**32
FIRST = {"val": 1 << 62, "test": (1 << 62) + (1 << 32)}  # above all that runs train on
AT_ONCE = 32  # held-out episodes that are played side by side


class Seeds(Dataset):
    """So many seeds from a first one on.

    Args:
        first: of them.
        count: how many.
    """

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"seeds": torch.tensor(self.first + index)}


class From(Sampler[int]):
    """Places from one to another; as long as the last says, as Lightning counts those before the first as read.

    Args:
        start: place to go on from.
        stop: place to end at.
    """

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))


def train_loader(share: Share, *, seed: int, from_step: int, steps: int) -> DataLoader:
    """Exactly the episodes that the optimizer steps after `from_step` play, up to step `steps`."""
    places = From(from_step * share.of_a_step, steps * share.of_a_step)
    return DataLoader(Seeds(seed * OF_A_RUN, OF_A_RUN), batch_size=share.batch_size, sampler=places)


def held_out(share: Share, split: str, count: int) -> DataLoader:
    """The same episodes for every run."""
    return held_out_loader(Seeds(FIRST[split], count), replace(share, batch_size=AT_ONCE), split=split)
