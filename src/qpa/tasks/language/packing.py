"""Examples into windows: several side by side, each with positions of its own, by which attention keeps them apart; or one, padded."""

from collections.abc import Iterable, Iterator

from qpa.tasks.language.examples import Example
from qpa.tasks.language.loss import IGNORED

Row = dict[str, list[int]]
OPEN = 64  # windows that are filled at once


def pack(examples: Iterable[Example], context: int, *, filler: int) -> Iterator[Row]:
    """Windows of `context` tokens: each example goes into the fullest of the open ones that has room for it.

    Rows have `input_ids`, `labels` and `positions`, which begin at 0 with every example; what is left at a window's end is one more.
    """
    windows: list[list[Example]] = []
    left: list[int] = []  # of each window, tokens that it has room for
    for example in examples:
        fitting = [(room, at) for at, room in enumerate(left) if room >= len(example)]
        if fitting:
            _, at = min(fitting)
            windows[at].append(example)
            left[at] -= len(example)
            continue
        if len(windows) == OPEN:
            fullest = left.index(min(left))
            left.pop(fullest)
            yield _window(windows.pop(fullest), context, filler)
        windows.append([example])
        left.append(context - len(example))
    yield from (_window(window, context, filler) for window in windows)


def pad(examples: Iterable[Example], context: int, *, filler: int) -> Iterator[Row]:
    """A window for each example."""
    for example in examples:
        row = _window([example], context, filler)
        yield {"input_ids": row["input_ids"], "labels": row["labels"]}


def _labels(example: Example) -> list[int]:
    return [token if trained else IGNORED for token, trained in zip(example.ids, example.trained, strict=True)]


def _window(examples: list[Example], context: int, filler: int) -> Row:
    """No example's first token is predicted: nothing of it stands before."""
    left = context - sum(map(len, examples))
    labels = [
        token if trained and at else IGNORED for e in examples for at, (token, trained) in enumerate(zip(e.ids, e.trained, strict=True))
    ]
    return {
        "input_ids": [token for example in examples for token in example.ids] + [filler] * left,
        "labels": labels + [IGNORED] * left,
        "positions": [at for example in examples for at in range(len(example))] + list(range(left)),
    }
