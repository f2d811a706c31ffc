"""The samples of a split: solved at first use, and kept in the cache by all that they depend on. No torch."""

import hashlib
import json
import math
import sys
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qpa import files
from qpa.config import BurgersConfig, DarcyConfig, EquationConfig, expected
from qpa.errors import ConfigError
from qpa.tasks.operators import equations

SOLVER = 1  # raised when equations.py gives other numbers: what is in a cache is then of an earlier one
SPLITS = ("train", "val", "test")
MOST_DECAY = 10  # of the longest wave, in powers of e: beyond, the solver's errors are not small beside what is left
MOST_STEPS = 20_000  # of the solver: minutes for a few hundred samples


@dataclass(frozen=True)
class Samples:
    """Functions and what they are mapped to, each `[n, 1, G]` or `[n, 1, G, G]`, fp32."""

    inputs: NDArray[np.float32]
    outputs: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.inputs)


def check(data: EquationConfig) -> None:
    """Refuse what no solver can start on.

    Raises:
        ConfigError: with the way out.
    """
    if isinstance(data, DarcyConfig) and data.low >= data.high:
        raise ConfigError("data.low", data.low, f"has to be less than data.high={data.high:g}")
    if not isinstance(data, BurgersConfig):
        return
    amount = data.viscosity * data.time
    if amount * (2 * math.pi) ** 2 > MOST_DECAY:
        problem = f"nothing but noise is left after data.time={data.time:g}; give less of one of them"
        raise ConfigError("data.viscosity", data.viscosity, problem)
    steps = amount * (2 * math.pi * (data.grid // 3)) ** 2 / equations.STABLE
    if steps > MOST_STEPS:
        problem = f"the solver would take {steps:,.0f} steps, more than {MOST_STEPS:,}"
        way_out = f"give less of it, of data.time={data.time:g} or of data.viscosity={data.viscosity:g}"
        raise ConfigError("data.grid", data.grid, f"{problem}; {way_out}")


def digest(data: EquationConfig, split: str) -> str:
    """Of all that a split's samples depend on."""
    kept = data.model_dump(exclude={"batch_size", *SPLITS}) | {"split": split, "count": getattr(data, split), "solver": SOLVER}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def of(data: EquationConfig, split: str, cache: Path) -> Samples:
    """From the cache, or solved now and put there.

    Raises:
        ConfigError: the grid is too coarse.
    """
    file = cache / "operators" / f"{data.source}-{split}-{digest(data, split)[:16]}.npz"
    try:
        with file.open("rb") as content, np.load(content) as found:
            return Samples(found["inputs"], found["outputs"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # none yet, or one that was damaged
    made = _solved(data, split)
    content = BytesIO()
    np.savez_compressed(content, inputs=made.inputs, outputs=made.outputs)
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(file, content.getbuffer())
    return made


def _solved(data: EquationConfig, split: str) -> Samples:
    count = getattr(data, split)
    print(f"qpa: solving {data.source} for {count:,} {split} samples, once", file=sys.stderr)
    rng = np.random.default_rng([data.drawn_from, SPLITS.index(split)])
    try:
        if isinstance(data, BurgersConfig):
            found = equations.burgers(count, data.grid, viscosity=data.viscosity, time=data.time, rng=rng)
        else:
            data = expected("data", data, DarcyConfig)
            found = equations.darcy(count, data.grid, low=data.low, high=data.high, rng=rng)
    except equations.UnresolvedError as error:
        raise ConfigError("data.grid", data.grid, f"{error}; give data.grid={2 * data.grid}, or a larger data.viscosity") from error
    return Samples(*(values[:, None].astype(np.float32) for values in found))
