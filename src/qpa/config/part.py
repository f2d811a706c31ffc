"""What a config key says of a run: the marks that config sections put on their keys."""

from enum import Enum


class Part(Enum):
    """What a config key says of a run."""

    SHOWN = "where things lie and how they are shown: changes no result"
    SEED = "what is drawn from it: runs that differ in it alone are one setting"
    TASK = "task, model and data: runs are compared within it, and a checkpoint belongs to it"
    READ = "how much is read, and how much at a time: runs are compared within it, one that goes on may change it"
    MEASURE = "in what numbers, and how much held-out data: likewise"
    METHOD = "what is trained: a checkpoint belongs to it"
    ANSATZ = "which circuits: likewise; without effect where another thing stands in their place"
    SIZES = "which circuits, and how large what stands in their place may be: likewise, but where that is fixed or drawn"
    RATE = "the learning rate: validation chooses it"
    COURSE = "how training goes, and what runs the circuits: one that goes on may change it"
