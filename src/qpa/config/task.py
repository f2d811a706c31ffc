"""Group `task`: what is learned."""

from qpa.config.part import Part
from qpa.config.section import Section


class TaskConfig(Section):
    """What all tasks have, and all that `language` has: model, data, loss and metrics follow from the kind."""

    part = Part.TASK

    kind: str
