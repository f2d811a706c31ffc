"""What pays for how much text, as measured: the row of docs/results.md that `qpa.plan` prints."""

from collections.abc import Mapping
from typing import Any

from qpa.config import FilesDataConfig, PydocDataConfig, TextDataConfig
from qpa.errors import ConfigError
from qpa.tasks.language import splits
from qpa.tasks.rows import files

LITTLE = 100_000  # bytes of training text, about
MEASURED = "(SmolLM2-135M, docs/results.md)"
HEAD = "on the output head, QPA with mapper=codes gains more than LoRA does, with a twentieth of its numbers"
SMALL = (
    "with so little text every method overfits, so validate often (trainer.val_every) and choose the rate by validation; QPA at 4.7 % of "
    "LoRA's numbers gained as much as LoRA on 10 kB and 90 % of it on 40 kB, on one seed"
)
LARGE = (
    "with so much text LoRA itself gains most (generator=none); QPA keeps about 90 % of its gain at 4.7 % of its numbers and 80 to 85 % at "
    "0.9 % (mapper.width=2), which pays where many adapters are kept or sent"
)


def of(data: TextDataConfig, peft: Mapping[str, Any]) -> str | None:
    """In a line, with the amount that it is for; None where that is not known before the text is read, or other modules are adapted."""
    if peft.get("target_modules") == ["lm_head"]:
        return f"{HEAD} {MEASURED}"
    size = amount(data) if peft.get("target_modules") == "all-linear" else None
    return None if size is None else f"about {_said(size)} to train on: {SMALL if size < LITTLE else LARGE} {MEASURED}"


def amount(data: TextDataConfig) -> int | None:
    """Bytes of training text, as far as files tell without being read."""
    if data.train_bytes:
        return data.train_bytes
    if isinstance(data, PydocDataConfig):
        whole = sum(len(piece.encode()) for piece in splits.pydoc())
    elif isinstance(data, FilesDataConfig):
        try:
            found = files.find({"data.train_files": data.train_files})["data.train_files"]
        except ConfigError:
            return None  # told when they are read
        if any(file.compression or file.path.is_dir() for file in found):
            return None
        whole = sum(file.path.stat().st_size for file in found)
    else:
        return None
    return whole if data.val_files else round(whole * (1 - (data.val_fraction or 0)))


def _said(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
