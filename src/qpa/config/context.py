"""What a run is told beside its config: which of its processes this is, which sweep it belongs to, what was typed."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENTRY = Path(__file__).resolve().parents[3] / "train.py"  # of a checkout; what is installed has none


def program() -> list[str]:
    """What starts a training: `qpa-train` for who has typed an installed command or has no checkout, else `python train.py`."""
    typed = Path(sys.argv[0]).name
    return ["qpa-train"] if typed.startswith("qpa-") or not ENTRY.is_file() else ["python", "train.py"]


@dataclass(frozen=True)
class Context:
    """Made once, by the command, and handed down.

    Attributes:
        rank: which of the processes that train one run together this is, from 0.
        sweep: the folder of the sweep that this run is a job of; None of a single run.
        command: what runs it again, alone; None where no command line has.
        kept: what this process keeps from one job of a sweep to the next, as a base model.
    """

    rank: int = 0
    sweep: Path | None = None
    command: str | None = None
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0
