"""How a model reads an image: its size, its channels, and what numbers its bytes become."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpa import files
from qpa.config import HubImageModelConfig, ImageModelConfig, NetworkConfig
from qpa.errors import ConfigError
from qpa.tasks.pretrained import source

PREPROCESSOR = "preprocessor_config.json"
USUAL = 0.5  # mean and deviation where nobody says
SIDE = 224


@dataclass(frozen=True)
class View:
    """What a model reads.

    Attributes:
        size: pixels each way; images of another are resized.
        channels: of an image.
        mean, std: of each channel, of numbers from 0 to 1, which become 0 and 1.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def of(model: ImageModelConfig, folder: Path | None) -> View:
    """By the config, else by the model's own preprocessor or architecture.

    Args:
        model: config group `model`.
        folder: where a transformers model's files are; None of others, and for random weights.

    Raises:
        ConfigError: means or deviations are not as many as channels.
    """
    said, made = _preprocessor(folder), _architecture(model, folder)
    channels = model.channels if isinstance(model, NetworkConfig) else made.get("num_channels", 3)
    size = model.image_size or _side(said.get("size")) or _side(made.get("image_size")) or SIDE
    given = (model.mean or said.get("image_mean"), model.std or said.get("image_std"))
    mean, std = (tuple(numbers or [USUAL] * channels) for numbers in given)
    for key, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != channels:
            raise ConfigError(f"model.{key}", list(numbers), f"should have one number for each of {channels} channels")
    return View(size, channels, mean, std)


def check(view: View, shape: tuple[int, ...], *, repeat: bool, key: tuple[str, object]) -> None:
    """Refuse images with other channels than the model reads.

    Args:
        view: of the model.
        shape: of an image, channels first.
        repeat: whether gray is repeated for a model that reads colour.
        key: the config key that the images are from, and its value.

    Raises:
        ConfigError: with the way out.
    """
    if shape[0] == view.channels or (repeat and shape[0] == 1):
        return
    has = "images have one channel" if shape[0] == 1 else f"images have {shape[0]} channels"
    way_out = f"data.channels={view.channels} {'repeats gray' if view.channels == 3 else 'makes them gray'}"
    raise ConfigError(*key, f"its {has}, and this model reads {view.channels}; {way_out}")


def _preprocessor(folder: Path | None) -> Mapping[str, Any]:
    file = folder / PREPROCESSOR if folder else None
    return _object(file) if file and file.is_file() else {}


def _architecture(model: ImageModelConfig, folder: Path | None) -> Mapping[str, Any]:
    if not isinstance(model, HubImageModelConfig):
        return {}
    return _object(folder / "config.json") if folder else source.architecture(model) or {}


def _object(file: Path) -> Mapping[str, Any]:
    try:
        found = files.read_json(file)
    except (OSError, ValueError) as error:
        raise ConfigError("model.path", file, "cannot be read; save the model again") from error
    return found if isinstance(found, dict) else {}


def _side(size: Any) -> int | None:
    """Of a preprocessor's several ways to say it: a number, two, or a mapping."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    if isinstance(size, list | tuple):
        size = size[0] if size else None
    return size if isinstance(size, int) and size > 0 else None
