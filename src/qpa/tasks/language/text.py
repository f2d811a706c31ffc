"""The text of a run: read from where the config says, and split into train, validation and test.

Pure reading, no heavy import, so that a missing or empty file answers at once.
"""

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from qpa.config import FilesDataConfig, HubDataConfig, RowsDataConfig, TextDataConfig
from qpa.errors import ConfigError
from qpa.files import digest, files_of
from qpa.tasks.rows import Faults, Rows, reading


@dataclass(frozen=True)
class Texts:
    """The texts of a run, not overlapping; `forgetting` is another text, to see what adapting to the first costs there."""

    train: str
    val: str
    test: str
    forgetting: str | None = None

    def given(self) -> dict[str, str]:
        """By name, those that there are."""
        return {name: text for name, text in vars(self).items() if text is not None}


def title(data: TextDataConfig) -> str:
    """What the text is, in a few words."""
    files = data.train_files if isinstance(data, FilesDataConfig) else []
    hub = data.hub if isinstance(data, HubDataConfig) else None
    return ", ".join("/".join(Path(file).parts[-2:]) for file in files) or hub or data.source


def read(data: TextDataConfig, *, speaks: bool = True) -> Texts:
    """Read and split the text.

    Args:
        data: config group `data`.
        speaks: whether to say what is left out.

    Raises:
        ConfigError: a file is missing, or a text is empty or certainly shorter than one window.
    """
    given = {name: _text(data, name, rows, speaks=speaks) for name, rows in _rows(data).items()}
    texts = _split(data, given["train"] if "train" in given else _pydoc(), val=given.get("val"), test=given.get("test"))
    texts = replace(texts, forgetting=given.get("forgetting"))
    for name, text in texts.given().items():
        key = where(data, name)
        if not text.strip():
            raise ConfigError(*key, f"the {name} text is empty")
        packed = data.protocol == "packed"
        if packed and name == "train" and len(text.encode()) < data.context - 1:  # no token is shorter than a byte
            raise ConfigError(
                *key, f"the {name} text ({len(text.encode())} bytes) is shorter than one window; lower data.context={data.context}"
            )
    return texts


def digests(data: TextDataConfig) -> dict[str, list[str | None]]:
    """SHA-256 of every text file by split, None of one that is not there; `hub`: of a local folder in the hub's place."""
    files = {split: getattr(data, f"{split}_files", []) for split in ("train", "val", "test", "forgetting")}
    found = {split: [digest(Path(file)) for file in given] for split, given in files.items()}
    hub = data.hub if isinstance(data, HubDataConfig) else None
    return found | ({"hub": _folder_digests(Path(hub))} if hub and os.path.isdir(hub) else {})


def _folder_digests(folder: Path) -> list[str | None]:
    """Of all its files, each with its name, which tells the split."""
    return [f"{file.relative_to(folder)} {digest(file)}" for file in files_of(folder, key="data.hub")]


def where(data: TextDataConfig, name: str) -> tuple[str, object]:
    """The config key a split comes from, and its value."""
    val_files = getattr(data, "val_files", [])
    files = getattr(data, f"{name}_files", []) or (val_files if name == "test" else [])
    if files:
        return f"data.{name}_files", files
    if isinstance(data, HubDataConfig):
        return "data.hub", data.hub
    return ("data.source", data.source) if name == "train" else ("data.val_fraction", data.val_fraction)


def _pydoc() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def _rows(data: TextDataConfig) -> dict[str, Rows]:
    """By split, those that are read from files or a data set."""
    faults = Faults("data", skip=isinstance(data, RowsDataConfig) and data.skip_bad)
    cache = Path(tempfile.gettempdir())
    if isinstance(data, FilesDataConfig | HubDataConfig):
        return reading.read(data, cache, faults)
    files = {split: getattr(data, f"{split}_files") for split in ("val", "test", "forgetting")}
    return {**reading.of_files(files, None, cache, faults)}


def _text(data: TextDataConfig, name: str, rows: Rows, *, speaks: bool) -> str:
    """Rows as lines; empty ones are empty lines, as in WikiText, and null ones are left out."""
    if rows.text:
        return "\n".join(row.values["text"] for row in rows)
    column, lines, nulls = _column(data, name, rows), [], 0
    for row in rows:
        value = row.values.get(column)
        if value is None:
            nulls += 1
        elif isinstance(value, str):
            lines.append(value.removesuffix("\n"))
        else:
            problem = f"of the {name} split is no text but {type(value).__name__} ({row.place}); the columns are {', '.join(rows.columns)}"
            raise ConfigError("data.text_column", column, problem)
    if nulls and speaks:
        print(f"qpa: {nulls:,} of {nulls + len(lines):,} rows of the {name} split are null and left out", file=sys.stderr)
    return "\n".join(lines)


def _column(data: TextDataConfig, name: str, rows: Rows) -> str:
    """The column of text: named, or `text`, or the only one of strings."""
    named = data.text_column if isinstance(data, RowsDataConfig) else None
    strings = [column for row in islice(iter(rows), 1) for column, value in row.values.items() if isinstance(value, str)]
    column = named or ("text" if "text" in rows.columns or len(strings) != 1 else strings[0])
    if column not in rows.columns:
        others = [*rows.columns, *(f"{other} ({kind}), which is not read" for other, kind in rows.left_out.items())]
        raise ConfigError("data.text_column", named, f"the {name} split has no column {column}; it has {', '.join(others)}")
    return column


def _split(data: TextDataConfig, train: str, *, val: str | None, test: str | None) -> Texts:
    """Cut validation text from the end of the training text, and test text from that, where there is none."""
    if val is None:
        if data.val_fraction is None:
            other = "data with a validation split" if data.source == "hub" else "data.val_files"
            raise ConfigError("data.val_fraction", None, f"give a share of the training text, as 0.1, or {other}")
        train, val = _cut(train, 1 - data.val_fraction)
    return Texts(train, *(_cut(val, 0.5) if test is None else (val, test)))


def _cut(text: str, share: float) -> tuple[str, str]:
    """Cut a text in two at the line end nearest after `share` of it."""
    at = int(len(text) * share)
    line_end = text.find("\n", at) + 1
    at = line_end if 0 < line_end < len(text) else at
    return text[:at], text[at:]
