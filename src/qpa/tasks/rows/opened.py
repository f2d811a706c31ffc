"""Files as they are read: unpacked, decoded, line by line."""

import codecs
import io
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from lzma import LZMAError
from typing import IO, Any, cast

from qpa.errors import ConfigError
from qpa.tasks.rows import formats
from qpa.tasks.rows.files import DataFile

BROKEN = re.compile("[\0\udc80-\udcff]")  # NULs, and bytes that could not be decoded (`surrogateescape`)


@contextmanager
def unpacked(file: DataFile) -> Iterator[IO[bytes]]:
    """A file's bytes, decompressed.

    Raises:
        ConfigError: it cannot be read or is damaged, also while the block reads.
    """
    damaged = (EOFError, OSError, zlib.error, LZMAError)
    try:
        with file.path.open("rb") as raw:
            if file.compression is None:
                yield raw
                return
            from fsspec.compression import compr

            if file.compression == "zstd":
                damaged = (*damaged, _zstd_error())
            opener = cast(dict[str, Any], compr)[file.compression]
            with opener(raw, mode="rb") as stream:
                yield stream
    except damaged as error:
        reason = getattr(error, "strerror", None) or str(error)
        ending = file.path.suffix
        problem = (
            f"cannot be unpacked ({reason}); is it whole, and is {ending} right?" if file.compression else f"cannot be read ({reason})"
        )
        raise ConfigError(file.key, file.path, problem) from error


def _zstd_error() -> type[Exception]:
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd").ZstdError


class TextFile:
    """A text file's lines, and what is the matter with one of them.

    Args:
        file: where it lies.
        encoding: `data.encoding`; None: as a mark at the start says, else UTF-8.
    """

    def __init__(self, file: DataFile, encoding: str | None) -> None:
        self.file, self.given = file, encoding

    def lines(self, newline: str | None = None) -> Iterator[str]:
        """Each line with its end; bytes that cannot be decoded stand in it as `problem` finds them.

        Args:
            newline: None: every line end is `\\n`; empty: line ends are left as they are.

        Raises:
            ConfigError: it is no text at all.
        """
        encoding = self._encoding
        if self.given is None and formats.is_utf8(encoding) and not formats.begins_text(self._head):
            _ = self._look  # refuses what is no text at all
        number = 0
        with unpacked(self.file) as raw, io.TextIOWrapper(raw, encoding, "surrogateescape", newline) as text:
            try:
                for number, line in enumerate(text, 1):
                    yield line.removeprefix("\ufeff") if number == 1 else line
            except UnicodeDecodeError as error:
                problem = f"is no {encoding} text ({error.reason} after line {number:,}); {formats.NAME_ENCODING}"
                raise ConfigError(self.file.key, self.file.path, problem) from error

    def problem(self, text: str) -> str | None:
        """What is the matter with some of its text; None if nothing is.

        Raises:
            ConfigError: the whole file is no text, or of another encoding.
        """
        if (text.isascii() and "\0" not in text) or not BROKEN.search(text):
            return None
        if self.given is not None or not formats.is_utf8(self._encoding):
            return f"is no {self._encoding} text; {formats.NAME_ENCODING}"
        return self._look

    @cached_property
    def _head(self) -> bytes:
        with unpacked(self.file) as raw:
            return raw.read(formats.SAMPLE)

    @cached_property
    def _encoding(self) -> str:
        if self.given is None:
            return formats.marked(self._head) or "utf-8"
        try:
            "a".encode(self.given)  # of nothing, all names are said to be right
            return codecs.lookup(self.given).name
        except (LookupError, ValueError) as error:
            raise ConfigError("data.encoding", self.given, "is no encoding of text that Python knows; as utf-8 or cp1252") from error

    @cached_property
    def _look(self) -> str:
        """What the file seems to be that is no UTF-8 text, if it is UTF-8 but for some bytes; else it is refused."""
        with unpacked(self.file) as raw:
            words, throughout = formats.look(raw, str(self.file.path))
        problem = f"is no UTF-8 text; it {words}"
        if throughout:
            raise ConfigError(self.file.key, self.file.path, problem)
        return problem
