"""One row, and what it says whatever file it lies in."""

import json
from dataclasses import dataclass
from typing import Any

from qpa.files import from_json


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file or data set.

    Args:
        place: where it lies, as `chats.jsonl:17` (the line), `train.parquet row 17` or `hub train row 17`, counted from 1.
        values: plain Python values by column. Nulls are kept as None here, but left out of dicts within: Arrow gives every dict of a
            column the keys of all and fills them with null.
    """

    place: str
    values: dict[str, Any]


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """A row's values without the nulls of dicts within."""
    return {name: _without_nulls(value) if isinstance(value, dict | list) else value for name, value in values.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def canonical(values: dict[str, Any]) -> bytes:
    """A line that is the same for equal values: a null column is as none, keys are in order, and 1.0 is 1, as Arrow may have it."""
    given = {name: _numbers(value) for name, value in values.items() if value is not None}
    return json.dumps(given, sort_keys=True).encode() + b"\n"


def _numbers(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {name: _numbers(item) for name, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, list) else value


def parsed(text: str) -> dict[str, Any]:
    """The values of a row that is written as JSON.

    Raises:
        ValueError: what the matter is, in a few words.
    """
    try:
        found = from_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error.msg} at character {error.pos + 1:,})") from error
    except ValueError as error:
        raise ValueError(f"is no JSON that can be read ({error})") from error
    return of_json(found, may_be_halved=halved(text))


def halved(text: str) -> bool:
    """Whether JSON may hold halves of characters: they are written as `\\ud83d`."""
    return "\\ud" in text or "\\uD" in text


def of_json(found: Any, *, may_be_halved: bool) -> dict[str, Any]:
    """The values of a row from what JSON says.

    Raises:
        ValueError: what the matter is, in a few words.
    """
    if not isinstance(found, dict):
        raise ValueError(f"is no object but a {type(found).__name__}" if found is not None else "is no object but null")
    try:
        if may_be_halved:
            json.dumps(found, ensure_ascii=False).encode()
        return plain(found)
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"holds half of a character (\\u{ord(half):x}), which is no text") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
