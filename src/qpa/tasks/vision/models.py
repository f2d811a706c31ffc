"""The frozen base model: built or loaded, with a head for the data's classes."""

from pathlib import Path

import torch
from torch import nn

from qpa.adapters import methods
from qpa.config import EfficientNetConfig, HubImageModelConfig, ImageModelConfig, NetworkConfig, expected
from qpa.errors import ConfigError, line
from qpa.tasks.pretrained import base_model
from qpa.tasks.vision import known, networks


def load(
    model: ImageModelConfig, folder: Path | None, names: tuple[str, ...], *, seed: int, device: torch.device = base_model.CPU
) -> nn.Module:
    """The base model; what is not published of it is drawn from the seed.

    Args:
        model: config group `model`.
        folder: of a transformers model's files; None of others, and for random weights.
        names: of the classes.
        seed: of random weights and of a new head.
        device: where to; on the meta device it has shapes without weights.

    Raises:
        ConfigError: it cannot be built.
    """
    if isinstance(model, HubImageModelConfig):
        found = _of_hub(model, folder, names, seed=seed, device=device)
    else:
        with torch.random.fork_rng(devices=[]), base_model.META if device == base_model.META else base_model.CPU:
            torch.manual_seed(seed)  # and drawn on the CPU: the same on every device
            found = _network(model, len(names), filled=device != base_model.META)
        found = found.to(device)
    networks.freeze_statistics(found)
    if head := known.head(model):
        methods.marked_new(found, [head])
    return found.requires_grad_(False).eval()


def _network(model: ImageModelConfig, classes: int, *, filled: bool) -> nn.Module:
    if isinstance(model, NetworkConfig):
        return networks.plain(model, classes)
    model, found = expected("model", model, EfficientNetConfig), networks.EfficientNetLite0(classes)
    if model.weights == "published" and filled:
        _fill(found, known.lite0_file(model))
    return found


def _fill(network: networks.EfficientNetLite0, file: Path) -> None:
    """With all published weights but the head's."""
    weights = torch.load(file, weights_only=True, map_location="cpu")
    own = network.state_dict()
    network.load_state_dict({name: own[name] if name.startswith(f"{known.LITE0_HEAD}.") else weights[name] for name in own})


def _of_hub(model: HubImageModelConfig, folder: Path | None, names: tuple[str, ...], *, seed: int, device: torch.device) -> nn.Module:
    from transformers import AutoModelForImageClassification

    by_number = dict(enumerate(names))
    settings = {"num_labels": len(names), "id2label": by_number, "label2id": {name: number for number, name in by_number.items()}}
    kind, precision = AutoModelForImageClassification, torch.float32
    found = base_model.load(
        model, folder, dtype=precision, seed=seed, device=device, kind=kind, settings=settings, new_head=device != base_model.META
    )
    if not any(name == known.HUB_HEAD for name, _ in found.named_modules()):
        problem = f"{type(found).__name__} has no head named {known.HUB_HEAD}, which is where its classes are told; choose another model"
        raise ConfigError("model", known.title(model), problem)
    return found


def runs(model: nn.Module, images: torch.Tensor) -> str | None:
    """Why a model does not read images; None where it does."""
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(images)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        return line(error)
    finally:
        model.train(training)
    return None
