"""Text to windows: tokenise once, pack, load in batches.

A window is `context` tokens: one BOS where the model has one, then consecutive tokens of the text, windows not overlapping. Where the
text itself has a BOS at that place, that is the one.
Only the last window of a split may be shorter; its padding is labelled -100 and counts nowhere.

The paper's protocol makes a window of every line, empty ones too, cut at `context` tokens and filled up with EOS.
"""

import hashlib
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, cast

from datasets import Dataset, disable_progress_bars, load_from_disk
from torch.utils.data import Dataset as TorchDataset

from qpa.config import TextDataConfig
from qpa.errors import ConfigError
from qpa.files import whole_folder
from qpa.tasks.language.text import Texts, where
from qpa.tasks.pretrained.tokenizer import TextEncoder

IGNORED = -100  # the label that torch's cross entropy leaves out
Row = dict[str, list[int]]
BLOCK = 1 << 20  # characters tokenised at once; text is cut between words, so memory stays flat on large files
NEAR = 1 << 8  # characters before and after a cut that are looked at: more than a special token has


class Windows(TorchDataset):
    """One split's windows: rows of `input_ids` and `labels`, each `[context]`, and the window's `index`.

    Args:
        rows: the windows.
        key: what identifies text and windows in a cache.
        most: how many of them to read, None for all.
    """

    def __init__(self, rows: Dataset, key: str, most: int | None) -> None:
        self.rows, self.key = rows, key
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
        read = self.rows.data.column("input_ids")[: self.count]
        return max(int(part.flatten().to_numpy().max()) for part in read.chunks if len(part))


def cut(data: TextDataConfig, texts: Texts, encoder: TextEncoder, cache: Path) -> dict[str, Windows]:
    """Tokenise and pack each split, or take it from the cache.

    Raises:
        ConfigError: a split is shorter than one window.
    """
    most = data.max_held_out_windows
    limits = {name: None if name == "train" else most for name in texts.given()}
    return {name: _windows_of(data, name, text, encoder, cache, limits[name]) for name, text in texts.given().items()}


def _windows_of(data: TextDataConfig, name: str, text: str, encoder: TextEncoder, cache: Path, most: int | None) -> Windows:
    disable_progress_bars()
    made_by = f"{encoder.key()}|{encoder.eos}|{data.special_tokens}|{data.protocol}|{data.context}"
    key = hashlib.sha256(f"{made_by}|{text}".encode(errors="replace")).hexdigest()[:24]
    folder = cache / "tokens" / key
    if folder.is_dir():
        return Windows(cast(Dataset, load_from_disk(str(folder))).with_format("torch"), key, most)
    rows = _lines(data, text, encoder) if data.protocol == "paper" else _packed(data, name, text, encoder)
    dataset = Dataset.from_list(rows)
    with whole_folder(folder, replace=False) as scratch:
        dataset.save_to_disk(str(scratch))
    return Windows(dataset.with_format("torch"), key, most)


def _packed(data: TextDataConfig, name: str, text: str, encoder: TextEncoder) -> list[Row]:
    blocks = _blocks(text, encoder.whole())
    tokens = [token for block in blocks for token in encoder.encode([block], special_tokens=data.special_tokens)[0]]
    if len(_opened(tokens[: data.context], encoder)) < data.context:
        problem = f"the {name} text ({len(tokens)} tokens) is shorter than one window; lower data.context={data.context}"
        raise ConfigError(*where(data, name), problem)
    return list(_pack(tokens, encoder, data.context))


def _lines(data: TextDataConfig, text: str, encoder: TextEncoder) -> list[Row]:
    """A window per line, as in the paper's released code, but for the BOS where the model has one."""
    lines = [line if line.strip() else "" for line in text.splitlines(keepends=True)]
    encoded = encoder.encode(lines, special_tokens=data.special_tokens)
    return [_window(_opened(ids, encoder)[: data.context], data.context, filler=encoder.eos) for ids in encoded]


def _opened(ids: list[int], encoder: TextEncoder) -> list[int]:
    """Tokens behind one BOS, where the model has one: their own, or one more."""
    return ids if encoder.bos is None or ids[:1] == [encoder.bos] else [encoder.bos, *ids]


def _blocks(text: str, whole: re.Pattern[str]) -> Iterator[str]:
    """The text in pieces that encode as the whole does: cut between words, and not within what is `whole`."""
    start = 0
    while len(text) - start > BLOCK:
        end = _last_cut(text, start, start + BLOCK, whole)
        yield text[start:end]
        start = end
    yield text[start:]


def _last_cut(text: str, start: int, end: int, whole: re.Pattern[str]) -> int:
    """The last place after a word and before white space, where tokenizers part them; where there is none, just the last."""

    def divides(at: int) -> bool:
        return any(match.start() < at < match.end() for match in whole.finditer(text, max(start, at - NEAR), at + NEAR))

    word_ends = (at for at in range(end, start, -1) if text[at].isspace() and text[at - 1].isalnum())
    return next((at for at in chain(word_ends, range(end, start, -1)) if not divides(at)), end)


def _pack(tokens: list[int], encoder: TextEncoder, context: int) -> Iterator[Row]:
    at = 0
    while piece := tokens[at : at + context]:
        opened = _opened(piece, encoder)
        ids = opened[:context]
        at += len(ids) - (len(opened) - len(piece))
        if len(ids) < 2:
            return  # a lone token has nothing before it to be predicted from
        yield _window(ids, context, filler=ids[-1])


def _window(ids: list[int], context: int, *, filler: int) -> Row:
    """Padding stands on the right, where causal attention never looks back at it from a real token."""
    padding = context - len(ids)
    return {"input_ids": ids + [filler] * padding, "labels": ids + [IGNORED] * padding}
