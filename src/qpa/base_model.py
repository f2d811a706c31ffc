"""The frozen language model: loaded from a folder, or built with random weights from its published config."""

import copy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from qpa.config import ModelConfig
from qpa.errors import ConfigError
from qpa.modules import depth_key
from qpa.source import architecture

NF4_BLOCK = 64  # weights that share a scale


def load(model: ModelConfig, folder: Path | None, *, dtype: torch.dtype, meta: bool = False) -> PreTrainedModel:
    """Load the base model on the CPU.

    Args:
        model: config group `model`.
        folder: where its files are (see `qpa.source`), None for random weights.
        dtype: of its weights (`frozen_dtype`).
        meta: build it on the meta device instead: shapes without weights.

    Raises:
        ConfigError: transformers cannot build it; its own words are in the text.
    """
    try:
        return _load(model, folder, dtype, meta)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, ImportError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError("model", folder or "random", f"transformers cannot build it: {reason}") from error


def _load(model: ModelConfig, folder: Path | None, dtype: torch.dtype, meta: bool) -> PreTrainedModel:
    settings = _architecture(model, folder)
    kwargs: dict[str, Any] = {"dtype": dtype} | ({"attn_implementation": model.attention} if model.attention else {})
    with torch.device("meta" if meta else "cpu"):
        if folder is None or meta:
            loaded = AutoModelForCausalLM.from_config(settings, **kwargs)
        else:
            rounded = {"quantization_config": _nf4(dtype), "device_map": {"": "cpu"}} if model.quantization else {}
            loaded = AutoModelForCausalLM.from_pretrained(folder, config=settings, **kwargs, **rounded)
    for layer in loaded.modules() if model.quantization else ():
        vars(layer)["support_avx512bf16_for_cpu"] = False  # else evaluating on a CPU rearranges the weights, and DoRA misreads them
    return loaded.requires_grad_(False)


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """QLoRA's 4-bit NormalFloat (Dettmers et al. 2023), its scales quantised as well; all linear layers but the head."""
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)


def check_quantised_on_cpu(model: PreTrainedModel) -> None:
    """Refuse widths that bitsandbytes (0.50) reads wrongly on CPUs: it takes a block of weights to lie within one row.

    Raises:
        ConfigError: such a module, with the way out.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and hasattr(module, "quant_state") and module.in_features % NF4_BLOCK:
            problem = f"{name} has {module.in_features} columns, no multiple of {NF4_BLOCK}, which bitsandbytes needs on a CPU; use a GPU"
            raise ConfigError("model.quantization", "nf4", f"{problem}, or leave it out")


def sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with modules of its own, which an adapter may be put on, and the same frozen weights in the same memory."""
    weights = {id(weight): _again(weight) for weight in model.parameters()}
    return copy.deepcopy(model, weights)  # pyright: ignore[reportArgumentType]


def _again(weight: torch.nn.Parameter) -> torch.nn.Parameter:
    """Quantised weights, which nothing trains, are shared themselves: their scales are kept beside their numbers."""
    return torch.nn.Parameter(weight.data, requires_grad=False) if weight.is_floating_point() else weight


def on_gpu(accelerator: str) -> bool:
    """Whether `trainer.accelerator` means a GPU on this machine."""
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def frozen_dtype(accelerator: str) -> torch.dtype:
    """bf16 where the GPU or the processor that is used has instructions for it, else fp32."""
    if on_gpu(accelerator):
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def _architecture(model: ModelConfig, folder: Path | None) -> PretrainedConfig:
    settings = AutoConfig.for_model(**(architecture(model) or {})) if folder is None else AutoConfig.from_pretrained(folder)
    if model.num_layers:
        setattr(settings, depth_key(settings.to_dict()), model.num_layers)
        if getattr(settings, "layer_types", None):
            settings.layer_types = settings.layer_types[: model.num_layers]
    if folder is None:
        settings.pad_token_id = None  # its row would start at zero, and a tied head's zero row has no direction for DoRA
    settings.use_cache = False
    return settings
