"""Which generated number goes where: adapter tensors, their chunks, and the circuits whose basis states stand for them.

Symbols (paper, section 3): a circuit of `Q` qubits has `2**Q` basis states, each stands for a chunk of `C` weights; a
circuit over `P` weights needs `n = ceil(P / C)` chunks and `n <= 2**Q`. Circuit `k` of `K` owns its own chunks; all chunks
together form one flat vector of `N * C` numbers, `N = n_1 + ... + n_K`, in which every tensor is a view.

Pure: no torch here, so that a plan can be checked and counted before anything heavy is imported.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from qpa.errors import ConfigError

SMALLEST_ROW_CHUNK = 64  # below this a chunk per common row divisor would need more basis states than it saves outputs


@dataclass(frozen=True)
class AdapterTensor:
    """A tensor of a PEFT adapter: its parameter name, its shape, and the module it adapts."""

    name: str
    shape: tuple[int, ...]
    module: str

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def transposed(self) -> bool:
        """Whether its rows are its columns in memory: rows run along the longer axis (LoRA's `B` is stored input-major)."""
        return len(self.shape) == 2 and self.shape[0] > self.shape[1]

    @property
    def row(self) -> int:
        """Length of one row: the longer axis of a matrix, the whole of a vector."""
        return max(self.shape) if len(self.shape) == 2 else self.size if len(self.shape) < 2 else self.shape[-1]


@dataclass(frozen=True)
class Layout:
    """The chunks of all circuits.

    Attributes:
        groups: the tensors of each circuit, in order, `K` of them.
        chunk_size: `C`, weights of one basis state.
        qubits: `Q`, of every circuit.
    """

    groups: tuple[tuple[AdapterTensor, ...], ...]
    chunk_size: int
    qubits: int

    @property
    def circuits(self) -> int:
        """`K`, how many circuits are simulated together."""
        return len(self.groups)

    @property
    def generated(self) -> int:
        """All weights that are generated: `P` summed over circuits."""
        return sum(_size(group) for group in self.groups)

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """`n` of each circuit."""
        return tuple(math.ceil(_size(group) / self.chunk_size) for group in self.groups)

    @property
    def size(self) -> int:
        """Length of the flat vector, `N * C`: all weights and the unused tail of each circuit's last chunk."""
        return sum(self.chunks) * self.chunk_size

    def offsets(self) -> list[tuple[AdapterTensor, int]]:
        """Every tensor with the place of its first number in the flat vector."""
        placed, start = [], 0
        for group, chunks in zip(self.groups, self.chunks, strict=True):
            at = start
            for tensor in group:
                placed.append((tensor, at))
                at += tensor.size
            start += chunks * self.chunk_size
        return placed


def plan(tensors: Sequence[AdapterTensor], *, circuits: str, qubits: int | None, chunk_size: int | None) -> Layout:
    """Group tensors into circuits and settle `Q` and `C`.

    Args:
        tensors: what the PEFT method trains, in the model's order.
        circuits: `per_module` (one circuit per adapted module) or `shared` (one in all).
        qubits: `Q`, or None to follow from the chunk size.
        chunk_size: `C`, or None to follow from the qubits; both None: the largest chunk that no row straddles.

    Raises:
        ConfigError: the chunks do not fit the basis states; the text says what would.
    """
    modules = {t.module: None for t in tensors} if circuits == "per_module" else {None: None}
    groups = tuple(tuple(t for t in tensors if m is None or t.module == m) for m in modules)
    largest = max(_size(group) for group in groups)
    if chunk_size is None:
        chunk_size = math.ceil(largest / 2**qubits) if qubits else row_chunk(tensors)
    elif chunk_size > largest:
        raise ConfigError("mapper.chunk_size", chunk_size, f"larger than the {largest} weights of one circuit; at most {largest}")
    chunks = math.ceil(largest / chunk_size)
    needed = max(1, math.ceil(math.log2(chunks)))
    if qubits is not None and chunks > 2**qubits:
        fit = math.ceil(largest / 2**qubits)
        raise ConfigError(
            "circuit.qubits",
            qubits,
            f"{2**qubits} basis states of mapper.chunk_size={chunk_size} weights cannot hold the {largest} weights of one circuit; "
            f"circuit.qubits={needed} fits this chunk size, mapper.chunk_size={fit} fits these qubits",
        )
    return Layout(groups, chunk_size, qubits or needed)


def row_chunk(tensors: Sequence[AdapterTensor]) -> int:
    """The largest chunk that no row straddles (the common divisor of all row lengths), or the commonest row length."""
    rows = [t.row for t in tensors]
    common = math.gcd(*rows)
    return common if common >= SMALLEST_ROW_CHUNK else max(set(rows), key=lambda row: (rows.count(row), -row))


def _size(group: Sequence[AdapterTensor]) -> int:
    return sum(t.size for t in group)
