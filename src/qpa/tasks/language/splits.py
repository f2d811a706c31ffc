"""What a run learns and what it holds out: by split a running text, or rows of examples. Nothing heavy is imported for a text."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from qpa.config import FilesDataConfig, HubDataConfig, RowsDataConfig, TextDataConfig, expected
from qpa.errors import ConfigError
from qpa.files import digest, files_of
from qpa.tasks.language.forms import Conversations, Prompts, RunningText, UnusableError, recognised
from qpa.tasks.language.text import Text, beginning, cut, of_lines
from qpa.tasks.rows import reading
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.reading import Rows
from qpa.tasks.rows.row import Row
from qpa.tasks.rows.split import first_rows, shuffled_split

LOOKED_AT = 1_000  # rows that are looked at before anything slow begins


@dataclass(frozen=True)
class Examples:
    """One split's examples, still as rows.

    Attributes:
        rows: in order.
        form: what they hold.
        unread: rows that could not even be read, of all splits.
    """

    rows: Rows
    form: Prompts | Conversations
    unread: Faults

    @property
    def where(self) -> tuple[str, object]:
        """The config key that they come from, and its value."""
        return self.rows.key

    @property
    def content(self) -> str:
        """Digest of what is read of them."""
        return self.rows.digest

    @property
    def key(self) -> str:
        """What identifies them, and how they are read."""
        return f"{self.content}|{self.form}"


Split = Text | Examples


def title(data: TextDataConfig) -> str:
    """What the data are, in a few words."""
    paths = data.train_files if isinstance(data, FilesDataConfig) else []
    hub = data.hub if isinstance(data, HubDataConfig) else None
    whole = ", ".join("/".join(Path(path).parts[-2:]) for path in paths) or hub or data.source
    return f"{whole}, the first {data.train_bytes:,} bytes" if data.train_bytes else whole


def read(data: TextDataConfig, cache: Path, *, speaks: bool = True) -> dict[str, Split]:
    """By name, `train`, `val`, `test`, and `forgetting` where one is given; not overlapping.

    Args:
        data: config group `data`.
        cache: the folder that digests are kept in.
        speaks: whether to say what is left out.

    Raises:
        ConfigError: something is missing, empty, or cannot be learned from.
    """
    faults = Faults("data", skip=isinstance(data, RowsDataConfig) and data.skip_bad)
    given = _rows(data, cache, faults)
    found: dict[str, Split] = {name: _split(data, name, rows, faults, speaks=speaks) for name, rows in given.items()}
    if "train" not in found:
        found["train"] = pydoc()
    held_out = _held_out(data, found)
    if data.train_bytes:
        held_out["train"] = _beginning(held_out["train"], data.train_bytes)
    for name, split in held_out.items():
        if isinstance(split, Text):
            _check_text(data, name, split)
    return held_out


def digests(data: TextDataConfig, cache: Path) -> dict[str, list[str | None]]:
    """Of what the config's files hold, by split; None of one that is not there. `hub`: of a local folder in the hub's place."""
    found: dict[str, list[str | None]] = {}
    for name in ("train", "val", "test", "forgetting"):
        given = getattr(data, f"{name}_files", [])
        try:
            rows = reading.of_files({name: given}, getattr(data, "encoding", None), cache, Faults("data", skip=True))
            found[name] = [digest for split in rows.values() for digest in split.digests]
        except ConfigError:
            found[name] = [None for _ in given]
    template = getattr(data, "template", None)
    found |= {"template": [digest(Path(template))]} if template else {}
    hub = data.hub if isinstance(data, HubDataConfig) else None
    if hub and Path(hub).is_dir():
        found["hub"] = [f"{file.relative_to(hub)} {digest(file)}" for file in files_of(Path(hub), key="data.hub")]
    return found


def _rows(data: TextDataConfig, cache: Path, faults: Faults) -> Mapping[str, Rows]:
    """All that are given."""
    if isinstance(data, FilesDataConfig | HubDataConfig):
        return reading.read(data, cache, faults)
    given = {name: getattr(data, f"{name}_files", []) for name in ("val", "test", "forgetting")}
    return reading.of_files(given, None, cache, faults)


def pydoc() -> Text:
    """Python's language reference."""
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics.values())
    return Text(lambda: [whole], hashlib.sha256(whole.encode()).hexdigest(), ("data.source", "pydoc"))


