"""The frozen base in 4 bits a weight: QLoRA's NormalFloat (Dettmers et al. 2023), by bitsandbytes. Needs `make setup EXTRAS=nf4`."""

from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from qpa.errors import ConfigError

BLOCK = 64  # weights that share a scale


def settings(dtype: torch.dtype, *, heads: list[str] | None = None) -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantise all linear layers but the head, computed with in `dtype`.

    Args:
        dtype: of what is computed.
        heads: what a new head may be called; None for a language model's own.
    """
    kind = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    nf4 = BitsAndBytesConfig(load_in_4bit=True, **kind, llm_int8_skip_modules=heads)
    return {"quantization_config": nf4}


def make_safe(model: PreTrainedModel) -> None:
    """Switch off, or refuse, what bitsandbytes 0.50 gets wrong on CPUs, where every model is loaded and DoRA's norms are taken.

    Raises:
        ConfigError: a width that 64 does not divide: weights are then decoded as if each block lay within one row.
    """
    from bitsandbytes.nn import Linear4bit

    for name, layer in model.named_modules():
        if not isinstance(layer, Linear4bit):
            continue
        if layer.in_features % BLOCK:
            problem = f"{name} has {layer.in_features} columns, no multiple of {BLOCK}, and would be decoded wrongly; leave it out"
            raise ConfigError("model.quantization", "nf4", problem)
        layer.support_avx512bf16_for_cpu = False  # else evaluating rearranges the weights, and peft's DoRA reads them as before


def shared(weight: nn.Parameter) -> nn.Parameter:
    """A weight for another module, in the same memory; a quantised one is shared itself, for its scales are kept beside its numbers."""
    return nn.Parameter(weight.data, requires_grad=False) if weight.is_floating_point() else weight
