"""The rows of a run by split, from wherever the config says they are."""

import hashlib
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpa.config import FilesDataConfig, HubDataConfig
from qpa.errors import ConfigError
from qpa.files import read_json
from qpa.tasks.rows import hub, kinds, row
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.files import TEXT, DataFile, find
from qpa.tasks.rows.opened import unpacked
from qpa.tasks.rows.row import Row

if TYPE_CHECKING:
    from datasets import Dataset

    from qpa.tasks.rows.tables import Table

SEEN = 100  # rows whose columns are told
CHUNK = 1 << 20  # bytes that are hashed at a time


class Rows(ABC):
    """One split in order; read anew at each iteration, so that memory is flat whatever the size.

    Its length is found by reading all of it once, which is then kept in the cache with the digest. `list(rows)` asks for it too.

    Args:
        key: the config key it comes from and its value, for errors.
        cache: the folder of prepared data.
        text: whether these are lines of plain text, `{"text": line}`; joined by line ends they are the text exactly as it was.
    """

    def __init__(self, key: tuple[str, object], cache: Path, *, text: bool = False) -> None:
        self.key, self.cache, self.text = key, cache, text

    @abstractmethod
    def __iter__(self) -> Iterator[Row]: ...

    @abstractmethod
    def stamp(self) -> list[Any] | None:
        """What the rows depend on, without reading them: files with their size and the time of their change; None if it is not known."""

    def table(self) -> "Table | None":
        """The columns as Arrow has them, where rows come from such."""
        return None

    def __len__(self) -> int:
        return self._scanned["rows"]

    @property
    def digest(self) -> str:
        """SHA-256 of what the rows say, the same for equal rows of whatever files."""
        return self._scanned["digest"]

    @property
    def digests(self) -> list[str]:
        """The same as a list: of plain text, of every file."""
        return [self.digest]

    @cached_property
    def columns(self) -> list[str]:
        """Of the first rows, in order."""
        return list(dict.fromkeys(name for found in islice(iter(self), SEEN) for name in found.values))

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Columns that are not read, with their types: they hold no text, numbers, lists or dicts of such."""
        table = self.table()
        return table.left_out if table else {}

    @cached_property
    def label_names(self) -> dict[str, list[str]]:
        """Of columns that `datasets` calls class labels, whose values are numbers, the names in their order."""
        table = self.table()
        return table.label_names if table else {}

    @cached_property
    def _scanned(self) -> dict[str, Any]:
        stamp = self.stamp()
        return self._scan() if stamp is None else kept(self.cache, ["rows", *stamp], self._scan)

    def _scan(self) -> dict[str, Any]:
        found, count = hashlib.sha256(), 0
        for count, one in enumerate(self, 1):  # noqa: B007
            found.update(row.canonical(one.values))
        return {"digest": found.hexdigest(), "rows": count}


class FileRows(Rows):
    """The rows of files, one after the other.

    Args:
        key: the config key and its value.
        files: all of text or all of rows.
        encoding: `data.encoding`.
        cache: the folder of prepared data.
        faults: of rows that cannot be used.
    """

    def __init__(self, key: tuple[str, object], files: Sequence[DataFile], *, encoding: str | None, cache: Path, faults: Faults) -> None:
        super().__init__(key, cache, text=files[0].kind == TEXT)
        self.files, self.encoding, self.faults = files, encoding, faults

    def __iter__(self) -> Iterator[Row]:
        for file in self.files:
            yield from kinds.rows_of(file, self.encoding, self.faults)

    def check(self) -> None:
        """Read the first row of every file.

        Raises:
            ConfigError: a file is damaged, empty or no such file as its name says.
        """
        for file in self.files:
            next(kinds.rows_of(file, self.encoding, self.faults))

    @property
    def size(self) -> int:
        """Bytes of all files, as they lie on the disk."""
        return sum(part.stat().st_size for file in self.files for part in kinds.parts(file))

    def stamp(self) -> list[Any]:
        """The files, how they are decoded, and whether rows may be left out."""
        return [self.encoding, self.faults.skip, *map(_file_stamp, self.files)]

    def table(self) -> "Table | None":
        """Of the first file."""
        file = self.files[0]
        if kinds.READERS[file.kind] is not kinds.READERS["arrow"]:
            return None
        from qpa.tasks.rows import tables  # pyarrow

        with tables.opened(file) as table:
            return table

    @property
    def digest(self) -> str:
        """Of plain text: of the file's bytes, unpacked; of several files, of their digests."""
        if not self.text:
            return super().digest
        return self.digests[0] if len(self.files) == 1 else hashlib.sha256("\n".join(self.digests).encode()).hexdigest()

    @property
    def digests(self) -> list[str]:
        """Of plain text: of every file's bytes, unpacked."""
        return (
            [kept(self.cache, ["bytes", _file_stamp(file)], lambda f=file: _digest(f)) for file in self.files]
            if self.text
            else [self.digest]
        )


