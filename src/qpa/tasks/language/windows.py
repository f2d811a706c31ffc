"""Text and examples to windows: tokenise once, into the cache, and load in batches.

A window of running text is `context` tokens: one BOS where the model has one, then consecutive tokens of the text, windows not
overlapping. Where the text itself has a BOS at that place, that is the one. Only the last window of a split may be shorter; its padding
is labelled -100 and counts nowhere. A window of examples holds one or several of them (`packing`).

The paper's protocol makes a window of every line, empty ones too, cut at `context` tokens and filled up with EOS.
"""

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from datasets import Dataset, disable_progress_bars
from rich.console import Console
from rich.progress import track
from torch.utils.data import Dataset as TorchDataset

from qpa.config import RowsDataConfig, TextDataConfig, expected
from qpa.errors import ConfigError
from qpa.files import read_json, whole_folder, write_json
from qpa.tasks.language import packing
from qpa.tasks.language.examples import Fitted, Writer, named
from qpa.tasks.language.loss import IGNORED
from qpa.tasks.language.splits import Examples, Split, where
from qpa.tasks.language.template import Template
from qpa.tasks.language.text import Text
from qpa.tasks.pretrained.tokenizer import TextEncoder
from qpa.tasks.rows.faults import Faults

T = TypeVar("T")
Row = dict[str, list[int]]
BLOCK = 1 << 20  # characters tokenised at once; text is cut between words, so memory stays flat on large files
NEAR = 1 << 8  # characters before and after a cut that are looked at: more than a special token has
WRITTEN = 256  # windows written at once
TOKENS, COUNTS = "windows.arrow", "counts.json"
FORMAT = 2  # of what is kept in the cache


class Windows(TorchDataset):
    """One split's windows: rows of `input_ids` and `labels`, each `[context]`, of packed ones `positions`, and the window's `index`.

    Args:
        rows: the windows.
        key: what identifies text and windows in a cache.
        most: how many of them to read, None for all.
        counts: what was found when they were written: the `largest` token; of examples, how many there are of which kind.
    """

    def __init__(self, rows: Dataset, key: str, most: int | None, counts: dict[str, Any]) -> None:
        self.rows, self.key, self.counts = rows, key, counts
        self.count = len(rows) if most is None else min(most, len(rows))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= self.count:
            raise IndexError(index)
        return {**self.rows[index], "index": index}

    @property
    def tokens(self) -> int:
        """Of one window."""
        return len(self.rows[0]["input_ids"])

    @property
    def largest(self) -> int:
        """The largest token id in the windows that are read, filling too."""
        if self.count == len(self.rows):
            return self.counts["largest"]  # not by looking: a large file would come into memory
        read = self.rows.data.column("input_ids")[: self.count]
        return max(int(part.flatten().to_numpy().max()) for part in read.chunks if len(part))