def _split(data: TextDataConfig, name: str, rows: Rows, faults: Faults, *, speaks: bool) -> Split:
    if rows.text:
        return Text(lambda: of_lines(row.values["text"] for row in rows), rows.digest, rows.key)
    form = recognised(expected("data", data, RowsDataConfig), _kinds(rows), where=rows.key)
    if isinstance(form, RunningText):
        return _text(name, rows, form, faults, speaks=speaks)
    for row in islice(rows, LOOKED_AT):
        try:
            form.example(row.values)
        except UnusableError as error:
            Faults(rows.key[0], skip=faults.skip).found(row.place, str(error))  # they are counted when they are written
    return Examples(rows, form, faults)


def _kinds(rows: Rows) -> dict[str, str]:
    """By column, what it holds as far as that can be told by its first values, or why it is not read."""
    found = {column: "nothing" for column in rows.columns}
    for row in islice(rows, LOOKED_AT):
        found |= {column: type(value).__name__ for column, value in row.values.items() if value is not None and found[column] == "nothing"}
    return found | {column: f"{kind}, which is not read" for column, kind in rows.left_out.items()}


def _text(name: str, rows: Rows, form: RunningText, faults: Faults, *, speaks: bool) -> Text:
    """A text of rows; null ones are left out, which is said once."""

    def line(row: Row) -> str | None:
        try:
            return form.text(row.values)
        except UnusableError as error:
            faults.found(row.place, str(error), key=rows.key[0])
            return None

    nulls = sum(line(row) is None for row in rows)
    if nulls and speaks:
        print(f"qpa: {nulls:,} of {len(rows):,} rows of the {name} split are null and left out", file=sys.stderr)
    return Text(lambda: of_lines(line(row) for row in rows), f"{rows.digest}|{form.column}", rows.key)


def _held_out(data: TextDataConfig, found: Mapping[str, Split]) -> dict[str, Split]:
    """With validation data from the training data, and test data from those, where there are none."""
    train, val, test = (found.get(name) for name in ("train", "val", "test"))
    assert train is not None
    if val is None:
        if data.val_fraction is None:
            other = "data with a validation split" if data.source == "hub" else "data.val_files"
            raise ConfigError("data.val_fraction", None, f"give a share of the training data, as 0.1, or {other}")
        train, val = _apart(train, 1 - data.val_fraction)
    if test is None:
        val, test = _apart(val, 0.5)
    return {**found, "train": train, "val": val, "test": test}


def _beginning(split: Split, size: int) -> Split:
    """The first so many bytes."""
    if isinstance(split, Text):
        found, held = beginning(split, size)
    else:
        rows, held = first_rows(split.rows, size)
        found = replace(split, rows=rows)
    if held < size:
        raise ConfigError("data.train_bytes", size, f"there are only {held:,} bytes to train on; give fewer, or leave it out for all")
    return found


def where(data: TextDataConfig, name: str) -> tuple[str, object]:
    """The config key a split comes from, and its value."""
    if name == "train" and data.train_bytes:
        return "data.train_bytes", data.train_bytes
    val_files = getattr(data, "val_files", [])
    files = getattr(data, f"{name}_files", []) or (val_files if name == "test" else [])
    if files:
        return f"data.{name}_files", files
    if isinstance(data, HubDataConfig):
        return "data.hub", data.hub
    return ("data.source", data.source) if name == "train" else ("data.val_fraction", data.val_fraction)


def _check_text(data: TextDataConfig, name: str, text: Text) -> None:
    key = where(data, name)
    if not text.has_words():
        raise ConfigError(*key, f"the {name} text is empty")
    least = data.context - 1  # no token is shorter than a byte
    if data.protocol == "packed" and name == "train" and not text.reaches(least):
        raise ConfigError(*key, f"the {name} text (less than {least} bytes) is shorter than one window; lower data.context={data.context}")


def _apart(split: Split, share: float) -> tuple[Split, Split]:
    """A text's beginning and end; of rows, some taken out by chance, the same ones each time."""
    if isinstance(split, Text):
        first, second = cut(split, [share])
        return first, second
    rest, taken = shuffled_split(split.rows, 1 - share)
    return replace(split, rows=rest), replace(split, rows=taken)