class HubRows(Rows):
    """The rows of a split of a data set that `datasets` has loaded.

    Args:
        dataset: the split.
        name: of the split in the data set.
        key: the config key and its value.
        cache: the folder of prepared data.
        faults: of rows that cannot be used.
    """

    def __init__(self, dataset: "Dataset", name: str, key: tuple[str, object], *, cache: Path, faults: Faults) -> None:
        super().__init__(key, cache)
        self.dataset, self.name, self.faults = dataset, name, faults

    def __iter__(self) -> Iterator[Row]:
        from qpa.tasks.rows import tables  # pyarrow

        yield from tables.rows_of(self.table(), f"hub {self.name} row", self.faults, key=self.key[0])

    def stamp(self) -> list[Any] | None:
        """The files that `datasets` made of it; none if it is in memory."""
        files = [_stamp(Path(file["filename"])) for file in self.dataset.cache_files]
        return [self.faults.skip, len(self.dataset), *files] if files else None

    def table(self) -> "Table":
        """Of the whole split."""
        from qpa.tasks.rows import tables  # pyarrow

        return tables.of_dataset(self.dataset)


def read(data: FilesDataConfig | HubDataConfig, cache: Path, faults: Faults) -> dict[str, Rows]:
    """By split: `train`, and those of `val`, `test` and `forgetting` that are given.

    Args:
        data: config group `data`.
        cache: the folder of prepared data.
        faults: of rows that cannot be used, of all splits.

    Raises:
        ConfigError: something is not there, empty, damaged, or its first row cannot be used.
    """
    given = {"val": getattr(data, "val_files", []), "test": data.test_files, "forgetting": data.forgetting_files}
    if isinstance(data, FilesDataConfig):
        if not data.train_files:
            raise ConfigError("data.train_files", data.train_files, "give at least one file, pattern or folder")
        given = {"train": data.train_files, **given}
    else:
        hub.check(data)
    found: dict[str, Rows] = {**of_files(given, getattr(data, "encoding", None), cache, faults)}
    if isinstance(data, HubDataConfig):
        wanted = [split for split in ("train", "val", "test") if split not in found]
        loaded = hub.read(data, wanted)
        key = ("data.hub", data.hub)
        found |= {split: HubRows(rows, name, key, cache=cache, faults=faults) for split, (name, rows) in loaded.items()}
    return {split: found[split] for split in ("train", "val", "test", "forgetting") if split in found}


def of_files(given: dict[str, list[str]], encoding: str | None, cache: Path, faults: Faults) -> dict[str, FileRows]:
    """The rows of files by split, of those splits that files are given for.

    Raises:
        ConfigError: as of `read`.
    """
    keys = {f"data.{split}_files": split for split, files in given.items() if files}
    files = find({key: given[split] for key, split in keys.items()})
    found = {split: FileRows((key, given[split]), files[key], encoding=encoding, cache=cache, faults=faults) for key, split in keys.items()}
    for rows in found.values():
        rows.check()
    return found


def kept(cache: Path, stamp: list[Any], made: Callable[[], Any]) -> Any:
    """What was made of files, from the cache as long as they have not changed."""
    name = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:24]
    path = cache / "digests" / f"{name}.json"
    try:
        return read_json(path)["found"]
    except (OSError, ValueError, KeyError, TypeError):
        found = made()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{name}-", delete=False) as scratch:
        json.dump({"of": stamp, "found": found}, scratch)
    os.replace(scratch.name, path)  # whole or not at all, also where several processes write it
    return found


def _file_stamp(file: DataFile) -> list[Any]:
    return [file.kind, file.compression, *map(_stamp, kinds.parts(file))]


def _stamp(path: Path) -> list[Any]:
    found = path.stat()
    return [str(path.absolute()), found.st_size, found.st_mtime_ns]


def _digest(file: DataFile) -> str:
    with unpacked(file) as content:
        found = hashlib.sha256()
        while chunk := content.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()
