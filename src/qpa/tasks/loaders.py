"""Batches of windows: training in a seeded endless order, held-out text in its own order."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Sampler

from qpa.config import Config
from qpa.errors import ConfigError
from qpa.tasks.language.windows import Windows
from qpa.training import processes as launch


def train_loader(config: Config, windows: Windows, *, from_step: int) -> DataLoader:
    """Exactly the windows that the steps after `from_step` read, each step `batch_size * accumulate_grad_batches` of them.

    Of several processes each reads as many, and together what one would with as many times the batch size.
    """
    batch, processes = config.data.batch_size, config.trainer.processes
    per_step = batch * config.trainer.accumulate_grad_batches * processes
    whole = ShuffledWindows(len(windows), seed=config.seed, start=from_step * per_step, stop=config.trainer.max_steps * per_step)
    return DataLoader(windows, batch_size=batch, sampler=Share(whole, batch, rank=launch.rank(), processes=processes))


def held_out_loader(config: Config, windows: Windows) -> DataLoader:
    """All windows once, in the order of the text; of several processes each reads every so many-th.

    Raises:
        ConfigError: there are fewer windows than processes.
    """
    processes = config.trainer.processes
    if len(windows) < processes:
        problem = f"a held-out text has only {len(windows)} windows, and every process reads one; at most so many"
        raise ConfigError("trainer.devices", config.trainer.devices, problem)
    share = range(launch.rank(), len(windows), processes) if processes > 1 else None
    return DataLoader(windows, batch_size=config.data.batch_size, sampler=share)


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


class Share(Sampler[int]):
    """One process's part of a training run's windows: of every `batch * processes` of them its own `batch`.

    Args:
        whole: the windows of all.
        batch: windows of a micro-batch of one process.
        rank: which process, from 0.
        processes: how many there are.
    """

    def __init__(self, whole: ShuffledWindows, batch: int, *, rank: int, processes: int) -> None:
        self.whole, self.batch, self.rank, self.processes = whole, batch, rank, processes

    def __len__(self) -> int:
        return len(self.whole) // self.processes

    def __iter__(self) -> Iterator[int]:
        return (window for place, window in enumerate(self.whole) if place // self.batch % self.processes == self.rank)
