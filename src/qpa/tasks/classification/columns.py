"""Which columns of a table hold texts and labels, and what one row of it says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qpa.config import RowsDataConfig
from qpa.errors import ConfigError
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.reading import Rows

LABELS = ("label", "labels", "class", "classes", "category", "categories", "target", "topic", "intent", "sentiment")
PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("question", "answer"),
    ("question", "sentence"),
    ("query", "passage"),
)
TEXTS = ("text", "sentence", "review", "content", "comment", "tweet", "document", "body", "message", "description", "question", "title")


@dataclass(frozen=True)
class Columns:
    """Names of columns.

    Attributes:
        text: of the texts.
        pair: of the second texts of pairs; None where there are none.
        label: of the labels.
    """

    text: str
    pair: str | None
    label: str

    def __str__(self) -> str:
        texts = f"texts in column {self.text}" if self.pair is None else f"pairs of texts in columns {self.text} and {self.pair}"
        return f"{texts}, labels in column {self.label}"


@dataclass(frozen=True, slots=True)
class Example:
    """What a row says.

    Attributes:
        place: of the row.
        text: to be read.
        pair: its second text, empty where there is none.
        labels: of it; one, where there can only be one.
    """

    place: str
    text: str
    pair: str
    labels: tuple[str, ...]


def find(data: RowsDataConfig, rows: Rows) -> Columns:
    """The columns that the config names, or those that have names as they are used for it.

    Raises:
        ConfigError: there are none, or none of that name.
    """
    there = rows.columns
    label = _named("label_column", data.label_column, there) or _first("label_column", "labels", LABELS, there)
    text, pair = (_named(key, getattr(data, key), there) for key in ("text_column", "pair_column"))
    if text is None and pair is None:
        text, pair = next((names for names in PAIRS if {*names} <= {*there}), (None, None))
    others = [name for name in there if name not in (label, pair)]
    return Columns(text or _first("text_column", "texts", TEXTS, others), pair, label)


def _named(key: str, name: str | None, there: Sequence[str]) -> str | None:
    if name is not None and name not in there:
        raise ConfigError(f"data.{key}", name, f"there is no such column; there are {', '.join(there)}")
    return name


def _first(key: str, what: str, names: Sequence[str], there: Sequence[str]) -> str:
    if found := next((name for name in names if name in there), None):
        return found
    raise ConfigError(f"data.{key}", None, f"no column has a name as those of {what} have; name one of {', '.join(there)}")


def examples(rows: Rows, columns: Columns, faults: Faults) -> Iterator[tuple[Example, bool]]:
    """What the rows say that can be used, each with whether it may have several labels; the first row tells it of all.

    Raises:
        ConfigError: a row cannot be used, and such rows are not left out.
    """
    several: bool | None = None
    names = rows.label_names.get(columns.label)
    for row in rows:
        problem = next(_problems(row.values, columns, names), None)
        found = row.values.get(columns.label)
        several = isinstance(found, list) if several is None and problem is None else several
        if problem is None and isinstance(found, list) is not several:
            problem = f"its {columns.label} is {'a list' if isinstance(found, list) else 'no list'}, and that of the rows before is not so"
        if problem is not None:
            faults.found(row.place, problem, key=rows.key[0])
            continue
        labels = tuple(dict.fromkeys(names[label] if names else name_of(label) for label in _listed(found)))
        pair = row.values[columns.pair] if columns.pair else ""
        yield Example(row.place, row.values[columns.text], pair, labels), bool(several)


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def name_of(label: object) -> str:
    """A label in words: 1, 1.0 and "1" are the same one, whatever kind of file they are in."""
    return str(int(label) if isinstance(label, float) else label)


def _problems(values: dict[str, Any], columns: Columns, names: Sequence[str] | None) -> Iterator[str]:
    """What is the matter with a row, whose labels may be numbers of `names`."""
    for column in filter(None, (columns.text, columns.pair, columns.label)):
        if column not in values:
            yield f"has no {column}"
        elif values[column] is None:
            yield f"its {column} is null"
    for column in filter(None, (columns.text, columns.pair)):
        if not isinstance(text := values.get(column), str):
            yield f"its {column} is no text but {text!r:.40}"
        elif not text.strip():
            yield f"its {column} is empty"
    for label in _listed(values.get(columns.label)):
        if not isinstance(label, str | int | float) or (isinstance(label, float) and not label.is_integer()):
            yield f"its {columns.label} has {label!r:.40}, which is no label; labels are words or whole numbers"
        elif isinstance(label, str) and not label.strip():
            yield f"its {columns.label} is empty"
        elif names and not (isinstance(label, int) and 0 <= label < len(names)):
            yield f"its {columns.label} is {label!r:.40}, and the data set has names for 0 to {len(names) - 1}"
