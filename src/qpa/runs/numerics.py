"""The numbers a run computes in, which this machine and its method decide where the config leaves it to them."""

import torch

from qpa.adapters import base_weights
from qpa.config import Config


def on_gpu(accelerator: str) -> bool:
    """Whether `trainer.accelerator` means a GPU on this machine."""
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def resolved(config: Config) -> Config:
    """The config with `auto` replaced by what this machine computes in: a run is known by that, not by the machine.

    bf16 where the GPU or the processor that is used has instructions for it, else fp32; fp32 also where the method trains or
    rewrites weights of the base itself. What is computed with autocast follows, so that adapters are as fast as the model.
    """
    dtype = config.model.dtype
    if dtype == "auto":
        touched = base_weights.trains_base(config.peft) or base_weights.rewrites_base(config.peft)
        dtype = "bfloat16" if not touched and fast_in_bf16(config.trainer.accelerator) else "float32"
    precision = config.trainer.precision
    if precision == "auto":
        precision = "bf16-mixed" if dtype == "bfloat16" else "32-true"
    model = config.model.model_copy(update={"dtype": dtype})
    return config.model_copy(update={"model": model, "trainer": config.trainer.model_copy(update={"precision": precision})})


def fast_in_bf16(accelerator: str) -> bool:
    """Whether what `trainer.accelerator` means on this machine has instructions for bf16."""
    if on_gpu(accelerator):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def dtype(config: Config) -> torch.dtype:
    """Of the base model's weights."""
    return torch.bfloat16 if resolved(config).model.dtype == "bfloat16" else torch.float32
