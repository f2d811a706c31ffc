"""How large chunks and mapper should be under a budget of trained numbers: the rule of `docs/planning.md`.

1. A circuit per module while their angles cost at most a tenth of the budget, else one circuit for all.
2. A chunk is a whole row of a tensor while the budget pays for a mapper of at least `NARROWEST`; else the largest part
   of a row that leaves room for it.
3. Everything that is left goes into the mapper's width. `L` stays as it is: more layers bought nothing (docs/log.md).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from qpa.config import Config, PaperMapperConfig
from qpa.core.layout import LONGEST_ROW, AdapterTensor, Layout
from qpa.errors import ConfigError
from qpa.library.recipe import counted
from qpa.library.sizes import layout_of

NARROWEST = {"tied": 2, "codes": 4, "paper": 4}  # tied: one row makes all decoder layers alike; else halved chunks are better
ANGLES_SHARE = 0.1  # of the budget, for circuits
PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # of a row
WIDEST = 1 << 14
MOST_CHUNKS = 200_000  # of a candidate: each is laid out, in up to two seconds


def search(config: Config, tensors: Sequence[AdapterTensor], ratio: float) -> tuple[str, ...]:
    """The command-line overrides of the best fit under `ratio` times plain PEFT's count.

    Settings of the config that are not at their null (`circuit.qubits`, `mapper.chunk_size`) are kept.

    Raises:
        ConfigError: nothing is so small; the text says what is the smallest.
    """
    if config.generator.kind == "none":
        raise ConfigError("plan.target_ratio", ratio, "generator=none trains the adapter itself; use generator=qpa")
    plain, beside = sum(t.size for t in tensors), sum(t.size for t in tensors if t.beside)
    generated = [t for t in tensors if not t.beside]
    budget = int(ratio * plain) - beside
    best: tuple[int, Config] | None = None
    smallest = plain * WIDEST
    for candidate in _candidates(config, generated):
        layout = layout_of(candidate.settings, generated)
        narrowest = counted(resized(candidate, 1).settings, layout)
        smallest = min(smallest, narrowest.trainable)
        width = _widest(candidate, layout, budget) if narrowest.trainable <= budget else 0
        if width and (best is None or width > best[0]):
            best = width, resized(candidate, width)
        if width >= NARROWEST.get(config.mapper.kind, 1) and (layout.circuits == 1 or narrowest.latents <= ANGLES_SHARE * budget):
            break
    if best is None:
        raise ConfigError(
            "plan.target_ratio",
            ratio,
            f"the smallest generator found trains {smallest + beside:,} numbers; at least {(smallest + beside) / plain:.2g}",
        )
    return tuple(_changes(config, best[1]))


def resized(config: Config, width: int) -> Config:
    """The config with a mapper of this width: of an MLP that of its widest layer, the others in proportion.

    Raises:
        ConfigError: a mapper of another package that has no `width`.
    """
    mapper = config.mapper
    if isinstance(mapper, PaperMapperConfig):
        changed = {"hidden": [max(1, round(size * width / max(mapper.hidden))) for size in mapper.hidden]}
    elif "width" in type(mapper).model_fields:
        changed = {"width": width}
    else:
        raise ConfigError("mapper", mapper.kind, "has no width to search for; leave plan.target_ratio out, or choose another mapper")
    return config.model_copy(update={"mapper": mapper.model_copy(update=changed)})


def _candidates(config: Config, tensors: Sequence[AdapterTensor]) -> Iterator[Config]:
    """In the order of preference: whole rows before parts of them, circuits per module before one for all."""
    row = Counter(t.row for t in tensors if t.row <= LONGEST_ROW).most_common(1)
    fixed = config.circuit.qubits or config.mapper.chunk_size or not row
    smaller = [] if fixed else [-(-row[0][0] // part) for part in PARTS[1:]]
    plain = sum(t.size for t in tensors)
    parts = [config.mapper.chunk_size, *(size for size in smaller if plain <= size * MOST_CHUNKS)]
    generator: Any = config.generator
    circuits = ["per_module", "shared"] if generator.circuits == "per_module" else ["shared"]
    for chunk_size, kind in product(dict.fromkeys(parts), circuits):
        mapper = config.mapper.model_copy(update={"chunk_size": chunk_size})
        generator = generator.model_copy(update={"circuits": kind})
        yield config.model_copy(update={"mapper": mapper, "generator": generator})


def _widest(config: Config, layout: Layout, budget: int) -> int:
    """The largest width of the mapper within the budget, 0 where there is none."""
    low, high = 0, WIDEST
    while low < high:
        middle = (low + high + 1) // 2
        fits = counted(resized(config, middle).settings, layout).trainable <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _changes(old: Config, new: Config) -> Iterator[str]:
    """What turns one config into the other on a command line."""
    for section in ("generator", "mapper"):
        before, after = getattr(old, section).model_dump(), getattr(new, section).model_dump()
        yield from (f"{section}.{key}={value}".replace(" ", "") for key, value in after.items() if value != before[key])
