"""What is known of a module's weights that are generated."""

from torch import nn

from qpa.config import Settings
from qpa.core.adaptation import GeneratedAdaptation
from qpa.core.layout import Layout


class TakenOver(GeneratedAdaptation):
    """A module's weights, generated.

    Attributes:
        module: whose weights they are.
        settings: of the generator.
        layout: which generated number goes where.
    """

    module: nn.Module
    settings: Settings
    layout: Layout
