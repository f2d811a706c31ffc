"""`python -m benchmarks.compact [--quick]`: 1,000 adapters of one model, on disk, in memory, and put on it one after another.

Compact files, of the default width and of 2, beside files of LoRA, VeRA and Uni-LoRA as stock peft writes and reads them. The adapters
differ in random numbers: what they have learned changes neither their size nor the time. Of large files as many are written as `ROOM`
holds, which are used in turns; their bytes are then of 1,000 times one.
"""

import itertools
import statistics
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import peft
import torch
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn

import qpa
from benchmarks.sides import configured
from benchmarks.timing import cell, each, finish, ratio, synchronize
from qpa.adapters import methods, saved
from qpa.config import Settings
from qpa.config.context import Context
from qpa.library import compact
from qpa.runs import plan as plans
from qpa.training.quiet import quiet

ADAPTERS = 1000
ROOM = 1 << 30  # bytes of each side's files
SPREAD = 0.02  # of the random numbers
ONTO_BASE = 5  # times an adapter is put on a model that has none
QUICK = ("model.weights=random", "model.num_layers=2")
LORA = "peft.r=8"
SIDES: dict[str, tuple[bool, tuple[str, ...]]] = {  # whether the generator is what is kept, and what else the config says
    "compact": (True, (LORA,)),
    "compact, width 2": (True, (LORA, "mapper.width=2")),
    "LoRA r=8": (False, (LORA,)),
    "VeRA": (False, ("peft=vera",)),
    "VeRA, projections drawn anew": (False, ("peft=vera", "+peft.save_projection=false")),
    "Uni-LoRA": (False, ("peft=unilora",)),
}


class Side(ABC):
    """Adapters of one kind on a model of their own.

    Attributes:
        trained: numbers of one adapter that are trained.
        model: with an adapter of the kind on it.
    """

    trained: int
    model: nn.Module

    def __init__(self, base: Callable[[], nn.Module], settings: dict[str, Any]) -> None:
        self.base = base
        self.model = methods.wrap(base(), methods.make_config(settings), seed=1)

    @abstractmethod
    def parameters(self) -> Sequence[nn.Parameter]:
        """What is trained."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the adapter as it is now."""

    @abstractmethod
    def read(self, folder: Path) -> Any:
        """A written adapter, into memory."""

    @abstractmethod
    def numbers(self, held: Any) -> dict[str, Tensor]:
        """What it takes there."""

    @abstractmethod
    def put(self, held: Any) -> None:
        """In place of the adapter that the model has."""

    @abstractmethod
    def onto(self, base: nn.Module, folder: Path) -> None:
        """A written adapter onto a model that has none."""

    def make(self, number: int) -> None:
        """Another adapter, as far from the start as each."""
        chance = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter, start in zip(self.parameters(), self.start, strict=True):
                parameter.copy_(start + SPREAD * torch.randn(start.shape, generator=chance))

    @cached_property
    def start(self) -> list[Tensor]:
        """What is trained, before it is."""
        return [parameter.detach().clone() for parameter in self.parameters()]


class Compact(Side):
    """The generator alone."""

    def __init__(self, base: Callable[[], nn.Module], settings: dict[str, Any], generator: Settings) -> None:
        super().__init__(base, settings)
        groups = {"generator": generator.generator, "latents": generator.latents, "circuit": generator.circuit, "mapper": generator.mapper}
        self.generated = qpa.generate(self.model, seed=generator.seed, **groups)
        self.trained = self.generated.counts.trainable

    def parameters(self) -> Sequence[nn.Parameter]:
        """The generator's."""
        return [*self.generated.parameters()]

    def save(self, folder: Path) -> None:
        """As a user does."""
        self.generated.write()
        self.generated.save(folder)

    def read(self, folder: Path) -> compact.Compact:
        """Checked, not expanded."""
        return compact.read(folder)

    def numbers(self, held: compact.Compact) -> dict[str, Tensor]:
        """Of the generator."""
        return held.numbers

    def put(self, held: compact.Compact) -> None:
        """Expanded."""
        qpa.load(self.model, held)

    def onto(self, base: nn.Module, folder: Path) -> None:
        """Expanded."""
        qpa.load(base, folder)


