"""Which generated number goes where: adapter tensors, their chunks, and the circuits whose basis states stand for them.

Symbols (paper, section 3): a circuit of `Q` qubits has `2**Q` basis states, each stands for a chunk of `C` weights; a
circuit over `P` weights needs `n = ceil(P / C)` chunks and `n <= 2**Q`. `K` circuits have `N = n_1 + ... + n_K` chunks.

A tensor is read in rows along its longer axis: LoRA's `A` `[r, in]` and `B` `[out, r]` both have `r` rows; to this a convolution's
`[out, in, k, k]` is a matrix `[out, in k k]`. A whole network's weights are read in the order in which it holds them: a row is all that
leads into one output.
Where neither qubits nor a chunk size is given, every row is one chunk, whatever its length (measured in `docs/log.md`);
else each circuit's weights are one stream of rows cut every `C` numbers.

Pure: no torch here, so that a plan is checked and counted before anything heavy is imported.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from qpa.errors import ConfigError

NUMBER = r"\.(\d+)(?=\.|$)"  # the first number in a tensor's name: its depth
MOST_CHUNKS = 1 << 20  # counted in seconds; of one number each those of a network of a million
MOST_ROWS = 200_000  # counted in two seconds; LoRA r=64 on the 126 decoder layers of the largest models makes 113,000
LONGEST_ROW = 16_384  # of a tensor that no other depth has (a vocabulary's): cut, for a basis of its own would cost more than it holds


@dataclass(frozen=True)
class AdapterTensor:
    """A tensor of a PEFT adapter.

    Attributes:
        name: of the parameter.
        shape: of it.
        module: which it adapts.
        beside: whether a run trains it plainly, beside what is generated: it belongs to a new head, which has no start to begin from.
        along: which way its rows run: along the `longer` axis of the matrix that its first axis and all others make, or always `first`
            axis by first axis, in the order in which it lies in memory. `last`: as an earlier qpa had it, along the last of more than two.
    """

    name: str
    shape: tuple[int, ...]
    module: str
    beside: bool = False
    along: Literal["longer", "first", "last"] = "longer"

    @cached_property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @cached_property
    def matrix(self) -> tuple[int, int]:
        """Its numbers as a matrix; a vector is one row."""
        if len(self.shape) < 2:
            return 1, self.size
        if self.along == "last" and len(self.shape) > 2:
            return math.prod(self.shape[:-1]), self.shape[-1]
        return self.shape[0], math.prod(self.shape[1:])

    @cached_property
    def transposed(self) -> bool:
        """Whether its rows are the columns of the matrix.

        Not for LoKr, whose factors peft reshapes as only contiguous tensors can be.
        """
        if self.along == "first" or (self.along == "last" and len(self.shape) != 2):
            return False
        return len(self.shape) > 1 and self.matrix[0] > self.matrix[1] and "lokr_" not in self.name

    @cached_property
    def row(self) -> int:
        """Length of one row."""
        return self.matrix[0 if self.transposed else 1]

    @cached_property
    def rows(self) -> int:
        """How many rows."""
        return self.matrix[1 if self.transposed else 0]

    @cached_property
    def depth(self) -> int:
        """Where in the network it sits: the decoder layer that its name counts, 0 where there is none."""
        number = re.search(NUMBER, self.name)
        return int(number[1]) if number else 0

    @cached_property
    def kind(self) -> str:
        """Its name without the depth: the same for the same tensor of every decoder layer."""
        return re.sub(NUMBER, ".*", self.name, count=1)


class Chunk(NamedTuple):
    """What is known of one chunk: its basis state, and what its first number belongs to."""

    circuit: int
    state: int
    length: int
    kind: str
    depth: int
    row: int
    segment: int


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in the flat vector: its first number, and the distance from one row to the next."""

    tensor: AdapterTensor
    offset: int
    stride: int


@dataclass(frozen=True)
class Layout:
    """All chunks in flat order: those of equal length together, in the order of circuits and basis states.

    Attributes:
        circuits: `K`.
        qubits: `Q`, of every circuit.
        chunks: `N` of them; the flat vector is their concatenation.
        slots: every tensor's place in it.
    """

    circuits: int
    qubits: int
    chunks: tuple[Chunk, ...]
    slots: tuple[Slot, ...]

    @cached_property
    def generated(self) -> int:
        """All weights that are generated: `P` summed over circuits."""
        return sum(slot.tensor.size for slot in self.slots)

    @cached_property
    def lengths(self) -> dict[int, int]:
        """How many chunks there are of each length, in flat order."""
        return dict(Counter(chunk.length for chunk in self.chunks))

    @cached_property
    def size(self) -> int:
        """Length of the flat vector: all weights, and the unused ends of chunks that are not full."""
        return sum(length * count for length, count in self.lengths.items())


