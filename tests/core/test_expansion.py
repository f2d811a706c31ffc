"""Weights that every machine makes bit by bit alike: whatever float64 rounds otherwise is among the doubtful."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qpa.core import expansion
from qpa.core.draws import SameEverywhere
from qpa.core.expansion import MARGIN, OF_ONE, expanded
from qpa.core.generator import Generator, view
from qpa.core.layout import AdapterTensor, Layout, plan
from qpa.library.arguments import settings_from
from qpa.library.recipe import make_generator

COMPUTES = {
    *("abs", "add", "add_", "bmm", "cos", "div", "exp", "gelu", "index_add_", "mean", "mm", "mul", "mul_"),
    *("pow", "prod", "rsqrt", "silu", "sin", "square", "sub", "sub_", "sum", "tanh"),
}
BIT = 2.0**-52
TENSORS = [
    AdapterTensor(f"l.{i}.{m}.{t}", shape, f"l.{i}.{m}")
    for i in range(6)
    for m in "qv"
    for t, shape in {"A": (8, 64), "B": (96, 8)}.items()
]
SETTINGS = {
    "tied": {},
    "codes": {"mapper": "codes"},
    "paper": {"mapper": "paper"},
    "complex": {"circuit": "rx_ry_rz"},
    "deep": {"mapper": "codes", "circuit": {"layers": 40}, "generator": {"circuits": "shared"}},
    "released": {"generator": "paper", "mapper": "paper"},
    "centred": {"generator": "paper", "mapper": "codes"},
    "whole": {"generator": "paper", "mapper": "quantum_train"},
    "scaled": {"generator": "paper", "mapper": "quantum_train_scaled"},
    "subspace": {"latents": "zeros", "mapper": "subspace"},
    "scattered": {"latents": {"kind": "shared_table", "start": "random"}, "generator": "paper", "mapper": "quantum_train"},
    **{kind: {"latents": kind} for kind in ("mlp", "mps", "table", "shared_table", "random_features", "frozen_circuit", "random")},
}  # fmt: skip


class OtherMachine(TorchDispatchMode):
    """Products are summed in another order, and the last bit of everything computed falls one way or the other."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        name, given = func.overloadpacket.__name__, dict(kwargs or {})
        out = given.pop("out", None)
        if name in ("mm", "bmm"):
            order = torch.randperm(args[0].shape[-1], generator=self.chance)
            args = args[0][..., order], args[1][..., order, :]
        found = func.overloadpacket(*args, **given) if out is not None else func(*args, **given)
        if name in COMPUTES and found.is_floating_point():
            moved = found * (1 + BIT * torch.randint(-1, 2, found.shape, generator=self.chance).double())
            found = found.copy_(moved) if name.endswith("_") else moved
        return found if out is None else out.copy_(found)


def trained(settings: Mapping[str, Any], *, spread: float) -> tuple[Generator, Layout, dict[str, torch.Tensor]]:
    checked = settings_from(seed=1, **{"generator": None, "latents": None, "circuit": None, "mapper": None} | settings)
    layout = plan(TENSORS, circuits=checked.generator.circuits, qubits=checked.circuit.qubits, chunk_size=checked.mapper.chunk_size)
    start, chance = torch.zeros(layout.size), torch.Generator().manual_seed(0)
    for slot in layout.slots:
        if slot.tensor.name.endswith("A"):
            view(start, slot).uniform_(-0.1, 0.1, generator=chance)
    generator = make_generator(checked, layout, start)
    for parameter in generator.parameters():
        parameter.data += spread * torch.randn(parameter.shape, generator=chance)
    return generator, layout, {name: tensor.clone() for name, tensor in generator.state_dict().items()}


@pytest.mark.parametrize("spread", [0.03, 1.0])
@pytest.mark.parametrize("name", SETTINGS)
def test_another_machines_weights_are_bit_by_bit_those_of_this_one(name: str, spread: float) -> None:
    generator, layout, state = trained(SETTINGS[name], spread=spread)
    weights, doubtful = expanded(generator, state, layout)
    assert len(doubtful.places) < 0.01 * layout.size
    for seed in range(2):
        with OtherMachine(seed):
            found, theirs = expanded(generator, state, layout, doubtful)
        assert theirs is doubtful
        assert torch.equal(found.view(torch.int32), weights.view(torch.int32))


