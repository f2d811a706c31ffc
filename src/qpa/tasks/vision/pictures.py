"""Images in memory: the bytes of all, one after the other, each of one class; told apart in fixed shares; as a data set for training."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qpa.errors import ConfigError

SPLIT_SEED = 0  # one for all runs: what is held out is no setting
LEAST_CLASSES = 2


@dataclass(frozen=True)
class Pictures:
    """Images of one size.

    Attributes:
        key: the config key that they are from, and its value.
        pixels: their bytes, `[N, C, H, W]`.
        labels: the class of each, a place in `names`.
        names: of the classes.
    """

    key: tuple[str, object]
    pixels: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, `(C, H, W)`."""
        return self.pixels.shape[1:]

    @cached_property
    def digest(self) -> str:
        """Of all that is in them, wherever they are from."""
        found = hashlib.sha256(f"{self.pixels.shape} {self.names}".encode())
        found.update(np.ascontiguousarray(self.pixels).data)
        found.update(self.labels.astype("<i8").tobytes())
        return found.hexdigest()

    def some(self, chosen: Sequence[int] | np.ndarray) -> "Pictures":
        """Those at some places."""
        return Pictures(self.key, self.pixels[chosen], self.labels[chosen], self.names)

    def few(self, most: int | None) -> "Pictures":
        """At most so many, drawn from all of them by a fixed seed."""
        if most is None or most >= len(self):
            return self
        return self.some(np.sort(np.random.default_rng(SPLIT_SEED).permutation(len(self))[:most]))


def apart(pictures: Pictures, shares: Mapping[str, float]) -> dict[str, Pictures]:
    """Images apart from held-out shares of each class, drawn by a fixed seed; what is left is `train`.

    Args:
        pictures: all of them.
        shares: by name, of the images of each class; one of each at least.

    Raises:
        ConfigError: of some class there are too few.
    """
    places: dict[str, list[int]] = {name: [] for name in ("train", *shares)}
    draw = np.random.default_rng(SPLIT_SEED)
    for number, name in enumerate(pictures.names):
        own = np.flatnonzero(pictures.labels == number)
        counts = {split: max(1, round(share * len(own))) for split, share in shares.items()}
        if len(own) <= sum(counts.values()):
            has = f"class {name} has {len(own)} image{'s' if len(own) != 1 else ''}"
            wanted = f"{', '.join(shares)} take {sum(counts.values())} of each such class and leave none to train on"
            raise ConfigError(*pictures.key, f"{has}, too few: {wanted}; give more of it, or leave the class out")
        order = draw.permutation(own)
        for split, count in counts.items():
            places[split] += order[:count].tolist()
            order = order[count:]
        places["train"] += order.tolist()
    return {split: pictures.some(sorted(chosen)) for split, chosen in places.items()}


def named(pictures: Mapping[str, Pictures]) -> dict[str, Pictures]:
    """The splits with the classes of the training images, in their order.

    Raises:
        ConfigError: all images have one class, or a held-out one has none of these.
    """
    train = pictures["train"]
    counts = Counter(train.labels.tolist())
    kept = [number for number in range(len(train.names)) if counts[number]]
    if len(kept) < LEAST_CLASSES:
        problem = f"all {len(train):,} images have the same class ({train.names[kept[0]]}), so that nothing can be learned; give others"
        raise ConfigError(*train.key, problem)
    names = tuple(train.names[number] for number in kept)
    return {split: _renamed(given, names) for split, given in pictures.items()}


def _renamed(pictures: Pictures, names: tuple[str, ...]) -> Pictures:
    places = {name: place for place, name in enumerate(names)}
    for number in np.unique(pictures.labels):
        if (name := pictures.names[number]) not in places:
            raise ConfigError(*pictures.key, f"has class {name}, which no training image has; leave it out, or train on it")
    numbers = np.array([places.get(name, -1) for name in pictures.names])
    return Pictures(pictures.key, pictures.pixels, numbers[pictures.labels], names)