@dataclass(frozen=True)
class Cutter:
    """Cuts splits into windows.

    Attributes:
        data: config group `data`.
        encoder: the tokenizer.
        template: of conversations.
        cache: the folder that windows are kept in.
        packing: whether examples share windows.
        speaks: whether to show how far it is.
    """

    data: TextDataConfig
    encoder: TextEncoder
    template: Template | None
    cache: Path
    packing: bool
    speaks: bool

    def windows(self, name: str, split: Split) -> Windows:
        """Of one split, or what the cache has of it.

        Raises:
            ConfigError: it is shorter than one window, or has a row that nothing can be learned from.
        """
        disable_progress_bars()
        key = hashlib.sha256(f"{FORMAT}|{self._made_by(split)}|{split.key}".encode(errors="replace")).hexdigest()[:24]
        folder = self.cache / "tokens" / key
        if not (folder / COUNTS).is_file():
            with whole_folder(folder, replace=False) as scratch:
                counts = self._write(name, split, scratch / TOKENS)
                write_json(scratch / COUNTS, counts)
        rows = Dataset.from_file(str(folder / TOKENS)).with_format("torch")
        return Windows(rows, key, None if name == "train" else self.data.max_held_out_windows, read_json(folder / COUNTS))

    def _made_by(self, split: Split) -> str:
        encoder, data = self.encoder, self.data
        made_by = f"{encoder.key()}|{encoder.eos}|{data.special_tokens}|{data.protocol}|{data.context}"
        if isinstance(split, Text):
            return made_by
        rows = expected("data", data, RowsDataConfig)
        template = self.template.key if self.template else None
        return f"{made_by}|{template}|{bool(rows.template)}|{rows.train_on}|{rows.too_long}|{self.packing}|{rows.skip_bad}"

    def _write(self, name: str, split: Split, file: Path) -> dict[str, Any]:
        if isinstance(split, Examples):
            return self._write_examples(name, split, file)
        rows = _lines(self.data, split, self.encoder) if self.data.protocol == "paper" else self._packed(name, split)
        return {"largest": write(rows, file)[1]}

    def _write_examples(self, name: str, split: Examples, file: Path) -> dict[str, Any]:
        data = expected("data", self.data, RowsDataConfig)
        faults = Faults(split.where[0], skip=data.skip_bad)
        shown = self._shown(split.rows, name, len(split.rows))
        fitted = Fitted(data.context, data.too_long, self.encoder.bos)
        examples = fitted.fit(Writer(split.form, self.template, self.encoder, data).examples(shown, faults))
        into = packing.pack if self.packing else packing.pad
        windows, largest = write(into(examples, data.context, filler=self.encoder.eos), file)
        counts = {**fitted.counts, "largest": largest, "how": data.too_long}
        counts |= {"bad": faults.count, "first_bad": faults.first, "unread": split.unread.count, "first_unread": split.unread.first}
        if not windows:
            problem = f"nothing of the {len(split.rows):,} rows of the {name} split can be learned from ({_why(counts)})"
            raise ConfigError(*split.where, f"{problem}; look at data.train_on={data.train_on} and data.context={data.context}")
        return counts

    def _shown(self, parts: Iterable[T], name: str, total: int | None) -> Iterable[T]:
        """With a bar that shows how far it is, where somebody looks."""
        if not (self.speaks and Console().is_terminal):
            return parts
        return track(parts, f"Tokenising {name}", total, transient=True)

    def _packed(self, name: str, text: Text) -> Iterator[Row]:
        data, encoder = self.data, self.encoder
        blocks = self._shown(_blocks(text, encoder.whole()), name, None)
        tokens = (token for block in blocks for token in encoder.encode([block], special_tokens=data.special_tokens)[0])
        first = _take(tokens, data.context)
        if len(_opened(first, encoder)) < data.context:
            problem = f"the {name} text ({len(first)} tokens) is shorter than one window; lower data.context={data.context}"
            raise ConfigError(*where(data, name), problem)
        yield from _pack(chain(first, tokens), encoder, data.context)


def say(splits: Mapping[str, Split], windows: Mapping[str, Windows]) -> None:
    """What was found, in a line, and what of it is not read."""
    train = splits["train"]
    if not isinstance(train, Examples):
        return
    each = [split.counts for split in windows.values() if "examples" in split.counts]
    counts = {name: sum(found.get(name, 0) for found in each) for name in ("examples", "tokens", "trained", "too_long", "masked", "bad")}
    average = counts["tokens"] / max(1, counts["examples"])
    size = sum(file["filename"] and Path(file["filename"]).stat().st_size for split in windows.values() for file in split.rows.cache_files)
    print(f"{counts['examples']:,} {named(train.form)}, {average:,.0f} tokens on average; {size / 1e6:,.1f} MB of windows in the cache")
    if counts["too_long"]:
        done = {"cut": "cut", "drop": "left out", "split": "split"}[windows["train"].counts["how"]]
        print(f"qpa: {counts['too_long']:,} are longer than a window and {done} (data.too_long)", file=sys.stderr)
    if counts["masked"]:
        print(f"qpa: {counts['masked']:,} have nothing to train on and are left out", file=sys.stderr)
    unread = max(found["unread"] for found in each)  # each split is read from the same files
    if bad := counts["bad"] + unread:
        first = next(found[name] for name in ("first_unread", "first_bad") for found in each if found[name])
        print(f"qpa: {bad:,} rows cannot be used and are left out, the first: {first} (data.skip_bad)", file=sys.stderr)


