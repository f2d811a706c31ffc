"""Running text: read in pieces, anew each time, so that it never lies in memory as a whole; and cut into train, validation and test."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

PIECE = 1 << 16  # characters


@dataclass(frozen=True)
class Text:
    """A text, or the part of it between two characters.

    Attributes:
        pieces: reads the whole, in pieces of any length.
        content: digest of the whole.
        where: the config key that it comes from, and its value.
        start, stop: of the part; None: to its end.
    """

    pieces: Callable[[], Iterable[str]]
    content: str
    where: tuple[str, object]
    start: int = 0
    stop: int | None = None

    @property
    def key(self) -> str:
        """What identifies it."""
        return f"{self.content}|{self.start}|{self.stop}"

    def __iter__(self) -> Iterator[str]:
        at = 0
        for piece in self.pieces():
            if self.stop is not None and at >= self.stop:
                return
            part = piece[max(0, self.start - at) : None if self.stop is None else self.stop - at]
            at += len(piece)
            if part:
                yield part

    def __len__(self) -> int:
        return sum(map(len, self))

    def has_words(self) -> bool:
        """Whether there is more than white space in it."""
        return any(not piece.isspace() for piece in self)

    def reaches(self, size: int) -> bool:
        """Whether it has so many bytes, as UTF-8."""
        return any(so_far >= size for so_far in accumulate(len(piece.encode(errors="replace")) for piece in self))


def of_lines(lines: Iterable[str | None]) -> Iterator[str]:
    """Pieces of the text whose lines these are, without their ends; of None, there is no line."""
    held: list[str] = []
    size, first = 0, True
    for line in lines:
        if line is None:
            continue
        held.append(line if first else f"\n{line}")
        size, first = size + len(line) + 1, False
        if size > PIECE:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def cut(text: Text, shares: Iterable[float]) -> list[Text]:
    """Cut a text, each time after a share of what is left of it: at the next line end, in the middle of a line if there is none."""
    size, start, parts = len(text), text.start, []
    end = start + size
    for share in shares:
        at = start + int((end - start) * share)
        line_end = _line_end(text, at)
        at = line_end if line_end is not None and start < line_end < end else at
        parts.append(replace(text, start=start, stop=at))
        start = at
    return [*parts, replace(text, start=start)]


def beginning(text: Text, size: int) -> tuple[Text, int]:
    """The longest beginning of at most so many bytes, as UTF-8; and how many bytes there are, if they are fewer."""
    place, seen = text.start, 0
    for piece in text:
        written = piece.encode(errors="replace")
        if seen + len(written) >= size:
            fits = len(written[: size - seen].decode(errors="ignore"))
            return replace(text, stop=place + fits), size
        place, seen = place + len(piece), seen + len(written)
    return text, seen


def _line_end(text: Text, at: int) -> int | None:
    """The place after the first line end from a character on."""
    place = at
    for piece in replace(text, start=at):
        if (found := piece.find("\n")) >= 0:
            return place + found + 1
        place += len(piece)
    return None
