"""Whether a run keeps its frozen body's output, and where."""

from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from qpa.config import TextDataConfig
from qpa.errors import ConfigError
from qpa.tasks.language.hidden_store import HiddenStore, store_path
from qpa.tasks.language.language_model import LanguageModel
from qpa.tasks.language.windows import Windows

HELD_OUT_AS = "as stock peft"  # without autocast


def opened(
    data: TextDataConfig, language: LanguageModel, windows: Mapping[str, Windows], cache: Path, *, body: str, train_as: str
) -> dict[str, HiddenStore]:
    """By split, where the body's output is kept; none where the config or the adapter does not allow it.

    Args:
        data: config group `data`.
        language: whose body it is.
        windows: by split.
        cache: the folder to keep it in.
        body: identifies the body's weights and what computes them.
        train_as: the precision that training windows are read in.

    Raises:
        ConfigError: it was asked for where more than the head is adapted, or where it does not fit.
    """
    if not _right(data, language):
        return {}
    dtype = language.base.dtype
    shapes = {split: (len(w.rows), (w.tokens, language.width)) for split, w in windows.items()}
    size = sum(HiddenStore.bytes(n, shape, dtype) for n, shape in shapes.values()) / 2**30
    if size > data.cache_hidden_gib:
        if data.cache_hidden:
            raise ConfigError("data.cache_hidden_gib", data.cache_hidden_gib, f"all hidden states take {size:.1f} GiB; give at least that")
        return {}
    print(f"Hidden states of the frozen body are kept, up to {size:.2f} GiB in {cache / 'hidden'}")
    known = f"{body}|{dtype}|{torch.__version__}|{transformers.__version__}"
    read_as = {split: train_as if split == "train" else HELD_OUT_AS for split in windows}
    paths = {split: store_path(cache, model=f"{known}|{read_as[split]}", windows=w.key) for split, w in windows.items()}
    try:
        return {split: HiddenStore(paths[split], windows=n, shape=shape, dtype=dtype) for split, (n, shape) in shapes.items()}
    except OSError as error:
        reason = f"{size:.1f} GiB cannot be kept in {cache} ({error.strerror}); set it to false"
        raise ConfigError("data.cache_hidden", data.cache_hidden, reason) from error


def _right(data: TextDataConfig, language: LanguageModel) -> bool:
    """Whether what the body puts out stays the same throughout the run."""
    if data.cache_hidden is False:
        return False
    if not language.only_head_is_adapted():
        if data.cache_hidden:
            problem = "more than the head is adapted, so what the body puts out changes; set it to false"
            raise ConfigError("data.cache_hidden", True, problem)
        return False
    drops_out = language.body_drops_out()
    if data.cache_hidden and drops_out:
        problem = "the body drops out while it is trained, and kept states would not; set it to null, or the model's dropout to 0"
        raise ConfigError("data.cache_hidden", True, problem)
    return not drops_out
