"""What is trained: counts, start, sizes of features."""

import pytest
import torch
from torch.func import functional_call

from qpa.core.circuits import statevector
from qpa.core.circuits.ansatz import RY_CNOT
from qpa.core.generator import Generator, view
from qpa.core.latents.circuits import Circuits
from qpa.core.layout import AdapterTensor, Layout, plan
from qpa.core.mappers.codes import CodeMapper
from qpa.core.mappers.paper import PaperMapper
from qpa.core.mappers.rows import Start
from qpa.core.mappers.tied import TiedMapper
from qpa.errors import UserError

PAPER_HIDDEN = [32, 64, 128, 128, 64, 32, 32]


def head_layout(hidden: int, vocabulary: int, *, chunk_size: int) -> Layout:
    lora = [AdapterTensor("lm_head.lora_A", (4, hidden), "lm_head"), AdapterTensor("lm_head.lora_B", (vocabulary, 4), "lm_head")]
    return plan(lora, circuits="per_module", qubits=None, chunk_size=chunk_size)


def small_mapper(kind: str, layout: Layout) -> torch.nn.Module:
    if kind == "paper":
        return PaperMapper(layout, hidden=[8], activation="tanh")
    return {"codes": CodeMapper, "tied": TiedMapper}[kind](layout, width=3)


def all_linear(layers: int = 4, rank: int = 4) -> list[AdapterTensor]:
    """LoRA on two modules of every layer, one of them wider on its way out."""
    shapes = {"narrow": ((rank, 6), (6, rank)), "wide": ((rank, 6), (10, rank))}
    names = [(f"layers.{layer}.{module}", module) for layer in range(layers) for module in shapes]
    return [AdapterTensor(f"{name}.lora_{s}", shape, name) for name, m in names for s, shape in zip("AB", shapes[m], strict=True)]


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def make(layout: Layout, mapper: torch.nn.Module, *, layers: int = 2, seed: int = 0) -> Generator:
    circuits = Circuits(layout, RY_CNOT, layers=layers, simulate=statevector.simulator(RY_CNOT))
    return Generator(layout, start=frozen_start(layout, seed), latents=circuits, mapper=mapper)


def frozen_start(layout: Layout, seed: int = 0) -> torch.Tensor:
    """Random, and zero in its last third."""
    start = torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))
    start[2 * layout.size // 3 :] = 0
    return start


@pytest.mark.parametrize(
    ("tensors", "chunk", "generated", "qubits", "trainable"),
    [
        ([(4, 768), (50257, 4)], 2048, 204_100, 7, 106_264),  # GPT-2, LoRA on lm_head
        ([(4, 2048), (256_000, 4)], 4096, 1_032_192, 8, 173_888),  # the paper's "Gemma-2"
        ([(4, 2304), (256_000, 4)], 4096, 1_033_216, 8, 173_888),  # Gemma-2-2B
        ([(512, 768)], 1024, 393_216, 9, 72_552),  # GPT-2, prefix tuning
    ],
)
def test_papers_counts_come_out_exactly(tensors: list, chunk: int, generated: int, qubits: int, trainable: int) -> None:
    found = [AdapterTensor(f"t{i}", shape, "m") for i, shape in enumerate(tensors)]
    layout = plan(found, circuits="per_module", qubits=None, chunk_size=chunk)
    generator = make(layout, PaperMapper(layout, hidden=PAPER_HIDDEN, activation="none"), layers=8)
    assert (layout.generated, layout.qubits, count(generator)) == (generated, qubits, trainable)


@pytest.mark.parametrize("kind", ["tied", "codes", "paper"])
def test_first_output_is_the_start_exactly(kind: str) -> None:
    layout = head_layout(32, 300, chunk_size=64)
    generator = make(layout, small_mapper(kind, layout))
    assert torch.equal(generator(), frozen_start(layout))


@pytest.mark.parametrize("kind", ["tied", "codes"])
def test_every_trained_part_gets_a_gradient_once_the_rows_have_moved(kind: str) -> None:
    layout = head_layout(32, 300, chunk_size=64)
    generator = make(layout, small_mapper(kind, layout))
    for rows in generator.mapper.rows.parameters():
        torch.nn.init.normal_(rows)
    generator().square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in generator.parameters())


