"""Batches of windows: training in a seeded endless order, held-out text in its own order."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Sampler

from qpa.config import Config
from qpa.data import Windows


def train_loader(config: Config, windows: Windows, *, from_step: int) -> DataLoader:
    """Exactly the windows that the steps after `from_step` read, each step `batch_size * accumulate_grad_batches` of them."""
    per_step = config.data.batch_size * config.trainer.accumulate_grad_batches
    span = {"start": from_step * per_step, "stop": config.trainer.max_steps * per_step}
    order = ShuffledWindows(len(windows), seed=config.seed, **span)
    return DataLoader(windows, batch_size=config.data.batch_size, sampler=order)


def held_out_loader(config: Config, windows: Windows) -> DataLoader:
    """All windows once, in the order of the text."""
    return DataLoader(windows, batch_size=config.data.batch_size)


class ShuffledWindows(Sampler[int]):
    """Windows of a training run in an order that depends on seed and place alone, so that a resumed run goes on exactly.

    Args:
        windows: how many there are.
        seed: of the shuffling; every pass has its own order.
        start: place in the endless sequence to go on from.
        stop: place to end at; also the length, as Lightning counts the windows before `start` as read.
    """

    def __init__(self, windows: int, *, seed: int, start: int, stop: int) -> None:
        self.windows, self.seed, self.start, self.stop = windows, seed, start, stop

    def __len__(self) -> int:
        return self.stop

    def __iter__(self) -> Iterator[int]:
        order: list[int] = []
        current = -1
        for place in range(self.start, self.stop):
            pass_number, index = divmod(place, self.windows)
            if pass_number != current:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + pass_number)
                order, current = torch.randperm(self.windows, generator=generator).tolist(), pass_number
            yield order[index]
