"""Group `optimizer`: a torch optimizer, linear warm-up, and decay to zero."""

from typing import Annotated, Literal

from pydantic import Field

from qpa.config.part import Part
from qpa.config.section import OpenSection


class OptimizerConfig(OpenSection):
    """The class and its arguments, and the course of its rate."""

    part = Part.COURSE

    lr: Annotated[float, Part.RATE] = Field(gt=0)
    warmup: float = Field(ge=0, lt=1)
    decay: Literal["linear", "cosine"]
