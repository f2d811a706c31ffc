"""What can be known of a language run from its config alone: no torch, no transformers."""

from collections.abc import Mapping
from typing import Any

from qpa.adapters import base_weights
from qpa.config import LanguageModelConfig, RowsDataConfig, TextDataConfig
from qpa.core.layout import AdapterTensor
from qpa.errors import ConfigError
from qpa.tasks.pretrained import source
from qpa.tasks.pretrained.checks import readable
from qpa.tasks.pretrained.modules import HEAD, linear_modules, lora_tensors, select, unilora_tensors


def check_packing(data: RowsDataConfig, peft: Mapping[str, Any]) -> None:
    """Refuse several examples in one window where only the first would read the soft prompts before it.

    Raises:
        ConfigError: with the way out.
    """
    if data.packing and peft.get("num_virtual_tokens"):
        problem = "soft prompts stand before a window, and only its first example would read them; set it to null or false"
        raise ConfigError("data.packing", True, problem)


def check_sharded(model: LanguageModelConfig, data: TextDataConfig) -> None:
    """Refuse what does not go with a base model that processes share out among them.

    Raises:
        ConfigError: what, and the way out.
    """
    if model.quantization:
        problem = "is not shared out over processes; leave it out, or use trainer=ddp"
        raise ConfigError("model.quantization", model.quantization, f"a quantised base {problem}")
    if data.cache_hidden:
        problem = "with trainer=fsdp all processes read with the model together, and hidden states are not kept; set it to null"
        raise ConfigError("data.cache_hidden", True, problem)


def dense_head(peft: Mapping[str, Any]) -> bool:
    """Whether DoRA multiplies out the whole output head at every step."""
    return bool(peft.get("use_dora")) and HEAD in str(peft.get("target_modules"))


def known_tensors(model: LanguageModelConfig, peft: Mapping[str, Any]) -> list[AdapterTensor] | None:
    """The adapter's tensors from the architecture's numbers; None where only the real modules tell.

    Raises:
        ConfigError: `peft.target_modules` matches nothing.
    """
    architecture = source.architecture(model)
    with readable():
        modules = linear_modules(architecture, model.num_layers) if architecture else None
        sizes = [size for m in modules or () for size in (m.inputs, m.outputs)]
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError("a size should be an integer of at least 1")
    method = str(peft.get("_target_"))
    adapts_linear = "target_modules" in peft and method.startswith("peft.") and method not in base_weights.TRAINERS
    if modules is None or not adapts_linear:
        return None
    chosen = select(modules, peft["target_modules"])
    return (unilora_tensors(chosen, peft) or lora_tensors(chosen, peft)) if chosen else None