@pytest.mark.parametrize("name", SETTINGS)
def test_machines_differ_by_less_than_the_margin_and_it_is_no_larger_than_it_need_be(name: str) -> None:
    generator, layout, state = trained(SETTINGS[name], spread=1.0)
    generator.double().load_state_dict(state, strict=False)
    with torch.no_grad():
        here = generator()
        with OtherMachine(0):
            there = generator()
    used = []
    for slot in layout.slots:
        one, other = view(here, slot), view(there, slot)
        rows, largest = one.abs().amax(0 if slot.tensor.transposed else 1, keepdim=True), one.abs().max()
        of_kind = max(view(here, same).abs().max() for same in layout.slots if same.tensor.kind == slot.tensor.kind)
        used.append(float(((one - other).abs() / (MARGIN * (rows * largest).sqrt() + OF_ONE * of_kind)).nan_to_num().max()))
    assert 2**-10 < max(used) < 2**-1


def test_what_a_machine_within_the_margin_makes_otherwise_is_among_the_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "MARGIN", wide := 2.0**-33)  # else it would be one weight in a million
    generator, layout, state = trained({"mapper": "codes"}, spread=0.3)
    weights, doubtful = expanded(generator, state, layout)
    for factor in (1 - wide / 2, 1 + wide / 2):
        hook = generator.register_forward_hook(lambda *found, factor=factor: found[-1] * factor)
        alone, kept = expanded(generator, state, layout)[0], expanded(generator, state, layout, doubtful)[0]
        hook.remove()
        differing = {*(alone != weights).nonzero().flatten().tolist()}
        assert len(differing) > 5 and differing <= {*doubtful.places.tolist()}
        assert torch.equal(kept, weights)


def test_a_sum_that_cancels_or_nearly_does_is_zero_and_a_nan_stays_one() -> None:
    layout = plan([AdapterTensor("a", (1, 4), "a")], circuits="shared", qubits=None, chunk_size=None)

    class Given(torch.nn.Module):
        def __init__(self, *numbers: float) -> None:
            super().__init__()
            self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.float64))

        def forward(self) -> torch.Tensor:
            return self.numbers

    weights, doubtful = expanded(Given(1.0, 2.0**-53, -(2.0**-45), -0.0), {}, layout)
    assert weights.tolist() == [1, 0, 0, 0] and not weights.signbit().any()
    assert not len(doubtful.places)
    assert expanded(Given(1.0, float("nan"), 0, 0), {}, layout)[0][1].isnan()


@pytest.mark.parametrize(("low", "high"), [(-0.05, 0.05), (0, 1), (-0.3, 1.7), (2, 2.5)])
def test_uniform_draws_are_those_of_fused_multiply_add_on_every_machine(low: float, high: float) -> None:
    torch.manual_seed(3)
    numbers = torch.rand(5000).double()  # of 24 bits: exact
    first, last = torch.tensor([low, high])
    expected = (numbers * (last - first).double() + first.double()).float()
    after = torch.get_rng_state()
    torch.manual_seed(3)
    with SameEverywhere() as draws:
        found = torch.empty(5000).uniform_(low, high)
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), after)
    assert not draws.others


def test_draws_that_depend_on_the_processor_are_noted() -> None:
    def noted(draw: Any) -> bool:
        with SameEverywhere() as draws:
            draw()
        return draws.others

    assert noted(lambda: torch.randn(3))
    assert noted(lambda: torch.nn.init.normal_(torch.empty(3)))
    assert noted(lambda: torch.nn.init.orthogonal_(torch.empty(3, 3)))
    assert not noted(lambda: torch.nn.Linear(3, 3))
    assert not noted(lambda: (torch.rand(3), torch.randperm(3), torch.randint(3, (3,))))
    assert not noted(lambda: torch.randn(3, generator=torch.Generator()))  # of a seed of its own
