"""What can be known to be wrong with a model and a PEFT method on it from the config alone: no torch, no transformers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from qpa.adapters import base_weights
from qpa.config import LanguageModelConfig
from qpa.errors import ConfigError
from qpa.tasks.pretrained import source
from qpa.tasks.pretrained.modules import depth_key, position_key

PLAIN_WEIGHTS_ONLY = {
    *("peft.UniLoraConfig", "peft.TinyLoraConfig", "peft.LoKrConfig"),  # quantised ones they misread, or cannot shape
    "qpa.adapters.whole.WholeConfig",  # codes cannot be trained
}
MOST_LAYERS = 1_000  # the deepest transformer published (DeepNet, arXiv 2203.00555)


def check(model: LanguageModelConfig, peft: Mapping[str, Any], *, context: int) -> None:
    """Refuse a model that cannot be there, sizes that cannot be, and methods that this model cannot take.

    Args:
        model: config group `model`.
        peft: config group `peft`.
        context: the most tokens that are read at once.

    Raises:
        ConfigError: the first thing found, with the way out.
    """
    source.check(model)
    base_weights.check_numbers(peft, dtype=model.dtype, quantization=model.quantization)
    _check_method(model, peft)
    architecture = source.architecture(model)
    if architecture is None:
        return  # only the hub knows it
    with readable():
        _check_depth(model, architecture)
        _check_context(architecture, context=context, prompt=peft.get("num_virtual_tokens", 0))


def _check_method(model: LanguageModelConfig, peft: Mapping[str, Any]) -> None:
    method = peft.get("_target_")
    if method == "peft.PrefixTuningConfig" and model.gradient_checkpointing:
        problem = "prefixes are a key-value cache, which recomputing drops; set it to false, or use another peft"
        raise ConfigError("model.gradient_checkpointing", True, problem)
    if model.quantization and method in PLAIN_WEIGHTS_ONLY:
        problem = f"{str(method).rsplit('.', 1)[-1]} reads the base's numbers themselves; choose another peft, or leave it out"
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
def readable() -> Iterator[None]:
    """An architecture can be anything: it is the user's, or a folder's `config.json`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError("model.architecture", "...", f"lacks a size, or has one that is no number ({reason})") from error