@pytest.mark.parametrize("qubits", [2, 6, 11])
def test_feature_size_does_not_fall_with_qubits(qubits: int) -> None:
    layout = plan([AdapterTensor("t", (2**qubits, 8), "m")], circuits="shared", qubits=qubits, chunk_size=None)
    circuits = Circuits(layout, RY_CNOT, layers=8, simulate=statevector.simulator(RY_CNOT))
    torch.nn.init.uniform_(circuits.angles, 0, 6.28)
    assert 0.3 < circuits().abs().mean() < 2


@pytest.mark.parametrize("kind", ["tied", "codes", "paper"])
@pytest.mark.parametrize("started", [True, False])
def test_gradients_of_the_rows_equal_finite_differences(kind: str, started: bool) -> None:
    tensors = [AdapterTensor(f"{name}.{i}", shape, f"m{i}") for i in range(2) for name, shape in (("a", (2, 3)), ("b", (5, 2)))]
    layout = plan(tensors, circuits="per_module", qubits=None, chunk_size=None)
    mapper = small_mapper(kind, layout).double()
    start = Start(layout, frozen_start(layout).double()) if started else None
    features = torch.randn(len(layout.chunks), dtype=torch.float64, requires_grad=True)
    names, weights = zip(*mapper.named_parameters(), strict=True)
    moved = [torch.randn_like(w).requires_grad_() for w in weights]

    def weights_of(features: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return functional_call(mapper, dict(zip(names, values, strict=True)), (features, start))

    assert len(layout.lengths) == 2
    assert torch.autograd.gradcheck(weights_of, (features, *moved))


def tied_weights(width: int, features: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """What a mapper with random rows generates for `all_linear`, by tensor, one row of a tensor per row, `[rows, length]`."""
    layout = plan(all_linear(), circuits="per_module", qubits=None, chunk_size=None)
    mapper = TiedMapper(layout, width=width)
    for rows in mapper.rows.parameters():
        torch.nn.init.normal_(rows)
    with torch.no_grad():
        flat = mapper(torch.zeros(len(layout.chunks)) if features is None else features)
    return {slot.tensor.name: view(flat, slot).t() if slot.tensor.transposed else view(flat, slot) for slot in layout.slots}


@pytest.mark.parametrize(("width", "groups"), [(1, 1), (2, 1), (3, 1), (5, 2), (7, 2), (11, 3), (13, 4), (16, 4)])
def test_tied_layers_take_as_many_different_rows_as_the_bank_has(width: int, groups: int) -> None:
    weights = tied_weights(width)
    for kind in ("narrow.lora_A", "wide.lora_A", "wide.lora_B"):
        of_kind = torch.stack([weights[f"layers.{layer}.{kind}"] for layer in range(4)])
        assert len(of_kind.flatten(0, 1).unique(dim=0)) == width
        assert len(of_kind[0].unique(dim=0)) == groups


def test_tied_chunk_is_its_row_over_the_root_of_the_rows() -> None:
    layout = plan(all_linear(), circuits="per_module", qubits=None, chunk_size=None)
    mapper = TiedMapper(layout, width=5)
    for rows in mapper.rows.parameters():
        torch.nn.init.ones_(rows)
    torch.testing.assert_close(mapper(torch.zeros(len(layout.chunks))), torch.full((layout.size,), 0.5))  # of 4 rows


def test_tied_spans_are_neighbouring_decoder_layers() -> None:
    weights = tied_weights(2)
    first, second, third, fourth = (weights[f"layers.{layer}.wide.lora_B"] for layer in range(4))
    assert torch.equal(first, second)
    assert torch.equal(third, fourth)
    assert not torch.equal(second, third)


def test_tied_mapper_as_wide_as_the_adapter_trains_the_adapter_itself() -> None:
    layout = plan(all_linear(), circuits="per_module", qubits=None, chunk_size=None)
    for width in (16, 99):
        mapper = TiedMapper(layout, width=width)
        assert count(mapper) == layout.generated
        target = torch.randn(layout.size)
        for rows, chunks in zip(mapper.rows.parameters(), target.split([n * c for n, c in layout.lengths.items()]), strict=True):
            grid = chunks.view(-1, rows.shape[0])
            order = getattr(mapper, f"taken{list(layout.lengths).index(grid.shape[1])}").argmax(1)
            rows.data[:, order] = grid.t() * 2  # a share of 1 / sqrt(4 rows)
        torch.testing.assert_close(mapper(torch.zeros(len(layout.chunks))), target)


def test_circuit_gives_each_tied_chunk_its_own_factor() -> None:
    layout = plan(all_linear(), circuits="per_module", qubits=None, chunk_size=None)
    torch.manual_seed(0)
    plain = tied_weights(2)
    features = torch.zeros(len(layout.chunks))
    chosen = next(i for i, c in enumerate(layout.chunks) if (c.kind, c.depth, c.row) == ("layers.*.wide.lora_B", 1, 2))
    features[chosen] = 0.5
    torch.manual_seed(0)
    scaled = tied_weights(2, features)
    for name, weights in scaled.items():
        factor = torch.ones(len(weights), 1)
        factor[2] = 1.5 if name == "layers.1.wide.lora_B" else 1
        torch.testing.assert_close(weights, plain[name] * factor)


def test_circuits_start_near_the_uniform_superposition() -> None:
    layout = head_layout(32, 300, chunk_size=16)
    assert Circuits(layout, RY_CNOT, layers=8, simulate=statevector.simulator(RY_CNOT))().abs().max() < 0.3


def test_basis_bits_spell_the_state_number() -> None:
    layout = head_layout(32, 300, chunk_size=64)
    bits = (PaperMapper(layout, hidden=[4], activation="none").bits + 1) / 2
    numbers = (bits * 2.0 ** torch.arange(layout.qubits - 1, -1, -1)).sum(1)
    assert numbers.tolist() == list(range(len(layout.chunks)))


def test_state_of_another_generator_is_refused_in_one_line() -> None:
    layout = head_layout(32, 300, chunk_size=64)
    saved = make(layout, TiedMapper(layout, width=4)).state_dict()
    make(layout, TiedMapper(layout, width=4)).check_state(saved)
    with pytest.raises(UserError, match="other initial adapter weights"):
        make(layout, TiedMapper(layout, width=4), seed=1).check_state(saved)
    with pytest.raises(UserError, match=r"mapper\.rows\.maps\.0\.weight is \[64, 6\] there and \[64, 5\] here"):
        make(layout, TiedMapper(layout, width=3)).check_state(saved)
    with pytest.raises(UserError, match=r"latents\.angles is not in it"):
        make(layout, TiedMapper(layout, width=4)).check_state({name: t for name, t in saved.items() if name != "latents.angles"})
    with pytest.raises(UserError, match="it has more, which is not here"):
        make(layout, TiedMapper(layout, width=4)).check_state(saved | {"more": torch.zeros(1)})
    with pytest.raises(UserError, match="of equal sizes"):
        make(layout, TiedMapper(layout, width=4)).check_state(saved | {"settings": torch.tensor(1)})
    earlier = {name: tensor for name, tensor in saved.items() if name != "settings"}
    make(layout, TiedMapper(layout, width=4)).check_state(earlier)


def test_papers_start_is_none_and_its_weights_are_centred() -> None:
    layout = head_layout(32, 300, chunk_size=77)
    assert layout.size > layout.generated  # the last chunk is not full: what is not used must not be counted
    mapper = PaperMapper(layout, hidden=[8], activation="none", from_zero=False)
    circuits = Circuits(layout, RY_CNOT, layers=8, simulate=statevector.simulator(RY_CNOT))
    generator = Generator(layout, latents=circuits, mapper=mapper, start=None)
    weights = torch.cat([view(generator(), slot).flatten() for slot in layout.slots])
    released = mapper(circuits())[: layout.generated]  # one circuit: the used numbers are the first
    assert weights.numel() == layout.generated
    assert weights.mean().abs() < 1e-7
    torch.testing.assert_close(weights.sort().values, (released - released.mean()).sort().values)
