"""The task `vision` itself: images, each of one class; a small network, or a model with a new head; accuracy."""

import copy
import json
import pkgutil
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from qpa import files
from qpa.config import (
    Config,
    HubImageModelConfig,
    ImageDataConfig,
    ImageFolderConfig,
    ImageHubConfig,
    ImageModelConfig,
    PackagedImagesConfig,
    expected,
)
from qpa.config.context import Context
from qpa.errors import ConfigError
from qpa.tasks.pretrained import source
from qpa.tasks.task import Batch, Measured, Metric, Picture, Task
from qpa.tasks.vision import known, published
from qpa.tasks.vision import view as views
from qpa.tasks.vision.view import View

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from qpa.tasks.vision.classifier import Classifier, Images
    from qpa.tasks.vision.pictures import Pictures

ALL_LINEAR = "all-linear"
CLASSES_FILE = "classes.json"  # beside an exported adapter
PROBED = 4  # images by which a saved adapter is compared with the trained model
FURTHEST = (
    "The examples of the test split that each model is most wrong about: what they are, what they are said to be, the loss. Above them the "
    "filters that it sees first, each between its smallest and its largest number."
)


class Vision(Task):
    """A model learns to tell images' classes."""

    metric: ClassVar[Metric] = Metric("accuracy", "", better="higher")
    counted: ClassVar[str] = "examples"
    picture: ClassVar[Picture] = Picture("png", "Furthest from right", FURTHEST)

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.model, self.data = _sections(config)

    def check(self) -> None:
        """Data, model and method by their settings alone."""
        from qpa.tasks.vision import sources

        sources.check(self.data)
        known.check(self.model)
        if "num_virtual_tokens" in self.config.peft:
            method = self.config.peft["_target_"]
            raise ConfigError("peft", method, "its prompts stand before text, and these are images; choose another, as peft=lora")
        if self.config.trainer.shards and not isinstance(self.model, HubImageModelConfig):
            raise ConfigError("trainer.strategy", "fsdp", "this model has no layers to share out; use trainer=ddp")
        files.cache_folder(self.config.cache_dir)

    def resolved(self) -> Self:
        """In fp32; the PEFT method is none for text, has the modules that the model names, and trains a new head beside itself."""
        found = super().resolved()
        return found.of(found.config.model_copy(update={"peft": _for_images(self.config.peft, self.model)}))

    def of(self, config: Config) -> Self:
        """Its model and data with it."""
        found = super().of(config)
        found.model, found.data = _sections(config)
        return found

    @cached_property
    def folder(self) -> Path | None:
        """Of a transformers model's files, fetched if need be; None of others, and for random weights."""
        return source.folder(self.model, files.cache_folder(self.config.cache_dir)) if isinstance(self.model, HubImageModelConfig) else None

    @cached_property
    def view(self) -> View:
        """How the model reads an image."""
        return views.of(self.model, self.folder)

    @cached_property
    def pictures(self) -> "dict[str, Pictures]":
        """By split, all images."""
        from qpa.tasks.vision import pictures, sources

        found, data = sources.read(self.data), self.data
        _check_alike(found)
        shares = {"val": data.val_fraction, "test": data.test_fraction}
        found |= pictures.apart(found["train"], {split: share for split, share in shares.items() if split not in found})
        found = pictures.named(found)
        return {split: given if split == "train" else given.few(data.max_held_out) for split, given in found.items()}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return self.pictures["train"].names

    @cached_property
    def images(self) -> "dict[str, Images]":
        """By split, as tensors."""
        from qpa.tasks.vision.classifier import Images

        return {split: Images(given) for split, given in self.pictures.items()}

    def content(self) -> dict[str, Any]:
        """Of the images by split, and of `model.path`."""
        return {"texts": {split: given.digest for split, given in self.pictures.items()}, "weights": known.weights(self.model)}

    def title(self) -> str:
        """As `CNN 1-8-12-20 on mnist5000, 10 classes`."""
        return f"{known.title(self.model)} on {_data_name(self.data)}, {len(self.names)} classes"

    def protocol(self) -> dict[str, Any]:
        """The classes, how the base model stands, and what who always says the commonest class would reach."""
        train = self.pictures["train"].labels
        commonest = max(range(len(self.names)), key=lambda number: int((train == number).sum()))
        reached = {split: {"accuracy": float((self.pictures[split].labels == commonest).mean())} for split in ("val", "test")}
        stands = known.stands(self.model, self.folder, len(self.names))
        majority = {"label": self.names[commonest], **reached}
        found = {"labels": list(self.names), "several": False, "base": stands, "majority": majority}
        return found | ({"published": points} if (points := published.points(self.model, _data_name(self.data))) else {})

    @classmethod
    def remarks(cls, ours: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Of the closing table: how often the commonest class is right."""
        majority = ours["protocol"]["majority"]
        said = f"accuracy {majority['test']['accuracy']:.3f}"
        return [(f"always the commonest class ({majority['label']})", said), ("base model", ours["protocol"]["base"])]

    def inputs(self) -> "dict[str, Tensor]":
        """Images of the validation split, as the model reads them."""
        from qpa.tasks.vision.classifier import Classifier

        return {"images": Classifier(self.skeleton(), self.view, len(self.names)).seen(self.probe()["images"])}

    def base_name(self) -> str | None:
        """On the hub, as a path, or as its package calls it."""
        return known.published_name(self.model)

    def examples(self) -> int:
        """Images."""
        return len(self.pictures["train"])

    def read(self) -> None:
        """The images, unless they have to be fetched, and whether the model reads such."""
        if not isinstance(self.data, ImageHubConfig):
            self._look(fetched=not isinstance(self.model, HubImageModelConfig) or self.model.weights == "random" or bool(self.model.path))

    def fetch(self) -> None:
        """The images, and the model's files."""
        self._look(fetched=True)

    def prepare(self) -> None:
        """As tensors, and a line of what was found."""
        _ = self.images
        if self.context.first:
            sizes = ", ".join(f"{len(given):,} {split}" for split, given in self.pictures.items())
            channels, height, width = self.pictures["train"].shape
            read = "" if (height, width) == (self.view.size,) * 2 else f", read as {self.view.size} x {self.view.size}"
            shown = f"{width} x {height} {'in gray' if channels == 1 else 'in colour'}{read}"
            print(f"qpa: images of {shown}, {len(self.names)} classes; {sizes}", file=sys.stderr)

    def _look(self, *, fetched: bool) -> None:
        train = self.pictures["train"]
        if fetched:
            views.check(self.view, train.shape, repeat=self.data.channels == "model", key=train.key)

    def train_loader(self, *, from_step: int) -> "DataLoader":
        """Images in a seeded order."""
        from qpa.tasks.loaders import train_loader

        return train_loader(self.images["train"], self.share, seed=self.config.seed, from_step=from_step, steps=self.steps)

    def held_out(self) -> "dict[str, DataLoader]":
        """Images in their own order."""
        from qpa.tasks.loaders import held_out_loader

        return {split: held_out_loader(self.images[split], self.share, split=split) for split in ("val", "test")}

    def probe(self) -> Batch:
        """Some images of the validation split, spread over it."""
        from torch.utils.data import default_collate

        images = self.images["val"]
        count = min(PROBED, len(images))
        return default_collate([images[place * len(images) // count] for place in range(count)])

    def skeleton(self) -> "nn.Module":
        """Of `model.path`, the config, or the hub's config.json."""
        from qpa.tasks.pretrained import base_model
        from qpa.tasks.vision import models

        folder = source.config_folder(self.model) if isinstance(self.model, HubImageModelConfig) else None
        return models.load(self.model, folder, self.names, seed=self.config.seed, device=base_model.META)

    def base(self, *, own: bool = False) -> "nn.Module":
        """Its weights stay loaded, for the next run of a sweep too."""
        from qpa.tasks.numerics import home
        from qpa.tasks.pretrained import base_model
        from qpa.tasks.vision import models

        kept, config = self.context.kept, self.config
        device = base_model.CPU if config.trainer.shards else home(config.trainer.accelerator)
        key = ("images", self.model.model_dump_json(), *known.weights(self.model), self.folder, config.seed, self.names, device)
        if key not in kept:
            kept.clear()  # first: two would not always fit
            kept[key] = models.load(self.model, self.folder, self.names, seed=config.seed, device=device)
        shared = base_model.sharing_weights(kept[key])
        return copy.deepcopy(shared) if own else shared

    def learner(self, model: "nn.Module", *, trained: bool = False) -> "Classifier":
        """The model's own logits; one that cannot be run is refused."""
        from qpa.tasks.vision.classifier import Classifier

        learner = Classifier(model, self.view, len(self.names))
        if trained:
            self._check_runs(learner)
        if trained and isinstance(self.model, HubImageModelConfig) and self.model.gradient_checkpointing:
            learner.checkpoint_gradients()
        return learner

    def _check_runs(self, learner: "Classifier") -> None:
        from qpa.tasks.vision import models

        device = next(learner.model.parameters()).device
        images = learner.seen(self.probe()["images"].to(device))
        if problem := models.runs(learner.model, images):
            raise ConfigError("peft", self.config.peft["_target_"], f"the adapted model does not run: {problem}")

    def draw(self, measured: Measured, adapter: Path, file: Path) -> None:
        """The first layer's filters; the test images of the highest loss, each with its class and what it is said to be."""
        from qpa.adapters import saved
        from qpa.tasks.vision import drawing

        try:
            filters = drawing.first_filters(saved.merge(saved.load_adapter(self.base(own=True), adapter)))
        except ConfigError:  # a method that changes no weights
            filters = drawing.first_filters(self.base())
        rows = [(int(place), int(true), int(said), loss) for place, true, said, loss in measured["test"]["worst"]]
        drawing.draw(filters, self.pictures["test"], rows, file)

    def save_beside(self, adapter: Path) -> None:
        """The classes by their numbers, and how an image is read."""
        view = {"image_size": self.view.size, "mean": self.view.mean, "std": self.view.std}
        files.write_json(adapter / CLASSES_FILE, {"classes": list(self.names)} | view | {"trained_on": self.pictures["train"].digest})

    def check_beside(self, adapter: Path) -> None:
        """Refuse an adapter that tells other classes than the data has."""
        try:
            beside = json.loads((adapter / CLASSES_FILE).read_text())
            saved, trained_on = beside["classes"], beside.get("trained_on")
        except (OSError, ValueError, KeyError, TypeError):
            return  # of another program, or moved alone
        if saved != list(self.names):
            problem = f"the adapter tells the classes {', '.join(saved)}, and the training images here have others"
            raise ConfigError("data", ", ".join(self.names), f"{problem}; give the run's own training images")
        if trained_on not in (None, self.pictures["train"].digest):
            problem = "it was trained on other images than are for training here, which may be among these for testing"
            print(f"qpa: {problem}", file=sys.stderr)


def _sections(config: Config) -> tuple[ImageModelConfig, ImageDataConfig]:
    """The groups `model` and `data`, of kinds that are read here."""
    return expected("model", config.model, ImageModelConfig), expected("data", config.data, ImageDataConfig)


def _for_images(peft: Mapping[str, Any], model: ImageModelConfig) -> dict[str, Any]:
    """A PEFT method's settings, which are for text as they stand in `conf/`."""
    kind, head = pkgutil.resolve_name(str(peft["_target_"])), known.head(model)
    found = dict(peft) | ({"task_type": None} if "task_type" in peft else {})
    if found.get("target_modules") == ALL_LINEAR and model.adapted:
        found["target_modules"] = model.adapted
    if head and "modules_to_save" in getattr(kind, "__dataclass_fields__", ()):
        found["modules_to_save"] = [*dict.fromkeys([*(found.get("modules_to_save") or ()), head])]
    return found


def _check_alike(pictures: "Mapping[str, Pictures]") -> None:
    """Refuse splits of other sizes than the training images."""
    train = pictures["train"]
    for given in pictures.values():
        if given.shape != train.shape:
            problem = f"its images are {given.shape} (channels, height, width), and the training images {train.shape}"
            raise ConfigError(*given.key, f"{problem}; data.size=N and data.channels=1 or 3 make all alike")


def _data_name(data: ImageDataConfig) -> str:
    if isinstance(data, PackagedImagesConfig):
        return data.images
    given = data.folder if isinstance(data, ImageFolderConfig) else data.hub if isinstance(data, ImageHubConfig) else None
    return Path(given or data.source).name


TASK = Vision