def plan(tensors: Sequence[AdapterTensor], *, circuits: str, qubits: int | None, chunk_size: int | None) -> Layout:
    """Give tensors to circuits and cut them into chunks.

    Args:
        tensors: what the PEFT method trains, in the model's order.
        circuits: `per_module` (one circuit per adapted module) or `shared` (one in all).
        qubits: `Q`, or None to follow from the chunks.
        chunk_size: `C`, or None to follow from the qubits; both None: one chunk per row.

    Raises:
        ConfigError: the chunks do not fit the basis states; the text says what would.
    """
    if not sum(tensor.size for tensor in tensors):
        raise ConfigError("peft", "...", "trains nothing on this model")
    by_circuit: dict[str | None, list[AdapterTensor]] = {}
    for tensor in tensors:
        by_circuit.setdefault(tensor.module if circuits == "per_module" else None, []).append(tensor)
    groups = list(by_circuit.values())
    if qubits is None and chunk_size is None:
        return _in_rows(groups)
    largest = max(sum(t.size for t in group) for group in groups)
    if chunk_size is None:
        chunk_size = math.ceil(largest / 2 ** (qubits or 0))
    needed = _qubits(math.ceil(largest / chunk_size))
    _check_fit(largest, qubits=qubits, chunk_size=chunk_size, needed=needed)
    _check_count(sum(math.ceil(sum(t.size for t in group) / chunk_size) for group in groups), chunk_size, most=MOST_CHUNKS)
    return _in_streams(groups, chunk_size, qubits or needed)


def _check_count(chunks: int, chunk_size: int | None, *, most: int) -> None:
    if chunks > most:
        raise ConfigError("mapper.chunk_size", chunk_size, f"makes {chunks:,} chunks, at most {most:,} are handled; give a larger one")


def _check_fit(weights: int, *, qubits: int | None, chunk_size: int, needed: int) -> None:
    if chunk_size > weights:
        raise ConfigError("mapper.chunk_size", chunk_size, f"larger than the {weights} weights of one circuit; at most {weights}")
    if qubits is not None and math.ceil(weights / chunk_size) > 2**qubits:
        raise ConfigError(
            "circuit.qubits",
            qubits,
            f"{2**qubits} basis states of mapper.chunk_size={chunk_size} weights cannot hold the {weights} weights of one circuit; "
            f"circuit.qubits={needed} fits this chunk size, mapper.chunk_size={math.ceil(weights / 2**qubits)} fits these qubits",
        )


def _qubits(chunks: int) -> int:
    return max(1, math.ceil(math.log2(chunks)))


def _in_rows(groups: list[list[AdapterTensor]]) -> Layout:
    """One chunk per row; of tensors that only one depth has, rows longer than `LONGEST_ROW` are cut."""
    tensors = [tensor for group in groups for tensor in group]
    lengths = _chunk_lengths(tensors)
    _check_count(sum(t.rows * math.ceil(t.row / lengths[t.name]) for t in tensors), None, most=MOST_ROWS)
    chunks = [chunk for circuit, group in enumerate(groups) for chunk in _row_chunks(circuit, group, lengths)]
    qubits = _qubits(max(Counter(chunk.circuit for chunk in chunks).values()))
    order = list(dict.fromkeys(chunk.length for chunk in chunks))
    chunks.sort(key=lambda chunk: order.index(chunk.length))  # stable: circuits and states keep their order
    counts = Counter(chunk.length for chunk in chunks)
    free = dict(zip(order, _starts([counts[length] * length for length in order]), strict=True))
    slots = []
    for tensor in tensors:
        length = lengths[tensor.name]
        stride = math.ceil(tensor.row / length) * length
        slots.append(Slot(tensor, free[length], stride))
        free[length] += tensor.rows * stride
    return Layout(len(groups), qubits, tuple(chunks), tuple(slots))


def _row_chunks(circuit: int, group: list[AdapterTensor], lengths: dict[str, int]) -> Iterator[Chunk]:
    states = itertools.count()
    for tensor in group:
        length, kind, depth = lengths[tensor.name], tensor.kind, tensor.depth
        places = itertools.product(range(tensor.rows), range(math.ceil(tensor.row / length)))
        yield from (Chunk(circuit, next(states), length, kind, depth, row, segment) for row, segment in places)


def _chunk_lengths(tensors: list[AdapterTensor]) -> dict[str, int]:
    """By tensor: its row, or where that is too long and no other depth shares it, the commonest other row."""
    usual = Counter(t.row for t in tensors if t.row <= LONGEST_ROW)
    piece = usual.most_common(1)[0][0] if usual else LONGEST_ROW
    depths = Counter((t.kind, t.shape) for t in tensors)
    return {t.name: t.row if t.row <= LONGEST_ROW or depths[t.kind, t.shape] > 1 else piece for t in tensors}


def _in_streams(groups: list[list[AdapterTensor]], chunk_size: int, qubits: int) -> Layout:
    """Each circuit's rows one after the other, cut every `chunk_size` numbers; the last chunk may be partly unused."""
    chunks: list[Chunk] = []
    slots: list[Slot] = []
    for circuit, group in enumerate(groups):
        starts = _starts([t.size for t in group])
        base = len(chunks) * chunk_size
        slots += [Slot(t, base + start, t.row) for t, start in zip(group, starts, strict=True)]
        for tensor, start in zip(group, starts, strict=True):
            states = range(math.ceil(start / chunk_size), math.ceil((start + tensor.size) / chunk_size))  # whose first number is of it
            chunks += _stream_chunks(circuit, tensor, states, -start, chunk_size)
    return Layout(len(groups), qubits, tuple(chunks), tuple(slots))


def _stream_chunks(circuit: int, tensor: AdapterTensor, states: range, offset: int, chunk_size: int) -> Iterator[Chunk]:
    kind, depth, row = tensor.kind, tensor.depth, tensor.row  # once: there may be a million
    for state in states:
        number, column = divmod(state * chunk_size + offset, row)
        yield Chunk(circuit, state, chunk_size, kind, depth, number, column // chunk_size)


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where each of several neighbouring parts begins."""
    return list(itertools.accumulate(sizes, initial=0))[:-1]
