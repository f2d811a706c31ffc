"""The rows of a file, by its kind."""

import csv
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from qpa.errors import ConfigError
from qpa.files import from_json
from qpa.tasks.rows import row
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.files import DataFile
from qpa.tasks.rows.opened import TextFile
from qpa.tasks.rows.row import Row

LONGEST_FIELD = 1 << 26  # characters of a field of a table; a quote that is never closed would else take in the whole file
Reader = Callable[[DataFile, str | None, Faults], Iterator[Row]]


def rows_of(file: DataFile, encoding: str | None, faults: Faults) -> Iterator[Row]:
    """A file's rows in order, read as they are asked for.

    Raises:
        ConfigError: it cannot be read, has no rows, or a row cannot be used.
    """
    empty = True
    for found in READERS[file.kind](file, encoding, faults):
        empty = False
        yield found
    if empty:
        raise ConfigError(file.key, file.path, "has no rows that can be used; leave it out")


def _text(file: DataFile, encoding: str | None, faults: Faults) -> Iterator[Row]:
    """Lines without their ends; after the last end comes one more, empty line, so that joined they are the text."""
    opened = TextFile(file, encoding)
    number, blank, ended = 0, True, False
    for number, line in enumerate(opened.lines(), 1):
        ended = line.endswith("\n")
        if problem := opened.problem(line):
            faults.found(f"{file.name}:{number}", problem, key=file.key)
            continue
        blank = blank and line.isspace()
        yield Row(f"{file.name}:{number}", {"text": line.removesuffix("\n")})
    if blank:
        raise ConfigError(file.key, file.path, "is empty; leave it out")
    if ended:
        yield Row(f"{file.name}:{number + 1}", {"text": ""})


def _lines(file: DataFile, encoding: str | None, faults: Faults) -> Iterator[Row]:
    """An object a line, as JSON; blank lines are none."""
    opened = TextFile(file, encoding)
    for number, line in enumerate(opened.lines(), 1):
        if not line or line.isspace():
            continue
        place = f"{file.name}:{number}"
        try:
            if problem := opened.problem(line):
                raise ValueError(problem)
            values = row.parsed(line.rstrip("\n"))
        except ValueError as error:
            faults.found(place, str(error), key=file.key)
            continue
        yield Row(place, values)


def _json(file: DataFile, encoding: str | None, faults: Faults) -> Iterator[Row]:
    """JSON lines after all, or an array of objects, or an object with just one list: these are in memory whole, five times the file."""
    opened = TextFile(file, encoding)
    first = list(islice((line for line in opened.lines() if not line.isspace()), 2))
    if len(first) == 2 and _is_object(first[0]):
        yield from _lines(file, encoding, faults)
        return
    text = "".join(opened.lines())
    if problem := opened.problem(text):
        raise ConfigError(file.key, file.path, problem)
    halved = row.halved(text)
    for number, found in enumerate(_objects(file, text), 1):
        place = f"{file.name} row {number}"
        try:
            values = row.of_json(found, may_be_halved=halved)
        except ValueError as error:
            faults.found(place, str(error), key=file.key)
            continue
        yield Row(place, values)


def _is_object(line: str) -> bool:
    try:
        return isinstance(from_json(line), dict)
    except ValueError:
        return False


def _objects(file: DataFile, text: str) -> list[Any]:
    try:
        found = from_json(text)
    except json.JSONDecodeError as error:
        place = f"{error.msg} at line {error.lineno}, character {error.colno}"
        raise ConfigError(file.key, file.path, f"is no JSON ({place}); mend it, or name it .jsonl if it has an object a line") from error
    except ValueError as error:
        raise ConfigError(file.key, file.path, f"is no JSON that can be read ({error}); mend it") from error
    if isinstance(found, list):
        return found
    lists = [name for name, value in found.items() if isinstance(value, list)] if isinstance(found, dict) else []
    if len(lists) > 1:
        problem = f"is one object with several lists ({', '.join(lists)}); give an array of objects, one a row"
        raise ConfigError(file.key, file.path, problem)
    return found[lists[0]] if lists else [found]


def _table(delimiter: str) -> Reader:
    """Rows of a table with a header; all values are strings."""

    def read(file: DataFile, encoding: str | None, faults: Faults) -> Iterator[Row]:
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
        opened = TextFile(file, encoding)
        table = csv.reader(opened.lines(newline=""), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            place = f"{file.name}:{table.line_num + 1}"
            try:
                cells = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                faults.found(place, f"is no row of a table ({error})", key=file.key)
                continue
            if not cells:
                continue
            if problem := opened.problem("".join(cells)):
                faults.found(place, problem, key=file.key)
            elif header is None:
                header = _header(file, cells)
            elif len(cells) != len(header):
                faults.found(place, f"has {len(cells)} fields, but the header {len(header)}", key=file.key)
            else:
                yield Row(place, dict(zip(header, cells, strict=True)))

    return read


def _header(file: DataFile, cells: list[str]) -> list[str]:
    if twice := next((name for name in cells if cells.count(name) > 1), None):
        raise ConfigError(file.key, file.path, f"has two columns {twice!r}; is its first line the header? Rename one of them")
    return cells


def _arrow(file: DataFile, encoding: str | None, faults: Faults) -> Iterator[Row]:
    """Of Parquet, Arrow, or a folder that `datasets` saved; a batch is in memory at a time."""
    from qpa.tasks.rows import tables  # pyarrow

    with tables.opened(file) as table:
        yield from tables.rows_of(table, f"{file.name} row", faults, key=file.key)


READERS: dict[str, Reader] = {"text": _text, "lines": _lines, "json": _json, "csv": _table(","), "tsv": _table("\t")}
READERS |= dict.fromkeys(("parquet", "arrow", "saved"), _arrow)


def parts(file: DataFile) -> list[Path]:
    """The files that its content lies in: itself, or those of a folder."""
    return sorted(path for path in file.path.iterdir() if path.is_file()) if file.path.is_dir() else [file.path]
