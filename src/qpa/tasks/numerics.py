"""What this machine computes well in, which `auto` in a config stands for."""

import os

import torch


def on_gpu(accelerator: str) -> bool:
    """Whether `trainer.accelerator` means a GPU on this machine."""
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def home(accelerator: str) -> torch.device:
    """Where this process computes: models are made and read there at once. Of several processes each has the GPU of its number."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu(accelerator) else torch.device("cpu")


def fast_in_bf16(accelerator: str) -> bool:
    """Whether what `trainer.accelerator` means on this machine multiplies matrices faster in bf16 than in fp32.

    Of processors: Intel's with AMX, and AMD's with AVX512-BF16. Intel's own AVX512-BF16 is at 0.6 of its fp32 (docs/performance.md).
    """
    if on_gpu(accelerator):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and "Intel" not in str(has.get("cpu_name"))))
