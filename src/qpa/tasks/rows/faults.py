"""Rows that cannot be used: the first is refused, or all are counted."""

from qpa.errors import ConfigError

WAY_OUT = "mend it, or leave such rows out with data.skip_bad=true"


class Faults:
    """Refuses the first row that cannot be used, or with `data.skip_bad` counts them: a row that is read again once.

    Args:
        key: the config key of errors, where a row's own is not told.
        skip: `data.skip_bad`.
    """

    def __init__(self, key: str, *, skip: bool) -> None:
        self.key, self.skip = key, skip
        self.first: str | None = None
        self._places: set[int] = set()  # their hashes, which are small

    @property
    def count(self) -> int:
        """Of rows that are left out."""
        return len(self._places)

    def found(self, place: str, problem: str, *, key: str | None = None) -> None:
        """A row that cannot be used.

        Raises:
            ConfigError: such rows are not left out.
        """
        if not self.skip:
            raise ConfigError(key or self.key, place, f"{problem}; {WAY_OUT}")
        self.first = self.first or f"{place} ({problem})"
        self._places.add(hash(place))

    def said(self) -> str | None:
        """How many rows are left out, and the first of them; None if there are none."""
        if self.first is None:
            return None
        return f"1 row left out: {self.first}" if self.count == 1 else f"{self.count:,} rows left out, the first: {self.first}"