class Stock(Side):
    """A plain PEFT adapter."""

    def __init__(self, base: Callable[[], nn.Module], settings: dict[str, Any]) -> None:
        super().__init__(base, settings)
        self.trained = sum(p.numel() for p in self.parameters())

    def parameters(self) -> Sequence[nn.Parameter]:
        """The adapter's own."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def save(self, folder: Path) -> None:
        """As stock peft does."""
        saved.save_adapter(cast(PeftModel, self.model), folder, base_name=None)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Its tensors."""
        return load_file(folder / "adapter_model.safetensors")

    def numbers(self, held: dict[str, Tensor]) -> dict[str, Tensor]:
        """All."""
        return held

    def put(self, held: dict[str, Tensor]) -> None:
        """As stock peft does."""
        peft.set_peft_model_state_dict(cast(PeftModel, self.model), held)

    def onto(self, base: nn.Module, folder: Path) -> None:
        """As stock peft does."""
        PeftModel.from_pretrained(cast(Any, base), str(folder))


def main(quick: bool) -> None:
    """All sides; print."""
    adapters, extra = (20, QUICK) if quick else (ADAPTERS, ())
    quiet()
    with tempfile.TemporaryDirectory() as place:
        found, why_not = each({name: partial(measure, name, extra, adapters, Path(place) / str(i)) for i, name in enumerate(SIDES)})
        ready = {name: side for name, side in found.items() if side is not None}
        times = alternate({name: (side, files) for name, (side, files, _) in ready.items()}, adapters)
    rows = {name: ready[name][2] | times[name] if name in ready else None for name in SIDES}
    table = Table("1,000 adapters", "trained, each", "MB on disk", "MB in memory", "ms each, from disk", "from memory", "onto a bare model")
    keys = {"trained": ",", "disk_mb": ",.0f", "memory_mb": ",.0f", "disk_ms": ".1f", "held_ms": ".1f", "onto_base_ms": ".0f"}
    for name, row in rows.items():
        table.add_row(name, *(cell((row or {}).get(key), form) for key, form in keys.items()))
    Console(soft_wrap=True).print(table)
    sizes = {name: (row or {}).get("disk_mb") for name, row in rows.items()}
    smaller = {name: ratio(sizes["LoRA r=8"], size) for name, size in sizes.items()}
    finish("compact", quick, {"adapters": adapters, "rows": rows, "why_not": why_not, "times_smaller_than_lora": smaller}, gpu=False)


def measure(name: str, extra: tuple[str, ...], adapters: int, folder: Path) -> tuple[Side, list[Path], dict[str, float]]:
    """A side with its adapters written: what they take, each and of 1,000."""
    side = _side(name, extra)
    files: list[Path] = []
    for number in range(adapters):
        side.make(number)
        files.append(folder / str(number))
        side.save(files[-1])
        if (number + 1) * _bytes(files[0]) > ROOM:
            break
    on_disk = sum(map(_bytes, files)) / len(files)
    in_memory = sum(tensor.nbytes for tensor in side.numbers(side.read(files[0])).values())
    sizes = {"written": len(files), "disk_mb": ADAPTERS * on_disk / 1e6, "memory_mb": ADAPTERS * in_memory / 1e6}
    return side, files, {"trained": side.trained, **sizes, "onto_base_ms": _onto(side, files[0])}


def _side(name: str, extra: tuple[str, ...]) -> Side:
    generates, overrides = SIDES[name]
    config = configured(*overrides, *extra)
    base = plans.make(config, Context()).task.base
    return Compact(base, config.peft, config.settings) if generates else Stock(base, config.peft)


def alternate(sides: dict[str, tuple[Side, list[Path]]], adapters: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of an adapter: every side in its turn, so that a drifting machine is the same for all."""
    held = {name: [side.read(file) for file in files] for name, (side, files) in sides.items()}
    found: dict[str, dict[str, list[float]]] = {name: {"disk_ms": [], "held_ms": []} for name in sides}
    for number, (name, (side, files)) in itertools.product(range(adapters + 1), sides.items()):
        place = number % len(files)
        found[name]["disk_ms"].append(_milliseconds(lambda side=side, file=files[place]: side.put(side.read(file))))
        found[name]["held_ms"].append(_milliseconds(partial(side.put, held[name][place])))
    return {name: {key: statistics.median(times[1:]) for key, times in kinds.items()} for name, kinds in found.items()}


def _onto(side: Side, file: Path) -> float:
    models = [side.base() for _ in range(ONTO_BASE)]
    return statistics.median(_milliseconds(partial(side.onto, model, file)) for model in models)


def _milliseconds(once: Callable[[], object]) -> float:
    started = time.perf_counter()
    once()
    synchronize()
    return 1e3 * (time.perf_counter() - started)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
