"""Texts of a config as strings, and windows of strings."""

import hashlib
import tempfile
from pathlib import Path
from types import SimpleNamespace

from qpa.config import TextDataConfig
from qpa.tasks.language import splits
from qpa.tasks.language.text import Text
from qpa.tasks.language.windows import Cutter, Windows
from qpa.tasks.pretrained.tokenizer import TextEncoder


def read(data: TextDataConfig) -> SimpleNamespace:
    with tempfile.TemporaryDirectory() as cache:
        found = splits.read(data, Path(cache))
        return SimpleNamespace(**{name: "".join(split) for name, split in found.items() if isinstance(split, Text)})


def text(content: str) -> Text:
    return Text(lambda: [content], hashlib.sha256(content.encode(errors="replace")).hexdigest(), ("data.train_files", []))


def cut(data: TextDataConfig, given: dict[str, str], encoder: TextEncoder, cache: Path) -> dict[str, Windows]:
    cutter = Cutter(data, encoder, None, cache, packing=False, speaks=False)
    return {name: cutter.windows(name, text(content)) for name, content in given.items()}


def three(train: str, val: str, test: str) -> dict[str, str]:
    return {"train": train, "val": val, "test": test}
