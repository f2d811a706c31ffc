"""Files and folders that are there whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `target` only if the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        filled = Path(scratch) / "filled"
        filled.mkdir()
        yield filled
        if target.exists():
            shutil.rmtree(target)
        os.replace(filled, target)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file by a rename, so that a reader never sees half of it."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    os.replace(scratch, path)
