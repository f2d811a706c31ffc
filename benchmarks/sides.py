"""Whole training steps of the program itself, as sides of a benchmark."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qpa.commands.composing import composed
from qpa.config import Config, parse
from qpa.runs.numerics import resolved
from qpa.runs.parts import assemble
from qpa.tasks.language import source
from qpa.training.module import FineTuning
from qpa.training.quiet import quiet

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def configured(*overrides: str) -> Config:
    """The config of `train.py` with overrides."""
    return resolved(parse(composed("train", ["logger=none", *overrides])))


def module(config: Config) -> FineTuning:
    """Model, adapter and generator of a config, ready to train."""
    quiet()
    folder: Path | None = source.folder(config)
    assembly = assemble(config, folder)
    return FineTuning(config, assembly.model, assembly.adaptation).to(DEVICE).train()


def batch(config: Config, vocabulary: int, windows: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Random tokens: what they are does not change what a step costs."""
    ids = torch.randint(0, vocabulary, (windows, config.data.context), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids.to(DEVICE), "labels": ids.to(DEVICE), "index": torch.arange(windows) + seed * windows}


def optimizer_of(trained: FineTuning) -> torch.optim.Optimizer:
    """The config's optimizer."""
    configured: Any = trained.configure_optimizers()
    return configured["optimizer"]


def autocast(config: Config) -> torch.autocast:
    """As the trainer computes with this config."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=config.trainer.precision == "bf16-mixed")


def step(config: Config, trained: FineTuning, windows: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """One optimizer step, as the trainer takes it."""

    def once() -> None:
        with autocast(config):
            trained.adaptation.write()
            nll, tokens = trained.nll(trained.hidden(windows, "train"), windows["labels"])
        (nll / tokens).backward()
        trained.adaptation.collect()
        torch.nn.utils.clip_grad_norm_(trained.adaptation.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return once


def generator_alone(trained: FineTuning) -> Callable[[], None]:
    """What of a step is the generator's: its forward into the leaves, and its vector-Jacobian product."""

    def once() -> None:
        trained.adaptation.write()
        trained.adaptation.collect()
        trained.adaptation.zero_grad()

    return once
