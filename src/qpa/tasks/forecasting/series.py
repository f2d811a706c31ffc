"""A series of measurements: read from a file, and refused unless it has one finite number in each column for each of its regular times.

Symbols: `T` times, `F` columns that are read. No torch.
"""

import csv
import hashlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qpa import files
from qpa.config import PackagedSeriesConfig, SeriesDataConfig, SeriesFileConfig, expected
from qpa.errors import ConfigError, line

Key = tuple[str, object]
SEPARATORS = ",;\t"
COMMENT = "#"  # a line that begins so is no row, as one of units below the names
LARGEST = 1e30  # squares of larger ones have no place in fp32
ZONE = r"^(.{11,}?)(Z|[+-]\d\d(:?\d\d)?)$"  # at the end of a time; a date alone is shorter
PARQUET = (".parquet", ".pq")
MONTH = np.timedelta64(28, "D")  # from here on, steps are counted in calendar months
UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


@dataclass(frozen=True)
class Series:
    """A regular series.

    Attributes:
        key: the config key that it is from, and its value.
        times: in order, `[T]`.
        columns: names of those that are read.
        values: of these, `[T, F]`.
        target: the name of the column that is forecast.
        observed: its values, `[T]`.
        step: from one time to the next, in words, as `1 day`.
    """

    key: Key
    times: np.ndarray
    columns: tuple[str, ...]
    values: np.ndarray
    target: str
    observed: np.ndarray
    step: str

    def __len__(self) -> int:
        return len(self.times)

    @cached_property
    def digest(self) -> str:
        """Of all that is in it, wherever it is from."""
        found = hashlib.sha256(f"{self.columns} {self.target}".encode())
        for part in (self.times.astype("<i8"), self.values.astype("<f8"), self.observed.astype("<f8")):
            found.update(np.ascontiguousarray(part).data)
        return found.hexdigest()


def check(data: SeriesDataConfig) -> None:
    """Refuse, before anything is read, a series that is not named or not there.

    Raises:
        ConfigError: what to give.
    """
    place(data)
    if data.target is None:
        raise ConfigError("data.target", None, "name the column that is to be forecast, as data.target=discharge")
    if (data.train_until is None) != (data.val_until is None):
        given = "train" if data.train_until else "val"
        problem = "give data.train_until and data.val_until both, or neither for data.val_fraction and data.test_fraction"
        raise ConfigError(f"data.{given}_until", getattr(data, f"{given}_until"), problem)


def place(data: SeriesDataConfig) -> tuple[Key, Path]:
    """The series' file, and the config key that it is from.

    Raises:
        ConfigError: it is not there, or not the one that it should be.
    """
    if isinstance(data, PackagedSeriesConfig):
        return ("data.package", data.package), _packaged(data)
    file = expected("data", data, SeriesFileConfig).file
    if file is None or not Path(file).is_file():
        problem = "give a CSV or Parquet file with a row for each time" if file is None else "there is no such file"
        raise ConfigError("data.file", file, problem)
    return ("data.file", file), Path(file)


def _packaged(data: PackagedSeriesConfig) -> Path:
    spec = importlib.util.find_spec(data.package) if data.package.isidentifier() else None
    found = [Path(folder, data.file) for folder in (spec.submodule_search_locations if spec else None) or []]
    file = next((file for file in found if file.is_file()), None)
    if file is None:
        problem = f"not installed; make setup EXTRAS=forecasting, or pip install {data.install}; data=series reads a file of your own"
        raise ConfigError("data.package", data.package, problem)
    if (digest := files.digest(file)) != data.sha256:
        raise ConfigError("data.sha256", data.sha256, f"{data.file} in package {data.package} has {digest}; reinstall {data.install}")
    return file


