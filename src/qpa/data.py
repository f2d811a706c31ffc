"""Text to windows: tokenise once, pack, load in batches.

A window is `context` tokens: one BOS where the model has one, then consecutive tokens of the text, windows not overlapping.
Only the last window of a split may be shorter; its padding is labelled -100 and counts nowhere.

The paper's protocol makes a window of every line, empty ones too, cut at `context` tokens and filled up with EOS.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from datasets import Dataset, disable_progress_bars, load_from_disk
from torch.utils.data import Dataset as TorchDataset

from qpa.config import Config
from qpa.errors import ConfigError
from qpa.files import whole_folder
from qpa.text import Texts, where
from qpa.tokenizer import TextEncoder

IGNORED = -100  # the label that torch's cross entropy leaves out
Row = dict[str, list[int]]
BLOCK = 1 << 20  # characters tokenised at once; text is cut at line ends, so memory stays flat on large files


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


def windows(config: Config, texts: Texts, encoder: TextEncoder, cache: Path) -> dict[str, Windows]:
    """Tokenise and pack each split, or take it from the cache.

    Raises:
        ConfigError: a split is shorter than one window.
    """
    most = config.data.max_held_out_windows
    limits = {name: None if name == "train" else most for name in texts.given()}
    return {name: _windows_of(config, name, text, encoder, cache, limits[name]) for name, text in texts.given().items()}


def _windows_of(config: Config, name: str, text: str, encoder: TextEncoder, cache: Path, most: int | None) -> Windows:
    disable_progress_bars()
    context = config.data.context
    key = hashlib.sha256(f"{encoder.key()}|{encoder.eos}|{config.data.protocol}|{context}|{text}".encode(errors="replace")).hexdigest()[:24]
    folder = cache / "tokens" / key
    if folder.is_dir():
        return Windows(cast(Dataset, load_from_disk(str(folder))).with_format("torch"), key, most)
    rows = _lines(text, encoder, context) if config.data.protocol == "paper" else _packed(config, name, text, encoder)
    dataset = Dataset.from_list(rows)
    with whole_folder(folder, replace=False) as scratch:
        dataset.save_to_disk(str(scratch))
    return Windows(dataset.with_format("torch"), key, most)


def _packed(config: Config, name: str, text: str, encoder: TextEncoder) -> list[Row]:
    context = config.data.context
    tokens = [token for ids in map(encoder.encode, _blocks(text)) for block in ids for token in block]
    first = [] if encoder.bos is None else [encoder.bos]
    if len(tokens) + len(first) < context:
        problem = f"the {name} text ({len(tokens)} tokens) is shorter than one window; lower data.context={context}"
        raise ConfigError(*where(config.data, name), problem)
    return list(_pack(tokens, first, context))


def _lines(text: str, encoder: TextEncoder, context: int) -> list[Row]:
    """A window per line, as in the paper's released code, but for the BOS where the model has one."""
    first = [] if encoder.bos is None else [encoder.bos]
    lines = [line if line.strip() else "" for line in text.splitlines(keepends=True)]
    return [_window((first + ids)[:context], context, filler=encoder.eos) for ids in encoder.encode(lines)]


def _blocks(text: str) -> Iterator[list[str]]:
    start = 0
    while start < len(text):
        end = text.rfind("\n", start, start + BLOCK) + 1
        end = end if end > start and start + BLOCK < len(text) else start + BLOCK
        yield [text[start:end]]
        start = end


def _pack(tokens: list[int], first: list[int], context: int) -> Iterator[Row]:
    step = context - len(first)
    for at in range(0, len(tokens), step):
        ids = first + tokens[at : at + step]
        if len(ids) < 2:
            return  # a lone token has nothing before it to be predicted from
        yield _window(ids, context, filler=ids[-1])


def _window(ids: list[int], context: int, *, filler: int) -> Row:
    """Padding stands on the right, where causal attention never looks back at it from a real token."""
    padding = context - len(ids)
    return {"input_ids": ids + [filler] * padding, "labels": ids + [IGNORED] * padding}
