"""What settings can be compared by: the task's metric, and what they cost."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from qpa.report.compare import Setting
from qpa.tasks.task import Metric


@dataclass(frozen=True)
class Axis:
    """One thing that settings can be compared by."""

    title: str
    of: Callable[[Setting], float]
    log: bool = False
    better: Literal["lower", "higher"] = "lower"

    def ascending(self, setting: Setting) -> float:
        """Its value, turned round where more is better: the best is the least."""
        return self.of(setting) if self.better == "lower" else -self.of(setting)


def axes(metric: Metric) -> dict[str, Axis]:
    """All that settings can be compared by, by name."""
    return {
        "trainable": Axis("trained numbers", _mean("trainable"), log=True),
        "ratio": Axis("share of plain PEFT's numbers", _mean("ratio"), log=True),
        "test": Axis(f"test {titled(metric)}", _mean("test"), better=metric.better),
        "seconds": Axis("seconds per step", _mean("seconds_per_step")),
        "memory": Axis("peak memory, GiB", _mean("peak_memory_bytes", 2**30)),
        "adapter": Axis("exported adapter, MB", _mean("adapter_bytes", 1e6)),
    }


def titled(metric: Metric) -> str:
    """Its name, with its unit where it has one."""
    return f"{metric.name}, {metric.unit}" if metric.unit else metric.name


def _mean(name: str, unit: float = 1.0) -> Callable[[Setting], float]:
    """Over the runs that have it; NaN where none has."""

    def of(setting: Setting) -> float:
        known = [value for run in setting.runs if (value := getattr(run, name)) is not None]
        return fmean(known) / unit if known else math.nan

    return of
