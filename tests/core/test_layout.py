"""Every generated number has exactly one place, and chunks fit their basis states."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpa.core.generator import view
from qpa.core.layout import AdapterTensor, Layout, plan
from qpa.errors import ConfigError

sizes, few = st.integers(1, 40), st.integers(1, 5)
shapes = st.lists(st.one_of(st.tuples(sizes), st.tuples(sizes, sizes), st.tuples(sizes, few, few, few)), min_size=1, max_size=6)


def tensors(found: list[tuple[int, ...]], along: str = "longer") -> list[AdapterTensor]:
    return [AdapterTensor(f"model.{i // 2}.part{i % 2}", shape, f"model.{i // 2}", along=along) for i, shape in enumerate(found)]


def check_every_number_has_one_place(layout: Layout) -> None:
    flat = torch.zeros(layout.size)
    for slot in layout.slots:
        view(flat, slot).add_(1)
    assert flat.max() == 1
    assert flat.sum() == layout.generated == sum(slot.tensor.size for slot in layout.slots)


@given(shapes, st.sampled_from(["per_module", "shared"]), st.sampled_from(["longer", "first", "last"]))
def test_rows_fill_the_flat_vector_without_overlap(found: list, circuits: str, along: str) -> None:
    layout = plan(tensors(found, along), circuits=circuits, qubits=None, chunk_size=None)
    check_every_number_has_one_place(layout)
    assert layout.size == layout.generated


@given(shapes, st.sampled_from(["per_module", "shared"]), st.integers(1, 40))
def test_streams_fill_the_flat_vector_without_overlap(found: list, circuits: str, chunk: int) -> None:
    given_tensors = tensors(found)
    largest = max(sum(t.size for t in group) for group in groups(given_tensors, circuits))
    chunk = min(chunk, largest)
    layout = plan(given_tensors, circuits=circuits, qubits=None, chunk_size=chunk)
    check_every_number_has_one_place(layout)
    assert layout.size - layout.generated < chunk * layout.circuits
    assert 2 ** (layout.qubits - 1) < max(2, math.ceil(largest / chunk)) <= 2**layout.qubits


def groups(found: list[AdapterTensor], circuits: str) -> list[list[AdapterTensor]]:
    if circuits == "shared":
        return [found]
    return [list(group) for _, group in itertools.groupby(found, key=lambda t: t.module)]


@given(shapes, st.integers(1, 8))
def test_qubits_alone_settle_the_chunk_size(found: list, qubits: int) -> None:
    given_tensors = tensors(found)
    total = sum(t.size for t in given_tensors)
    layout = plan(given_tensors, circuits="shared", qubits=qubits, chunk_size=None)
    assert layout.qubits == qubits
    assert {c.length for c in layout.chunks} == {math.ceil(total / 2**qubits)}


def test_every_basis_state_stands_for_one_chunk_of_its_circuit() -> None:
    layout = plan(tensors([(8, 4), (3, 8), (16,), (5, 5)]), circuits="per_module", qubits=None, chunk_size=None)
    for circuit in range(layout.circuits):
        states = sorted(c.state for c in layout.chunks if c.circuit == circuit)
        assert states == list(range(len(states)))
        assert len(states) <= 2**layout.qubits


@given(shapes)
def test_a_whole_networks_weights_lie_in_the_order_in_which_it_holds_them(found: list) -> None:
    layout = plan(tensors(found, "first"), circuits="shared", qubits=None, chunk_size=1)
    parts = [view(torch.arange(layout.size), slot).flatten() for slot in layout.slots]
    assert torch.equal(torch.cat(parts), torch.arange(layout.size))


def test_rows_of_convolutions_are_as_long_as_those_of_the_matrices_that_they_are() -> None:
    lora = [AdapterTensor("m.lora_A", (4, 32, 3, 3), "m"), AdapterTensor("m.lora_B", (96, 4, 1, 1), "m")]
    assert [(t.rows, t.row) for t in lora] == [(4, 288), (4, 96)]
    assert AdapterTensor("m.weight", (96, 4, 1, 1), "m", along="first").row == 4
    assert AdapterTensor("m.lora_A", (4, 32, 3, 3), "m", along="last").row == 3  # of an earlier qpa's files


def test_one_basis_state_for_each_of_a_million_weights() -> None:
    layout = plan([AdapterTensor("m.weight", (1000, 1000), "m", along="first")], circuits="shared", qubits=None, chunk_size=1)
    assert (layout.qubits, layout.lengths, layout.size) == (20, {1: 10**6}, 10**6)
    assert layout.chunks[123_456][1:] == (123_456, 1, "m.weight", 0, 123, 456)


def test_vocabulary_rows_are_cut_into_pieces_of_the_usual_row() -> None:
    head = [AdapterTensor("lm_head.lora_A", (4, 576), "lm_head"), AdapterTensor("lm_head.lora_B", (49152, 4), "lm_head")]
    layout = plan(head, circuits="per_module", qubits=None, chunk_size=None)
    assert layout.lengths == {576: 4 + 4 * math.ceil(49152 / 576)}
    check_every_number_has_one_place(layout)


def test_a_row_that_layers_share_is_one_chunk_however_wide_the_model() -> None:
    wide = [AdapterTensor(f"layers.{i}.up_proj.lora_B", (28672, 2), f"layers.{i}.up_proj") for i in range(3)]
    layout = plan(wide, circuits="per_module", qubits=None, chunk_size=None)
    assert layout.lengths == {28672: 6}  # in pieces, tied rows would give distant neurons of one layer the same weights
    check_every_number_has_one_place(layout)


def test_a_number_in_a_name_that_counts_no_layers_keeps_no_row_whole() -> None:
    projection = [AdapterTensor(f"prompt_encoder.transform.{i}.weight", shape, "p") for i, shape in ((0, (64, 32)), (2, (53248, 64)))]
    layout = plan(projection, circuits="per_module", qubits=None, chunk_size=None)
    assert layout.lengths == {64: 32 + 64 * 53248 // 64}
    check_every_number_has_one_place(layout)


def test_impossible_pair_names_what_would_fit() -> None:
    one = tensors([(10, 100)])
    with pytest.raises(ConfigError, match=r"circuit.qubits=3: .*circuit.qubits=7 fits .*mapper.chunk_size=125 fits"):
        plan(one, circuits="shared", qubits=3, chunk_size=10)
    assert plan(one, circuits="shared", qubits=7, chunk_size=10).qubits == 7
    assert plan(one, circuits="shared", qubits=3, chunk_size=125).qubits == 3


def test_chunk_larger_than_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mapper.chunk_size=1001: .*at most 1000"):
        plan(tensors([(10, 100)]), circuits="shared", qubits=None, chunk_size=1001)


def test_a_row_that_makes_too_many_pieces_is_refused_before_any_is_made() -> None:
    with pytest.raises(ConfigError, match="chunks, at most"):
        plan([AdapterTensor("vector", (2**60,), "m")], circuits="shared", qubits=None, chunk_size=None)