def read(data: SeriesDataConfig) -> Series:
    """The whole series.

    Raises:
        ConfigError: a column is not there, or a time or a number is missing, twice there, not in order, or none at all.
    """
    key, file = place(data)
    table = _table(file, key)
    names = [name for name in table.columns if name != data.time_column]
    _known("data.time_column", data.time_column, list(table.columns))
    target = str(data.target)
    _known("data.target", target, names)
    for name in data.inputs or ():
        _known("data.inputs", name, names)
    if data.inputs and len({*data.inputs}) < len(data.inputs):
        raise ConfigError("data.inputs", data.inputs, "names a column twice")
    columns = data.inputs or [name for name in names if name == target or _holds_numbers(table[name])]
    times = _times(table[data.time_column], data, key)
    step = _step(times, key)
    numbers = {name: _numbers(table[name], times, key) for name in {target, *columns}}
    return Series(key, times, tuple(columns), np.stack([numbers[name] for name in columns], 1), target, numbers[target], step)


def _table(file: Path, key: Key) -> Any:
    """A data frame, of a CSV file all as it is written."""
    import pandas

    try:
        if file.suffix.lower() in PARQUET:
            table = pandas.read_parquet(file)
            table = table if isinstance(table.index, pandas.RangeIndex) else table.reset_index()
        else:
            table = _written(file, key)
    except (OSError, ValueError, ImportError) as error:  # of pandas, pyarrow and codecs
        raise ConfigError(*key, f"{file.name} cannot be read as a table ({line(error)}); give CSV in UTF-8, or Parquet") from error
    if table.empty:
        raise ConfigError(*key, "has no rows")
    return table.rename(columns=str)


def _written(file: Path, key: Key) -> Any:
    """A data frame of a CSV file's rows, all as text; what has no name and no values, as after a last comma, is no column."""
    import pandas

    rows = [row for row in file.read_text(encoding="utf-8-sig").split("\n") if row.strip() and not row.startswith(COMMENT)]
    if len(rows) < 2:
        raise ConfigError(*key, "has no rows")
    separator = max(SEPARATORS, key=rows[0].count)
    names = [name.strip() for name in next(csv.reader(rows, delimiter=separator))]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ConfigError(*key, f"has two columns of the name {twice[0]}; rename one")
    widest = max(row.count(separator) for row in rows) + 1
    places = range(max(widest, len(names)))  # a row may have more than there are names
    text = io.StringIO("\n".join(rows[1:]))
    table = pandas.read_csv(text, sep=separator, header=None, names=places, dtype=str, skipinitialspace=True)
    named = {place: names[place] if place < len(names) else "" for place in places}
    filled = table.notna().any().to_dict()
    empty = [place for place, name in named.items() if not name and not filled[place]]
    if nameless := [place for place, name in named.items() if not name and place not in empty]:
        column = table[nameless[0]].dropna()
        problem = f"row {column.index[0] + 1} has {column.iloc[0]} in column {nameless[0] + 1}, which has no name; name it, or mend the row"
        raise ConfigError(*key, problem)
    return table.drop(columns=empty).rename(columns=named)


def _known(key: str, name: str, there: Sequence[str]) -> None:
    if name not in there:
        near = get_close_matches(name, there, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(there)}"
        raise ConfigError(key, name, f"there is no such column; {hint}")


def _holds_numbers(column: Any) -> bool:
    """Whether any of its cells is a number, or all are empty: one that is no number is a mistake then, and not another kind of column."""
    import pandas

    given = column.dropna()
    return given.empty or (not pandas.api.types.is_datetime64_any_dtype(column) and bool(_parsed(given).notna().any()))


def _parsed(column: Any) -> Any:
    import pandas

    return pandas.to_numeric(column, errors="coerce")


