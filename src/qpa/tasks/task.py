"""What a task is: its data, model, loss and metrics. Everything above this room knows tasks by these classes alone.

A task is a folder beside this file with a class `Task`, or one that an installed package offers under the entry point `qpa.task`
(docs/extending.md).
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """What a model is judged by.

    Attributes:
        name: as it stands in records, tables and figures, e.g. `perplexity`.
        unit: of its values, empty where they have none.
        better: which direction is.
        scale: what a gain is: a difference of values (`linear`) or of their logarithms (`log`, as of perplexity, whose logarithm is
            the NLL).
    """

    name: str
    unit: str
    better: Literal["lower", "higher"]
    scale: Literal["linear", "log"] = "linear"

    def improves(self, value: float, on: float | None) -> bool:
        """Whether a value is better than another, or than none."""
        return on is None or (value < on if self.better == "lower" else value > on)

    def gain(self, base: float, adapted: float) -> float:
        """How much better the adapted model is than the base; negative where it is worse."""
        difference = math.log(adapted / base) if self.scale == "log" else adapted - base
        return -difference if self.better == "lower" else difference
