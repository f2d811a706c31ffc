"""What the tests of images share: small real digits as files or data sets, and configs of tiny models that read them."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from qpa.config import Config, parse
from qpa.config.composing import composed

FOUND: Any = load_digits()
PIXELS, LABELS = np.rint(FOUND.images * (255 / 16)).astype(np.uint8), FOUND.target
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT |= {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CNN = ["model=mnist_cnn", "model.image_size=8", "model.kernel=3", "model.padding=1", "model.filters=[4,6]", "model.hidden=[12]"]
MODELS = {
    "cnn": CNN,
    "vit": ["model=vit", "model.weights=random", *(f"++model.architecture.{key}={value}" for key, value in VIT.items())],
    "saved": ["model=image_hub"],
    "lite0": ["model=efficientnet_lite0", "model.weights=random", "model.image_size=16", "data.channels=3"],
}
METHOD = ["peft=lora", "generator=qpa", "latents=circuit", "circuit=ry_cnot", "mapper=tied"]


def chosen(classes: int = 3, each: int = 20) -> list[tuple[np.ndarray, int]]:
    """Digits of the first classes, class after class."""
    return [(PIXELS[place], number) for number in range(classes) for place in np.flatnonzero(number == LABELS)[:each]]


def folder_of(place: Path, rows: list[tuple[np.ndarray, int]]) -> Path:
    """As PNG files, a folder for each class."""
    for number, (pixels, label) in enumerate(rows):
        (place / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / str(label) / f"{number:04}.png")
    return place


def dataset_of(rows: list[tuple[np.ndarray, int]], **columns: Any) -> datasets.Dataset:
    """As `datasets` keeps them."""
    classes = [str(number) for number in sorted({label for _, label in rows})]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
    given = {"image": [Image.fromarray(pixels) for pixels, _ in rows], "label": [label for _, label in rows]}
    return datasets.Dataset.from_dict(given | columns, features=features)


def arguments(folder: Path, *overrides: str, data: Path | None = None, model: str = "cnn") -> list[str]:
    """Of the command line: a tiny model, and a folder of images where there is one."""
    given = ["data=image_folder", f"data.folder={data}"] if data else ["data=digits"]
    shares = ["data.val_fraction=0.2", "data.test_fraction=0.3", "data.batch_size=4"]
    trainer = ["trainer=default", "trainer.max_steps=4", "trainer.val_every=2", "trainer.accelerator=cpu", "optimizer.lr=0.01"]
    places = [f"cache_dir={folder}/cache", f"run_dir={folder}/run", "logger=none", "name=tiny"]
    return ["task=vision", *METHOD, *given, *MODELS[model], *shares, *trainer, *places, *overrides]


def config(folder: Path, *overrides: str, data: Path | None = None, model: str = "cnn") -> Config:
    """The same, composed and checked."""
    return parse(composed("train", arguments(folder, *overrides, data=data, model=model)))
