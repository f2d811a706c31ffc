"""Labelled texts as tokens: encoded once as the stock tokenizer does, in few arrays, padded when they are read."""

from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset

from qpa.config import RowsDataConfig
from qpa.errors import ConfigError
from qpa.tasks.classification.columns import Columns, Example, examples
from qpa.tasks.classification.labels import Labels, unknown
from qpa.tasks.pretrained.tokenizer import TextEncoder
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.reading import Rows

BLOCK = 1_000  # texts that are encoded at once
SPLIT_SEED = 0  # the held-out share is the same in all runs on the same rows


class Texts(Dataset):
    """Examples of one split: `input_ids`, `attention_mask`, `token_type_ids` of one width, and `labels`.

    Args:
        tokens: ids of all, one after the other, int32.
        kinds: 1 where a token is of a pair's second text, int8.
        ends: where each example ends.
        labels: a number each, or where there are several a row of zeros and ones.
        width: tokens that each is filled up to.
        pad: the token that fills.
    """

    def __init__(self, tokens: np.ndarray, kinds: np.ndarray, ends: np.ndarray, labels: np.ndarray, *, width: int, pad: int) -> None:
        self.tokens, self.kinds, self.ends, self.labels = tokens, kinds, ends, labels
        self.width, self.pad = width, pad
        self.chosen = np.arange(len(ends))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = self.chosen[index]
        part = slice(self.ends[place - 1] if place else 0, self.ends[place])
        length = part.stop - part.start
        row = {
            "input_ids": np.full(self.width, self.pad),
            "token_type_ids": np.zeros(self.width, int),
            "attention_mask": np.zeros(self.width, int),
        }
        row["input_ids"][:length], row["token_type_ids"][:length], row["attention_mask"][:length] = self.tokens[part], self.kinds[part], 1
        return {**{name: torch.from_numpy(values) for name, values in row.items()}, "labels": torch.as_tensor(self.labels[place])}

    @property
    def largest(self) -> int:
        """The largest token id."""
        return int(self.tokens.max())

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return int(np.diff(self.ends, prepend=0).max())

    @property
    def truth(self) -> np.ndarray:
        """The labels of those that are chosen."""
        return self.labels[self.chosen]

    def some(self, chosen: Iterable[int]) -> "Texts":
        """Some of them."""
        found = Texts(self.tokens, self.kinds, self.ends, self.labels, width=self.width, pad=self.pad)
        found.chosen = self.chosen[sorted(chosen)]
        return found


class Encoded:
    """Encodes rows, and counts those that are too long.

    Args:
        data: config group `data`.
        encoder: the model's tokenizer.
        labels: that there are.
        pad: the token that fills.
    """

    def __init__(self, data: RowsDataConfig, encoder: TextEncoder, labels: Labels, pad: int) -> None:
        self.data, self.encoder, self.labels, self.pad = data, encoder, labels, pad
        self.too_long = 0

    def texts(self, rows: Rows, columns: Columns, faults: Faults) -> Texts:
        """The rows of one split.

        Raises:
            ConfigError: a row cannot be used, or none is left.
        """
        ids, kinds, ends, labels = array("i"), array("b"), array("q"), []
        for example, encoding in self._encoded(self._known(rows, columns, faults), faults):
            ids.extend(encoding.ids)
            kinds.extend(encoding.type_ids)
            ends.append(len(ids))
            labels.append(self._numbers(example))
        if not ends:
            problem = faults.said() or f"all are longer than {self.data.context} tokens; raise data.context, or data.too_long=cut"
            raise ConfigError(*rows.key, f"no row can be used: {problem}")
        arrays = np.array(ids), np.array(kinds), np.array(ends), np.array(labels)
        return Texts(*arrays, width=self.data.context, pad=self.pad)

    def _known(self, rows: Rows, columns: Columns, faults: Faults) -> Iterator[Example]:
        for example, several in examples(rows, columns, faults):
            if several is not self.labels.several:
                kind = "a list" if several else "no list"
                faults.found(example.place, f"its {columns.label} is {kind}, and that of the training rows is not so", key=rows.key[0])
            elif other := unknown(example, self.labels):
                faults.found(example.place, f"its {columns.label} is {other}, which no training row has", key=rows.key[0])
            else:
                yield example

    def _encoded(self, found: Iterable[Example], faults: Faults) -> Iterator[tuple[Example, Any]]:
        """Each with its tokens, special ones included, cut at `data.context`: of a pair from the longer text."""
        tokenizer, context = self.encoder.tokenizer, self.data.context
        tokenizer.encode_special_tokens = not self.data.special_tokens
        tokenizer.enable_truncation(context, strategy="longest_first")
        try:
            found = iter(found)
            while block := list(islice(found, BLOCK)):
                given = [(example.text, example.pair) if example.pair else example.text for example in block]
                for example, encoding in zip(block, tokenizer.encode_batch(given), strict=True):
                    self.too_long += bool(encoding.overflowing)
                    if not encoding.ids:
                        faults.found(example.place, "its text has no tokens")
                    elif not encoding.overflowing or self.data.too_long == "cut":
                        yield example, encoding
        finally:
            tokenizer.no_truncation()

    def _numbers(self, example: Example) -> Any:
        numbers = [self.labels.places[name] for name in example.labels]
        return np.bincount(numbers, minlength=len(self.labels.names)).astype(np.float32) if self.labels.several else numbers[0]


def split(texts: Texts, share: float) -> tuple[Texts, Texts]:
    """Texts apart from a held-out share, which has of each label as large a share where every label has two at least."""
    single = texts.truth.ndim == 1
    counts = np.unique(texts.truth, return_counts=True)[1] if single else np.zeros(1)
    held = max(1, round(share * len(texts)))
    stratified = counts.min() >= 2 and min(held, len(texts) - held) >= len(counts)
    kept, held_out = train_test_split(
        range(len(texts)), test_size=held, random_state=SPLIT_SEED, stratify=texts.truth if stratified else None
    )
    return texts.some(kept), texts.some(held_out)
