"""Group `task`: what is learned."""

from typing import Annotated

from pydantic import Field

from qpa.config.part import Part
from qpa.config.section import Section


class TaskConfig(Section):
    """What all tasks have, and all that `language` has: model, data, loss and metrics follow from the kind."""

    part = Part.TASK

    kind: str


class ControlConfig(TaskConfig):
    """Kind `control`: how a policy learns from rewards; it is judged by the same return whatever these are."""

    gamma: Annotated[float, Part.COURSE] = Field(gt=0, le=1)
    entropy: Annotated[float, Part.COURSE] = Field(ge=0)
