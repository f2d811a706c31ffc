"""Tables of Arrow as rows: Parquet, Arrow files, and what `datasets` loads. Imports pyarrow."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

import pyarrow
from pyarrow import ipc, parquet, types

from qpa.errors import ConfigError
from qpa.tasks.rows import row
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.files import SAVED, DataFile
from qpa.tasks.rows.opened import unpacked
from qpa.tasks.rows.row import Row

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 256  # rows that are in memory at a time, where the file does not ask for more
PLAIN = (
    *(types.is_string, types.is_large_string, types.is_string_view),
    *(types.is_integer, types.is_floating, types.is_boolean, types.is_null),
)
LISTS = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)


@dataclass(frozen=True)
class Table:
    """A table's columns, and the way to its batches.

    Args:
        schema: of all columns.
        batches: those of the columns that are named.
    """

    schema: pyarrow.Schema
    batches: Callable[[list[str]], Iterator[pyarrow.RecordBatch]]

    @property
    def columns(self) -> list[str]:
        """Those of text, numbers, and lists and dicts of such."""
        return [field.name for field in self.schema if is_plain(field.type)]

    @property
    def left_out(self) -> dict[str, str]:
        """The other columns with their types: images, sound, dates."""
        return {field.name: str(field.type) for field in self.schema if not is_plain(field.type)}

    @property
    def label_names(self) -> dict[str, list[str]]:
        """Of columns that `datasets` calls class labels, whose values are numbers, the names in their order."""
        about = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about.get("info", {}).get("features", {})
        kinds = {column: feature.get("feature", feature) for column, feature in features.items() if isinstance(feature, dict)}
        return {column: kind["names"] for column, kind in kinds.items() if isinstance(kind, dict) and kind.get("names")}


def is_plain(kind: pyarrow.DataType) -> bool:
    """Whether values of a type are text, numbers, or lists and dicts of such."""
    if types.is_struct(kind):
        return all(is_plain(kind.field(n).type) for n in range(kind.num_fields))
    if any(is_list(kind) for is_list in LISTS):
        return is_plain(kind.value_type)
    if types.is_dictionary(kind):
        return is_plain(kind.value_type)
    return any(is_kind(kind) for is_kind in PLAIN) or isinstance(kind, pyarrow.JsonType)


@contextmanager
def opened(file: DataFile) -> Iterator[Table]:
    """A file's table.

    Raises:
        ConfigError: it is none, also while the block reads.
    """
    kind = {"parquet": "Parquet", "arrow": "Arrow"}.get(file.kind, "a folder of datasets")
    try:
        if file.kind == SAVED:
            yield of_dataset(_saved(file))
            return
        with ExitStack() as stack:
            stream = stack.enter_context(unpacked(file))
            if file.compression is not None:
                stream = _unpacked_whole(stream, stack)
            yield _of_parquet(stream) if file.kind == "parquet" else _of_arrow(stream)
    except (pyarrow.ArrowException, EOFError) as error:
        problem = f"cannot be read as {kind} ({_first_line(error)}); is it whole, and its ending right?"
        raise ConfigError(file.key, file.path, problem) from error


def of_dataset(dataset: "Dataset") -> Table:
    """A table of `datasets`; nothing in it is decoded but what is read."""

    def batches(columns: list[str]) -> Iterator[pyarrow.RecordBatch]:
        for table in dataset.select_columns(columns).with_format("arrow").iter(BATCH):
            yield from cast(pyarrow.Table, table).to_batches()

    return Table(dataset.features.arrow_schema, batches)


def rows_of(table: Table, name: str, faults: Faults, *, key: str) -> Iterator[Row]:
    """A table's rows.

    Args:
        table: where they are.
        name: what places are called by, before their number.
        faults: of rows that are no UTF-8 text.
        key: the config key of errors.
    """
    number, columns = 0, table.columns
    decode = _decoder(pyarrow.struct([table.schema.field(column) for column in columns])) or (lambda values: values)
    for batch in table.batches(columns):
        for start in range(0, len(batch), BATCH):
            for values in _values(batch.slice(start, BATCH)):
                number += 1
                if isinstance(values, UnicodeDecodeError):
                    faults.found(f"{name} {number}", f"is no UTF-8 text ({values.reason})", key=key)
                else:
                    yield Row(f"{name} {number}", row.plain(decode(values)))


def _values(batch: pyarrow.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            yield error
        else:
            for at in range(len(batch)):
                yield from _values(batch.slice(at, 1))


def _decoder(kind: pyarrow.DataType) -> Callable[[Any], Any] | None:
    """What makes values of those of a type that has JSON as text in it, as `datasets` has columns of mixed types; None for others."""
    if isinstance(kind, pyarrow.JsonType):
        return lambda value: None if value is None else json.loads(value)
    if types.is_struct(kind):
        within = {field.name: decode for field in kind.fields if (decode := _decoder(field.type))}
        if not within:
            return None
        return lambda value: value and {name: within[name](item) if name in within else item for name, item in value.items()}
    if any(is_list(kind) for is_list in LISTS) and (item := _decoder(kind.value_type)):
        return lambda value: None if value is None else [item(one) for one in value]
    return None


def _unpacked_whole(stream: IO[bytes], stack: ExitStack) -> IO[bytes]:
    """In a file without a name: tables are read from their end."""
    whole = tempfile.TemporaryFile()  # noqa: SIM115  # the stack closes it
    shutil.copyfileobj(stream, stack.enter_context(whole))
    whole.seek(0)
    return whole


def _of_parquet(stream: IO[bytes]) -> Table:
    file = parquet.ParquetFile(stream, pre_buffer=False)
    return Table(file.schema_arrow, lambda columns: file.iter_batches(BATCH, columns=columns))


def _of_arrow(stream: IO[bytes]) -> Table:
    """A stream, as `datasets` writes it, or a file of Arrow."""
    is_file = stream.read(6) == b"ARROW1"
    stream.seek(0)
    if is_file:
        file = ipc.open_file(stream)
        return Table(file.schema, lambda columns: (file.get_batch(n).select(columns) for n in range(file.num_record_batches)))
    reader = ipc.open_stream(stream)
    return Table(reader.schema, lambda columns: (batch.select(columns) for batch in reader))


def _saved(file: DataFile) -> "Dataset":
    from datasets import Dataset, load_from_disk

    try:
        found = load_from_disk(str(file.path))
    except Exception as error:  # damaged in many ways, one way out
        raise ConfigError(file.key, file.path, f"cannot be read as a folder of datasets ({_first_line(error)}); save it anew") from error
    assert isinstance(found, Dataset)
    return found


def _first_line(error: BaseException) -> str:
    """What a library says is the matter, in short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160].rstrip(".")
