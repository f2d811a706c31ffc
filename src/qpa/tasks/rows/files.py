"""Which files the config means: paths, patterns and folders, each file with its kind and compression by its name."""

import glob
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from qpa import files
from qpa.errors import ConfigError
from qpa.files import files_of, read_json

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}  # as fsspec names them
TEXT, SAVED = "text", "saved"
KINDS = {".txt": TEXT, ".md": TEXT, ".jsonl": "lines", ".ndjson": "lines", ".json": "json"}
KINDS |= {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".arrow": "arrow"}
ENDINGS = f"{' '.join(KINDS)}, each also {' '.join(COMPRESSIONS)}"
SPLITS_FILE, INFO_FILES = "dataset_dict.json", ("dataset_info.json", "state.json")  # of folders that `datasets` saved
NO_DATA = {*INFO_FILES, "dataset_infos.json", SPLITS_FILE}


@dataclass(frozen=True)
class DataFile:
    """A file of text or rows, or a folder that `datasets` saved.

    Args:
        key: the config key that names it.
        path: where it is.
        name: what places in it are called by: short, but no other file's.
    """

    key: str
    path: Path
    name: str

    @property
    def compression(self) -> str | None:
        """As its name's ending says."""
        return COMPRESSIONS.get(self.path.suffix.lower())

    @property
    def kind(self) -> str:
        """How it is read; what has no known ending is plain text."""
        if self.path.is_dir():
            return SAVED
        return KINDS.get(_ending(self.path), TEXT)


def find(given: Mapping[str, Sequence[str]]) -> dict[str, list[DataFile]]:
    """The files that are meant by paths, patterns (`*`, `?`, `[...]`, `**`) and folders, by the config keys that name them.

    Raises:
        ConfigError: a file is not there, nothing matches, or text and rows are mixed under one key.
    """
    paths = {key: [path for item in items for path in _paths(key, item)] for key, items in given.items()}
    by_name: dict[str, set[Path]] = defaultdict(set)
    for path in (path for several in paths.values() for path in several):
        by_name[path.name].add(path)
    found = {
        key: [DataFile(key, path, path.name if len(by_name[path.name]) == 1 else str(path)) for path in several]
        for key, several in paths.items()
    }
    for key, several in found.items():
        _check(key, several)
    return found


def splits_of(folder: Path) -> list[str] | None:
    """The splits of a folder that `datasets` saved with several; None of any other."""
    try:
        return [str(split) for split in read_json(folder / SPLITS_FILE)["splits"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved one split in it."""
    return all((folder / name).is_file() for name in INFO_FILES)


def _paths(key: str, item: str) -> list[Path]:
    path = Path(item)
    if item and path.is_dir():
        return _in_folder(key, path)
    if item and not path.exists() and glob.has_magic(item):
        found = [Path(match) for match in islice(glob.iglob(item, recursive=True), files.MOST_FILES + 1)]
        if len(found) > files.MOST_FILES:
            raise ConfigError(key, item, f"matches more than {files.MOST_FILES:,} files; give a narrower pattern")
        if not (matching := sorted(match for match in found if match.is_file())):
            raise ConfigError(key, item, "matches no file; mend the pattern")
        return matching
    if not path.is_file():
        raise ConfigError(
            key, item, "cannot be read (No such file or directory)" if not path.exists() else "is no file that can be read twice"
        )
    return [path]


def _in_folder(key: str, folder: Path) -> list[Path]:
    if is_saved(folder):
        return [folder]
    if splits := splits_of(folder):
        raise ConfigError(key, folder, f"has the splits {', '.join(splits)}; give one of them, as {folder / splits[0]}")
    known = [path for path in files_of(folder, key=key) if _ending(path) in KINDS and path.name not in NO_DATA]
    rows = [path for path in known if KINDS[_ending(path)] != TEXT]
    found = [path for path in known if path.stem.upper() != "README"] if rows else known
    if not found:
        raise ConfigError(key, folder, f"has no files of a known kind ({ENDINGS}); give files by name")
    return found


def _ending(path: Path) -> str:
    """The one before that of the compression."""
    return (Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path).suffix.lower()


def _check(key: str, found: list[DataFile]) -> None:
    for file in found:
        if file.kind != SAVED and not file.path.stat().st_size:
            raise ConfigError(key, file.path, "is empty; leave it out")
    texts, rows = ([file for file in found if (file.kind == TEXT) is text] for text in (True, False))
    if texts and rows:
        problem = f"is plain text, but {rows[0].path} holds rows; give the one or the other (rows have one of these endings: {ENDINGS})"
        raise ConfigError(key, texts[0].path, problem)
