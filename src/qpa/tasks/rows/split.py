"""A held-out share of rows that come without one."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

from qpa.errors import ConfigError
from qpa.tasks.rows.reading import Rows
from qpa.tasks.rows.row import Row

SEED = 0  # one for all runs: what is held out is no setting


def shuffled_split(rows: Rows, share: float) -> tuple[Rows, Rows]:
    """The rows apart from a held-out share, and that share; chosen by a fixed seed, each in its order.

    Args:
        rows: two at least.
        share: between 0 and 1; each part has one row at least.

    Raises:
        ConfigError: there are fewer rows.
    """
    count = len(rows)
    if count < 2:
        raise ConfigError(*rows.key, f"has only {count} row, of which none can be held out; give more, or data.val_files")
    held_out = min(max(1, round(share * count)), count - 1)
    return Part(rows, held_out, held_out=False), Part(rows, held_out, held_out=True)


def first_rows(rows: Rows, size: int) -> tuple[Rows, int]:
    """The first rows that hold so many bytes, as lines of JSON in UTF-8, at least one; and how many bytes those hold, or all there are."""
    held = 0
    for count, row in enumerate(rows, 1):
        held += len(json.dumps(row.values, ensure_ascii=False).encode(errors="replace")) + 1
        if held >= size:
            return First(rows, count), held
    return rows, held


class First(Rows):
    """The first of some rows.

    Args:
        rows: all of them.
        count: how many.
    """

    def __init__(self, rows: Rows, count: int) -> None:
        super().__init__(rows.key, rows.cache, text=rows.text)
        self.rows, self.count = rows, count

    def __iter__(self) -> Iterator[Row]:
        return islice(iter(self.rows), self.count)

    def __len__(self) -> int:
        return self.count

    @property
    def digest(self) -> str:
        """Of all rows' digest and of how many these are."""
        return hashlib.sha256(f"{self.rows.digest} first {self.count}".encode()).hexdigest()

    def stamp(self) -> list[Any] | None:
        """Of all rows."""
        return self.rows.stamp()

    def table(self) -> Any:
        """Of all rows."""
        return self.rows.table()


class Part(Rows):
    """Those of some rows that are, or are not, held out.

    Args:
        rows: all of them.
        count: how many are held out.
        held_out: which of the two.
    """

    def __init__(self, rows: Rows, count: int, *, held_out: bool) -> None:
        super().__init__(rows.key, rows.cache, text=rows.text)
        self.rows, self.count, self.held_out = rows, count, held_out

    def __iter__(self) -> Iterator[Row]:
        chosen = zip(self.rows, _chosen(len(self.rows), self.count), strict=True)
        return (row for row, held_out in chosen if held_out == self.held_out)

    def __len__(self) -> int:
        return self.count if self.held_out else len(self.rows) - self.count

    @property
    def digest(self) -> str:
        """Of all rows' digest and of which these are."""
        return hashlib.sha256(f"{self.rows.digest} {self.count} {self.held_out} {SEED}".encode()).hexdigest()

    def stamp(self) -> list[Any] | None:
        """Of all rows."""
        return self.rows.stamp()

    def table(self) -> Any:
        """Of all rows."""
        return self.rows.table()


def _chosen(count: int, wanted: int) -> Iterator[bool]:
    """Of so many rows, whether each is one of those wanted: every choice is as likely (Knuth's algorithm S), and none is remembered."""
    draw = Random(SEED)
    for left in range(count, 0, -1):
        chosen = draw.random() * left < wanted
        wanted -= chosen
        yield chosen
