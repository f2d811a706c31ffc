"""The frozen model: loaded from a folder, or built with random weights from its published config."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from qpa.config import PretrainedModelConfig
from qpa.errors import ConfigError
from qpa.tasks.pretrained import quantization
from qpa.tasks.pretrained.modules import HEADS_OF_LABELS, depth_key
from qpa.tasks.pretrained.source import architecture

M = TypeVar("M", bound=nn.Module)
CPU, META = torch.device("cpu"), torch.device("meta")


def load(
    model: PretrainedModelConfig,
    folder: Path | None,
    *,
    dtype: torch.dtype,
    seed: int = 0,
    device: torch.device = CPU,
    kind: Any = AutoModelForCausalLM,
    settings: Mapping[str, Any] | None = None,
    new_head: bool = False,
) -> PreTrainedModel:
    """Load the base model.

    Args:
        model: config group `model`.
        folder: where its files are (see `qpa.tasks.pretrained.source`), None for random weights.
        dtype: of its weights.
        seed: what random weights are drawn from, and a new head, by the device's own generator.
        device: where to, without a whole copy elsewhere; on the meta device it has shapes without weights.
        kind: of model: one of transformers' auto classes.
        settings: of its config, in place of those that are saved, as `num_labels`.
        new_head: whether what is saved with other shapes than these settings make is left out, and drawn.

    Raises:
        ConfigError: transformers cannot build it, its own words are in the text; or its widths cannot be quantised.
    """
    with _errors_named(folder), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _load(model, folder, dtype, device, kind, settings or {}, {"ignore_mismatched_sizes": True} if new_head else {})


def check_tokens(model: PretrainedModelConfig, folder: Path | None, largest: int) -> None:
    """Refuse tokens that the embedding has no row for, before any weight is loaded.

    Args:
        model: config group `model`.
        folder: where its files are.
        largest: the largest token id that is going to be read.

    Raises:
        ConfigError: the tokenizer is not the model's, or transformers cannot read the model's config.
    """
    with _errors_named(folder):
        rows = _architecture(model, folder).get_text_config().vocab_size
    if largest < rows:
        return
    problem = f"the text has token {largest}, and the model's embedding only {rows} rows"
    if folder is None:
        raise ConfigError("model.architecture.vocab_size", rows, f"{problem}; give at least {largest + 1}")
    key, value = ("path", model.path) if model.path else (model.source, getattr(model, model.source))
    raise ConfigError(f"model.{key}", value, f"{problem}; save the model's own tokenizer there, or the model after resize_token_embeddings")


@contextmanager
def _errors_named(folder: Path | None) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, ImportError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError("model", folder or "random", f"transformers cannot build it: {reason}") from error


def _load(
    model: PretrainedModelConfig,
    folder: Path | None,
    dtype: torch.dtype,
    device: torch.device,
    kind: Any,
    given: Mapping[str, Any],
    reading: dict[str, Any],
) -> PreTrainedModel:
    settings = _architecture(model, folder)
    for name, value in given.items():
        setattr(settings, name, value)
    kwargs: dict[str, Any] = {"dtype": dtype} | ({"attn_implementation": model.attention} if model.attention else {})
    if folder is None or device == META:
        with device:
            return kind.from_config(settings, **kwargs).requires_grad_(False)
    kwargs |= reading
    if model.quantization:
        kwargs |= quantization.settings(dtype, heads=HEADS_OF_LABELS if "num_labels" in given else None)
    loaded = kind.from_pretrained(folder, config=settings, device_map={"": device}, **kwargs)
    if model.quantization:
        quantization.make_safe(loaded)
    return loaded.requires_grad_(False)


def sharing_weights(model: M) -> M:
    """A copy with modules of its own, which an adapter may be put on, and the same frozen weights in the same memory."""
    weights = {id(weight): quantization.shared(weight) for weight in model.parameters()}
    return copy.deepcopy(model, weights)  # pyright: ignore[reportArgumentType]


def _architecture(model: PretrainedModelConfig, folder: Path | None) -> PretrainedConfig:
    settings = AutoConfig.for_model(**(architecture(model) or {})) if folder is None else AutoConfig.from_pretrained(folder)
    if model.num_layers:
        setattr(settings, depth_key(settings.to_dict()), model.num_layers)
        if getattr(settings, "layer_types", None):
            settings.layer_types = settings.layer_types[: model.num_layers]
    if folder is None:
        settings.pad_token_id = None  # its row would start at zero, and a tied head's zero row has no direction for DoRA
    settings.use_cache = False
    return settings
