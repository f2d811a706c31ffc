"""What can be known to be wrong with a language run from its config alone, and what of its adapter: no torch, no transformers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from qpa.adapters import base_weights
from qpa.config import LanguageModelConfig, RowsDataConfig, TextDataConfig
from qpa.core.layout import AdapterTensor
from qpa.errors import ConfigError
from qpa.tasks.pretrained import source
from qpa.tasks.pretrained.modules import HEAD, depth_key, linear_modules, lora_tensors, position_key, select, unilora_tensors

PLAIN_WEIGHTS_ONLY = {"peft.UniLoraConfig", "peft.TinyLoraConfig", "peft.LoKrConfig"}  # quantised ones they misread, or cannot shape
MOST_LAYERS = 1_000  # the deepest transformer published (DeepNet, arXiv 2203.00555)


def check(model: LanguageModelConfig, data: TextDataConfig, peft: Mapping[str, Any]) -> None:
    """Refuse a model that cannot be there, sizes that cannot be, and methods that this model cannot take.

    Raises:
        ConfigError: the first thing found, with the way out.
    """
    source.check(model)
    base_weights.check_numbers(peft, dtype=model.dtype, quantization=model.quantization)
    _check_method(model, peft)
    architecture = source.architecture(model)
    if architecture is None:
        return  # only the hub knows it
    with _readable():
        _check_depth(model, architecture)
        _check_context(architecture, context=data.context, prompt=peft.get("num_virtual_tokens", 0))


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


def _check_method(model: LanguageModelConfig, peft: Mapping[str, Any]) -> None:
    method = peft.get("_target_")
    if method == "peft.PrefixTuningConfig" and model.gradient_checkpointing:
        problem = "prefixes are a key-value cache, which recomputing drops; set it to false, or use another peft"
        raise ConfigError("model.gradient_checkpointing", True, problem)
    if model.quantization and method in PLAIN_WEIGHTS_ONLY:
        problem = f"{str(method).removeprefix('peft.')} reads the base's numbers themselves; choose another peft, or leave it out"
        raise ConfigError("model.quantization", model.quantization, problem)


def _check_depth(model: LanguageModelConfig, architecture: Mapping[str, Any]) -> None:
    layers = architecture.get(depth_key(architecture))
    if model.num_layers and layers and model.num_layers > layers:
        raise ConfigError("model.num_layers", model.num_layers, f"this model has {layers} layers; at most {layers}")
    depth = model.num_layers or layers
    if depth and depth > MOST_LAYERS:
        key = f"model.architecture.{depth_key(architecture)}"
        raise ConfigError(key, depth, f"at most {MOST_LAYERS:,}; or give a smaller model.num_layers")


def _check_context(architecture: Mapping[str, Any], *, context: int, prompt: int) -> None:
    positions = architecture.get(position_key(architecture))
    if positions and context + prompt > positions:
        beside = f", peft.num_virtual_tokens={prompt} of them taken" if prompt else ""
        raise ConfigError("data.context", context, f"this model reads at most {positions} tokens at once{beside}")


@contextmanager
def _readable() -> Iterator[None]:
    """An architecture can be anything: it is the user's, or a folder's `config.json`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError("model.architecture", "...", f"lacks a size, or has one that is no number ({reason})") from error


def known_tensors(model: LanguageModelConfig, peft: Mapping[str, Any]) -> list[AdapterTensor] | None:
    """The adapter's tensors from the architecture's numbers; None where only the real modules tell.

    Raises:
        ConfigError: `peft.target_modules` matches nothing.
    """
    architecture = source.architecture(model)
    with _readable():
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