def write(rows: Iterable[Row], file: Path) -> tuple[int, int]:
    """Write windows as they come, in Arrow's stream format; how many there are, and the largest token."""
    count, largest, left = 0, 0, iter(rows)
    first = next(left, None)
    names = list(first) if first else ["input_ids", "labels"]
    schema = pa.schema([(name, pa.list_(pa.int32())) for name in names])
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, schema) as writer:
        batch: list[Row] = []
        for row in chain([first] if first else [], left):
            batch.append(row)
            largest = max(largest, *row["input_ids"])
            if len(batch) == WRITTEN:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                count, batch = count + len(batch), []
        writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    return count + len(batch), largest


def _why(counts: dict[str, Any]) -> str:
    """Where examples have gone, in words."""
    words = {"too_long": "longer than a window", "masked": "without anything to train on", "bad": "unusable"}
    return ", ".join(f"{counts[name]:,} {word}" for name, word in words.items() if counts.get(name)) or "there are none"


def _take(tokens: Iterator[int], count: int) -> list[int]:
    return [token for _, token in zip(range(count), tokens, strict=False)]


def _lines(data: TextDataConfig, text: Text, encoder: TextEncoder) -> Iterator[Row]:
    """A window per line, as in the paper's released code, but for the BOS where the model has one."""
    for part in _whole_lines(text):
        lines = [line if line.strip() else "" for line in part.splitlines(keepends=True)]
        encoded = encoder.encode(lines, special_tokens=data.special_tokens)
        yield from (_window(_opened(ids, encoder)[: data.context], data.context, filler=encoder.eos) for ids in encoded)


def _whole_lines(text: Text) -> Iterator[str]:
    """The text in pieces that end where a line does."""
    held = ""
    for piece in text:
        whole, end, rest = piece.rpartition("\n")
        if end:
            yield held + whole + end
            held = rest
        else:
            held += piece
    yield held


def _opened(ids: list[int], encoder: TextEncoder) -> list[int]:
    """Tokens behind one BOS, where the model has one: their own, or one more."""
    return ids if encoder.bos is None or ids[:1] == [encoder.bos] else [encoder.bos, *ids]


def _blocks(text: Iterable[str], whole: re.Pattern[str]) -> Iterator[str]:
    """The text in pieces that encode as the whole does: cut between words, and not within what is `whole`."""
    held = ""
    for piece in text:
        held += piece
        while len(held) > BLOCK + NEAR:
            end = _last_cut(held, 0, BLOCK, whole)
            yield held[:end]
            held = held[end:]
    while len(held) > BLOCK:
        end = _last_cut(held, 0, BLOCK, whole)
        yield held[:end]
        held = held[end:]
    yield held


def _last_cut(text: str, start: int, end: int, whole: re.Pattern[str]) -> int:
    """The last place after a word and before white space, where tokenizers part them; where there is none, just the last."""

    def divides(at: int) -> bool:
        return any(match.start() < at < match.end() for match in whole.finditer(text, max(start, at - NEAR), at + NEAR))

    word_ends = (at for at in range(end, start, -1) if text[at].isspace() and text[at - 1].isalnum())
    return next((at for at in chain(word_ends, range(end, start, -1)) if not divides(at)), end)


def _pack(tokens: Iterator[int], encoder: TextEncoder, context: int) -> Iterator[Row]:
    held: list[int] = []
    while True:
        held += _take(tokens, context - len(held))
        ids = _opened(held, encoder)[:context]
        held = held[len(ids) - (len(_opened(held, encoder)) - len(held)) :]
        if len(ids) < 2:
            return  # a lone token has nothing before it to be predicted from
        yield _window(ids, context, filler=ids[-1])


def _window(ids: list[int], context: int, *, filler: int) -> Row:
    """Padding stands on the right, where causal attention never looks back at it from a real token."""
    padding = context - len(ids)
    return {"input_ids": ids + [filler] * padding, "labels": ids + [IGNORED] * padding}