def _numbers(column: Any, times: np.ndarray, key: Key) -> np.ndarray:
    found = _parsed(column).to_numpy(dtype=np.float64, na_value=np.nan)
    if len(bad := np.flatnonzero(~(np.abs(found) < LARGEST))):
        row, first = int(bad[0]), column.iloc[int(bad[0])]
        said = "is empty" if first is None or first != first else f"is {first}"
        mend = "write them with a decimal point" if "," in str(first) else "fill them in"
        wanted = (
            f"and has to be a finite number below {LARGEST:g} ({len(bad):,} such rows); {mend}, or leave the column out with data.inputs"
        )
        raise ConfigError(*key, f"column {column.name} {said} at {_said(times[row])}, {wanted}")
    return found


def _times(column: Any, data: SeriesDataConfig, key: Key) -> np.ndarray:
    import pandas

    try:
        parsed = pandas.to_datetime(column, format=data.time_format or "ISO8601", errors="coerce", utc=True)
    except ValueError as error:
        raise ConfigError("data.time_format", data.time_format, f"is no format of times ({line(error)}), as '%d.%m.%Y' is") from error
    if len(bad := np.flatnonzero(parsed.isna())):
        right = f"not written as {data.time_format}" if data.time_format else "no ISO 8601 time, as 1979-12-31 is"
        problem = f"row {int(bad[0]) + 1} of column {column.name} is {column.iloc[int(bad[0])]}, {right}; mend it, or give data.time_format"
        raise ConfigError(*key, problem)
    times = _local(column, data, parsed.dt.tz_localize(None).to_numpy(dtype="datetime64[s]"))
    for row in np.flatnonzero(np.diff(times) <= np.timedelta64(0, "s"))[:1]:
        here, following = _said(times[row]), _said(times[row + 1])
        wrong = f"has {here} twice" if here == following else f"is not in order: {following} stands after {here}"
        raise ConfigError(*key, f"{wrong} (row {int(row) + 2}); give one row for each time, sorted")
    return times


def _local(column: Any, data: SeriesDataConfig, universal: Any) -> Any:
    """Times as they are written, without their zone, where steps are alike so; else universal ones, as of hours across summer time."""
    import pandas

    if pandas.api.types.is_datetime64_any_dtype(column):
        local = column.dt.tz_localize(None)
    elif data.time_format is None:
        local = pandas.to_datetime(column.astype(str).str.replace(ZONE, r"\1", regex=True), format="ISO8601", errors="coerce")
    else:
        return universal
    written = local.to_numpy(dtype="datetime64[s]")
    return written if not np.isnat(written).any() and len(np.unique(np.diff(written))) == 1 else universal


def _step(times: np.ndarray, key: Key) -> str:
    """From one time to the next, in words; all steps have to be alike."""
    if len(times) < 2:
        raise ConfigError(*key, "has a single time; give a series")
    alike = len(np.unique(np.diff(times))) == 1
    counted = times if alike or np.median(np.diff(times)) < MONTH else times.astype("datetime64[M]")
    steps, counts = np.unique(np.diff(counted), return_counts=True)
    step = steps[counts.argmax()]
    if len(steps) > 1:
        row = int((np.diff(counted) != step).argmax())
        here, following, missing = _said(times[row]), _said(times[row + 1]), _said(counted[row] + step)
        late = np.diff(counted)[row] > step
        wrong = f"{missing} is missing: after {here} comes {following}" if late else f"{following} comes too soon after {here}"
        raise ConfigError(*key, f"{wrong}, and most steps are of {_in_words(step)}; give a row for each, without gaps")
    return _in_words(step)


def _in_words(step: np.timedelta64) -> str:
    if np.datetime_data(step.dtype)[0] == "M":
        count, unit = int(step.astype(np.int64)), "month"
    else:
        seconds = int(step / np.timedelta64(1, "s"))
        unit, size = next((unit, size) for unit, size in UNITS if seconds % size == 0)
        count = seconds // size
    return f"{count} {unit}{'s' if count > 1 else ''}"


def _said(time: np.datetime64) -> str:
    """Without what is zero at the end."""
    return str(time).removesuffix(":00").removesuffix("T00:00")
