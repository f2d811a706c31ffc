"""Files and folders that are there whole or not at all."""

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from qpa.errors import ConfigError

MOST_FILES = 10_000  # of a local dataset


@contextmanager
def whole_folder(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `target` only if the block ends without an error.

    With `replace` False a target that another process has made meanwhile stays (caches, which it may be reading).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        filled = Path(scratch) / "filled"
        filled.mkdir()
        yield filled
        if target.exists() and not replace:
            return
        shutil.rmtree(target, ignore_errors=True)
        os.replace(filled, target)


def files_of(folder: Path, *, key: str) -> list[Path]:
    """All files of a data folder that `key` names, hidden ones left out.

    Raises:
        ConfigError: there are more than a dataset has: it is some other folder.
    """
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        if len(found) > MOST_FILES:
            raise ConfigError(key, folder, f"has more than {MOST_FILES:,} files in it; give the dataset's own folder")
    return found


def cache_folder(given: str | None) -> Path:
    """The folder of converted models and prepared data: `cache_dir`, or the user's own cache.

    Raises:
        ConfigError: it cannot be made.
    """
    from platformdirs import user_cache_path

    folder = Path(given) if given else user_cache_path("qpa")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("cache_dir", folder, f"cannot be written ({error.strerror}); choose another") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError("cache_dir", folder, "cannot be written (permission denied); choose another")
    return folder


def digest(file: Path) -> str | None:
    """SHA-256 of a file's content, None where there is none; of one that has not changed, computed once."""
    if not file.is_file():
        return None
    found = file.stat()
    return _digest(file, found.st_size, found.st_mtime_ns)


@cache
def _digest(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Keep other processes out of a folder while the block runs; the system frees it when a process ends, however that happens.

    Raises:
        ConfigError: another process is in it, and we do not `wait` for it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        os.close(handle)
        raise ConfigError("run_dir", folder, "another process is running this; wait for it, or change the config") from error
    try:
        yield
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes | memoryview, *, previous: Path | None = None) -> None:
    """Write a file so that it is there whole or as it was before, whenever the process or the machine stops.

    Args:
        path: the file.
        content: all of it.
        previous: where the file that was there is kept; None not to keep it.

    Raises:
        OSError: the disk is full or the folder cannot be written; `filename` is `path`, which is as it was.
    """
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else the rename may reach the disk before the content does
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(scratch, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sync_folder(folder: Path) -> None:
    """Bring the folder's names to the disk: a rename is one of them."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it is no JSON, or none that ends (brackets within brackets).
        OSError: it cannot be read.
    """
    return from_json(path.read_bytes())


def from_json(content: bytes | str) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is none, or none that ends (brackets within brackets).
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file whole: a reader never sees half of it."""
    write_whole(path, (json.dumps(_finite(record), indent=2, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    """The same without infinities and NaN, which JSON does not have: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
