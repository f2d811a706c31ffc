"""Rows to examples: token ids, and which of them are trained on."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from qpa.config import RowsDataConfig
from qpa.tasks.language.forms import ASSISTANT, USER, Conversations, Dialogue, Form, Pair, Prompts, UnusableError
from qpa.tasks.language.template import Span, Template
from qpa.tasks.pretrained.tokenizer import TextEncoder
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.row import Row

AT_ONCE = 512  # rows tokenised together, by all threads
FILE = "data.template=FILE"


@dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        ids: its tokens, the one that begins a text and those that end it included.
        trained: of each, whether it is to be predicted.
    """

    ids: list[int]
    trained: list[bool]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Writer:
    """Makes examples of what is in rows.

    Attributes:
        form: of the rows.
        template: of conversations; of prompts too where the config names one.
        encoder: the tokenizer.
        data: config group `data`.
    """

    form: Prompts | Conversations
    template: Template | None
    encoder: TextEncoder
    data: RowsDataConfig

    def examples(self, rows: Iterable[Row], faults: Faults) -> Iterator[Example]:
        """Of all rows, in their order; those that cannot be used are the faults'."""
        left = iter(rows)
        while batch := list(islice(left, AT_ONCE)):
            written = [text for row in batch if (text := self._written(row, faults)) is not None]
            yield from self._encoded(written)

    def asked(self, row: Row) -> tuple[list[int], str]:
        """A row's prompt, up to where the last completion begins, and that completion.

        Raises:
            UnusableError: it has none.
        """
        found = self._source(row)
        if isinstance(found, Pair):
            ids = self.encoder.encodings([found.prompt], special_tokens=self.data.special_tokens, around=True)[0].ids
            return ids[:-1] if ids[-1:] == [self.encoder.eos] else ids, found.completion
        turns = [at for at, message in enumerate(found.messages) if message["role"] == ASSISTANT and isinstance(message["content"], str)]
        if not turns:
            raise UnusableError("the assistant says nothing")
        text = self._own_template().prompt(found.messages[: turns[-1]], found.tools)
        return self.encoder.encode([text], special_tokens=True)[0], found.messages[turns[-1]]["content"]

    def written(self, row: Row) -> tuple[str, list[Span], bool]:
        """A row's whole text, the parts of it that are trained on, and whether a template has written it.

        Raises:
            UnusableError: nothing can be learned from it.
        """
        found, all_of_it = self._source(row), self.data.train_on == "all"
        if isinstance(found, Pair):
            text = found.prompt + found.completion
            return text, [(0 if all_of_it else len(found.prompt), len(text))], False
        if all_of_it:
            text = self._own_template().whole(found)
            return text, [(0, len(text))], True
        text, spans = self._own_template().spoken(found, last=self.data.train_on == "last")
        if not any(end > start for start, end in spans):
            raise UnusableError(f"nothing of it is trained on (data.train_on={self.data.train_on})")
        return text, spans, True

    def _source(self, row: Row) -> Pair | Dialogue:
        found = self.form.example(row.values)
        if isinstance(found, Pair) and self.data.template:
            return Dialogue([{"role": USER, "content": found.prompt}, {"role": ASSISTANT, "content": found.completion}])
        return found

    def _own_template(self) -> Template:
        if self.template is None:
            raise UnusableError(f"conversations need a chat template, and the model's tokenizer has none (give {FILE})")
        return self.template

    def _written(self, row: Row, faults: Faults) -> tuple[str, list[Span], bool] | None:
        try:
            return self.written(row)
        except UnusableError as error:
            faults.found(row.place, str(error))
            return None

    def _encoded(self, written: list[tuple[str, list[Span], bool]]) -> Iterator[Example]:
        """Tokens of a text as stock transformers has them; one is trained on that begins where it is trained on."""
        of_pairs = [text for text, _, by_template in written if not by_template]
        of_template = [text for text, _, by_template in written if by_template]
        pairs = iter(self.encoder.encodings(of_pairs, special_tokens=self.data.special_tokens, around=True))
        templated = iter(self.encoder.encodings(of_template, special_tokens=True))
        for text, spans, by_template in written:
            encoding = next(templated if by_template else pairs)
            trained = _trained(encoding.offsets, spans, end=len(text))
            yield Example(encoding.ids, trained) if by_template else self._ended(encoding.ids, trained)

    def _ended(self, ids: list[int], trained: list[bool]) -> Example:
        """With an EOS, which is trained on: so the model learns to end."""
        body = len(ids) - (ids[-1:] == [self.encoder.eos])
        return Example([*ids[:body], self.encoder.eos], [*trained[:body], True])


def _trained(offsets: Sequence[Span], spans: Sequence[Span], *, end: int) -> list[bool]:
    """Of each token, whether it begins within one of the spans."""
    begins = [begin for begin, _ in offsets]
    if offsets and offsets[-1] == (0, 0):
        begins[-1] = end  # a token that stands in no text, but behind it
    trained = [False] * len(begins)
    for first, last in ((bisect_left(begins, start), bisect_left(begins, stop)) for start, stop in spans):
        trained[first:last] = [True] * (last - first)
    return trained


@dataclass
class Fitted:
    """Examples as windows can take them, counted on the way.

    Args:
        context: tokens of a window.
        too_long: what to do with longer ones: `cut`, `drop`, or `split`.
        bos: what a part of an example begins with, where the whole does.
    """

    context: int
    too_long: str
    bos: int | None
    counts: Counter[str] = field(default_factory=Counter)

    def fit(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Those that something is trained on, none longer than a window."""
        for example in examples:
            self.counts["examples"] += 1
            self.counts["tokens"] += len(example)
            self.counts["too_long"] += len(example) > self.context
            for part in self._parts(example):
                if any(part.trained[1:]):
                    self.counts["trained"] += sum(part.trained[1:])
                    yield part
                else:
                    self.counts["masked"] += 1

    def _parts(self, example: Example) -> list[Example]:
        if len(example) <= self.context:
            return [example]
        if self.too_long == "drop":
            return []
        if self.too_long == "cut":
            return [Example(example.ids[: self.context], example.trained[: self.context])]
        head = [example.ids[0]] if example.ids[0] == self.bos else []
        length = self.context - len(head)
        parts = [(example.ids[: self.context], example.trained[: self.context])]
        for at in range(self.context, len(example), length):
            parts.append(([*head, *example.ids[at : at + length]], [*[False] * len(head), *example.trained[at : at + length]]))
        return [Example(ids, trained) for ids, trained in parts]


def named(form: Form) -> str:
    """As `conversations in column messages`."""
    if isinstance(form, Conversations):
        return f"{form.name} in column {form.messages}"
    if isinstance(form, Prompts):
        return f"{form.name} in columns {', '.join((*form.prompt, form.completion))}"
    return f"{form.name} in column {form.column}"
